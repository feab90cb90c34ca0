"""Figures of live use: does it keep up, how soon does it sound, how soon does it obey."""

from collections.abc import Sequence

import numpy as np

PERCENTILES = (50, 95, 99)


def latency_figures(
  chunk_secs: Sequence[float], chunk_audio_secs: float, first_secs: float
) -> dict[str, float]:
  """Figures of one session's wall times.

  Args:
    chunk_secs: wall seconds of each chunk once all is compiled.
    chunk_audio_secs: seconds of audio in a chunk.
    first_secs: wall seconds from the start of a session to its first chunk, compiled.

  Returns:
    'real_time_factor' (audio over wall time, mean), 'first_audio_secs', 'chunk_p50_secs', '_p95',
    '_p99' (NumPy's linear interpolation) and 'late_share', chunks that took longer than they last.

  Raises:
    ValueError: no chunk was timed.
  """
  if not len(chunk_secs):
    raise ValueError('No chunk was timed.')
  seconds = np.asarray(chunk_secs, np.float64)
  p50, p95, p99 = np.percentile(seconds, PERCENTILES)
  return {
    'real_time_factor': float(len(seconds) * chunk_audio_secs / seconds.sum()),
    'first_audio_secs': float(first_secs),
    'chunk_p50_secs': float(p50),
    'chunk_p95_secs': float(p95),
    'chunk_p99_secs': float(p99),
    'late_share': float(np.mean(seconds > chunk_audio_secs)),
  }


def control_delay(
  to_old: Sequence[float], to_new: Sequence[float], piece_secs: float
) -> float:
  """Seconds from a change of prompt until the output is nearer to the new one and stays there.

  Args:
    to_old: similarity of consecutive pieces after the change to the old prompt.
    to_new: the same to the new one.
    piece_secs: length of a piece.

  Returns:
    The end of the first piece from which on all are nearer to the new prompt; inf if the last is
    not. It cannot be less than one piece.
  """
  nearer = np.asarray(to_new, np.float64) > np.asarray(to_old, np.float64)
  if not len(nearer) or not nearer[-1]:
    return float('inf')
  behind = np.flatnonzero(~nearer)
  return float((behind[-1] + 2 if len(behind) else 1) * piece_secs)
