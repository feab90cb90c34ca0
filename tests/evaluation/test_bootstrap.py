"""Bootstrap intervals: coverage, grouping, reproducibility."""

import numpy as np
import pytest

from evaluation.bootstrap import mean_interval


def test_coverage_of_a_known_mean():
  """Of 300 samples of 40 tracks, about 95 % of the intervals hold the true mean."""
  rng = np.random.default_rng(0)
  hits = 0
  for trial in range(300):
    values = rng.exponential(2.0, 40)
    _, low, high = mean_interval(values, num_resamples=300, seed=trial)
    hits += low <= 2.0 <= high
  assert 0.88 < hits / 300 < 0.98


def test_width_is_that_of_the_normal_interval():
  values = np.random.default_rng(1).normal(size=400)
  mean, low, high = mean_interval(values, num_resamples=4000)
  expected = 1.96 * values.std() / 20
  assert mean == pytest.approx(values.mean())
  assert high - mean == pytest.approx(expected, rel=0.08)
  assert mean - low == pytest.approx(expected, rel=0.08)


def test_copies_of_a_track_do_not_narrow_the_interval():
  values = np.random.default_rng(2).normal(size=20)
  tracks = [f'track{i}' for i in range(20)]
  _, low, high = mean_interval(values, tracks)
  _, low_copied, high_copied = mean_interval(np.repeat(values, 10), np.repeat(tracks, 10))
  assert high_copied - low_copied == pytest.approx(high - low)
  _, low_naive, high_naive = mean_interval(np.repeat(values, 10))
  assert high_naive - low_naive < 0.5 * (high - low)


def test_columns_equal_single_runs_and_seeds_repeat():
  values = np.random.default_rng(3).normal(size=[30, 2])
  both = mean_interval(values, seed=5)
  for column in range(2):
    one = mean_interval(values[:, column], seed=5)
    np.testing.assert_allclose([part[column] for part in both], one)


def test_one_track_has_no_interval_and_none_is_an_error():
  mean, low, high = mean_interval(np.array([1.0, 3.0]), ['a', 'a'])
  assert mean == 2
  assert np.isnan(low) and np.isnan(high)
  with pytest.raises(ValueError, match='no values'):
    mean_interval(np.zeros([0]))
  with pytest.raises(ValueError, match='1 groups for 2'):
    mean_interval(np.zeros([2]), ['a'])
