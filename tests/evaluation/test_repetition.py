"""Planted loops, and shares of repeated runs counted by hand."""

import numpy as np
import pytest

from evaluation import repetition

RATE = 8_000


def melody(secs, seed):
  """A new pitch every 0.25 s, [samples, 2]."""
  rng = np.random.default_rng(seed)
  t = np.arange(RATE // 4) / RATE
  notes = [
    np.sin(2 * np.pi * f * t) * np.exp(-3 * t) for f in rng.uniform(100, 3000, round(4 * secs))
  ]
  audio = 0.3 * np.concatenate(notes)
  return np.stack([audio, audio], -1)


def test_a_planted_loop_is_found_at_its_lag():
  loop = np.concatenate([melody(3, 1)] * 4)
  found = repetition.repetition(loop, RATE)
  assert found['repeat_lag_secs'] in (3.0, 6.0)
  assert found['repeat_similarity'] > 0.98
  assert repetition.repetition(melody(12, 1), RATE)['repeat_similarity'] < 0.5


def test_lag_similarity_by_hand():
  frames = np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]])
  lags, values = repetition.lag_similarity(frames, 1)
  assert list(lags) == [1, 2]
  np.testing.assert_allclose(values, [0, 1])
  frames[0] = 0  # Silence resembles nothing.
  np.testing.assert_allclose(repetition.lag_similarity(frames, 2)[1], [0.5])


def test_repeated_share_by_hand():
  # Runs of 2: 12 23 31 12 23: the last two of four that can repeat have come before.
  assert repetition.repeated_share([1, 2, 3, 1, 2, 3], 2) == 2 / 4
  assert repetition.repeated_share(np.arange(9), 2) == 0
  assert repetition.repeated_share(np.zeros(9), 2) == 1
  # Both levels must agree.
  both = np.stack([[1, 2, 1, 2], [0, 0, 0, 5]], -1)
  assert repetition.repeated_share(both, 2) == 0
  assert np.isnan(repetition.repeated_share([1, 2], 2))


@pytest.mark.parametrize('copies', [2, 4])
def test_planted_copies_of_tokens(copies):
  """Of k copies of a random run, all after the first repeat: about (k - 1) / k."""
  codes = np.random.default_rng(0).integers(0, 1024, [250, 4])
  share = repetition.repeated_share(np.tile(codes, (copies, 1)))
  assert share == pytest.approx((copies - 1) / copies, abs=0.02)
  assert repetition.repeated_share(codes) == 0
