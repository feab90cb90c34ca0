"""Two finished reports -> comparison.html and comparison.json; nothing is measured."""

import pathlib
from collections.abc import Sequence
from typing import Any

from evaluation import report_comparison
from preprocessing import outputs


def compare_reports(paths: Sequence[str], output_dir: str | None) -> dict[str, Any]:
  """Compares the last model of each of two reports, writes both files, prints the outcome.

  Args:
    paths: of two report.json, or the folders of the reports.
    output_dir: None takes the second report's folder.

  Raises:
    FileNotFoundError: there is no report.
    ValueError: they are not two, or no reports of this schema.
  """
  if len(paths) != 2:
    raise ValueError(f'--compare takes two reports (--compare=before,after), not {len(paths)}.')
  if output_dir:
    outputs.check_folder(output_dir)
  reports = [report_comparison.read_report(path) for path in paths]
  values = report_comparison.compare(*reports)
  folder = pathlib.Path(output_dir) if output_dir else pathlib.Path(reports[1].path).parent
  page = report_comparison.write_comparison(values, folder)
  print(page)
  for line in report_comparison.summary(values):
    print(f'  {line}')
  return values
