"""Tables of metrics by hand: means, intervals, the order of anchors."""

import numpy as np
import pytest

from evaluation import metric_table
from evaluation.metric_table import CORPUS, HIGHER, LOWER, Column, Metric

MUSIC, CODEC, NOISE = 'held-out', 'codec', 'noise'
ORDER = (MUSIC, CODEC, NOISE)


def columns(**values):
  return [
    Column(name, 'model' if name == 'tiny' else 'anchor', [{'x': v} for v in own],
           [f't{i}' for i in range(len(own))])
    for name, own in values.items()
  ]  # fmt: skip


def table(metric, **values):
  return metric_table.build([metric], columns(**values), 'a')['rows'][0]


def test_means_counts_and_nan():
  built = metric_table.build(
    [Metric('x', 'X')], columns(tiny=[1.0, np.nan, 4.0], a=[np.nan]), corpus='a'
  )
  assert built['columns'][0] == {
    'name': 'tiny', 'kind': 'model', 'num_clips': 3, 'num_tracks': 3
  }  # fmt: skip
  mean, low, high = built['rows'][0]['values']['tiny']
  assert (mean, low, high) == (2.5, 1, 4)
  assert np.isnan(built['rows'][0]['values']['a']).all()
  assert built['rows'][0]['ordered'] is None


@pytest.mark.parametrize(
  'better, values, wrong',
  [
    (LOWER, {'a': 1, 'b': 2, 'c': 3}, []),
    (LOWER, {'a': 1, 'b': 3, 'c': 2}, [['b', 'c']]),
    (LOWER, {'a': 1, 'b': 1, 'c': 2}, [['a', 'b']]),  # A tie tells nothing apart.
    (HIGHER, {'a': 3, 'b': 2, 'c': 1}, []),
    (CORPUS, {'a': 5, 'b': 4, 'c': 9}, []),
    (CORPUS, {'a': 5, 'b': 9, 'c': 4}, [['b', 'c']]),
    (LOWER, {'a': 1, 'c': 0.5}, [['a', 'c']]),  # What is absent is passed over.
  ],
)
def test_order_of_anchors(better, values, wrong):
  row = table(Metric('x', 'X', better=better, order=('a', 'b', 'c')),
              **{name: [value] for name, value in values.items()})  # fmt: skip
  assert row['wrong'] == wrong
  assert row['ordered'] is (not wrong)


def test_what_cannot_be_ordered_is_not_called_ordered():
  assert table(Metric('x', 'X', better=LOWER, order=('a', 'b')), a=[1.0])['ordered'] is None
  assert table(Metric('x', 'X', order=('a', 'b')), a=[1.0], b=[2.0])['ordered'] is None
  with pytest.raises(ValueError, match="better='up'"):
    Metric('x', 'X', better='up')


def test_flags_are_sentences():
  row = table(Metric('x', 'Pulse', better=HIGHER, order=('a', 'b')), a=[1.0], b=[2.0])
  assert metric_table.flagged({'rows': [row]}) == [
    'Pulse does not order its anchors: a is not better than b. It is drawn grey; do not judge by '
    'it here.'
  ]
