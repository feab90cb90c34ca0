"""The training engine: state, step, optimizers, checkpoints, metrics and the loop."""
