"""What one training step of a Depthformer computes, moves and sends, counted from its sizes."""

import jax.numpy as jnp

from models.depthformer import flops
from pipelines.plan_chips import Slice
from pipelines.plan_memory import Setting, StepMemory
from pipelines.plan_roofline import StepWork, all_reduce_bytes, gather_bytes


def step_work(setting: Setting, place: Slice, memory: StepMemory) -> StepWork:
  """Counts of one step.

  Args:
    setting: what is trained, and how.
    place: where.
    memory: of one chip.
  """
  config, spec = setting.model.config, setting.model.spec
  batch_size, model_size = setting.batch_size, setting.partitioner.model_size
  model_flops = flops.train_step_flops(config, spec, batch_size)
  executed = flops.executed_flops(config, spec, batch_size)
  logits = 3.0 * batch_size * flops.forward_flops(config, spec).logits
  links, network = _gradient_traffic(setting, place, memory)
  return StepWork(
    model_flops=model_flops,
    executed_flops=executed,
    # The output layer is computed in float32 whatever the dtype of the layers.
    float32_flops=executed if config.dtype == 'float32' else logits,
    memory_bytes=_memory_traffic(memory, setting.num_microbatches),
    link_bytes=links + all_reduce_bytes(_activation_sums(setting, place), model_size),
    network_bytes=network,
  )


def _memory_traffic(memory: StepMemory, parts: int) -> float:
  """Bytes between chip and memory, in `parts` microbatches.

  Parameters are read forward and backward in each, and read and written by the update; the rest is
  written and read once, sums of gradients too.
  """
  sums = memory.gradients if parts > 1 else 0.0
  each = 2.0 * (memory.params + memory.gradients + sums + memory.scale * memory.kept)
  return parts * each + 2.0 * (memory.params + memory.optimizer)


def _gradient_traffic(setting: Setting, place: Slice, memory: StepMemory) -> tuple[float, float]:
  """Bytes that one chip sends so that all copies of the model stay alike: (near, far).

  Each microbatch's gradients are summed over the chips: the compiler is not trusted to wait.
  """
  parts = setting.num_microbatches
  near = max(1, place.linked_chips // setting.partitioner.model_size)
  far = place.total_chips // place.linked_chips
  if setting.parameter_dims == 1:
    return (
      parts * all_reduce_bytes(memory.gradients, near),
      parts * all_reduce_bytes(memory.gradients / near, far),
    )
  # Parameters are collected for both passes, gradients scattered. Each chip holds 1 / (near * far).
  whole = memory.gradients * near * far
  copy = jnp.dtype(setting.model.config.dtype).itemsize / 4
  passes = parts * (2 * copy + 1)
  return passes * gather_bytes(whole, near), passes * gather_bytes(whole / near, far)


def _activation_sums(setting: Setting, place: Slice) -> float:
  """Bytes of the residual streams that the chips of one copy of the model sum in a step.

  Each sublayer ends in a product over a spread axis: one sum forward, and one backward.
  """
  config, spec = setting.model.config, setting.model.spec
  rows = setting.batch_size // setting.data_size(place)
  positions = (
    2 * config.num_encoder_layers * spec.inputs_length
    + config.num_temporal_layers * 3 * spec.chunk_frames
    + 2 * config.num_depth_layers * spec.targets_length
  )
  return 2.0 * rows * positions * config.embed_dim * jnp.dtype(config.dtype).itemsize
