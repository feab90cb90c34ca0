"""plan.py: will a run fit on a slice, how fast, and what does it cost."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax

from models.depthformer import DepthformerModel, flops
from models.figures import percent_apart
from pipelines import gin_config, plan_compile, plan_search, runs
from pipelines.plan_chips import Slice, parse_topology
from pipelines.plan_compile import Compiled
from pipelines.plan_memory import Setting, StepMemory, state_shapes, step_memory
from pipelines.plan_roofline import EXPECTED_SHARE, StepTime, run_cost, step_time
from pipelines.plan_work import step_work
from training.partitioning import PjitPartitioner

_GIB = 2**30
_RUN_FILE = 'gin/runs/pretrain.gin'
# What a run needs and a plan does not.
_UNUSED = ('DATA_DIR', 'MODEL_DIR', 'INITIAL_CHECKPOINT_PATH')


@dataclasses.dataclass(frozen=True)
class Run:
  """What gin says about a run, as far as a plan is concerned."""

  setting: Setting
  optimizer: Any
  steps: int


def plan(
  *,
  gin_files: Sequence[str],
  topology: str,
  num_slices: int = 1,
  batch_size: int | None = None,
  steps: int | None = None,
  bindings: Sequence[str] = (),
  search_paths: Sequence[str] = (),
  analytic: bool = False,
  cache_dir: str | None = None,
) -> bool:
  """Prints what one step of a run needs on a slice, and what the whole run costs.

  Args:
    gin_files: a model, and perhaps a run; gin/runs/pretrain.gin comes before them.
    topology: see `plan_chips.parse_topology`.
    num_slices: of TPUs.
    batch_size: None for the run's.
    steps: None for the run's.
    bindings: of gin.
    search_paths: of gin files.
    analytic: do not compile; GPUs never are.
    cache_dir: of what compiled programs needed.

  Returns:
    Whether it fits.

  Raises:
    ValueError: a wrong slice, gin file or batch, or libtpu is missing.
  """
  place = parse_topology(topology, num_slices)
  compiles = place.chip.is_tpu and not analytic
  if compiles:
    plan_compile.require_compiler()
  jax.config.update('jax_platforms', 'cpu')  # Nothing here touches an accelerator.
  run = read_run(gin_files, bindings, search_paths, batch_size, steps)
  like = state_shapes(run.setting.model, run.optimizer)
  memory = step_memory(run.setting, place, like)
  print(_heading(run.setting, place))
  compiled = _compile(run, run.setting, place, cache_dir) if compiles else None
  if compiled:
    memory = dataclasses.replace(memory, scale=memory.calibrated(compiled.peak_bytes))
  fits = compiled.fits if compiled else plan_search.fits(memory, place)
  print(_memory_text(memory, place, compiled, fits))
  largest = plan_search.largest_batch(run.setting, place, like, memory.scale)
  if fits:
    print(f'  Largest batch that should fit like this: {max(largest, run.setting.batch_size)}.')
  time = step_time(step_work(run.setting, place, memory), place)
  print(_time_text(time, run, place))
  if not fits:
    _print_ways_out(run, place, like, memory.scale, largest, cache_dir if compiles else False)
  return fits


def read_run(
  gin_files: Sequence[str],
  bindings: Sequence[str] = (),
  search_paths: Sequence[str] = (),
  batch_size: int | None = None,
  steps: int | None = None,
) -> Run:
  """What the gin files say; `batch_size` and `steps` come before theirs.

  Raises:
    ValueError: they are wrong, or about something else than a language model.
  """
  files = [_RUN_FILE, *gin_files]
  unused = [f'{name} = None' for name in _UNUSED]
  given = [] if batch_size is None else [f'BATCH_SIZE = {batch_size}']
  if steps is not None and steps < 1:
    raise ValueError(f'--steps={steps} must be at least 1.')
  given += [] if steps is None else [f'TRAIN_STEPS = {steps}']
  gin_config.parse_gin(files, [*unused, *bindings, *given], search_paths)
  model = gin_config.macro_value('MODEL')
  if not isinstance(model, DepthformerModel):
    raise ValueError(f'plan.py plans language models; MODEL is {type(model).__name__}.')
  optimizer = gin_config.parameter_value('runs.train.optimizer')
  partitioner = gin_config.parameter_value('runs.train.partitioner') or PjitPartitioner()
  microbatches = gin_config.parameter_value('runs.train.num_microbatches') or 1
  skips = bool(gin_config.parameter_value('runs.train.max_skipped_steps'))
  return Run(
    Setting(model, gin_config.macro_value('BATCH_SIZE'), partitioner, microbatches, skips),
    runs.make_optimizer(optimizer, model),
    gin_config.macro_value('TRAIN_STEPS'),
  )


def _compile(
  run: Run, setting: Setting, place: Slice, cache_dir: str | pathlib.Path | None
) -> Compiled:
  print(f'Compiling for {place.name} (minutes on 2 cores) ...', file=sys.stderr, flush=True)
  return plan_compile.compile_step(setting, place, run.optimizer, cache_dir)


def _heading(setting: Setting, place: Slice) -> str:
  config, groups = setting.model.config, setting.data_size(place)
  shapes = jax.eval_shape(setting.model.init, jax.random.key(0))
  number = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  size, parts = setting.partitioner.model_size, setting.num_microbatches
  dims = setting.parameter_dims
  return (
    f'Model: {number:,} parameters, {config.dtype}, remat {config.remat}\n'
    f'Place: {place.describe()}\n'
    f'Batch: {setting.batch_size} over a mesh of {groups} x {size} (data x model), '
    f'{setting.batch_size // groups} for each group of {size}, in {parts} '
    f'part{"s" * (parts > 1)}; parameters spread in {dims} dimension{"s" * (dims > 1)}'
  )


def _memory_text(memory: StepMemory, place: Slice, compiled: Compiled | None, fits: bool) -> str:
  peak = compiled.peak_bytes if compiled else memory.peak
  rows = [
    ('parameters', memory.params, ''),
    ('optimizer', memory.optimizer, ''),
    ('batch', memory.inputs, ''),
    ('gradients, activations', peak - memory.resident, 'compiled' if compiled else 'counted'),
    ('peak', peak, f'of {place.chip.memory_bytes / _GIB:.2f} that a program may use'),
  ]
  lines = ['Memory of a chip, GiB']
  lines += [f'  {name:<24}{size / _GIB:9.3f}  {note}'.rstrip() for name, size, note in rows]
  verdict = 'FITS' if fits else 'DOES NOT FIT'
  share = percent_apart(peak / place.chip.memory_bytes, 1)
  lines.append(f'  {verdict}: {share}, {_source(compiled)}.')
  if compiled:
    counted = dataclasses.replace(memory, scale=1.0).peak / _GIB
    lines.append(f'  (counted without compiling: {counted:.2f} GiB; scale {memory.scale:.2f})')
  return '\n'.join(lines)


def _source(compiled: Compiled | None) -> str:
  if compiled is None:
    return 'counted from the shapes of its arrays, not compiled, not run'
  when = f'on {compiled.date}' if compiled.from_cache else f'in {compiled.compile_secs:.0f} s'
  cpu = '' if compiled.from_cache else f' ({compiled.cpu_secs:.0f} s of CPU)'
  return f'compiled {when}{cpu} with {compiled.versions}, not run'


def _time_text(time: StepTime, run: Run, place: Slice) -> str:
  setting, chips = run.setting, place.total_chips
  config, spec = setting.model.config, setting.model.spec
  model_flops = flops.train_step_flops(config, spec, setting.batch_size)
  executed = flops.executed_flops(config, spec, setting.batch_size)
  tokens = setting.batch_size * spec.targets_length
  fast, slow = time.expected_secs
  low, high = time.expected_mfu
  parts = ', '.join(
    f'{name} {getattr(time, name) * 1e3:.1f}' for name in ('compute', 'memory', 'links', 'network')
  )
  (fast_days, fast_hours), (slow_days, slow_hours) = (
    run_cost(secs, run.steps, chips) for secs in (fast, slow)
  )
  share = '-'.join(f'{x:.0%}' for x in EXPECTED_SHARE)
  return '\n'.join([
    'Time of a step',
    f'  operations   {model_flops / 1e15:.3f} PFLOP of the model, {executed / 1e15:.3f} executed',
    f'  at best      {time.roofline * 1e3:.1f} ms, MFU {time.best_mfu:.0%}, bound by {time.bound}'
    f' (ms alone: {parts})',
    f'  expected     {fast * 1e3:.0f}-{slow * 1e3:.0f} ms, MFU {low:.0%}-{high:.0%} '
    f'({share} of the best)',
    f'  throughput   {tokens / slow:,.0f}-{tokens / fast:,.0f} target tokens/s, '
    f'{tokens / slow / chips:,.0f}-{tokens / fast / chips:,.0f} a chip',
    f'  {run.steps:,} steps: {fast_days:.1f}-{slow_days:.1f} days, '
    f'{fast_hours:,.0f}-{slow_hours:,.0f} chip-hours, without evaluation, checkpoints and '
    'interruptions',
  ])  # fmt: skip


def _print_ways_out(
  run: Run, place: Slice, like: Any, scale: float, largest: int, cache_dir: Any
) -> None:
  """Prints the nearest settings that fit; compiles the first, unless `cache_dir` is False."""
  setting = run.setting
  found = plan_search.same_batch(setting, place, like, scale)
  nearest = [found] if found else []
  if largest:
    nearest.append(dataclasses.replace(setting, batch_size=largest))
  print('What would fit')
  if not found:
    print(f'  Batch {setting.batch_size}: nothing that this tries. Take a larger slice.')
  if not largest:
    print('  As it is: not even one example for each group of chips.')
  for position, other in enumerate(nearest):
    compiles = position == 0 and cache_dir is not False
    compiled = _compile(run, other, place, cache_dir) if compiles else None
    memory = step_memory(other, place, like, scale)
    time = step_time(step_work(other, place, memory), place)
    print(f'  {plan_search.gin_flags(setting, other)}')
    print(f'    {_outcome(compiled, memory.peak)}; at best {time.roofline * 1e3:.1f} ms a step')


def _outcome(compiled: Compiled | None, estimate: float) -> str:
  if compiled is None:
    return f'{estimate / _GIB:.2f} GiB a chip by the count'
  verdict = 'fits' if compiled.fits else 'DOES NOT FIT EITHER'
  return (
    f'{verdict}: {compiled.peak_bytes / _GIB:.2f} GiB a chip, {_source(compiled)} '
    f'(the count said {estimate / _GIB:.2f})'
  )
