"""Two finished reports side by side: what changed, and whether the two can be compared at all."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation import page
from evaluation.metric_table import CORPUS, HIGHER, LOWER, NEITHER
from evaluation.report import SCHEMA_VERSION

COMPARISON_VERSION = 1
# Rows of a report's identity and protocol that must agree for figures to be comparable.
_MUST_AGREE = ('Codec', 'Style model', 'Data fingerprint', 'Held-out split', 'Token losses',
               'Music A and B', 'Clips', 'Sampling', 'Seeds')  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Finished:
  """A report that was read back.

  Attributes:
    path: of its report.json.
    values: what it says.
  """

  path: str
  values: dict[str, Any]

  @property
  def models(self) -> list[str]:
    """Names of its models."""
    rows = (self.values['token_losses'] or {'rows': [], 'anchors': []})
    return [row['name'] for row in rows['rows'] if row['name'] not in rows['anchors']]


def read_report(path: str | pathlib.Path) -> Finished:
  """Reads a report.json, or that of a report's folder.

  Raises:
    FileNotFoundError: there is none.
    ValueError: it is no report of this schema.
  """
  path = pathlib.Path(path).expanduser()
  file = path / 'report.json' if path.is_dir() else path
  if not file.is_file():
    raise FileNotFoundError(f'{path} has no report.json; name a report or its folder.')
  try:
    values = json.loads(file.read_text(encoding='utf-8'))
  except ValueError:
    raise ValueError(f'{file} is no JSON file.') from None
  version = values.get('schema_version') if isinstance(values, dict) else None
  if version != SCHEMA_VERSION or 'families' not in values:
    raise ValueError(
      f'{file} is no report of language models with schema {SCHEMA_VERSION} (it has {version}); '
      'write it anew with eval.py.'
    )
  return Finished(str(file), values)


def compare(first: Finished, second: Finished) -> dict[str, Any]:
  """What two reports say of their first and last model.

  The model of the first report is its last one (what was tuned, say), that of the second likewise.

  Returns:
    {'schema_version', 'first', 'second': {'path', 'created', 'model'}, 'differs': [[name, first,
    second]] of what should agree, 'rows': [{'family', 'key', 'label', 'better', 'first', 'second':
    [mean, low, high], 'difference', 'overlap', 'flagged', 'verdict'}]}.
  """
  reports = (first, second)
  facts = [_facts(report.values) for report in reports]
  differs = [
    [name, facts[0].get(name, ''), facts[1].get(name, '')]
    for name in _MUST_AGREE
    if facts[0].get(name) != facts[1].get(name)
  ]
  models = [report.models[-1] for report in reports]
  tables = [_all_rows(report.values, model) for report, model in zip(reports, models)]
  rows = [
    _compared(tables[0][key], tables[1][key]) for key in tables[0] if key in tables[1]
  ]
  return page.plain({
    'schema_version': COMPARISON_VERSION,
    **{
      name: {'path': report.path, 'created': report.values['created'], 'model': model}
      for name, report, model in zip(('first', 'second'), reports, models)
    },
    'differs': differs,
    'rows': rows,
    'only_in_one': sorted({f'{k[0]}: {k[1]}' for k in set(tables[0]) ^ set(tables[1])}),
  })  # fmt: skip


def _facts(values: Mapping[str, Any]) -> dict[str, str]:
  rows = [row for part in values['identity'] for row in part['rows']]
  return {str(name): str(value) for name, value in [*rows, *values['protocol']]}


def _all_rows(values: Mapping[str, Any], model: str) -> dict[tuple[str, str], dict[str, Any]]:
  """(family, key) -> {'label', 'better', 'digits', 'value', 'flagged', 'target'}."""
  found: dict[tuple[str, str], dict[str, Any]] = {}
  losses = values['token_losses']
  row = next(row for row in losses['rows'] if row['name'] == model)
  for key, label in (('coarse', 'Loss of the coarse levels'), ('overall', 'Loss of all levels')):
    found['token losses', key] = {'label': f'{label} (nats)', 'better': LOWER, 'digits': 3,
                                  'value': row[key], 'flagged': False, 'target': None}  # fmt: skip
  sections = [(table['title'], table) for table in values['families']]
  sections += [(f'distances over {t["embedding"]}', t) for t in values['distances']]
  for title, table in sections:
    for line in table['rows']:
      if model in line['values']:
        found[title, line['key']] = {
          'label': line['label'], 'better': line['better'], 'digits': line['digits'],
          'value': line['values'][model], 'flagged': line['ordered'] is False,
          'target': (line['values'].get('music A') or [None])[0],
        }  # fmt: skip
  for line in values['live']:
    if line['name'] == model:
      for key, label, better in (
        ('real_time_factor', 'Real-time factor', HIGHER), ('chunk_p95_secs', 'Chunk p95 (s)', LOWER)
      ):  # fmt: skip
        found['live', key] = {'label': label, 'better': better, 'digits': 2, 'flagged': False,
                              'value': [line[key], None, None], 'target': None}  # fmt: skip
  return {(family, key): {**row, 'family': family, 'key': key}
          for (family, key), row in found.items()}  # fmt: skip


def _compared(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
  values = [_numbers(row['value']) for row in (first, second)]
  gap = values[1][0] - values[0][0]
  overlap = None
  if all(np.isfinite(bound) for value in values for bound in value[1:]):
    overlap = bool(values[0][1] <= values[1][2] and values[1][1] <= values[0][2])
  flagged = first['flagged'] or second['flagged']
  return {
    **{name: second[name] for name in ('family', 'key', 'label', 'better', 'digits')},
    'first': first['value'], 'second': second['value'], 'difference': gap, 'overlap': overlap,
    'flagged': flagged, 'verdict': _verdict(second, values, gap, overlap, flagged),
  }  # fmt: skip


def _verdict(
  row: Mapping[str, Any], values: Sequence[Sequence[float]], gap: float, overlap: bool | None,
  flagged: bool,
) -> str:
  if flagged:
    return 'anchors not in order'
  if row['better'] == NEITHER or not np.isfinite(gap):
    return ''
  if row['better'] == CORPUS:
    if row['target'] is None:
      return ''
    gap = abs(values[1][0] - row['target']) - abs(values[0][0] - row['target'])
  if gap == 0:
    return 'equal'
  direction = 'better' if (gap < 0) == (row['better'] != HIGHER) else 'worse'
  if overlap is None:
    return f'{direction}, no interval'
  return f'{direction}, intervals overlap' if overlap else direction


def _numbers(value: Sequence[float | None]) -> list[float]:
  return [float('nan') if x is None else float(x) for x in value]


def write_comparison(values: Mapping[str, Any], output_dir: str | pathlib.Path) -> pathlib.Path:
  """Writes comparison.json and comparison.html; returns the page's path."""
  folder = pathlib.Path(output_dir).expanduser()
  folder.mkdir(parents=True, exist_ok=True)
  text = json.dumps(values, indent=2, allow_nan=False)
  page.write_text(folder / 'comparison.json', text + '\n')
  path = folder / 'comparison.html'
  page.write_text(
    path,
    page.render(
      'comparison.html.j2',
      title=f'{values["first"]["model"]} and {values["second"]["model"]}, compared',
      created=values['second']['created'],
      schema_version=values['schema_version'],
      report=values,
    ),
  )
  return path


def summary(values: Mapping[str, Any]) -> list[str]:
  """What the terminal says."""
  counts = {
    word: sum(row['verdict'] == word for row in values['rows']) for word in ('better', 'worse')
  }
  names = [values[which]['model'] for which in ('first', 'second')]
  lines = [
    f'{names[1]} against {names[0]}: {counts["better"]} figures clearly better, {counts["worse"]} '
    f'clearly worse, of {len(values["rows"])}; intervals of the others overlap, or have none.'
  ]
  for name, one, other in values['differs']:
    lines.append(f'Not alike, {name}: {one or "nothing"} / {other or "nothing"}')
  return lines
