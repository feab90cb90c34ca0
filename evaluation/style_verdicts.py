"""What a style report's figures say in a sentence, and what they do not say."""

from typing import Any

from evaluation.style_report import FACT_NAMES, StyleReport


def summary(report: StyleReport) -> list[dict[str, str]]:
  """[{'text', 'status'}]: good where the interval lies above chance, bad where it does not."""
  lines = []
  for row in report.retrieval:
    lines.append(_retrieval_line(row))
  tags = report.zero_shot.get('instruments') if report.zero_shot else None
  if tags:
    found = tags['macro_auroc']
    lines.append(_line(
      found, f'Tags by text alone: mean AUROC {found["value"]:.3f} over {len(tags["tags"])} tags '
      '(chance 0.5).'
    ))  # fmt: skip
  anchors = {
    row['fact']: row['figure'] for row in report.probes if row['features'] == 'log-mel statistics'
  }
  for row in report.probes:
    if row['features'] == 'embedding':
      lines.append(_probe_line(row, anchors.get(row['fact'])))
  agreeing = [row for row in report.tokens if row['agreement']['low'] > row['agreement']['chance']]
  if report.tokens:
    first = report.tokens[0]['agreement']['value']
    lines.append({
      'text': f'A caption asks for its clip\'s code on level 0 in {first:.0%} of the works; '
      f'{len(agreeing)} of {len(report.tokens)} levels agree more often than by chance.',
      'status': 'good' if agreeing else 'bad',
    })  # fmt: skip
  return lines


def _line(figure: dict[str, float], text: str) -> dict[str, str]:
  return {'text': text, 'status': 'good' if figure['low'] > figure['chance'] else 'bad'}


def _retrieval_line(row: dict[str, Any]) -> dict[str, str]:
  names = {
    'text_to_audio': ('recall_at_10', 'A caption has its clip among the first ten'),
    'audio_to_text': ('recall_at_10', 'A clip has its caption among the first ten'),
    'clip_to_same_work': ('recall_at_1', 'The clip nearest to a clip is of the same work'),
  }
  key, text = names[row['name']]
  found = row[key]
  times = found['value'] / max(found['chance'], 1e-9)
  return _line(found, f'{text} in {found["value"]:.0%} of the works, {times:.0f} times chance.')


def _probe_line(row: dict[str, Any], anchor: dict[str, float] | None) -> dict[str, str]:
  figure = row['figure']
  text = f'{FACT_NAMES[row["fact"]]}: {row["measure"]} {figure["value"]:.3f}'
  if anchor is None:
    return _line(figure, f'{text}.')
  text += f'; log-mel statistics reach {anchor["value"]:.3f}.'
  return {'text': text, 'status': 'good' if figure['value'] > anchor['value'] else 'bad'}


def limits(report: StyleReport) -> list[str]:
  """What has to be kept in mind when the figures are read."""
  lines = [
    'Captions, tags, keys and tempi are those of the catalog; where they are wrong or made by a '
    'program, so are the figures.',
    'A probe says what a linear map can read out, not what a language model does with it.',
  ]
  if report.retrieval and report.retrieval[0]['recall_at_1']['high'] >= 1:
    lines.append('Retrieval is at its ceiling: the catalog is too small, or too easy.')
  if any('encoder' in row['features'] for row in report.probes):
    lines.append(
      'Encoder states are means over the context with the style masked, on fewer works: compare '
      'them with the row of the embedding on the same works.'
    )
  return lines
