"""Before a run: compiles its step, or counts the memory that it will need."""

import dataclasses
import math
import time
from typing import Any

import jax
import numpy as np

from models.depthformer import DepthformerModel
from pipelines.plan_chips import CHIPS, Slice
from pipelines.plan_memory import Setting, step_memory
from training.partitioning import Partitioning, PjitPartitioner
from training.prefetch import feed_batches
from training.state import TrainState
from training.step import make_train_step


@dataclasses.dataclass(frozen=True)
class StepOptions:
  """What `training.step.make_train_step` is told about a run."""

  num_microbatches: int = 1
  skip_nonfinite: bool = False


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """What XLA says of a step; bytes are of one device.

  Attributes:
    trace_secs: until XLA was called.
    compile_secs: that it took; next to nothing where JAX's compilation cache has the program.
    arguments: state and batch.
    outputs: the next state and the metrics.
    aliased: of the outputs what lies where the arguments lay.
    temporary: what is needed in between, the most that was reserved.
    peak: the most that is needed at once, arguments included; 0 on CPUs, which do not say.
  """

  trace_secs: float
  compile_secs: float
  arguments: float
  outputs: float
  aliased: float
  temporary: float
  peak: float

  @property
  def sum(self) -> float:
    """What arguments, outputs and temporary arrays would need if all were there at once."""
    return self.arguments + self.outputs - self.aliased + self.temporary

  def __str__(self) -> str:
    in_place = f'{self.aliased / max(self.outputs, 1):.0%} of it in place of the old'
    peak = ('peak', self.peak, '')
    if not self.peak:
      peak = ('peak, at most', self.sum, 'the sum; this platform does not tell')
    rows = [
      ('state and batch', self.arguments, ''),
      ('next state, metrics', self.outputs, in_place),
      ('temporary', self.temporary, ''),
      peak,
    ]
    secs = f'traced in {self.trace_secs:.1f} s, compiled in {self.compile_secs:.1f} s'
    return f'The step: {secs}\n{_table("Memory of a device by XLA", rows)}'


def compile_step(
  trainable: Any,
  feed: Any,
  optimizer: Any,
  partitioning: Partitioning,
  options: StepOptions = StepOptions(),
) -> CompiledStep:
  """Compiles the very program that `training.loop.train` will run, for the devices that are there.

  Makes no state and no step, and reads one batch. With a compilation cache
  (JAX_COMPILATION_CACHE_DIR) the run then finds the program there.
  """
  own_feed = partitioning.local_feed(feed)
  shared = own_feed is not feed
  batch = partitioning.placer(shared)(next(feed_batches(own_feed, 0)))
  key = partitioning.replicate(jax.random.key(0))
  like = partitioning.state_like(trainable, optimizer, jax.random.key(0))
  step = make_train_step(
    trainable, optimizer, partitioning.step_compiler(like, shared), **dataclasses.asdict(options)
  )
  start = time.monotonic()
  lowered = step.lower(like, batch, key)
  traced = time.monotonic()
  memory = lowered.compile().memory_analysis()
  on_cpu = partitioning.mesh.devices.flat[0].platform == 'cpu'
  return CompiledStep(
    trace_secs=traced - start,
    compile_secs=time.monotonic() - traced,
    arguments=float(memory.argument_size_in_bytes),
    outputs=float(memory.output_size_in_bytes),
    aliased=float(memory.alias_size_in_bytes),
    temporary=float(memory.temp_size_in_bytes),
    # On CPUs the figure leaves temporary arrays out.
    peak=0.0 if on_cpu else float(memory.peak_memory_in_bytes),
  )


def describe_memory(
  trainable: Any,
  optimizer: Any,
  batch: dict[str, np.ndarray],
  partitioning: Partitioning,
  partitioner: PjitPartitioner | None = None,
  options: StepOptions = StepOptions(),
) -> str:
  """Memory of a run on each of its devices as text, from shapes alone; compiles nothing.

  Parameters, optimizer and batch are exact. What a step of a language model needs besides is
  counted as plan.py counts it; of other models only a compiled step knows.

  Args:
    trainable: the model.
    optimizer: of the run.
    batch: the first, as all processes together see it.
    partitioning: of the run.
    partitioner: what made it.
    options: of the step.
  """
  like = partitioning.state_like(trainable, optimizer, jax.random.key(0))
  groups = partitioning.mesh.devices.shape[0]
  rows = [
    ('parameters', _bytes_per_device(like.params), ''),
    ('optimizer', _bytes_per_device([like.opt_state, like.aux]), ''),
    ('batch', sum(x.nbytes for x in batch.values()) / groups, ''),
  ]
  resident = sum(size for _, size, _ in rows)
  if isinstance(trainable, DepthformerModel):
    temporary = _counted(trainable, like, batch, partitioning, partitioner, options)
    rows += [
      ('gradients, activations', temporary, 'counted, not compiled'),
      ('peak', resident + temporary, ''),
    ]
  table = _table(f'Memory of a device ({partitioning})', rows)
  return f'{table}\n  --run_mode=precompile gives what XLA makes of it.'


def _counted(
  model: DepthformerModel,
  like: TrainState,
  batch: dict[str, np.ndarray],
  partitioning: Partitioning,
  partitioner: PjitPartitioner | None,
  options: StepOptions,
) -> float:
  setting = Setting(
    model,
    len(batch['decoder_target_tokens']),
    partitioner or PjitPartitioner(),
    **dataclasses.asdict(options),
  )
  # The kind of the chip does not matter for what is needed, only their number.
  place = Slice(CHIPS['h100'], partitioning.mesh.size)
  shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
  return step_memory(setting, place, shapes).temporary


def _bytes_per_device(tree: Any) -> float:
  def size(leaf: Any) -> int:
    sharding = getattr(leaf, 'sharding', None)
    shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize

  return float(sum(size(leaf) for leaf in jax.tree.leaves(tree)))


def _table(title: str, rows: list[tuple[str, float, str]]) -> str:
  """Lines of (name, bytes, note), all in GiB or all in MiB."""
  largest = max(size for _, size, _ in rows)
  unit, divisor = ('GiB', 2**30) if largest >= 2**30 else ('MiB', 2**20)
  lines = [f'  {name:<24}{size / divisor:9.3f}  {note}'.rstrip() for name, size, note in rows]
  return '\n'.join([f'{title}, {unit}', *lines])
