"""From a fine-tuning run to what is kept: the best step as a bundle, with its data card."""

import dataclasses
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np

from models import adapters, weights
from models.adapted import ADAPTER
from models.adapters import AdapterConfig
from models.bundle import save_bundle
from pipelines import adapter_folders
from pipelines.catalog_likeness import LOWER_IS_BETTER
from pipelines.checkpoint_sources import MODEL_FILE, Source, load_source
from pipelines.finetune_feed import GENERAL, style_presets
from pipelines.output_health import FAULTS, LIKENESS
from pipelines.output_health import NAME as OUTPUT
from training.best import KeepBest
from training.checkpoint_folders import saved_steps
from training.early_stopping import HELD_OUT
from training.metrics import read_metrics

LOSS = 'loss'
CHOICES = (LOSS, *LOWER_IS_BETTER)
HELD_OUT_STREAM, HELD_OUT_LOSS = HELD_OUT.rsplit('/', 1)
# Of Magenta RealTime's released weights, from their model card.
_RELEASED_TERMS = (
  'Magenta RealTime weights: CC-BY-4.0 with additional terms. Name Google DeepMind and Magenta '
  'RealTime; do not use outputs in ways that infringe the rights of others. What you tune keeps '
  'these terms.'
)


@dataclasses.dataclass(frozen=True)
class Choice:
  """Which step of a run is kept.

  Attributes:
    step: 0 is the base.
    last_step: the newest that is saved.
    base: held-out metrics of the base.
    best: held-out metrics of the step.
    curves: stream -> [step, loss] points of the held-out catalog and of general data.
  """

  step: int
  last_step: int
  base: dict[str, float]
  best: dict[str, float]
  curves: dict[str, list[list[float]]]


def keep_best(choose_by: str = LOSS, by_loss: KeepBest | None = None) -> KeepBest:
  """What the best step of a fine-tuning is.

  Args:
    choose_by: 'loss', or a figure of what the model plays: 'style_cosine', its cosine to the
      catalog in the style model's space, or 'sound_distance', how far its sound lies from the
      catalog's.
    by_loss: the rule of 'loss'; None for the lowest held-out loss.

  Raises:
    ValueError: it is neither of these.
  """
  if choose_by == LOSS:
    return by_loss or KeepBest(HELD_OUT, 'min')
  if choose_by not in LOWER_IS_BETTER:
    names = ', '.join(map(repr, CHOICES))
    raise ValueError(f'CHOOSE_BY = {choose_by!r} is none of {names}.')
  return KeepBest(f'{OUTPUT}/{choose_by}', 'min' if LOWER_IS_BETTER[choose_by] else 'max')


def choose(run_dir: pathlib.Path, rule: KeepBest | None = None) -> Choice:
  """The best saved step that was evaluated; the base, step 0, is a candidate.

  Args:
    run_dir: of the run.
    rule: what is best; None for the lowest held-out loss.

  Raises:
    ValueError: the run has evaluated nothing, or never by the rule.
  """
  rule = rule or keep_best()
  lines = read_metrics(run_dir)
  by_step = {line['step']: line for line in lines if line['stream'] == HELD_OUT_STREAM}
  saved = saved_steps(run_dir)
  known = [
    step for step in (0, *saved)
    if math.isfinite(by_step.get(step, {}).get(HELD_OUT_LOSS, math.nan))
  ]  # fmt: skip
  if 0 not in known:
    raise ValueError(f'{run_dir} has no held-out loss of its start; take another output directory.')
  best = next(iter(rule.best_steps(run_dir, known)), None)
  if best is None:
    raise ValueError(f'{run_dir} has no {rule.metric_name_to_monitor} of any step that is saved.')
  curves = {'catalog': _curve(lines, HELD_OUT_STREAM), 'general': _curve(lines, GENERAL)}
  return Choice(
    best, max(saved, default=0), _metrics(by_step[0]), _metrics(by_step[best]),
    {name: points for name, points in curves.items() if points},
  )  # fmt: skip


def _curve(lines: list[dict[str, Any]], stream: str) -> list[list[float]]:
  return [[line['step'], line[HELD_OUT_LOSS]] for line in lines if line['stream'] == stream]


def _metrics(line: dict[str, Any]) -> dict[str, float]:
  return {name: value for name, value in line.items() if isinstance(value, float)}


def general_losses(run_dir: pathlib.Path, steps: tuple[int, ...]) -> list[dict[str, float]]:
  """Metrics on held-out general data at some steps; {} where there are none."""
  lines = {line['step']: line for line in read_metrics(run_dir) if line['stream'] == GENERAL}
  return [_metrics(lines.get(step, {})) for step in steps]


def output_health(run_dir: pathlib.Path) -> list[dict[str, float]]:
  """What was seen of the sound, evaluation by evaluation."""
  names = ('step', *FAULTS, 'rms_db', *LIKENESS)
  lines = [line for line in read_metrics(run_dir) if line['stream'] == OUTPUT]
  return [{name: line[name] for name in names if name in line} for line in lines]


def keep(
  choice: Choice, run_dir: pathlib.Path, data_dir: pathlib.Path, source: Source,
  output_dir: pathlib.Path,
) -> pathlib.Path:  # fmt: skip
  """Writes `output_dir`/bundle and, of a run with an adapter, `output_dir`/adapter.

  Returns:
    The bundle's folder.
  """
  base, params, adapter = source.bundle, source.bundle.params, None
  if choice.step:
    folder = run_dir / f'checkpoint_{choice.step}'
    params = load_source(folder).bundle.params
    adapter = _adapter(folder, run_dir)
  presets = base.presets | style_presets(data_dir)
  card = data_card(choice, data_dir, source)
  tuned = dataclasses.replace(base, params=params, presets=presets, card=card)
  bundle_dir = save_bundle(output_dir / 'bundle', tuned)
  if adapter is not None:
    arrays, config = adapter
    adapter_folders.save(
      output_dir / 'adapter', arrays, config, base, source.path, presets=presets, card=card
    )
  return bundle_dir


def _adapter(
  folder: pathlib.Path, run_dir: pathlib.Path
) -> tuple[dict[str, Any], AdapterConfig] | None:
  described = json.loads((run_dir / MODEL_FILE).read_text(encoding='utf-8'))
  if 'adapter' not in described:
    return None
  from training.checkpoints import restore_averaged_params

  return restore_averaged_params(folder)[0][ADAPTER], AdapterConfig(**described['adapter'])


def data_card(choice: Choice, data_dir: pathlib.Path, source: Source) -> dict[str, Any]:
  """What the bundle was made of, under which terms, and what was gained; JSON values."""
  base = source.bundle
  return {
    'base': {
      'name': source.name,
      'path': source.path,
      'terms': base_terms(source),
      'weights_hash': weights.tree_hash(jax.tree.map(np.asarray, base.params)),
      'card': base.card,
    },
    'catalog': catalog_card(data_dir),
    'codec': {'name': base.codec_name, 'hash': base.codec_hash},
    'style': {'name': base.style_name, 'hash': base.style_hash},
    'step': choice.step,
    'held_out': {'base': choice.base, 'tuned': choice.best},
    'memorization': {'measured': False},
  }


def base_terms(source: Source) -> str:
  """The licence that what is tuned inherits."""
  if source.kind == 't5x':
    return _RELEASED_TERMS
  return source.bundle.card.get('licence') or 'The base does not state its terms.'


def catalog_card(data_dir: pathlib.Path) -> dict[str, Any]:
  """Tracks, hours and licences of the catalog, for the data card."""
  from preprocessing.manifest import read_manifest

  tracks = read_manifest(data_dir / 'manifest.jsonl')
  licences: dict[str, int] = {}
  for track in tracks:
    licence = track.licence or 'not stated'
    licences[licence] = licences.get(licence, 0) + 1
  return {
    'tracks': len(tracks),
    'hours': round(sum(track.duration_secs for track in tracks) / 3600, 3),
    'licences': licences,
  }


def mark(folders: list[pathlib.Path], verdict: dict[str, Any]):
  """Writes the verdict on memorization into the data cards of what was kept."""
  for folder in folders:
    path = folder / adapter_folders.CARD_FILE
    if not path.is_file():
      continue
    card = json.loads(path.read_text(encoding='utf-8'))
    names = ('memorized', 'text', 'training_rate', 'held_out_rate', 'longest_run', 'largest_share')
    card['memorization'] = {'measured': True, **{name: verdict[name] for name in names}}
    partial = path.with_suffix('.partial')
    partial.write_text(json.dumps(card, indent=2) + '\n', encoding='utf-8')
    partial.replace(path)


def adapter_size(folder: pathlib.Path) -> int:
  """Bytes of an adapter's file; 0 where there is none."""
  path = folder / adapters.FILE_NAME
  return path.stat().st_size if path.is_file() else 0
