"""Two checkpoints on the same material: is the difference more than chance?"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from evaluation import bootstrap

_MOST_EXACT = 12  # 2 ** 12 sign patterns are all tried; beyond, patterns are drawn.
_NUM_DRAWS = 5000


@dataclasses.dataclass(frozen=True)
class PairedDifference:
  """Second minus first, on the same excerpts.

  Attributes:
    difference: mean over groups of each group's mean difference.
    low, high: 95 % bootstrap interval over groups.
    p: two-sided, of the sign-flip test; NaN with fewer than 2 groups.
    num_groups: tracks behind it. The smallest p that n groups can give is 2 / 2 ** n.
  """

  difference: float
  low: float
  high: float
  p: float
  num_groups: int


def paired_difference(
  first: Sequence[float], second: Sequence[float], groups: Sequence[str], *, seed: int = 0
) -> PairedDifference:
  """Compares values of two models on the same examples, track by track.

  The differences are averaged within each track; under the null hypothesis each track's mean
  difference might as well have the other sign (Fisher's randomization test). All sign patterns are
  tried for up to 12 tracks, 5000 random ones beyond. Pairs with NaN are left out.

  Raises:
    ValueError: the lengths differ, or no pair is left.
  """
  gaps = np.asarray(second, np.float64) - np.asarray(first, np.float64)
  groups = np.asarray(groups)
  if gaps.ndim != 1 or len(gaps) != len(groups):
    raise ValueError(f'{gaps.shape} differences for {len(groups)} groups.')
  known = np.isfinite(gaps)
  if not known.any():
    raise ValueError('No pair of values is known.')
  names, index = np.unique(groups[known], return_inverse=True)
  means = np.bincount(index, gaps[known]) / np.bincount(index)
  mean, low, high = bootstrap.mean_interval(means, seed=seed)
  p = sign_flip_p(means, seed)
  return PairedDifference(float(mean), float(low), float(high), p, len(names))


def sign_flip_p(differences: np.ndarray, seed: int = 0) -> float:
  """Two-sided p-value: share of sign patterns whose |mean| is not below that of the data."""
  x = np.asarray(differences, np.float64)
  if len(x) < 2:
    return float('nan')
  if len(x) <= _MOST_EXACT:
    signs = np.array(list(itertools.product((1, -1), repeat=len(x))))
  else:
    drawn = np.random.default_rng(seed).choice((1, -1), size=(_NUM_DRAWS, len(x)))
    signs = np.concatenate([np.ones([1, len(x)]), drawn])  # The data's own pattern counts, too.
  sums = np.abs(signs @ x)
  return float(np.mean(sums >= abs(x.sum()) - 1e-12 * np.abs(x).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
  """p-values corrected for their number (Holm, 1979); NaN stay NaN and do not count."""
  p = np.asarray(p_values, np.float64)
  known = np.flatnonzero(np.isfinite(p))
  order = known[np.argsort(p[known], kind='stable')]
  corrected, largest = p.copy(), 0.0
  for rank, index in enumerate(order):
    largest = max(largest, min(1.0, (len(order) - rank) * p[index]))
    corrected[index] = largest
  return corrected.tolist()
