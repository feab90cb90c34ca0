"""Tempo and beats of click tracks whose tempo is known, and figures worked by hand."""

import numpy as np
import pytest
import scipy.signal

from evaluation import rhythm
from evaluation.onsets import onset_envelope

RATE = 16_000


def clicks(bpm, secs=10.0, jitter=0.0, seed=0):
  """Short decaying noise bursts on the beat, [samples, 2]."""
  rng = np.random.default_rng(seed)
  audio = 1e-4 * rng.standard_normal(round(secs * RATE))
  burst = rng.standard_normal(800) * np.exp(-np.arange(800) / 150)
  for beat in np.arange(0.1, secs - 0.2, 60 / bpm):
    start = round((beat + jitter * rng.uniform(-1, 1) * 60 / bpm) * RATE)
    if start >= 0:
      audio[start : start + 800] += 0.5 * burst[: len(audio) - start]
  return np.stack([audio, audio], -1).astype(np.float32)


@pytest.mark.parametrize('bpm', [72, 96, 120, 150])
def test_tempo_of_clicks(bpm):
  found = rhythm.rhythm(clicks(bpm), RATE)
  assert found['tempo_bpm'] == pytest.approx(bpm, rel=0.01)
  assert found['pulse_clarity'] > 0.7
  assert found['beat_variation'] < 0.02


def test_an_uneven_beat_is_less_clear():
  even, uneven = (rhythm.rhythm(clicks(110, jitter=j), RATE) for j in (0, 0.25))
  assert uneven['pulse_clarity'] < even['pulse_clarity'] - 0.2
  assert uneven['beat_variation'] > even['beat_variation'] + 0.02


def test_noise_and_silence_have_no_pulse():
  noise = 0.1 * np.random.default_rng(0).standard_normal([10 * RATE, 2])
  assert rhythm.rhythm(noise, RATE)['pulse_clarity'] < 0.3
  silent = rhythm.rhythm(np.zeros([10 * RATE, 2]), RATE)
  assert np.isnan(list(silent.values())).all()


def test_beats_lie_on_the_clicks():
  envelope = onset_envelope(clicks(100), RATE)
  beats = rhythm.beats_of_envelope(envelope, rhythm.tempo_of_envelope(envelope)[0])
  expected = np.arange(0.1, 9.8, 0.6)
  nearest = np.abs(beats[:, None] - expected).min(1)
  assert len(beats) >= 14
  assert nearest.max() < 0.04


def test_autocorrelation_is_scipys():
  x = np.random.default_rng(0).standard_normal(50)
  full = scipy.signal.correlate(x, x)[49:]
  expected = full / full[0] * 50 / np.arange(50, 0, -1)
  np.testing.assert_allclose(rhythm.autocorrelation(x), expected, atol=1e-12)
  assert not rhythm.autocorrelation(np.zeros(5)).any()


def test_tempo_error_by_hand():
  assert rhythm.tempo_error(60, 120) == 0
  assert rhythm.tempo_error(60, 120, (1,)) == 0.5
  assert rhythm.tempo_error(132, 120) == pytest.approx(0.1)
  assert rhythm.tempo_error(41, 120) == pytest.approx(0.025)


def test_beat_variation_by_hand():
  # Intervals 1 and 3: mean 2, deviation 1.
  assert rhythm.beat_variation(np.array([0.0, 1.0, 4.0])) == 0.5
  assert np.isnan(rhythm.beat_variation(np.array([0.0, 1.0])))
