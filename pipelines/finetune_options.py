"""Options of a fine-tuning, and the run file, model file and macros that they become."""

import dataclasses
import math
import pathlib
import shlex
from typing import Any

from evaluation.memorization import GateOptions
from inference.prompts import lone_prompt
from inference.sampling import check_seed
from models import adapters
from models.adapted import METHODS
from models.bundle import Bundle
from pipelines import gin_config
from pipelines.finetune_feed import CATALOG_MEAN

RUN_FILES = {
  method: 'gin/runs/finetune.gin' if method == 'full' else f'gin/runs/finetune_{method}.gin'
  for method in METHODS
}
_RATE, _DECAY = 'BASE_LEARNING_RATE', 'AVERAGE_DECAY'
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


@dataclasses.dataclass(frozen=True)
class FinetuneOptions:
  """Options of a fine-tuning; None takes the value in the run file of the method.

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
    choose_by: which step is kept; see `finetune_choice.keep_best`.
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
    ValueError: a number is out of range, the method is unknown, the style prompt cannot be used,
      or an option has no effect with the others.
  """

  method: str = 'full'
  total_steps: int | None = None
  batch_size: int | None = None
  learning_rate: float | None = None
  average_decay: float | None = None
  patience: int | None = None
  choose_by: str | None = None
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
    if self.method not in adapters.METHODS:
      for name in ('rank', 'alpha'):
        if (value := getattr(self, name)) is not None:
          raise ValueError(
            f'{name}={value} has no effect with method={self.method!r}, which trains no adapter. '
            f'Leave it out, or take --method={" or --method=".join(adapters.METHODS)}.'
          )
    if self.style_jitter and self.style_prompt:
      raise ValueError(
        f'style_jitter={self.style_jitter} has no effect with style_prompt={self.style_prompt!r}, '
        'which takes the place of the style of every clip. Leave one of them out.'
      )
    check_seed(self.seed)
    if self.style_prompt is not None and self.style_prompt != CATALOG_MEAN:
      lone_prompt(self.style_prompt, 'style_prompt')
    if self.replay_rate and not self.replay:
      raise ValueError(f'replay_rate={self.replay_rate} needs --replay: general data to keep.')

  def bindings(self) -> dict[str, Any]:
    """Returns the macros of the run file that these options set."""
    given = {
      'TRAIN_STEPS': self.total_steps,
      'BATCH_SIZE': self.batch_size,
      _RATE: self.learning_rate,
      _DECAY: self.average_decay,
      'PATIENCE': self.patience,
      'CHOOSE_BY': self.choose_by,
      'ADAPTER_RANK': self.rank,
      'ADAPTER_ALPHA': self.alpha,
      'REPLAY_DATA_DIR': self.replay,
      'REPLAY_RATE': self.replay_rate,
      'STYLE_JITTER': self.style_jitter,
      'STYLE_PROMPT': self.style_prompt,
      'RANDOM_SEED': self.seed,
    }
    return {name: value for name, value in given.items() if value is not None}


def for_size(options: FinetuneOptions, base: Bundle) -> FinetuneOptions:
  """Returns the options with the defaults of a small base filled in."""
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


def write_model_file(output_dir: pathlib.Path, bundle: Bundle) -> pathlib.Path:
  """Writes the base's sizes as a gin model file, so that train.py can launch the same run."""
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


def parse(
  model_file: pathlib.Path, options: FinetuneOptions, settings: dict[str, Any]
) -> list[str]:
  """Parses the run of a method; returns the bindings of the settings."""
  bindings = [f'{name} = {value!r}' for name, value in settings.items()]
  bindings += [' = '.join(binding.split('=', 1)) for binding in options.gin_bindings]
  gin_config.parse_gin([str(model_file), RUN_FILES[options.method]], bindings)
  return bindings


def train_command(model_file: pathlib.Path, method: str, bindings: list[str]) -> str:
  flags = [f'--gin_file={model_file}', f'--gin_file={RUN_FILES[method]}']
  flags += [f'--gin.{binding.replace(" = ", "=", 1)}' for binding in bindings]
  return shlex.join(['python', 'train.py', *flags])
