"""Planted drift, slopes as NumPy fits them, latencies worked by hand."""

import numpy as np
import pytest

from evaluation import drift, live_figures, signal_health


def test_pieces_keep_a_rest_of_half_a_piece():
  audio = np.zeros([25, 2])
  assert [len(piece) for piece in drift.pieces(audio, 10)] == [10, 10, 5]
  assert [len(piece) for piece in drift.pieces(audio[:24], 10)] == [10, 10]
  assert [len(piece) for piece in drift.pieces(audio[:7], 10)] == [7]


def test_planted_drift_has_its_slope():
  """6 dB softer each piece."""
  rng = np.random.default_rng(0)
  audio = rng.standard_normal([5000, 2]) * 10 ** (-0.3 * np.repeat(np.arange(5), 1000))[:, None]
  rows = drift.by_piece(audio, 1000, lambda piece: {'rms_db': signal_health.rms_db(piece)})
  found = drift.slope(rows['rms_db'])
  assert found['slope'] == pytest.approx(-6, abs=0.3)
  assert found['p'] < 1e-4
  steady = drift.slope([0.2, 0.1, 0.3, 0.1, 0.2])
  assert abs(steady['slope']) < 0.05 and steady['p'] > 0.5


def test_slope_is_numpys_fit():
  values = [1.0, np.nan, 2.5, 2.0, 4.0]
  expected = np.polyfit([0, 4, 6, 8], [1, 2.5, 2, 4], 1)[0]
  assert drift.slope(values, step=2)['slope'] == pytest.approx(expected)
  assert drift.slope([3, 3, 3]) == {'slope': 0.0, 'p': 1.0}
  assert np.isnan(drift.slope([1, 2])['slope'])


def test_distance_from_start_by_hand():
  found = drift.distance_from_start(np.array([[2.0, 0], [1, 1], [0, 3], [-1, 0]]))
  assert found == pytest.approx([0, 1 - np.sqrt(0.5), 1, 2])


def test_latency_by_hand():
  found = live_figures.latency_figures([1.0, 1.0, 1.0, 5.0], 2.0, 0.7)
  assert found['real_time_factor'] == pytest.approx(8 / 8)
  assert found['chunk_p50_secs'] == 1
  assert found['chunk_p95_secs'] == pytest.approx(1 + 4 * 0.85)  # Position 2.85 of 0..3.
  assert found['chunk_p99_secs'] == pytest.approx(1 + 4 * 0.97)
  assert found['late_share'] == 0.25
  assert found['first_audio_secs'] == 0.7
  with pytest.raises(ValueError, match='No chunk'):
    live_figures.latency_figures([], 2.0, 0.7)


@pytest.mark.parametrize(
  'new, delay', [([1, 1, 1], 2), ([0, 1, 1], 4), ([1, 0, 1], 6), ([1, 1, 0], np.inf), ([], np.inf)]
)
def test_control_delay_by_hand(new, delay):
  assert live_figures.control_delay([0.5] * len(new), new, 2.0) == delay
