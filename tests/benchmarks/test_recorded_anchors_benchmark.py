"""The benchmark of anchors, on points whose order is known."""

import numpy as np

from benchmarks import recorded_anchors
from evaluation import anchors


def _tracks(noise_gap: float, number: int = 12):
  """Tracks around places of their own; noise lies `noise_gap`, white noise twice as far away."""
  rng = np.random.default_rng(0)
  tracks = []
  for _ in range(number):
    place = rng.normal(size=4)
    gaps = dict(zip(recorded_anchors.ANCHORS, (0.0, noise_gap, 2 * abs(noise_gap))))
    tracks.append({
      name: [{'musicnn': place + gap + rng.normal(0, 0.1, [3, 4])} for _ in range(2)]
      for name, gap in gaps.items()
    })  # fmt: skip
  return tracks


def test_distances_order_anchors_that_lie_in_order():
  found = recorded_anchors.ordered_share(_tracks(1.5), 'musicnn', draws=10)
  assert found['kad']['ordered'] >= 0.9 and found['coverage']['ordered'] == 1
  assert found['kad'][anchors.CORPUS] < found['kad'][anchors.NOISY] < 200
  assert found['coverage'][anchors.WHITE_NOISE] == 0
  same = recorded_anchors.ordered_share(_tracks(0.0), 'musicnn', draws=20)
  assert same['kad']['ordered'] < 0.6


def test_clips_of_one_track_find_each_other():
  tracks = _tracks(1.0)
  assert recorded_anchors.ordered_pairs(tracks, 'musicnn') == 1
  assert recorded_anchors.same_track(tracks, 'musicnn') > 0.9
  turned = [
    {**track, anchors.CORPUS: [track[anchors.CORPUS][0], other[anchors.CORPUS][1]]}
    for track, other in zip(tracks, tracks[1:] + tracks[:1])
  ]
  assert recorded_anchors.same_track(turned, 'musicnn') == 0
