"""Tunes a live music model on your catalog: `python finetune.py --catalog=DIR --output_dir=OUT`.

Prepares the folder, holds some tracks out, evaluates the base, trains, keeps the step with the
lowest held-out loss as a bundle that generate.py plays, and reports what was gained, what was
forgotten and whether it copies. Given again, the command goes on where it stopped. Further macros
of the run file (gin/runs/finetune*.gin) are set by `--gin.NAME=VALUE`.
"""

import sys

from absl import app, flags

from pipelines import startup

_CATALOG = flags.DEFINE_string(
  'catalog', None, 'Folder of audio files, or one that prepare.py wrote.', required=True
)
_OUTPUT_DIR = flags.DEFINE_string('output_dir', None, 'Where to write.', required=True)
flags.DEFINE_alias('output', 'output_dir')
_BASE = flags.DEFINE_string(
  'base',
  'tiny',
  "A bundled or released model's name, the folder of a bundle, an adapter or a T5X checkpoint, or "
  'the MODEL_DIR of a training run.',
)
_METHOD = flags.DEFINE_enum(
  'method', 'full', ['full', 'depth_only', 'lora', 'dora'],
  'What is trained: all parameters, those behind the decoder over time, or an adapter.',
)  # fmt: skip
_HOURS_BUDGET = flags.DEFINE_float(
  'hours_budget', None, 'Time for everything: preparation, training and report.'
)
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Say what it would take, in music, memory and time, and do nothing.'
)
_STEPS = flags.DEFINE_integer('steps', None, "Updates. Default: that of the method's gin file.")
_BATCH_SIZE = flags.DEFINE_integer('batch_size', None, 'Examples per update.')
_LEARNING_RATE = flags.DEFINE_float(
  'learning_rate', None,
  "Adafactor's rate, relative to the size of each parameter; Adam's for adapters.",
)  # fmt: skip
_PATIENCE = flags.DEFINE_integer(
  'patience', None, 'Evaluations without a lower held-out loss that end the run; 0 for never.'
)
_CHOOSE_BY = flags.DEFINE_enum(
  'choose_by', None, ['loss', 'style_cosine', 'sound_distance'],
  'Which step is kept: that of the lowest held-out loss (the default), or the one whose output is '
  'nearest to the catalog.',
)  # fmt: skip
_RANK = flags.DEFINE_integer('rank', None, 'Of an adapter.')
_ALPHA = flags.DEFINE_float('alpha', None, 'Of an adapter: it counts alpha / rank. Default rank.')
_REPLAY = flags.DEFINE_string(
  'replay', None, 'General data that prepare.py wrote: watched, and replayed at --replay_rate.'
)
_REPLAY_RATE = flags.DEFINE_float('replay_rate', None, 'Share of the examples from --replay.')
_STYLE_JITTER = flags.DEFINE_float(
  'style_jitter', None, 'Noise on each coordinate of the style embedding, such as 0.05.'
)
_STYLE_PROMPT = flags.DEFINE_string(
  'style_prompt', None, "One style for all clips: a text, or 'catalog' for the catalog's mean."
)
_MINUTES = flags.DEFINE_float('minutes', None, 'Stop training after so many minutes.')
_JUDGE = flags.DEFINE_bool(
  'judge', True, 'Measure memorization, write the report, demo clips and the T5X layout.'
)
_SEED = flags.DEFINE_integer('seed', 42, 'Of crops and dropout.')
_ASSETS_DIR = flags.DEFINE_string(
  'assets_dir', None, 'Folder of released models and other assets. Default: $WOODSHED_ASSETS.'
)


def main(argv):
  with startup.plain_errors('finetune.py'):
    startup.begin(_ASSETS_DIR.value)
    from pipelines import gin_config
    from pipelines.finetune import FinetuneOptions, finetune, plan

    bindings, others = gin_config.split_flags(argv[1:])
    if others:
      raise app.UsageError(f'Unknown argument {others[0]!r}.')
    options = FinetuneOptions(
      method=_METHOD.value,
      total_steps=_STEPS.value,
      batch_size=_BATCH_SIZE.value,
      learning_rate=_LEARNING_RATE.value,
      patience=_PATIENCE.value,
      choose_by=_CHOOSE_BY.value,
      rank=_RANK.value,
      alpha=_ALPHA.value,
      replay=_REPLAY.value,
      replay_rate=_REPLAY_RATE.value,
      style_jitter=_STYLE_JITTER.value,
      style_prompt=_STYLE_PROMPT.value,
      time_budget_secs=None if _MINUTES.value is None else 60 * _MINUTES.value,
      hours_budget=_HOURS_BUDGET.value,
      seed=_SEED.value,
      judge=_JUDGE.value,
      gin_bindings=tuple(bindings),
    )
    if _DRY_RUN.value:
      found = plan(_CATALOG.value, _OUTPUT_DIR.value, _BASE.value, options)
      print(found)
      sys.exit(1 if found.refusals else 0)
    result = finetune(_CATALOG.value, _OUTPUT_DIR.value, base=_BASE.value, options=options)
    print(
      f'{result.bundle_dir}: step {result.best_step}, held-out loss {result.base_loss:.4f} -> '
      f'{result.best_loss:.4f} nats per token.'
    )
    if result.report:
      print(f'Report: {result.report}')


if __name__ == '__main__':
  startup.run(main)
