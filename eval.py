"""Measures models and writes a report: `python eval.py --gin_file=gin/runs/eval.gin ...`.

Macros are given as `--gin.NAME=VALUE`: CHECKPOINT_PATH, DATA_DIR and EVAL_OUTPUT_DIR are required;
the gin file lists the others.
"""

import sys

from absl import app, flags

_GIN_FILE = flags.DEFINE_multi_string('gin_file', [], 'gin files; later ones win.')
_GIN_SEARCH_PATHS = flags.DEFINE_list('gin_search_paths', [], 'Folders to look gin files up in.')


def main(argv, bindings):
  if len(argv) > 1:
    raise app.UsageError(f'What does {argv[1]!r} mean? Macros are given as --gin.NAME=VALUE.')
  if not _GIN_FILE.value:
    raise app.UsageError('--gin_file=gin/runs/eval.gin is missing.')
  from pipelines import gin_config

  try:
    gin_config.parse_gin(_GIN_FILE.value, bindings, _GIN_SEARCH_PATHS.value)
    gin_config.run(operative_config=gin_config.operative_config)
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f'eval.py: {error}')


if __name__ == '__main__':
  from pipelines.gin_config import split_flags

  gin_bindings, arguments = split_flags(sys.argv)
  app.run(lambda argv: main(argv, gin_bindings), argv=arguments)
