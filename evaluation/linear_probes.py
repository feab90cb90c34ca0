"""Linear probes: what a linear map finds in an embedding, on works that it was not fitted to.

Ridge regression, for classes on one-hot targets, with the works dealt into folds; every work is
scored by the probe that has not seen it. The penalty is chosen inside of each training part.
Intervals are bootstraps over works (`evaluation.bootstrap` says why).
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

_PENALTIES = 10.0 ** np.arange(-3, 6)


@dataclasses.dataclass(frozen=True)
class Figure:
  """A figure with its 95 % interval and what chance would give."""

  value: float
  low: float
  high: float
  chance: float

  def to_json(self) -> dict[str, float]:
    return dataclasses.asdict(self)


def deal(groups: Sequence[str], num_folds: int, seed: int) -> np.ndarray:
  """Fold of each row, [N] int; rows of a group share one, and folds hold alike many groups.

  Raises:
    ValueError: fewer groups than folds.
  """
  _, index = np.unique(np.asarray(groups), return_inverse=True)
  number = index.max() + 1
  if number < num_folds:
    raise ValueError(f'{number} works cannot be dealt into {num_folds} folds.')
  fold = np.random.default_rng(seed).permutation(number) % num_folds
  return fold[index]


def held_out_scores(
  features: np.ndarray, targets: np.ndarray, groups: Sequence[str], num_folds: int = 5,
  seed: int = 0,
) -> np.ndarray:  # fmt: skip
  """What ridge probes say of rows they were not fitted to.

  Args:
    features: [N, D] float; each column is standardised by the training part.
    targets: [N, T] float, fitted together.
    groups: the work of each row; never in training and test part at once.
    num_folds: parts.
    seed: of the dealing.

  Returns:
    [N, T] float64.
  """
  features, targets = np.asarray(features, np.float64), np.asarray(targets, np.float64)
  groups = np.asarray(groups)
  folds = deal(groups, num_folds, seed)
  scores = np.zeros_like(targets)
  for fold in range(num_folds):
    train, test = folds != fold, folds == fold
    inner = deal(groups[train], num_folds, seed + 1 + fold) == 0
    x, y = features[train], targets[train]
    tried = _ridge(x[~inner], y[~inner], x[inner], _PENALTIES)
    penalty = _PENALTIES[np.square(tried - y[inner]).mean((1, 2)).argmin()]
    scores[test] = _ridge(x, y, features[test], [penalty])[0]
  return scores


def _ridge(
  x: np.ndarray, y: np.ndarray, test: np.ndarray, penalties: Sequence[float]
) -> np.ndarray:
  """Predictions for `test` by ridge on (x, y), [penalties, rows, T]."""
  mean, deviation = x.mean(0), x.std(0)
  deviation = np.where(deviation > 1e-9, deviation, np.inf)  # What does not vary says nothing.
  centre = y.mean(0)
  x, test, y = (x - mean) / deviation, (test - mean) / deviation, y - centre
  if len(x) < x.shape[1]:  # The smaller of the two forms; both give the same.
    values, axes = np.linalg.eigh(x @ x.T)
    known, seen = axes.T @ y, test @ x.T @ axes
  else:
    values, axes = np.linalg.eigh(x.T @ x)
    known, seen = axes.T @ (x.T @ y), test @ axes
  return np.stack([seen @ (known / (values + p)[:, None]) + centre for p in penalties])


def auroc(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
  """Area under the ROC curve of each column: [N, T] scores and [N, T] bool labels -> [T].

  The probability that a positive outscores a negative, ties counting half; NaN without either.
  """
  labels = np.asarray(labels, bool)
  ranks = stats.rankdata(scores, axis=0)
  positive = labels.sum(0).astype(np.float64)
  negative = len(labels) - positive
  above = (ranks * labels).sum(0) - positive * (positive + 1) / 2
  with np.errstate(invalid='ignore', divide='ignore'):
    return np.where(positive * negative > 0, above / (positive * negative), np.nan)


def macro_auroc(
  scores: np.ndarray, labels: np.ndarray, groups: Sequence[str], num_resamples: int = 200,
  seed: int = 0,
) -> Figure:  # fmt: skip
  """Mean over columns of `auroc`, with its interval over works; chance is 0.5."""

  def measure(rows: np.ndarray) -> float:
    return float(np.nanmean(auroc(scores[rows], labels[rows])))

  return _bootstrapped(measure, groups, 0.5, num_resamples, seed)


def accuracy(
  predicted: np.ndarray, truth: np.ndarray, groups: Sequence[str], num_resamples: int = 1000,
  seed: int = 0,
) -> Figure:  # fmt: skip
  """Share of rows that are right; chance is what naming the commonest class would give."""
  hits = np.asarray(predicted) == np.asarray(truth)
  _, counts = np.unique(truth, return_counts=True)
  chance = float(counts.max() / counts.sum())
  return _bootstrapped(lambda rows: float(hits[rows].mean()), groups, chance, num_resamples, seed)


def explained_variance(
  predicted: np.ndarray, truth: np.ndarray, groups: Sequence[str], num_resamples: int = 1000,
  seed: int = 0,
) -> Figure:  # fmt: skip
  """R squared of [N] predictions: 1 is perfect, 0 is what the mean would give."""
  predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)

  def measure(rows: np.ndarray) -> float:
    spread = np.square(truth[rows] - truth[rows].mean()).sum()
    return float(1 - np.square(truth[rows] - predicted[rows]).sum() / max(spread, 1e-12))

  return _bootstrapped(measure, groups, 0.0, num_resamples, seed)


def share(hits: np.ndarray, chance: float, groups: Sequence[str], seed: int = 0) -> Figure:
  """Mean of [N] values with its interval over works."""
  hits = np.asarray(hits, np.float64)
  return _bootstrapped(lambda rows: float(hits[rows].mean()), groups, chance, 1000, seed)


def median(values: np.ndarray, chance: float, groups: Sequence[str], seed: int = 0) -> Figure:
  """Median of [N] values with its interval over works."""
  values = np.asarray(values, np.float64)
  return _bootstrapped(lambda rows: float(np.median(values[rows])), groups, chance, 1000, seed)


def _bootstrapped(
  measure: Callable[[np.ndarray], float], groups: Sequence[str], chance: float, number: int,
  seed: int,
) -> Figure:  # fmt: skip
  """The measure of all rows, and the 2.5 and 97.5 % points of it over resampled groups."""
  names, index = np.unique(np.asarray(groups), return_inverse=True)
  rows_of = [np.flatnonzero(index == group) for group in range(len(names))]
  whole = measure(np.arange(len(index)))
  if len(names) < 2:
    return Figure(whole, np.nan, np.nan, chance)
  random = np.random.default_rng(seed)
  found = []
  for _ in range(number):
    drawn = random.integers(len(names), size=len(names))
    found.append(measure(np.concatenate([rows_of[group] for group in drawn])))
  low, high = np.nanquantile(found, [0.025, 0.975])
  return Figure(whole, float(low), float(high), chance)
