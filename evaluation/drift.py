"""Does a long stream change its character? Any figure minute by minute, and its slope."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.stats

Figures = dict[str, float]


def pieces(audio: np.ndarray, piece_samples: int) -> list[np.ndarray]:
  """Whole pieces of `piece_samples`; a rest of half a piece or more counts as one."""
  starts = range(0, len(audio), piece_samples)
  cut = [audio[start : start + piece_samples] for start in starts]
  return [piece for piece in cut if len(piece) >= piece_samples / 2]


def by_piece(
  audio: np.ndarray, piece_samples: int, measure: Callable[[np.ndarray], Figures]
) -> dict[str, list[float]]:
  """Every figure of `measure` for one piece after another: {name: [pieces]}."""
  rows = [measure(piece) for piece in pieces(audio, piece_samples)]
  return {name: [row[name] for row in rows] for name in rows[0]}


def slope(values: Sequence[float], step: float = 1.0) -> dict[str, Any]:
  """Least-squares change of a series per unit of time.

  Args:
    values: at times 0, step, 2 step, ...; NaN are left out.
    step: distance in time.

  Returns:
    'slope' and its two-sided p-value 'p' (t test of slope 0); NaN with fewer than 3 values.
  """
  y = np.asarray(values, np.float64)
  x = np.arange(len(y)) * step
  known = np.isfinite(y)
  if known.sum() < 3:
    return {'slope': float('nan'), 'p': float('nan')}
  if np.ptp(y[known]) == 0:
    return {'slope': 0.0, 'p': 1.0}
  fit = scipy.stats.linregress(x[known], y[known])
  return {'slope': float(fit.slope), 'p': float(fit.pvalue)}


def distance_from_start(embeddings: np.ndarray) -> list[float]:
  """1 - cosine of each piece's embedding [N, D] to the first's: 0, ... """
  x = np.asarray(embeddings, np.float64)
  unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  return [float(value) for value in np.clip(1 - unit @ unit[0], 0, 2)]
