"""Prompt -> audio file: `python generate.py --prompt='church organ' --output=organ.wav`."""

from absl import app, flags

from pipelines import startup

_PROMPT = flags.DEFINE_multi_string(
  'prompt',
  [],
  "A text, an audio file, or a weighted one ('0.7:church organ', '0.3:loop.wav'); repeat to mix. "
  "'preset:NAME' takes a preset of the bundle.",
)
_SECS = flags.DEFINE_float('secs', 20.0, 'Seconds to generate.', lower_bound=0.01)
_OUTPUT = flags.DEFINE_string('output', 'generated.wav', 'Audio file to write.')
_BUNDLE = flags.DEFINE_string(
  'bundle',
  'tiny',
  "A bundled or released model's name, the folder of a bundle or of a T5X checkpoint, or the "
  'MODEL_DIR of a training run.',
)
_SEED = flags.DEFINE_integer('seed', 0, 'The same seed gives the same audio; 0 to 4294967295.')
_TEMPERATURE = flags.DEFINE_float('temperature', None, 'Of sampling; 0 is greedy. Default 1.1.')
_TOP_K = flags.DEFINE_integer('top_k', None, 'Tokens that may be drawn; 0 is all. Default 40.')
_GUIDANCE = flags.DEFINE_float('guidance', None, 'Weight of the style; 0 is off. Default 5.')
_CONTINUE_FROM = flags.DEFINE_string('continue_from', None, 'Audio file to go on from.')
_ASSETS_DIR = flags.DEFINE_string(
  'assets_dir', None, 'Folder of released models and other assets. Default: $WOODSHED_ASSETS.'
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected argument {argv[1]!r}. Pass a prompt with --prompt=TEXT.')
  given = {
    'temperature': _TEMPERATURE.value,
    'top_k': _TOP_K.value,
    'guidance_weight': _GUIDANCE.value,
  }
  with startup.plain_errors('generate.py', resumes=False):
    startup.begin(_ASSETS_DIR.value)
    from inference import SamplingOptions
    from pipelines.generate import generate_file

    generate_file(
      _PROMPT.value,
      _OUTPUT.value,
      secs=_SECS.value,
      bundle=_BUNDLE.value,
      seed=_SEED.value,
      sampling=SamplingOptions(**{name: v for name, v in given.items() if v is not None}),
      continue_from=_CONTINUE_FROM.value,
    )


if __name__ == '__main__':
  startup.run(main)
