"""A folder of music and a base model -> a tuned model, ready to play, with the truth about it.

The catalog is tokenized with the codec and style model of the base and split by track; what is no
copying is measured before any tuning; the base is trained on the rest by `gin/runs/finetune*.gin`,
evaluated from step 0 on; the saved step with the lowest held-out loss, or that plays most like the
catalog (the base, step 0, is a candidate), becomes a bundle, is judged beside the base, and its
data card says how the judgement ended. Each stage can be interrupted and goes on when the command
is given again.
"""

import dataclasses
import json
import pathlib
import tempfile
import time
from typing import Any

from models import folder_lock, folder_marker
from models.bundle import Bundle
from models.record_shards import TokenFolder, find_token_folder
from pipelines import finetune_choice, finetune_plan, gin_config, initial_params, runs
from pipelines.checkpoint_sources import IDENTITY_FIELDS, Source, load_source
from pipelines.finetune_catalog import CatalogFacts, prepare_options, read_catalog, refusal
from pipelines.finetune_gate import Gate
from pipelines.finetune_options import (
  FinetuneOptions,
  for_size,
  parse,
  train_command,
  write_model_file,
)
from pipelines.prepared_data import PreparedData
from preprocessing import files, outputs, units
from preprocessing.manifest import MANIFEST_FILE, REJECTS_FILE, read_manifest, read_rejects
from training.early_stopping import EarlyStopping
from training.state import TrainState

PROGRESS_FILE = 'progress.json'
HELD_OUT_LOSS = finetune_choice.HELD_OUT_LOSS
# Of a budget for everything, what is kept for the judgement.
_SHARE_OF_TRAINING = 0.8


@dataclasses.dataclass(frozen=True)
class FinetuneResult:
  """What came out.

  Attributes:
    bundle_dir: the tuned model.
    base_loss: held-out loss of the base, nats per token.
    best_loss: held-out loss of the tuned model.
    best_step: the step that was kept; 0 is the base.
    report: the page, or None where nothing was judged.
    verdict: on memorization, or None.
  """

  bundle_dir: pathlib.Path
  base_loss: float
  best_loss: float
  best_step: int
  report: pathlib.Path | None = None
  verdict: dict[str, Any] | None = None


def plan(
  catalog: str | pathlib.Path, output_dir: str | pathlib.Path, base: str, options: FinetuneOptions
) -> finetune_plan.Plan:
  """What the same call of `finetune` would take; writes nothing.

  Raises:
    FileNotFoundError: no audio in `catalog`, or no such base.
    ValueError: an option is wrong.
  """
  checked = _check(catalog, output_dir, base, options)
  return finetune_plan.make_plan(checked.catalog, checked.run)


@dataclasses.dataclass(frozen=True)
class _Checked:
  """What was read for the checks.

  Attributes:
    source: the base.
    options: with what a small base wants.
    progress: of earlier calls.
    catalog: what is known of it.
    run: as configured.
  """

  source: Source
  options: FinetuneOptions
  progress: '_Progress'
  catalog: CatalogFacts
  run: finetune_plan.RunFacts


def _check(
  catalog: str | pathlib.Path, output_dir: str | pathlib.Path, base: str, options: FinetuneOptions
) -> _Checked:
  """Refuses what can be refused without long work, for the dry run and the run alike.

  A catalog with too few tracks is told by `catalog.refusal`. Writes nothing.

  Raises:
    FileNotFoundError: no audio in `catalog`, no such base, or no such model.
    ValueError: `output_dir` cannot be written or holds another run, an option or macro is wrong, or
      base, catalog and replay hold tokens of different models.
  """
  catalog, output_dir = _full(catalog, 'catalog'), _full(output_dir, 'output_dir')
  outputs.check_folder(output_dir)
  source = load_source(base)
  options = for_size(options, source.bundle)
  progress = _Progress(output_dir, source, options)
  settings = {'DATA_DIR': str(catalog), 'MODEL_DIR': str(output_dir / 'run'),
              'INITIAL_CHECKPOINT_PATH': source.path, **options.bindings()}  # fmt: skip
  with tempfile.TemporaryDirectory() as folder:
    parse(write_model_file(pathlib.Path(folder), source.bundle), options, settings)
  run = _run_facts(options)
  gin_config.check_devices()
  facts = _read_catalog(catalog, output_dir)
  identity = {field: getattr(source.bundle, field) for field in IDENTITY_FIELDS}
  if (catalog / MANIFEST_FILE).is_file():
    initial_params.check_tokens(str(base), identity, runs.token_identity(str(catalog)))
  if options.replay:
    PreparedData.open(options.replay, source.bundle.spec)
    initial_params.check_tokens(str(base), identity, runs.token_identity(options.replay))
  if not facts.prepared or (options.judge and not progress.judged):
    _check_models(base, identity)
  return _Checked(source, options, progress, facts, run)


def _full(path: str | pathlib.Path, name: str) -> pathlib.Path:
  if not str(path):
    raise ValueError(f'{name} is empty; give the path of a folder.')
  return pathlib.Path(files.absolute(path))


def _read_catalog(catalog: pathlib.Path, output_dir: pathlib.Path) -> CatalogFacts:
  """Facts of what will be trained on; of an earlier call's tokens where they are there."""
  prepared = output_dir / 'corpus'
  if not (catalog / MANIFEST_FILE).is_file() and (prepared / MANIFEST_FILE).is_file():
    try:
      facts = read_catalog(prepared)
    except ValueError:  # Its preparation has not finished.
      return read_catalog(catalog)
    if not facts.refusal:  # Else the catalog may have grown since.
      return facts
  return read_catalog(catalog)


def _check_models(base: str, identity: dict[str, str]):
  """Loads codec and style model, which refuses those that are not there or have changed."""
  codec, style = units.worker_models(
    units.load_models, identity['codec_name'], identity['style_name']
  )
  for kind, model in (('codec', codec), ('style', style)):
    name, expected = identity[f'{kind}_name'], identity[f'{kind}_hash']
    if model.content_hash != expected:
      raise ValueError(
        f'{base} was trained on tokens of the {kind} model {expected}, but {name!r} is now '
        f'{model.content_hash}. Take the {kind} model that belongs to it, or another --base.'
      )


def _run_facts(options: FinetuneOptions) -> finetune_plan.RunFacts:
  """From the parsed configuration."""
  trainable = gin_config.macro_value('TRAINABLE')
  optimizer = gin_config.parameter_value('runs.train.optimizer')
  budget = None if options.hours_budget is None else 3600 * options.hours_budget
  return finetune_plan.RunFacts(
    trainable=trainable,
    optimizer=runs.make_optimizer(optimizer, trainable),
    method=gin_config.macro_value('METHOD'),
    batch_size=gin_config.macro_value('BATCH_SIZE'),
    total_steps=gin_config.macro_value('TRAIN_STEPS'),
    num_microbatches=gin_config.macro_value('NUM_MICROBATCHES'),
    budget_secs=budget,
  )


def finetune(
  catalog: str | pathlib.Path,
  output_dir: str | pathlib.Path,
  *,
  base: str = 'tiny',
  options: FinetuneOptions | None = None,
) -> FinetuneResult:
  """Tunes `base` on the audio files below `catalog`.

  Args:
    catalog: folder of audio files, or one that prepare.py already wrote (with a manifest.jsonl).
    output_dir: gets `corpus/` (tokens), `memorization/`, `run/` (the training run), `bundle/`,
      `adapter/`, `t5x/`, `report/` and `demos/`.
    base: see `checkpoint_sources.load_source`.
    options: how; None for the defaults.

  Raises:
    FileNotFoundError: no audio in `catalog`, or no such base.
    ValueError: too few usable tracks to hold some out, tokens of another codec or style model, or
      `output_dir` holds another base's, method's or catalog's run.
    KeyboardInterrupt: the run was stopped by a signal; what it has is saved.
  """
  began, options = time.monotonic(), options or FinetuneOptions()
  checked = _check(catalog, output_dir, base, options)
  if checked.catalog.refusal:
    raise ValueError(checked.catalog.refusal)
  catalog, output_dir = _full(catalog, 'catalog'), _full(output_dir, 'output_dir')
  with folder_lock.locked(output_dir, 'finetune'):
    return _finetune(catalog, output_dir, base, checked.source, checked.options, began)


def _finetune(
  catalog: pathlib.Path, output_dir: pathlib.Path, base: str, source: Source,
  options: FinetuneOptions, began: float,
) -> FinetuneResult:  # fmt: skip
  """Goes through the stages; what is done is not done again."""
  progress = _Progress(output_dir, source, options)  # Once more: another run may have ended.
  data_dir = _prepare(catalog, output_dir, source.bundle)
  identity = {field: getattr(source.bundle, field) for field in IDENTITY_FIELDS}
  initial_params.check_tokens(str(base), identity, runs.token_identity(str(data_dir)))
  progress.begin(runs.data_content(TokenFolder(find_token_folder(data_dir))))
  gate = None
  if options.judge:
    # Before the run that it judges.
    gate = Gate(data_dir, source.bundle.spec, output_dir / 'memorization', options.gate)
    gate.calibrate(source.bundle)
  run_dir = output_dir / 'run'
  if not progress.trained:
    _train(source, source.path, data_dir, output_dir, options, began)
    progress.set_trained()
  rule = finetune_choice.keep_best(gin_config.macro_value('CHOOSE_BY'))
  choice = finetune_choice.choose(run_dir, rule)
  bundle_dir = output_dir / 'bundle'
  if progress.kept_step != choice.step or not (bundle_dir / 'spec.json').is_file():
    finetune_choice.keep(choice, run_dir, data_dir, source, output_dir)
    progress.set_kept(choice.step)
  result = FinetuneResult(
    bundle_dir, choice.base[HELD_OUT_LOSS], choice.best[HELD_OUT_LOSS], choice.step
  )
  if gate is None:
    return result
  page, verdict = _judge(source, choice, data_dir, output_dir, gate, options, progress)
  return dataclasses.replace(result, report=page, verdict=verdict)


class _Progress:
  """Which stages are done, in `output_dir`/progress.json."""

  def __init__(self, output_dir: pathlib.Path, source: Source, options: FinetuneOptions):
    """Reads it.

    Raises:
      ValueError: the run in `output_dir` is from another base, or by another method.
    """
    self._path = output_dir / PROGRESS_FILE
    self._values: dict[str, Any] = {}
    if self._path.is_file():
      self._values = json.loads(self._path.read_text(encoding='utf-8'))
    own = {'base': source.path, 'method': options.method}
    for name, value in own.items():
      before = self._values.get(name, value)
      # Older versions kept a relative path as it was given.
      if before != value and files.absolute(before) != value:
        raise ValueError(
          f'{output_dir} holds a run with {name} {self._values[name]!r}, this one has {value!r}: '
          'give another output directory.'
        )
    self._own = own
    self._settings = json.dumps(
      {**options.bindings(), 'time_budget_secs': options.time_budget_secs,
       'hours_budget': options.hours_budget, 'gin_bindings': options.gin_bindings}, sort_keys=True
    )  # fmt: skip

  @property
  def trained(self) -> bool:
    """Whether a run with these settings has ended."""
    return self._values.get('trained') == self._settings

  @property
  def kept_step(self) -> int | None:
    return self._values.get('kept_step')

  @property
  def judged(self) -> bool:
    """Whether the report is on the step that is kept."""
    return 'judged_step' in self._values and self._values['judged_step'] == self.kept_step

  def begin(self, content: dict[str, str]):
    """Ties what is done here to the tokens of the catalog, see `runs.data_content`.

    Raises:
      ValueError: it was begun with others.
    """
    known = self._values.get('data', content)
    if known['fingerprint'] != content['fingerprint']:
      before, now = (
        f'{data["about"]} [{data["fingerprint"][:12]}]' for data in (known, content)
      )
      raise ValueError(
        f'{self._path.parent} holds a run on {before}, the catalog now gives {now}: tracks were '
        'added, removed or changed. Give another output directory, or the catalog of before.'
      )
    self._write(data=content)

  def set_trained(self):
    self._write(trained=self._settings)

  def set_kept(self, step: int):
    self._values.pop('judged_step', None)
    self._write(kept_step=step)

  def set_judged(self):
    self._write(judged_step=self.kept_step)

  def _write(self, **values: Any):
    self._values |= self._own | values
    self._path.parent.mkdir(parents=True, exist_ok=True)
    partial = self._path.with_suffix('.partial')
    partial.write_text(json.dumps(self._values, indent=2) + '\n', encoding='utf-8')
    partial.replace(self._path)


def _train(
  source: Source, base: str, data_dir: pathlib.Path, output_dir: pathlib.Path,
  options: FinetuneOptions, began: float,
):  # fmt: skip
  """Runs the run file to its end.

  Raises:
    KeyboardInterrupt: a signal ended it.
  """
  model_file = write_model_file(output_dir, source.bundle)
  budget = options.time_budget_secs
  if options.hours_budget is not None:
    left = _SHARE_OF_TRAINING * (3600 * options.hours_budget - (time.monotonic() - began))
    budget = max(1.0, left if budget is None else min(left, budget))
  settings = {
    'DATA_DIR': str(data_dir),
    'MODEL_DIR': str(output_dir / 'run'),
    'INITIAL_CHECKPOINT_PATH': base,
    **options.bindings(),
  }
  if budget is not None:
    settings['TIME_BUDGET_SECS'] = round(budget, 1)
  bindings = parse(model_file, options, settings)
  print(f'The same run: {train_command(model_file, options.method, bindings)}', flush=True)
  started = time.monotonic()
  state: TrainState = gin_config.run()
  time_is_up = budget is not None and time.monotonic() - started >= budget
  ended = int(state.step) >= gin_config.macro_value('TRAIN_STEPS') or time_is_up
  stopping = EarlyStopping(
    str(output_dir / 'run'),
    patience=gin_config.macro_value('PATIENCE'),
    max_worsening=gin_config.macro_value('MAX_WORSENING'),
  )
  if not ended and stopping.stop_reason is None:
    raise KeyboardInterrupt


def _judge(
  source: Source, choice: finetune_choice.Choice, data_dir: pathlib.Path,
  output_dir: pathlib.Path, gate: Gate, options: FinetuneOptions, progress: _Progress,
) -> tuple[pathlib.Path, dict[str, Any]]:  # fmt: skip
  """The report, the demo clips, the T5X layout and the mark in the data card."""
  folder = output_dir / 'report'
  if progress.judged and (folder / 'report.json').is_file():
    known = json.loads((folder / 'report.json').read_text(encoding='utf-8'))
    return folder / 'report.html', known['memorization']
  from evaluation.tuning_report import write_report
  from pipelines.export import export_t5x
  from pipelines.finetune_report import Judge, write_demos

  folder_marker.mark(folder, 'report')
  judge = Judge(source, output_dir / 'bundle', data_dir, gate, seed=0)
  config = output_dir / 'run' / gin_config.OPERATIVE_CONFIG_FILE
  text = config.read_text(encoding='utf-8') if config.is_file() else ''
  report = judge.report(choice, output_dir / 'run', _protocol(options, choice), text)
  finetune_choice.mark([output_dir / 'bundle', output_dir / 'adapter'], report.memorization)
  page = write_report(report, folder)
  write_demos(report, output_dir / 'demos')
  exported = output_dir / 't5x' / f'checkpoint_{choice.step}'
  if not exported.exists():
    export_t5x(output_dir / 'bundle', output_dir / 't5x')
  progress.set_judged()
  for line in report.summary:
    print(f'  {line["text"]}', flush=True)
  return page, report.memorization


def _protocol(options: FinetuneOptions, choice: finetune_choice.Choice) -> list[list[str]]:
  rows = [['Method', options.method], ['Steps made', str(choice.last_step)]]
  rows += [
    [name.lower().replace('_', ' '), str(value)] for name, value in options.bindings().items()
  ]
  gate = options.gate
  return [
    *rows,
    ['Memorization', f'{gate.num_contexts} places, {", ".join(map(str, gate.context_secs))} s of '
     f'context, {" and ".join(gate.modes)}, no guidance'],
  ]  # fmt: skip


def _prepare(catalog: pathlib.Path, output_dir: pathlib.Path, base: Bundle) -> pathlib.Path:
  """Tokenizes the catalog with the base's codec and style model; returns the data directory."""
  from preprocessing import corpus

  if (catalog / MANIFEST_FILE).is_file():
    return catalog
  data_dir = output_dir / 'corpus'
  prepared = corpus.prepare_corpus(prepare_options(catalog, output_dir, base))
  splits = prepared.stats['splits']
  if why := refusal(
    catalog, read_manifest(data_dir / MANIFEST_FILE), read_rejects(data_dir / REJECTS_FILE)
  ):
    raise ValueError(f'{why} {data_dir}/{REJECTS_FILE} lists what was set aside.')
  tracks = {split: facts['tracks'] for split, facts in splits.items()}
  print(f'{tracks["train"]} tracks to train on, {tracks["validation"]} held out.', flush=True)
  return data_dir
