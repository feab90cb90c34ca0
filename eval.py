"""Measures models and writes a report: losses, codec, audio to hear, signal figures.

  python eval.py --gin_file=gin/runs/eval.gin --gin.CHECKPOINT_PATH=\\"tiny\\" \
    --gin.DATA_DIR=\\"prepared\\" --gin.EVAL_OUTPUT_DIR=\\"report\\"

--gin.NAME=VALUE sets a macro; gin/runs/eval.gin lists them.
"""

from absl import app, flags

from pipelines import startup

_GIN_FILE = flags.DEFINE_multi_string('gin_file', [], 'A gin file; repeat it, later ones win.')
_SEARCH_PATHS = flags.DEFINE_list('gin_search_paths', [], 'Folders in which gin files are found.')
_ASSETS_DIR = flags.DEFINE_string(
  'assets_dir', None, 'Folder of released models and other assets. Default: $WOODSHED_ASSETS.'
)


def main(argv: list[str]) -> None:
  from pipelines import gin_config

  startup.begin(_ASSETS_DIR.value)
  with startup.plain_errors('eval.py', resumes=False):
    bindings, unknown = gin_config.split_flags(argv[1:])
    if unknown:
      raise gin_config.GinError(f'{unknown[0]!r} is not a flag; see --help.')
    gin_config.parse_gin(_GIN_FILE.value, bindings, _SEARCH_PATHS.value)
    gin_config.run(operative_config=gin_config.operative_config)


if __name__ == '__main__':
  app.run(main, flags_parser=startup.parse_flags)
