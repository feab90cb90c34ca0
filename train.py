"""Trains what gin files say: a language model, a codec, a style model; pretraining and fine-tuning.

  python train.py --gin_file=gin/models/tiny.gin --gin_file=gin/runs/pretrain_demo.gin \
    --gin.DATA_DIR=\\"demo/corpus\\" --gin.MODEL_DIR=\\"runs/tiny\\"

Started again, it goes on. --gin.NAME=VALUE sets a macro or a parameter.
"""

import sys

from absl import app, flags

from pipelines import startup

_GIN_FILE = flags.DEFINE_multi_string(
  'gin_file', [], 'A gin file; repeat it, later ones win: a model of gin/models, a run of gin/runs.'
)
_SEARCH_PATHS = flags.DEFINE_list('gin_search_paths', [], 'Folders in which gin files are found.')
_DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Print the configuration, the parameters and the first example; train nothing.'
)
_ASSETS_DIR = flags.DEFINE_string(
  'assets_dir', None, 'Folder of released models and other assets. Default: $WOODSHED_ASSETS.'
)


def main(argv: list[str]) -> None:
  from pipelines import gin_config

  startup.begin(_ASSETS_DIR.value)
  try:
    bindings, unknown = gin_config.split_flags(argv[1:])
    if unknown:
      raise gin_config.GinError(f'{unknown[0]!r} is not a flag; see --help.')
    gin_config.parse_gin(_GIN_FILE.value, bindings, _SEARCH_PATHS.value)
    gin_config.run(dry_run=_DRY_RUN.value)
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f'train.py: {error}')


if __name__ == '__main__':
  app.run(main, flags_parser=startup.parse_flags)
