"""Streaming loudness against the standard's own figures and a meter that sees the whole signal."""

import numpy as np
import pytest

from evaluation import signal_health
from preprocessing.loudness import LoudnessMeter, k_weighting


def _loudness(x, rate, block=50_000):
  meter = LoudnessMeter(rate, x.shape[1])
  for begin in range(0, len(x), block):
    meter.add(x[begin : begin + block])
  return meter.loudness_lufs()


def test_filters_are_the_standards_table_at_48_khz():
  """ITU-R BS.1770-4, annex 1, tables 1 and 2."""
  shelf = [1.53512485958697, -2.69169618940638, 1.19839281085285,
           1.0, -1.69065929318241, 0.73248077421585]  # fmt: skip
  high_pass = [1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621]
  np.testing.assert_allclose(k_weighting(48_000), [shelf, high_pass], atol=1e-9)


@pytest.mark.parametrize('rate', [44_100, 48_000])
def test_a_sine_reads_what_the_standard_says(rate):
  sine = np.sin(2 * np.pi * 997 * np.arange(5 * rate) / rate)[:, None]
  assert _loudness(np.hstack([sine, sine * 0]), rate) == pytest.approx(-3.01, abs=0.01)
  assert _loudness(np.hstack([sine, sine]), rate) == pytest.approx(0.0, abs=0.01)
  # Mono becomes two equal channels before it is used.
  assert _loudness(sine, rate) == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize('block', [999, 960_000])
def test_both_gates_and_any_block_length(block):
  rng = np.random.default_rng(0)
  level = np.repeat([0.3, 0.0, 0.01, 0.1, 0.02, 0.3], 48_000)[:, None]
  x = rng.normal(size=[6 * 48_000, 2]) * level * 0.3
  expected = signal_health.loudness_lufs(x, 48_000)
  assert _loudness(x, 48_000, block) == pytest.approx(expected, abs=1e-6)


def test_silence_and_very_short_signals_have_none():
  assert _loudness(np.zeros([96_000, 2]), 48_000) == -np.inf
  assert _loudness(np.ones([10_000, 2]), 48_000) == -np.inf
