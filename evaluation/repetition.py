"""Does it repeat itself? In sound by self-similarity over lags, in tokens by repeated runs."""

import numpy as np

from evaluation import spectra

_RATE = 10  # Descriptions of the sound per second.
_NUM_MELS = 24
_FLOOR_DB = -80.0
SHORTEST_LAG_SECS = 1.0
RUN_FRAMES = 12  # About half a second of codec frames.


def descriptions(audio: np.ndarray, sample_rate: int) -> np.ndarray:
  """Log-mel vectors [frames, 24] at 10 Hz, each band less its mean over the recording."""
  window, hop = round(0.1 * sample_rate), round(sample_rate / _RATE)
  filters = spectra.mel_filters(sample_rate, window, _NUM_MELS)
  levels = spectra.decibels(spectra.magnitudes(audio.mean(1), window, hop) @ filters, _FLOOR_DB)
  return levels - levels.mean(0)


def lag_similarity(frames: np.ndarray, shortest: int) -> tuple[np.ndarray, np.ndarray]:
  """How alike a recording is to itself some frames later.

  Args:
    frames: [N, D].
    shortest: smallest lag; the largest is half the length, so that each rests on half of it.

  Returns:
    Lags [L] and their mean cosine between frames t and t + lag [L]; frames of zeros count as 0.
  """
  norm = np.linalg.norm(frames, axis=1, keepdims=True)
  unit = frames / np.where(norm > 1e-9, norm, 1)
  lags = np.arange(shortest, len(frames) // 2 + 1)
  return lags, np.array([np.mean(np.sum(unit[lag:] * unit[:-lag], 1)) for lag in lags])


def repeated_share(codes: np.ndarray, run: int = RUN_FRAMES) -> float:
  """Share of runs of `run` codes that occurred before in the same sequence.

  Args:
    codes: int [frames] of one level, or [frames, levels], of which all must agree.
    run: length of a run.

  Returns:
    0 where nothing comes twice, near 1 for a loop; NaN for sequences of one run or none.
  """
  codes = np.asarray(codes)
  codes = codes.reshape(len(codes), -1)
  number = len(codes) - run + 1
  if number < 2:
    return float('nan')
  seen: set[bytes] = set()
  repeats = 0
  for start in range(number):
    key = np.ascontiguousarray(codes[start : start + run]).tobytes()
    repeats += key in seen
    seen.add(key)
  return repeats / (number - 1)


def repetition(audio: np.ndarray, sample_rate: int) -> dict[str, float]:
  """'repeat_similarity', the largest lag similarity from 1 s on, and its 'repeat_lag_secs'."""
  frames = descriptions(audio, sample_rate)
  lags, values = lag_similarity(frames, round(SHORTEST_LAG_SECS * _RATE))
  if not len(lags):
    return {'repeat_similarity': float('nan'), 'repeat_lag_secs': float('nan')}
  best = int(np.argmax(values))
  return {'repeat_similarity': float(values[best]), 'repeat_lag_secs': float(lags[best] / _RATE)}
