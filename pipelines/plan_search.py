"""What would fit: batches, shardings and remat policies tried on the count of memory."""

import dataclasses
from collections.abc import Iterator

from models.depthformer.config import REMAT_POLICIES
from pipelines.plan_chips import Slice
from pipelines.plan_memory import Setting, StepMemory, step_memory
from pipelines.plan_roofline import step_time
from pipelines.plan_work import step_work
from training.state import TrainState

# What an estimate may fill; a compiled program may fill all.
FILL = 0.95
_PARTITIONS = (1, 2, 4, 8)


def fits(memory: StepMemory, place: Slice) -> bool:
  return memory.peak <= FILL * place.chip.memory_bytes


def same_batch(setting: Setting, place: Slice, like: TrainState, scale: float) -> Setting | None:
  """The fastest way, by its roofline, to train with this batch; of equals the one nearest by.

  Args:
    setting: what does not fit.
    place: where.
    like: shapes of the training state.
    scale: see `StepMemory`.

  Returns:
    None where no sharding and no remat policy makes it fit.
  """
  found = []
  for changes, other in _variants(setting, place):
    memory = step_memory(other, place, like, scale)
    if fits(memory, place):
      seconds = step_time(step_work(other, place, memory), place).roofline
      found.append((seconds, changes, other))
  return min(found, key=lambda item: item[:2])[2] if found else None


def _variants(setting: Setting, place: Slice) -> Iterator[tuple[int, Setting]]:
  """Other settings for the same batch, each with the number of things that it changes."""
  config = setting.model.config
  now = setting.partitioner.model_size
  policies = REMAT_POLICIES[REMAT_POLICIES.index(config.remat) :]
  for partitions in [n for n in _PARTITIONS if n >= now and config.num_heads % n == 0]:
    for dims in (d for d in (1, 2) if d >= setting.parameter_dims):
      for remat in policies:
        different = (partitions != now, dims != setting.parameter_dims, remat != config.remat)
        if not any(different):
          continue
        other = setting.with_remat(remat)
        if different[0] or different[1]:
          other = other.with_sharding(partitions, dims)
        try:
          other.data_size(place)
        except ValueError:
          continue
        yield sum(different), other


def largest_batch(setting: Setting, place: Slice, like: TrainState, scale: float) -> int:
  """The largest batch that should fit if nothing else changes; 0 where none does."""
  groups = place.total_chips // setting.partitioner.model_size

  def fit(rows: int) -> bool:
    other = dataclasses.replace(setting, batch_size=rows * groups)
    return fits(step_memory(other, place, like, scale), place)

  rows, beyond = 0, 1
  while fit(beyond):
    rows, beyond = beyond, 2 * beyond
  while beyond - rows > 1:
    middle = (rows + beyond) // 2
    rows, beyond = (middle, beyond) if fit(middle) else (rows, middle)
  return rows * groups


def gin_flags(setting: Setting, other: Setting) -> str:
  """The flags of `train.py` that turn one setting into the other."""
  flags = []
  if other.batch_size != setting.batch_size:
    flags.append(f'--gin.BATCH_SIZE={other.batch_size}')
  if other.partitioner.model_size != setting.partitioner.model_size:
    flags.append(f'--gin.NUM_PARTITIONS={other.partitioner.model_size}')
    if setting.partitioner.model_parallel_submesh:
      flags.append('--gin.MODEL_PARALLEL_SUBMESH=None')
  if other.parameter_dims != setting.parameter_dims:
    flags.append(f'--gin.PARAMETER_PARTITIONING_DIMS={other.parameter_dims}')
  remat = other.model.config.remat
  if remat != setting.model.config.remat:
    flags.append(f"""--gin.depthformer.DepthformerConfig.remat='"{remat}"'""")
  return ' '.join(flags)
