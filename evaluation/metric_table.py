"""Metrics in tables with their anchors: means, intervals, and whether the anchors stand in order.

A metric is believed where it puts the anchors it is meant to tell apart in their known order. One
that does not is flagged in the table, with the pair it has wrong, and drawn grey.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation import anchors, bootstrap

# Which way is better.
LOWER, HIGHER, CORPUS, NEITHER = 'lower', 'higher', 'corpus', 'neither'


@dataclasses.dataclass(frozen=True)
class Metric:
  """How a figure is shown and judged.

  Attributes:
    key: name among the figures.
    label: what the reader sees.
    unit: '' for none.
    better: LOWER, HIGHER, CORPUS (nearer to the mean of held-out music), or NEITHER.
    order: anchors that the metric must tell apart, best first; () where no anchor is made for it.
    digits: behind the point.
    about: one sentence.
  """

  key: str
  label: str
  unit: str = ''
  better: str = NEITHER
  order: tuple[str, ...] = ()
  digits: int = 2
  about: str = ''

  def __post_init__(self):
    if self.better not in (LOWER, HIGHER, CORPUS, NEITHER):
      raise ValueError(f'better={self.better!r} of {self.key}.')


@dataclasses.dataclass(frozen=True)
class Column:
  """Figures of one model or anchor.

  Attributes:
    name: of the column.
    kind: 'model' or 'anchor'.
    rows: the figures of each of its clips.
    tracks: the track that each clip goes back to.
  """

  name: str
  kind: str
  rows: Sequence[Mapping[str, float]]
  tracks: Sequence[str]


def build(
  metrics: Sequence[Metric], columns: Sequence[Column], corpus: str, *, seed: int = 0
) -> dict[str, Any]:
  """A table of clip metrics.

  Args:
    metrics: its rows.
    columns: models and anchors.
    corpus: name of the anchor that 'corpus' metrics are to be near to.
    seed: of the bootstrap, which draws tracks.

  Returns:
    {'columns': [{'name', 'kind', 'num_clips', 'num_tracks'}], 'rows': [see `row`]}.
  """
  described = [
    {
      'name': column.name,
      'kind': column.kind,
      'num_clips': len(column.rows),
      'num_tracks': len(set(column.tracks)),
    }
    for column in columns
  ]
  rows = []
  for metric in metrics:
    values = {column.name: interval_of(column, metric.key, seed) for column in columns}
    rows.append(row(metric, values, corpus))
  return {'columns': described, 'rows': rows}


def interval_of(column: Column, key: str, seed: int) -> list[float]:
  """[mean, low, high] over clips that have the figure; NaN where none has."""
  pairs = [
    (figures[key], track)
    for figures, track in zip(column.rows, column.tracks)
    if np.isfinite(figures.get(key, np.nan))
  ]
  if not pairs:
    return [float('nan')] * 3
  values, tracks = zip(*pairs)
  return [float(x) for x in bootstrap.mean_interval(np.array(values), tracks, seed=seed)]


def row(metric: Metric, values: Mapping[str, Sequence[float]], corpus: str) -> dict[str, Any]:
  """One line of a table, with its verdict on the anchors.

  Returns:
    {'key', 'label', 'unit', 'better', 'digits', 'about', 'values': {column: [mean, low, high]},
    'ordered': True, False or None (no anchor to tell apart), 'wrong': [[better, worse], ...],
    'order': the anchors}.
  """
  wrong = misordered(metric, values, corpus)
  return {
    **{name: getattr(metric, name) for name in ('key', 'label', 'unit', 'better', 'digits')},
    'about': metric.about,
    'values': {name: list(value) for name, value in values.items()},
    'order': [name for name in metric.order if name in values],
    'ordered': None if wrong is None else not wrong,
    'wrong': [list(pair) for pair in wrong or ()],
  }


def misordered(
  metric: Metric, values: Mapping[str, Sequence[float]], corpus: str
) -> list[tuple[str, str]] | None:
  """Neighbouring anchors the wrong way round; None where fewer than two can be compared."""
  known = {
    name: values[name][0]
    for name in metric.order
    if name in values and np.isfinite(values[name][0])
  }
  if metric.better == CORPUS:
    middle = values.get(corpus, [np.nan])[0]
    known = {name: abs(value - middle) for name, value in known.items()}
    known = {name: value for name, value in known.items() if np.isfinite(value)}
  if len(known) < 2 or metric.better == NEITHER:
    return None
  return anchors.misordered(known, metric.order, lower_is_better=metric.better != HIGHER)


def flagged(table: Mapping[str, Any]) -> list[str]:
  """Sentences on the metrics of a table that do not order their anchors."""
  return [
    f'{line["label"]} does not order its anchors: '
    + '; '.join(f'{better} is not better than {worse}' for better, worse in line['wrong'])
    + '. It is drawn grey; do not judge by it here.'
    for line in table['rows']
    if line['ordered'] is False
  ]
