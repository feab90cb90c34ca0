"""Models against a base, and continuations, by hand."""

import numpy as np
import pytest

from evaluation import comparisons

TRACKS = [f't{i}' for i in range(10)]


def figures(gain):
  rng = np.random.default_rng(0)
  return {
    f'p{i}': {'pulse_clarity': 0.5 + gain + 0.01 * rng.standard_normal(), 'rms_db': -20 + 5 * gain,
              'tempo_bpm': 100.0}
    for i in range(10)
  }  # fmt: skip


@pytest.fixture
def rows():
  rng = np.random.default_rng(1)
  noise = 0.01 * rng.standard_normal([2, 10])
  examples = {
    'tracks': TRACKS,
    'coarse': {'base': 5 + noise[0], 'new': 4.8 + noise[1]},
    'overall': {'base': 6 + noise[0], 'new': 6 + noise[1]},
  }
  found = comparisons.compare_models(
    examples, {'base': figures(0), 'new': figures(-0.2)}, {f'p{i}': f't{i}' for i in range(10)},
    {'rms_db': -20.0}, 'base',
  )  # fmt: skip
  return {row['key']: row for row in found}


def test_a_lower_loss_is_better_and_no_chance(rows):
  assert rows['coarse']['difference'] == pytest.approx(-0.2, abs=0.02)
  assert rows['coarse']['p'] == 2 / 2**10
  assert rows['coarse']['better'] is True
  assert rows['overall']['better'] is None  # Chance.


def test_directions_of_metrics(rows):
  assert rows['pulse_clarity']['better'] is False  # Higher is better; it fell.
  # Nearer to -20 is better; the base lies on it, the other a decibel off.
  assert rows['rms_db']['difference'] == pytest.approx(1)
  assert rows['rms_db']['better'] is False
  assert 'distance from music A' in rows['rms_db']['label']
  assert 'tempo_bpm' not in rows
  # Three of four are at the smallest p of 10 tracks; Holm's correction is 4 times that.
  assert rows['coarse']['p_holm'] == pytest.approx(4 * 2 / 2**10)


def test_continuity_by_hand():
  given = {'tempo_bpm': 100.0, 'key': 0.0}
  pairs = [
    (given, {'tempo_bpm': 50.5, 'key': 0.0}),  # Half the tempo; the same key.
    (given, {'tempo_bpm': 130.0, 'key': 7.0}),  # Another tempo; a fifth up.
    (given, {'tempo_bpm': np.nan, 'key': np.nan}),
  ]
  assert comparisons.continuity(pairs) == {'tempo_kept': 0.5, 'key_score': 0.75, 'num_clips': 3}
  assert np.isnan(comparisons.continuity([])['key_score'])


def test_code_use_by_hand():
  even = comparisons.code_use([np.array([[0, 5], [1, 5]]), np.array([[2, 5], [3, 5]])], 8)
  assert even == {'num_frames': 4, 'distinct': 4, 'perplexity': pytest.approx([4, 1])}
