"""What would fit: batches, shardings and remat policies tried on the count of memory."""

import contextlib
import dataclasses
import itertools
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
_MICROBATCHES = (1, 2, 4, 8, 16)


def fits(memory: StepMemory, place: Slice) -> bool:
  return memory.peak <= FILL * place.chip.memory_bytes


def same_batch(setting: Setting, place: Slice, like: TrainState, scale: float) -> Setting | None:
  """The way to train with this batch that is fastest where nothing overlaps.

  Args:
    setting: what does not fit.
    place: where.
    like: shapes of the training state.
    scale: see `StepMemory`.

  Returns:
    None where no sharding, remat policy or number of microbatches makes it fit.
  """
  found = []
  for other in _variants(setting, place):
    memory = step_memory(other, place, like, scale)
    if fits(memory, place):
      found.append((step_time(step_work(other, place, memory), place).serial, other))
  return min(found, key=lambda item: item[0])[1] if found else None


def _variants(setting: Setting, place: Slice) -> Iterator[Setting]:
  """Other settings for the same batch that need less memory."""
  config, now = setting.model.config, setting.partitioner.model_size
  choices = itertools.product(
    [n for n in _PARTITIONS if n >= now and config.num_heads % n == 0],
    [dims for dims in (1, 2) if dims >= setting.parameter_dims],
    REMAT_POLICIES[REMAT_POLICIES.index(config.remat) :],
    [setting.num_microbatches * n for n in _MICROBATCHES],
  )
  for partitions, dims, remat, parts in choices:
    other = dataclasses.replace(setting.with_remat(remat), num_microbatches=parts)
    if (partitions, dims) != (now, setting.parameter_dims):
      other = other.with_sharding(partitions, dims)
    with contextlib.suppress(ValueError):
      other.data_size(place)
      if other != setting:
        yield other


def largest_batch(setting: Setting, place: Slice, like: TrainState, scale: float) -> int:
  """The largest batch that should fit if nothing else changes; 0 where none does."""
  smallest = place.total_chips // setting.partitioner.model_size * setting.num_microbatches

  def fit(rows: int) -> bool:
    other = dataclasses.replace(setting, batch_size=rows * smallest)
    return fits(step_memory(other, place, like, scale), place)

  rows, beyond = 0, 1
  while fit(beyond):
    rows, beyond = beyond, 2 * beyond
  while beyond - rows > 1:
    middle = (rows + beyond) // 2
    rows, beyond = (middle, beyond) if fit(middle) else (rows, middle)
  return rows * smallest


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
  if other.num_microbatches != setting.num_microbatches:
    flags.append(f'--gin.NUM_MICROBATCHES={other.num_microbatches}')
  remat = other.model.config.remat
  if remat != setting.model.config.remat:
    flags.append(f"""--gin.depthformer.DepthformerConfig.remat='"{remat}"'""")
  return ' '.join(flags)
