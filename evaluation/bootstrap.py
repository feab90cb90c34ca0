"""Intervals by resampling tracks: excerpts of one track are not independent, tracks nearly are."""

from collections.abc import Sequence

import numpy as np


def mean_interval(
  values: np.ndarray,
  groups: Sequence[str] | None = None,
  *,
  level: float = 0.95,
  num_resamples: int = 1000,
  seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Mean over examples and its percentile bootstrap interval over groups.

  A resample draws as many groups as there are, with replacement, and takes the mean over all of
  their examples (a ratio of sums, so that groups of unequal size keep their weight).

  Args:
    values: [N] or [N, metrics].
    groups: the group (track) of each example; None makes every example its own.
    level: of the interval.
    num_resamples: bootstrap draws.
    seed: of the draws.

  Returns:
    (mean, low, high), each [] or [metrics] float64. With one group only the interval is NaN:
    nothing can be said about other tracks.

  Raises:
    ValueError: there are no values, or as many groups as values are not given.
  """
  values = np.asarray(values, np.float64)
  if not len(values):
    raise ValueError('There are no values to take the mean of.')
  groups = np.arange(len(values)) if groups is None else np.asarray(groups)
  if len(groups) != len(values):
    raise ValueError(f'{len(groups)} groups for {len(values)} values.')
  _, index = np.unique(groups, return_inverse=True)
  num_groups = index.max() + 1
  sums = np.zeros([num_groups, *values.shape[1:]])
  np.add.at(sums, index, values)
  counts = np.bincount(index).astype(np.float64)
  mean = values.mean(0)
  if num_groups == 1:
    return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
  draws = np.random.default_rng(seed).multinomial(
    num_groups, np.full(num_groups, 1 / num_groups), size=num_resamples
  )
  totals = draws @ sums.reshape(num_groups, -1) / (draws @ counts)[:, None]
  tail = (1 - level) / 2
  low, high = np.quantile(totals, [tail, 1 - tail], axis=0)
  return mean, low.reshape(mean.shape), high.reshape(mean.shape)
