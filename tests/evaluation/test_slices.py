"""Slices by hand."""

import numpy as np
import pytest

from evaluation import slices


@pytest.mark.parametrize(
  'bpm, band',
  [(79.9, 'below 80 BPM'), (80, '80 to 110 BPM'), (139, '110 to 140 BPM'), (200, 'above 140 BPM'),
   (float('nan'), 'not known'), (None, 'not known')],
)  # fmt: skip
def test_tempo_bands(bpm, band):
  assert slices.tempo_band(bpm) == band


def test_means_by_slice_with_their_numbers():
  tags = {
    'a': slices.track_slices('Jazz', 'vocal', '', 100),
    'b': slices.track_slices('Jazz', '', '', 90),
    'c': slices.track_slices('Rock', 'vocal', '', 150),
  }
  rows = slices.by_slice({'m': [1, 2, 3, 10]}, ['a', 'a', 'b', 'c'], tags)
  found = {(row['kind'], row['slice']): row for row in rows}
  assert set(found) == {
    ('style', 'Jazz'), ('style', 'Rock'), ('tempo', '80 to 110 BPM'), ('tempo', 'above 140 BPM'),
    ('vocals', 'vocal'), ('vocals', 'not known'),
  }  # fmt: skip
  jazz = found['style', 'Jazz']
  assert (jazz['num_examples'], jazz['num_tracks']) == (3, 2)
  assert jazz['values']['m'][0] == 2
  assert jazz['values']['m'][1:] == [1.5, 3]  # Two tracks: the bootstrap's ends are the tracks.
  assert found['vocals', 'vocal']['values']['m'][0] == pytest.approx(13 / 3)
  assert np.isnan(found['style', 'Rock']['values']['m'][1])  # One track says nothing of others.


def test_tracks_without_tags_are_not_lost():
  rows = slices.by_slice({'m': [1, 2]}, ['a', 'x'], {'a': {'style': 'Jazz'}})
  assert [(row['slice'], row['num_tracks']) for row in rows] == [('Jazz', 1), ('not known', 1)]
