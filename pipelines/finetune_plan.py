"""What a fine-tuning will take: music, tokens, steps, memory and time, before any of it is done."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from models import adapters
from models.adapted import METHODS, AdaptedModel, language_model
from models.depthformer import flops
from models.figures import apart, at_least, hours, times
from models.spec import LiveMusicSpec
from pipelines.device_peak import device_peak
from pipelines.finetune_catalog import CatalogFacts
from pipelines.plan_chips import CHIPS, Slice
from pipelines.plan_memory import Setting, state_shapes, step_memory
from training.partial import part_of

# Shares of a large matrix product's rate that steps reach, measured on the bundled size.
_EFFICIENCY = {'cpu': 0.35, 'other': 0.3}
# Seconds of audio that codec and style model read in a second: the tiny ones on a CPU core.
_PREPARE_SPEED = 10.0
_RESERVED = 0.9  # Of the memory that is there.


@dataclasses.dataclass(frozen=True)
class RunFacts:
  """What is asked for.

  Attributes:
    trainable: see `models.adapted.tuned`.
    optimizer: of the run.
    method: of `METHODS`.
    batch_size: examples of a step.
    total_steps: of the run.
    num_microbatches: parts of a batch.
    budget_secs: for everything; None for no limit.
  """

  trainable: Any
  optimizer: Any
  method: str
  batch_size: int
  total_steps: int
  num_microbatches: int = 1
  budget_secs: float | None = None


@dataclasses.dataclass(frozen=True)
class Plan:
  """The figures of a dry run.

  Attributes:
    catalog: see there.
    run: see there.
    trained: numbers that are trained.
    whole: numbers of the model.
    memory: bytes needed at the worst moment; counted, not compiled, and too many for methods that
      need no backward pass through the encoder.
    available: bytes that are there.
    prepare_secs: expected, as the next two.
    train_secs: of `run.total_steps`.
    judge_secs: evaluations, memorization, report.
    refusals: why this cannot be, each with the change that would; () if it can.
  """

  catalog: CatalogFacts
  run: RunFacts
  trained: int
  whole: int
  memory: float
  available: float
  prepare_secs: float
  train_secs: float
  judge_secs: float
  refusals: tuple[str, ...]

  def __str__(self) -> str:
    catalog, run, spec = self.catalog, self.run, language_model(self.run.trainable).spec
    tokens = round(catalog.train_secs * spec.frame_rate) * spec.target_levels
    seen = 'there is no music to train on'
    if catalog.train_secs >= spec.chunk_secs:
      shown_secs = run.total_steps * run.batch_size * spec.chunk_secs
      seen = f'every target {times(shown_secs / catalog.train_secs)} times'
    set_aside = ', '.join(f'{n} {why}' for why, n in catalog.rejects.items()) or 'none'
    total = self.prepare_secs + self.train_secs + self.judge_secs
    budget = '' if run.budget_secs is None else f' of {run.budget_secs / 3600:g} h'
    rows = [
      ('tracks', f'{catalog.tracks}, {catalog.train_tracks} to train on'),
      ('music', f'{hours(catalog.secs)}, {hours(catalog.train_secs)} to train on'),
      ('set aside', set_aside if catalog.prepared else f'{set_aside} so far (nothing is decoded)'),
      ('tokens to train on', f'{tokens:,} of {spec.target_levels} levels'),
      ('steps', f'{run.total_steps} of {run.batch_size} examples: {seen}'),
      ('method', f'{run.method}: {self.trained:,} of {self.whole:,} numbers are trained'),
      ('memory', f'{_size(self.memory)} counted, {_size(self.available)} there'),
      ('time, about', f'prepare {_time(self.prepare_secs)}, train {_time(self.train_secs)}, judge '
       f'{_time(self.judge_secs)}: {_time(total)}{budget}'),
    ]  # fmt: skip
    lines = [f'{name:<20}{value}' for name, value in rows]
    return '\n'.join([*lines, *(f'Refused: {why}' for why in self.refusals)])


def make_plan(
  catalog: CatalogFacts, run: RunFacts, devices: Sequence[jax.Device] | None = None
) -> Plan:
  """Counts what a run needs and says what stands in its way."""
  devices = list(devices or jax.devices())
  spec = language_model(run.trainable).spec
  memory = step_bytes(run)
  available = available_bytes(devices[0])
  model = language_model(run.trainable)
  step_flops = flops.train_step_flops(model.config, spec, run.batch_size)
  kind = 'cpu' if devices[0].platform == 'cpu' else 'other'
  rate = device_peak(devices).flops_per_second * _EFFICIENCY[kind]
  step_secs = step_flops / rate
  prepare_secs = 0.0 if catalog.prepared else catalog.secs / _PREPARE_SPEED
  plan = Plan(
    catalog=catalog,
    run=run,
    trained=_trained(run),
    whole=adapters.num_numbers(jax.eval_shape(model.init, jax.random.key(0))),
    memory=memory,
    available=available,
    prepare_secs=prepare_secs,
    train_secs=run.total_steps * step_secs,
    # Continuations of the gate and the clips, in steps of the same size.
    judge_secs=60 + 40 * step_secs,
    refusals=(),
  )
  return dataclasses.replace(plan, refusals=tuple(_refusals(plan, step_secs)))


def step_bytes(run: RunFacts) -> float:
  """Bytes of a step on one device: parameters, optimizer, gradients, activations; counted."""
  model = language_model(run.trainable)
  like = state_shapes(run.trainable, run.optimizer)
  plain = state_shapes(model, _NO_OPTIMIZER)
  setting = Setting(model, run.batch_size, num_microbatches=run.num_microbatches)
  counted = step_memory(setting, Slice(CHIPS['h100'], 1), plain)
  state = _nbytes(like.params) + _nbytes(like.opt_state)
  trained = part_of(like.params, getattr(run.optimizer, 'trained', ()))
  # Gradients of the whole model are in what is counted when the backward pass enters the encoder.
  in_encoder = counted.in_encoder - counted.gradients + _nbytes(trained)
  temporary = max(counted.at_loss, in_encoder)
  if isinstance(run.trainable, AdaptedModel) and 'logits' in trained.get('adapter', {}):
    temporary += 2 * _nbytes(plain.params['logits'])  # The merged output layer and its gradient.
  return state + temporary + counted.inputs


class _Stateless:
  """Stands for an optimizer that keeps nothing."""

  def init(self, params: Any) -> dict[str, Any]:
    return {}


_NO_OPTIMIZER = _Stateless()


def _nbytes(tree: Any) -> float:
  return float(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)))


def _trained(run: RunFacts) -> int:
  shapes = jax.eval_shape(run.trainable.init, jax.random.key(0))
  return adapters.num_numbers(part_of(shapes, getattr(run.optimizer, 'trained', ())))


def available_bytes(device: jax.Device) -> float:
  """Memory of an accelerator, or what this machine has free."""
  stats = device.memory_stats() if device.platform != 'cpu' else None
  if stats and 'bytes_limit' in stats:
    return float(stats['bytes_limit'])
  free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  meminfo = pathlib.Path('/proc/meminfo')
  if meminfo.is_file():
    for line in meminfo.read_text().splitlines():
      if line.startswith('MemAvailable:'):
        return float(line.split()[1]) * 1024
  return float(free)


def _refusals(plan: Plan, step_secs: float) -> list[str]:
  catalog, run = plan.catalog, plan.run
  spec: LiveMusicSpec = language_model(run.trainable).spec
  found = []
  if catalog.refusal:
    found.append(catalog.refusal)
  elif catalog.train_secs < spec.chunk_secs:
    secs = apart(catalog.train_secs, spec.chunk_secs, 1)
    found.append(
      f'{secs} s of music to train on are less than one chunk of {spec.chunk_secs:g} s. Add music.'
    )
  room = _RESERVED * plan.available
  if plan.memory > room:
    found.append(
      f'{apart(plan.memory / 2**30, room / 2**30, 2)} GiB are needed and {_size(room)} may be '
      f'used ({_RESERVED:.0%} of the {_size(plan.available)} that are there). '
      f'{_smaller(run, room)}'
    )
  if run.budget_secs is not None:
    left = run.budget_secs - plan.prepare_secs - plan.judge_secs
    if left < 10 * step_secs:
      needed = (plan.prepare_secs + plan.judge_secs + plan.train_secs) / 3600
      found.append(
        f'a budget of {run.budget_secs / 3600:g} h leaves no time to train: preparation and report '
        f'take about {_time(plan.prepare_secs + plan.judge_secs)}. All {run.total_steps} steps '
        f'need --hours_budget={at_least(needed)}.'
      )
  return found


def _smaller(run: RunFacts, room: float) -> str:
  """The first change that fits, in words."""
  for parts in (2, 4, 8, 16):
    if run.batch_size % parts == 0:
      changed = dataclasses.replace(run, num_microbatches=parts)
      if step_bytes(changed) <= room:
        return f'NUM_MICROBATCHES = {parts} fits (the same updates, computed in {parts} parts).'
  for remat in ('minimal', 'full'):
    if step_bytes(_with_remat(run, remat)) <= room:
      return f"depthformer.DepthformerConfig.remat = '{remat}' fits (slower), through train.py."
  for size in (4, 2, 1):
    changed = dataclasses.replace(run, batch_size=size)
    if size < run.batch_size and step_bytes(changed) <= room:
      return f'--batch_size={size} fits.'
  others = ', '.join(method for method in METHODS if method != run.method)
  return (
    'No batch size fits: choose a smaller base, a machine with more memory, or another --method '
    f'({others}).'
  )


def _with_remat(run: RunFacts, remat: str) -> RunFacts:
  model = language_model(run.trainable)
  model = dataclasses.replace(model, config=dataclasses.replace(model.config, remat=remat))
  trainable = model
  if isinstance(run.trainable, AdaptedModel):
    trainable = dataclasses.replace(run.trainable, model=model)
  return dataclasses.replace(run, trainable=trainable)


def _size(number: float) -> str:
  return f'{number / 2**30:.2f} GiB'


def _time(secs: float) -> str:
  return f'{secs:.0f} s' if secs < 120 else f'{secs / 60:.0f} min' if secs < 7200 else (
    f'{secs / 3600:.1f} h'
  )  # fmt: skip
