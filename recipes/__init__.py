"""Data that the bundled models are trained on, and how each set of it is made again."""
