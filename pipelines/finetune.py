"""A folder of music and a base model -> a tuned model, ready to play.

The catalog is tokenized with the codec and style model of the base, some of its tracks are held
out, and the base is trained on the rest by `gin/runs/finetune.gin`. Whenever the held-out loss is
evaluated and is the lowest so far, the model is written as a bundle; the base itself is the first
candidate, so the bundle is never worse than the base on the held-out tracks. Each stage can be
interrupted and goes on when the command is given again.
"""

import dataclasses
import json
import math
import pathlib
import shlex
from collections.abc import Iterable
from typing import Any

import numpy as np

from models.bundle import Bundle, save_bundle
from pipelines import gin_config, initial_params, runs
from pipelines.checkpoint_sources import IDENTITY_FIELDS, Source, load_source
from training.partitioning import Partitioning
from training.state import TrainState
from training.wrappers import averaged_params

RUN_FILE = 'gin/runs/finetune.gin'
PROGRESS_FILE = 'best.json'
# What early stopping looks at: nats per token over all levels.
HELD_OUT_LOSS = 'loss_per_nonpadding_target_token'
NUM_STYLE_CENTROIDS = 5


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
  """What came out.

  Attributes:
    bundle_dir: the tuned model.
    base_loss: held-out loss of the base, nats per token.
    best_loss: held-out loss of the tuned model.
    best_step: the step that was kept; 0 is the base.
  """

  bundle_dir: pathlib.Path
  base_loss: float
  best_loss: float
  best_step: int


def finetune(
  catalog: str | pathlib.Path,
  output_dir: str | pathlib.Path,
  *,
  base: str = 'tiny',
  total_steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  time_budget_secs: float | None = None,
  seed: int = 42,
) -> FinetuneResult:
  """Tunes `base` on the audio files below `catalog`.

  Args:
    catalog: folder of audio files, or one that prepare.py already wrote (with a manifest.jsonl).
    output_dir: gets `corpus/` (tokens), `run/` (the training run) and `bundle/`.
    base: see `checkpoint_sources.load_source`.
    total_steps: updates; None takes the run file's.
    batch_size: examples per update; None takes the run file's.
    learning_rate: of Adafactor, relative to each parameter's size; None takes the run file's.
    time_budget_secs: stop training cleanly after so long; None for no limit.
    seed: of crops and dropout.

  Raises:
    FileNotFoundError: no audio in `catalog`, or no such base.
    ValueError: a number is not above 0, too few usable tracks to hold some out, tokens of
      another codec or style model, or `output_dir` holds another base's run.
  """
  _check_numbers(
    total_steps=total_steps, batch_size=batch_size, learning_rate=learning_rate,
    time_budget_secs=time_budget_secs,
  )  # fmt: skip
  source = load_source(base)
  output_dir = pathlib.Path(output_dir)
  _read_progress(output_dir, source)
  data_dir = _prepare(pathlib.Path(catalog), output_dir, source.bundle)
  identity = {field: getattr(source.bundle, field) for field in IDENTITY_FIELDS}
  initial_params.check_tokens(str(base), identity, runs.token_identity(str(data_dir)))
  model_file = _write_model_file(output_dir, source.bundle)
  settings = {
    'DATA_DIR': str(data_dir),
    'MODEL_DIR': str(output_dir / 'run'),
    'INITIAL_CHECKPOINT_PATH': str(base),
    'RANDOM_SEED': seed,
    'TRAIN_STEPS': total_steps,
    'BATCH_SIZE': batch_size,
    'BASE_LEARNING_RATE': learning_rate,
    'TIME_BUDGET_SECS': time_budget_secs,
  }
  bindings = [f'{name} = {value!r}' for name, value in settings.items() if value is not None]
  gin_config.parse_gin([str(model_file), RUN_FILE], bindings)
  print(f'The same run: {_train_command(model_file, bindings)}', flush=True)
  keeper = BestBundle(source, data_dir, output_dir / 'bundle')
  keeper.offer_base()
  gin_config.run(evaluators=[keeper])
  return keeper.result()


def _check_numbers(**values: float | None):
  """Raises ValueError for a number that is given and not above 0: before the catalog is read."""
  for name, value in values.items():
    if value is not None and not 0 < value < math.inf:
      raise ValueError(f'{name}={value} is not a number above 0.')


class BestBundle:
  """Evaluator that writes a bundle whenever the held-out loss is the lowest so far."""

  name = 'training_eval/held_out'

  def __init__(self, source: Source, data_dir: pathlib.Path, bundle_dir: pathlib.Path):
    """Goes on with what `bundle_dir` holds, if it was made from the same base.

    Args:
      source: the base model.
      data_dir: the prepared catalog.
      bundle_dir: the bundle to write; the losses so far are kept beside it.
    """
    self._source, self._data_dir, self._bundle_dir = source, data_dir, bundle_dir
    self._progress_path = bundle_dir.parent / PROGRESS_FILE
    num_batches = gin_config.macro_value('EVAL_STEPS')
    batch_size = gin_config.macro_value('BATCH_SIZE')
    feed = runs.held_out_token_feed(str(data_dir), batch_size=batch_size, spec=source.bundle.spec)
    self._held_out = runs.HeldOutLoss(source.bundle.model, feed, num_batches, self.name)
    self._progress: dict[str, Any] = {}
    if (bundle_dir / 'spec.json').is_file():
      self._progress = _read_progress(bundle_dir.parent, source)

  def use(self, partitioning: Partitioning):
    """Shares the evaluation among the devices of the run."""
    self._held_out.use(partitioning)

  def offer_base(self):
    """Evaluates the base as step 0, unless an earlier call has."""
    if not self._progress:
      state = TrainState(step=0, params=self._source.bundle.params, opt_state={}, aux={})
      metrics = dict(self._held_out(state))
      self._progress = {'base': self._source.path, 'base_metrics': metrics}
      self._keep(state, metrics)
    base_loss = self._loss('base_metrics')
    print(f'Held-out loss of the base: {base_loss:.4f} nats per token.', flush=True)

  def __call__(self, state: TrainState) -> Iterable[tuple[str, float]]:
    """The held-out metrics; writes the bundle if this is the best step."""
    metrics = dict(self._held_out(state))
    if metrics[HELD_OUT_LOSS] < self._loss('best_metrics'):
      self._keep(state, metrics)
    return metrics.items()

  def result(self) -> FinetuneResult:
    return FinetuneResult(
      bundle_dir=self._bundle_dir,
      base_loss=self._loss('base_metrics'),
      best_loss=self._loss('best_metrics'),
      best_step=self._progress['best_step'],
    )

  def _loss(self, which: str) -> float:
    return self._progress[which][HELD_OUT_LOSS]

  def _keep(self, state: TrainState, metrics: dict[str, float]):
    """Writes the bundle, then the record that names it."""
    self._progress |= {'best_step': int(state.step), 'best_metrics': metrics}
    base, params = self._source.bundle, averaged_params(state)
    card = {
      'base': {'name': self._source.name, 'card': base.card},
      'catalog': _catalog_card(self._data_dir),
      'step': int(state.step),
      'held_out': {'base': self._progress['base_metrics'], 'tuned': metrics},
    }
    presets = base.presets | style_presets(self._data_dir)
    tuned = dataclasses.replace(base, params=params, presets=presets, card=card)
    save_bundle(self._bundle_dir, tuned)
    partial = self._progress_path.with_suffix('.partial')
    partial.write_text(json.dumps(self._progress, indent=2) + '\n', encoding='utf-8')
    partial.replace(self._progress_path)


def _read_progress(output_dir: pathlib.Path, source: Source) -> dict[str, Any]:
  """The losses so far of the run in `output_dir`; {} where there is none.

  Raises:
    ValueError: that run is from another base.
  """
  path = output_dir / PROGRESS_FILE
  if not path.is_file():
    return {}
  progress = json.loads(path.read_text(encoding='utf-8'))
  if progress['base'] != source.path:
    raise ValueError(
      f'{output_dir} holds a run from the base {progress["base"]!r}, this one is from '
      f'{source.path!r}: give another output directory.'
    )
  return progress


def _prepare(catalog: pathlib.Path, output_dir: pathlib.Path, base: Bundle) -> pathlib.Path:
  """Tokenizes the catalog with the base's codec and style model; returns the data directory."""
  from preprocessing import corpus

  if (catalog / 'manifest.jsonl').is_file():
    return catalog
  data_dir = output_dir / 'corpus'
  prepared = corpus.prepare_corpus(
    corpus.PrepareOptions(
      audio_dir=str(catalog),
      output_dir=str(data_dir),
      name='catalog',
      codec=base.codec_name,
      style=base.style_name,
      # A small catalog cannot spare a second held-out set.
      test_fraction=0.0,
    )
  )
  splits = prepared.stats['splits']
  for split in ('train', 'validation'):
    if split not in splits:
      raise ValueError(
        f'{catalog} gives {sum(facts["tracks"] for facts in splits.values())} usable tracks: too '
        f'few for a {split} set beside the others. Add tracks; {data_dir}/rejects.jsonl lists what '
        'was set aside.'
      )
  tracks = {split: facts['tracks'] for split, facts in splits.items()}
  print(f'{tracks["train"]} tracks to train on, {tracks["validation"]} held out.', flush=True)
  return data_dir


def style_presets(data_dir: str | pathlib.Path, seed: int = 0) -> dict[str, np.ndarray]:
  """Style embeddings of a prepared catalog's training tracks, to steer by.

  Returns:
    {'catalog': the mean, 'catalog-1': ... k-means centroids, biggest cluster first}, float32
    [style_dim] each; fewer centroids where the catalog has fewer windows.
  """
  from models.musiccoca.presets import catalog_presets
  from preprocessing.records import read_split
  from tasks.source import find_token_folder

  clips = [tokens for tokens, _ in read_split(find_token_folder(data_dir), 'train')]
  embeddings = np.concatenate([clip.style_embeddings for clip in clips]).astype(np.float32)
  return catalog_presets(embeddings, NUM_STYLE_CENTROIDS, seed=seed)


def _catalog_card(data_dir: pathlib.Path) -> dict[str, Any]:
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


def _write_model_file(output_dir: pathlib.Path, bundle: Bundle) -> pathlib.Path:
  """The base's sizes as a gin model file, so that train.py can launch the same run."""
  fields = bundle.model.config.to_dict()
  # The run file owns these two.
  sizes = {name: value for name, value in fields.items() if name not in ('dropout_rate', 'z_loss')}
  lines = [
    'from __gin__ import dynamic_registration',
    'from models import depthformer',
    'MODEL = @depthformer.DepthformerModel()',
    'depthformer.DepthformerModel.config = @depthformer.DepthformerConfig()',
    *(f'depthformer.DepthformerConfig.{name} = {value!r}' for name, value in sizes.items()),
  ]
  path = output_dir / 'model.gin'
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
  return path


def _train_command(model_file: pathlib.Path, bindings: list[str]) -> str:
  flags = [f'--gin_file={model_file}', f'--gin_file={RUN_FILE}']
  flags += [f'--gin.{binding.replace(" = ", "=", 1)}' for binding in bindings]
  return shlex.join(['python', 'train.py', *flags])
