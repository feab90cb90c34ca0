"""A folder of music and a base model -> a tuned model, ready to play, with the truth about it.

The catalog is tokenized with the codec and style model of the base and split by track; what is no
copying is measured before any tuning; the base is trained on the rest by `gin/runs/finetune*.gin`,
evaluated from step 0 on; the saved step with the lowest held-out loss (the base, step 0, is a
candidate) becomes a bundle, is judged beside the base, and its data card says how the judgement
ended. Each stage can be interrupted and goes on when the command is given again.
"""

import dataclasses
import json
import math
import pathlib
import shlex
import tempfile
import time
from typing import Any

from evaluation.memorization import GateOptions
from inference.prompts import lone_prompt
from inference.sampling import check_seed
from models import adapters, folder_lock, folder_marker
from models.adapted import METHODS
from models.bundle import Bundle
from models.record_shards import TokenFolder, find_token_folder
from pipelines import finetune_choice, finetune_plan, gin_config, initial_params, runs
from pipelines.checkpoint_sources import IDENTITY_FIELDS, Source, load_source
from pipelines.finetune_feed import CATALOG_MEAN, check_same_tokens
from pipelines.finetune_gate import Gate
from preprocessing import files, outputs
from training.early_stopping import EarlyStopping
from training.state import TrainState

RUN_FILES = {
  method: 'gin/runs/finetune.gin' if method == 'full' else f'gin/runs/finetune_{method}.gin'
  for method in METHODS
}
_RATE, _DECAY = 'BASE_LEARNING_RATE', 'AVERAGE_DECAY'
PROGRESS_FILE = 'progress.json'
HELD_OUT_LOSS = finetune_choice.HELD_OUT_LOSS
# The run files' rates are for bases of v1's sizes; a small one needs and bears more, and at these
# rates the average over some fifty updates of the whole model is better than the last of them. In
# short runs it still holds much of the base.
_SMALL_BASE = 50_000_000
_LEAST_AVERAGED_STEPS = 200
_SMALL_BASE_VALUES: dict[str, dict[str, float]] = {
  'full': {_RATE: 1e-2, _DECAY: 0.98},
  'depth_only': {_RATE: 1e-2, _DECAY: 0.98},
  'lora': {_RATE: 5e-3},
  'dora': {_RATE: 5e-3},
}
# Of a budget for everything, what is kept for the judgement.
_SHARE_OF_TRAINING = 0.8


@dataclasses.dataclass(frozen=True)
class FinetuneOptions:
  """How to tune; None takes what the run file of the method says.

  Attributes:
    method: 'full', 'depth_only', 'lora' or 'dora'.
    total_steps: updates.
    batch_size: examples per update.
    learning_rate: Adafactor's relative to each parameter's size ('full', 'depth_only'), Adam's for
      adapters. Bases of fewer than 50 million numbers have a higher default than the run file's.
    average_decay: of the moving average of what is trained, which is evaluated and kept; 0 for
      none. Bases of fewer than 50 million numbers have one by default in runs of 200 steps or more
      without an adapter.
    patience: evaluations without gain that end the run.
    rank: of an adapter.
    alpha: of an adapter.
    replay: general data, as prepare.py wrote it; its held-out loss is watched.
    replay_rate: share of the examples that are general data.
    style_jitter: noise on the style embedding.
    style_prompt: one style for all clips.
    time_budget_secs: stop training cleanly after so long.
    hours_budget: for everything, preparation and judgement too.
    seed: of crops, dropout and adapters.
    judge: measure memorization, write the report, the demo clips and the T5X layout.
    gate: of the memorization gate.
    gin_bindings: 'NAME=VALUE' of further macros of the run file.

  Raises:
    ValueError: a number is out of range, the method is unknown, or the style prompt cannot be used.
  """

  method: str = 'full'
  total_steps: int | None = None
  batch_size: int | None = None
  learning_rate: float | None = None
  average_decay: float | None = None
  patience: int | None = None
  rank: int | None = None
  alpha: float | None = None
  replay: str | None = None
  replay_rate: float | None = None
  style_jitter: float | None = None
  style_prompt: str | None = None
  time_budget_secs: float | None = None
  hours_budget: float | None = None
  seed: int = 42
  judge: bool = True
  gate: GateOptions = dataclasses.field(default_factory=GateOptions)
  gin_bindings: tuple[str, ...] = ()

  def __post_init__(self):
    if self.method not in METHODS:
      raise ValueError(f'method={self.method!r} is not one of {", ".join(METHODS)}.')
    for name in ('total_steps', 'batch_size', 'learning_rate', 'time_budget_secs', 'hours_budget'):
      value = getattr(self, name)
      if value is not None and not 0 < value < math.inf:
        raise ValueError(f'{name}={value} is not a number above 0.')
    if self.average_decay is not None and not 0 <= self.average_decay < 1:
      raise ValueError(f'average_decay={self.average_decay} is not in [0, 1).')
    check_seed(self.seed)
    if self.style_prompt is not None and self.style_prompt != CATALOG_MEAN:
      lone_prompt(self.style_prompt, 'style_prompt')
    if self.replay_rate and not self.replay:
      raise ValueError(f'replay_rate={self.replay_rate} needs --replay: general data to keep.')

  def bindings(self) -> dict[str, Any]:
    """Macros of the run file that these options set."""
    given = {
      'TRAIN_STEPS': self.total_steps,
      'BATCH_SIZE': self.batch_size,
      _RATE: self.learning_rate,
      _DECAY: self.average_decay,
      'PATIENCE': self.patience,
      'ADAPTER_RANK': self.rank,
      'ADAPTER_ALPHA': self.alpha,
      'REPLAY_DATA_DIR': self.replay,
      'REPLAY_RATE': self.replay_rate,
      'STYLE_JITTER': self.style_jitter,
      'STYLE_PROMPT': self.style_prompt,
      'RANDOM_SEED': self.seed,
    }
    return {name: value for name, value in given.items() if value is not None}


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
  catalog, output_dir = _full(catalog), _full(output_dir)
  outputs.check_folder(output_dir)
  source = load_source(base)
  options = _for_size(options, source.bundle)
  prepared = output_dir / 'corpus'
  place = prepared if (prepared / 'manifest.jsonl').is_file() else catalog
  facts = finetune_plan.read_catalog(place)
  settings = {'DATA_DIR': str(place), 'MODEL_DIR': str(output_dir / 'run'),
              'INITIAL_CHECKPOINT_PATH': source.path, **options.bindings()}  # fmt: skip
  with tempfile.TemporaryDirectory() as folder:
    _parse(_write_model_file(pathlib.Path(folder), source.bundle), options, settings)
  return finetune_plan.make_plan(facts, _run_facts(options))


def _full(path: str | pathlib.Path) -> pathlib.Path:
  return pathlib.Path(files.absolute(path))


def _for_size(options: FinetuneOptions, base: Bundle) -> FinetuneOptions:
  """The options with what a small base wants, where nothing else is given."""
  if adapters.num_numbers(base.params) >= _SMALL_BASE:
    return options
  given = {binding.split('=')[0].strip() for binding in options.gin_bindings}
  given |= {name for name, value in options.bindings().items() if value is not None}
  values = _SMALL_BASE_VALUES[options.method]
  fields = {_RATE: 'learning_rate', _DECAY: 'average_decay'}
  if options.total_steps is not None and options.total_steps < _LEAST_AVERAGED_STEPS:
    given.add(_DECAY)
  return dataclasses.replace(
    options, **{fields[name]: value for name, value in values.items() if name not in given}
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
  output_dir = _full(output_dir)
  outputs.check_folder(output_dir)
  source = load_source(base)
  options = _for_size(options, source.bundle)
  with folder_lock.locked(output_dir, 'finetune'):
    return _finetune(catalog, output_dir, base, source, options, began)


def _finetune(
  catalog: str | pathlib.Path, output_dir: pathlib.Path, base: str, source: Source,
  options: FinetuneOptions, began: float,
) -> FinetuneResult:  # fmt: skip
  """Goes through the stages; what is done is not done again."""
  progress = _Progress(output_dir, source, options)
  data_dir = _prepare(_full(catalog), output_dir, source.bundle)
  identity = {field: getattr(source.bundle, field) for field in IDENTITY_FIELDS}
  initial_params.check_tokens(str(base), identity, runs.token_identity(str(data_dir)))
  progress.begin(runs.data_content(TokenFolder(find_token_folder(data_dir))))
  if options.replay:
    check_same_tokens(str(data_dir), options.replay)
  gate = None
  if options.judge:
    # Before the run that it judges.
    gate = Gate(data_dir, source.bundle.spec, output_dir / 'memorization', options.gate)
    gate.calibrate(source.bundle)
  run_dir = output_dir / 'run'
  if not progress.trained:
    _train(source, source.path, data_dir, output_dir, options, began)
    progress.set_trained()
  choice = finetune_choice.choose(run_dir)
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
  model_file = _write_model_file(output_dir, source.bundle)
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
  bindings = _parse(model_file, options, settings)
  print(f'The same run: {_train_command(model_file, options.method, bindings)}', flush=True)
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


def _parse(
  model_file: pathlib.Path, options: FinetuneOptions, settings: dict[str, Any]
) -> list[str]:
  """Parses the run of a method; returns the bindings of the settings."""
  bindings = [f'{name} = {value!r}' for name, value in settings.items()]
  bindings += [' = '.join(binding.split('=', 1)) for binding in options.gin_bindings]
  gin_config.parse_gin([str(model_file), RUN_FILES[options.method]], bindings)
  return bindings


def _train_command(model_file: pathlib.Path, method: str, bindings: list[str]) -> str:
  flags = [f'--gin_file={model_file}', f'--gin_file={RUN_FILES[method]}']
  flags += [f'--gin.{binding.replace(" = ", "=", 1)}' for binding in bindings]
  return shlex.join(['python', 'train.py', *flags])
