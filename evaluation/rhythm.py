"""Tempo, how clear the pulse is, how even the beat.

Estimates of the usual kind: a tempo is known up to a factor of two or three, which is why errors
are counted with and without it.
"""

from collections.abc import Sequence

import numpy as np

from evaluation.onsets import ENVELOPE_RATE, onset_envelope

SLOWEST_BPM, FASTEST_BPM = 40.0, 220.0
# A listener taps most readily at this tempo, within about an octave (Ellis, 2007).
_PREFERRED_BPM, _SPREAD_OCTAVES = 120.0, 0.9
_TIGHTNESS = 100.0
OCTAVES = (1.0, 2.0, 0.5, 3.0, 1 / 3)
LEAST_SECS = 4.0


def autocorrelation(envelope: np.ndarray) -> np.ndarray:
  """Autocorrelation at lags 0, 1, ..., unbiased by length and 1 at lag 0; zeros for silence."""
  x = np.asarray(envelope, np.float64)
  spectrum = np.fft.rfft(x, 2 * len(x))
  power = np.fft.irfft(np.abs(spectrum) ** 2)[: len(x)]
  if power[0] <= 0:
    return np.zeros(len(x))
  return power / power[0] * len(x) / np.arange(len(x), 0, -1)


def tempo_of_envelope(envelope: np.ndarray) -> tuple[float, float]:
  """(beats per minute, pulse clarity) of an onset envelope at 100 Hz.

  The tempo is the lag of the largest autocorrelation, weighted by a log-normal preference around
  120; the clarity is that autocorrelation unweighted, near 1 for a machine's pulse and near 0 for
  none. NaN where it is too short or silent.
  """
  if len(envelope) < LEAST_SECS * ENVELOPE_RATE or not np.any(envelope):
    return float('nan'), float('nan')
  values = autocorrelation(envelope)
  lags = np.arange(
    int(60 * ENVELOPE_RATE / FASTEST_BPM), int(60 * ENVELOPE_RATE / SLOWEST_BPM) + 1
  )
  octaves = np.log2(60 * ENVELOPE_RATE / lags / _PREFERRED_BPM) / _SPREAD_OCTAVES
  best = lags[np.argmax(values[lags] * np.exp(-0.5 * octaves**2))]
  before, here, after = values[best - 1 : best + 2]
  curve = before - 2 * here + after
  shift = 0.5 * (before - after) / curve if curve < 0 else 0.0
  return 60 * ENVELOPE_RATE / (best + float(np.clip(shift, -0.5, 0.5))), float(here)


def beats_of_envelope(envelope: np.ndarray, bpm: float) -> np.ndarray:
  """Beat times in seconds by dynamic programming (Ellis, "Beat tracking by DP", 2007).

  Each beat adds the onset strength at its place, less 100 (ln of its distance over the period)^2.
  """
  if not np.isfinite(bpm):
    return np.zeros(0)
  period = 60 * ENVELOPE_RATE / bpm
  back = np.arange(-round(2 * period), -round(period / 2) + 1)
  penalty = -_TIGHTNESS * np.log(-back / period) ** 2
  score, previous = np.array(envelope, np.float64), np.full(len(envelope), -1)
  for t in range(len(envelope)):
    places = t + back
    known = places >= 0
    if known.any():
      candidates = score[places[known]] + penalty[known]
      best = int(np.argmax(candidates))
      if candidates[best] > 0:
        score[t] += candidates[best]
        previous[t] = places[known][best]
  beat = int(np.argmax(score[-round(period) :])) + max(0, len(score) - round(period))
  beats = []
  while beat >= 0:
    beats.append(beat)
    beat = previous[beat]
  return np.array(beats[::-1]) / ENVELOPE_RATE


def beat_variation(beats: np.ndarray) -> float:
  """Standard deviation of the intervals between beats over their mean; NaN under 3 beats."""
  intervals = np.diff(beats)
  if len(intervals) < 2:
    return float('nan')
  return float(intervals.std() / intervals.mean())


def tempo_error(estimate: float, truth: float, octaves: Sequence[float] = OCTAVES) -> float:
  """|estimate f / truth - 1|, the least over factors f; `octaves=(1,)` allows none."""
  return float(min(abs(estimate * factor / truth - 1) for factor in octaves))


def rhythm(audio: np.ndarray, sample_rate: int) -> dict[str, float]:
  """'tempo_bpm', 'pulse_clarity', 'beat_variation' of audio [samples, channels].

  All NaN below 4 s.
  """
  if len(audio) < LEAST_SECS * sample_rate:
    return dict.fromkeys(('tempo_bpm', 'pulse_clarity', 'beat_variation'), float('nan'))
  envelope = onset_envelope(audio, sample_rate)
  bpm, clarity = tempo_of_envelope(envelope)
  return {
    'tempo_bpm': bpm,
    'pulse_clarity': clarity,
    'beat_variation': beat_variation(beats_of_envelope(envelope, bpm)),
  }
