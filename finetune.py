"""Tunes a live music model on your catalog: `python finetune.py --catalog=DIR --output_dir=OUT`.

Prepares the folder, holds some tracks out, trains, and keeps the step with the lowest held-out loss
as a bundle that generate.py plays. Given again, the command goes on where it stopped.
"""

from absl import app, flags

_CATALOG = flags.DEFINE_string(
  'catalog', None, 'Folder of audio files, or one that prepare.py wrote.', required=True
)
_OUTPUT_DIR = flags.DEFINE_string('output_dir', None, 'Where to write.', required=True)
_BASE = flags.DEFINE_string(
  'base',
  'tiny',
  "A bundled or released model's name, the folder of a bundle or of a T5X checkpoint, or the "
  'MODEL_DIR of a training run.',
)
_STEPS = flags.DEFINE_integer('steps', None, 'Updates. Default: that of gin/runs/finetune.gin.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', None, 'Examples per update.')
_LEARNING_RATE = flags.DEFINE_float(
  'learning_rate', None, "Adafactor's rate, relative to the size of each parameter."
)
_MINUTES = flags.DEFINE_float('minutes', None, 'Stop training after so many minutes.')
_SEED = flags.DEFINE_integer('seed', 42, 'Of crops and dropout.')
_ASSETS_DIR = flags.DEFINE_string(
  'assets_dir', None, 'Folder of released models and other assets. Default: $WOODSHED_ASSETS.'
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unknown argument {argv[1]!r}.')
  from pipelines import startup

  startup.begin(_ASSETS_DIR.value)
  from pipelines.finetune import finetune

  with startup.plain_errors('finetune.py'):
    result = finetune(
      _CATALOG.value,
      _OUTPUT_DIR.value,
      base=_BASE.value,
      total_steps=_STEPS.value,
      batch_size=_BATCH_SIZE.value,
      learning_rate=_LEARNING_RATE.value,
      time_budget_secs=None if _MINUTES.value is None else 60 * _MINUTES.value,
      seed=_SEED.value,
    )
  print(
    f'{result.bundle_dir}: step {result.best_step}, held-out loss {result.base_loss:.4f} -> '
    f'{result.best_loss:.4f} nats per token.'
  )


if __name__ == '__main__':
  app.run(main)
