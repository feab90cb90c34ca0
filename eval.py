"""Measures models and writes a report: losses, codec, audio to hear, figures beside their anchors.

  python eval.py --gin_file=gin/runs/eval.gin --gin.CHECKPOINT_PATH=\\"tiny\\" \
    --gin.DATA_DIR=\\"prepared\\" --gin.EVAL_OUTPUT_DIR=\\"report\\"

--gin.NAME=VALUE sets a macro; gin/runs/eval.gin lists them. --budget=2min picks how much is
measured. --compare=report,other_report compares two finished reports and measures nothing.
"""

import time

_BEGAN = time.perf_counter()  # A budget counts from here: imports take a tenth of a short one.

from absl import flags  # noqa: E402

from pipelines import startup  # noqa: E402

_GIN_FILE = flags.DEFINE_multi_string('gin_file', [], 'A gin file; repeat it, later ones win.')
_SEARCH_PATHS = flags.DEFINE_list('gin_search_paths', [], 'Folders in which gin files are found.')
_ASSETS_DIR = flags.DEFINE_string(
  'assets_dir', None, 'Folder of released models and other assets. Default: $WOODSHED_ASSETS.'
)
_BUDGET = flags.DEFINE_string(
  'budget', None, 'Time that the report may take, such as 90s or 2min: sets the macro BUDGET.'
)
_COMPARE = flags.DEFINE_list('compare', [], 'Two finished reports (folders or report.json).')
_OUTPUT_DIR = flags.DEFINE_string(
  'output_dir', None, 'Of --compare; the second report is where it goes otherwise.'
)


def main(argv: list[str]) -> None:
  with startup.plain_errors('eval.py', resumes=False):
    startup.begin(_ASSETS_DIR.value)
    from pipelines import gin_config

    if _COMPARE.value:
      startup.check_flags('--compare', [_GIN_FILE, _SEARCH_PATHS, _BUDGET], ())
      if argv[1:]:
        raise ValueError(f'{argv[1]} has no effect on --compare. Leave it out.')
      from pipelines.compare_reports import compare_reports

      compare_reports(_COMPARE.value, _OUTPUT_DIR.value)
      return
    startup.check_flags('a report (its place is EVAL_OUTPUT_DIR)', [_OUTPUT_DIR], ())
    bindings, unknown = gin_config.split_flags(argv[1:])
    if unknown:
      raise gin_config.GinError(f'{unknown[0]!r} is not a flag; see --help.')
    if _BUDGET.value:
      bindings = [*bindings, f'BUDGET = {_BUDGET.value!r}']
    gin_config.parse_gin(_GIN_FILE.value, bindings, _SEARCH_PATHS.value)
    gin_config.run(
      operative_config=gin_config.operative_config, began=_BEGAN if _BUDGET.value else None
    )


if __name__ == '__main__':
  startup.run(main)
