"""Play a model live in the browser: `python jam.py --bundle=tiny`."""

from absl import app, flags

from pipelines import startup

_BUNDLE = flags.DEFINE_string(
  'bundle',
  'tiny',
  "A bundled or released model's name, the folder of a bundle or of a T5X checkpoint, or the "
  'MODEL_DIR of a training run.',
)
_PORT = flags.DEFINE_integer('port', 8765, 'Of the page; 0 takes a free one.')
_HOST = flags.DEFINE_string(
  'host', '127.0.0.1', 'Address to bind to. Any but loopback asks clients for a token.'
)
_TOKEN = flags.DEFINE_string(
  'token', None, 'That clients must show. Default: none on loopback, else a random one.'
)
_ORIGIN = flags.DEFINE_multi_string(
  'allowed_origin', [], 'Another page that may connect, e.g. https://studio.example; repeat.'
)
_OPEN = flags.DEFINE_boolean('open', True, 'Open the page in the browser.')
_BUFFER = flags.DEFINE_float('buffer_secs', 2.0, 'How far ahead of playback to generate.')
_MAX_PLAYERS = flags.DEFINE_integer('max_players', 8, 'Sessions at a time.', lower_bound=1)
_MAX_BATCH = flags.DEFINE_integer('max_batch', 4, 'Players generated for together; a power of 2.')
_SEED = flags.DEFINE_integer('seed', 0, 'Of a new session; 0 to 4294967295.')
_PROMPT = flags.DEFINE_multi_string(
  'prompt', None, "To begin with: a text or 'preset:NAME', weighted as '0.7:church organ'; repeat."
)
_OSC_PORT = flags.DEFINE_integer('osc_port', None, 'UDP port to listen on for OSC. Default: none.')
_OSC_HOST = flags.DEFINE_string('osc_host', '127.0.0.1', 'Address of the OSC port.')
_CACHE = flags.DEFINE_boolean('cache', True, 'Keep compiled programs in ~/.cache/woodshed.')
_ASSETS_DIR = flags.DEFINE_string(
  'assets_dir', None, 'Folder of released models and other assets. Default: $WOODSHED_ASSETS.'
)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected argument {argv[1]!r}. Pass the model with --bundle=NAME.')
  with startup.plain_errors('jam.py', resumes=False):
    startup.begin(_ASSETS_DIR.value)
    from pipelines import jam

    options = jam.JamOptions(
      host=_HOST.value,
      port=_PORT.value,
      token=_TOKEN.value,
      origins=_ORIGIN.value,
      max_players=_MAX_PLAYERS.value,
      max_batch=_MAX_BATCH.value,
      buffer_secs=_BUFFER.value,
      seed=_SEED.value,
      prompts=_PROMPT.value or (),
    )
    jam.serve(
      _BUNDLE.value,
      options,
      open_page=_OPEN.value,
      osc_port=_OSC_PORT.value,
      osc_host=_OSC_HOST.value,
      cache=_CACHE.value,
    )


if __name__ == '__main__':
  startup.run(main)
