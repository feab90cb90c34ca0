"""How far apart two sets of embeddings are: Frechet distance, kernel distance, density, coverage.

All take float [N, D], compute in float64 and mean nothing without the name of the embedding: over a
fixed log-mel vector a Frechet distance is `fd_logmel`, never "FAD".
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import scipy.spatial.distance
import scipy.stats

# An eigenvalue below minus this share of the largest is no rounding error.
_NEGATIVE = 1e-6
KERNEL_SCALE = 100.0  # Kernel distances are small numbers; they are shown times 100.
NEIGHBOURS = 5


class TooFewError(ValueError):
  """There are too few points for what was asked; the message says how many are needed."""


@dataclasses.dataclass(frozen=True)
class Extrapolation:
  """A distance extrapolated to infinitely many samples.

  Attributes:
    value: intercept of the line through distance against 1 / N.
    slope: of that line; the bias at N samples is slope / N.
    r2: share of the variance that the line explains; near 0 the value says little.
  """

  value: float
  slope: float
  r2: float


def ledoit_wolf(features: np.ndarray) -> tuple[np.ndarray, float]:
  """Shrunk covariance [D, D] and the weight of its target, the mean variance times I.

  The estimator of Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance
  matrices" (2004), with divisor N.
  """
  x = _checked(features)
  number, dim = x.shape
  x = x - x.mean(0)
  covariance = x.T @ x / number
  target = np.trace(covariance) / dim
  spread = np.sum(covariance**2) - dim * target**2
  # mean |x_i x_i' - S|^2 = mean |x_i|^4 - |S|^2
  noise = (np.mean(np.sum(x**2, 1) ** 2) - np.sum(covariance**2)) / number
  weight = 1.0 if spread <= 0 else float(np.clip(noise / spread, 0, 1))
  return (1 - weight) * covariance + weight * target * np.eye(dim), weight


def frechet_of_gaussians(
  mean: np.ndarray, covariance: np.ndarray, other_mean: np.ndarray, other_covariance: np.ndarray
) -> float:
  """|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) (Dowson and Landau, 1982).

  The trace of the root is the sum of the roots of the eigenvalues of S^(1/2) S' S^(1/2), which is
  symmetric: no general matrix root, no complex numbers. Tiny negative eigenvalues count as 0.

  Raises:
    ValueError: a covariance is not positive semidefinite.
  """
  mean, other_mean = np.asarray(mean, np.float64), np.asarray(other_mean, np.float64)
  first, second = np.asarray(covariance, np.float64), np.asarray(other_covariance, np.float64)
  values, vectors = np.linalg.eigh((first + first.T) / 2)
  root = vectors * np.sqrt(_clipped(values)) @ vectors.T
  product = root @ ((second + second.T) / 2) @ root
  trace = np.sqrt(_clipped(np.linalg.eigvalsh((product + product.T) / 2))).sum()
  gap = np.sum((mean - other_mean) ** 2)
  return float(max(0.0, gap + np.trace(first) + np.trace(second) - 2 * trace))


def frechet_distance(
  features: np.ndarray, reference: np.ndarray, *, shrinkage: str | None = None
) -> float:
  """Frechet distance between Gaussians fitted to two sets, covariances with divisor N - 1.

  Args:
    features: [N, D].
    reference: [M, D].
    shrinkage: None, or 'ledoit_wolf' for shrunk covariances, which must be declared beside the
      figure: it is another quantity.

  Raises:
    TooFewError: a set has no more points than dimensions, and no shrinkage is declared.
    ValueError: the sets do not fit together, or shrinkage is unknown.
  """
  features, reference = _checked(features), _checked(reference, features)
  if shrinkage not in (None, 'ledoit_wolf'):
    raise ValueError(f"shrinkage={shrinkage!r} is not None or 'ledoit_wolf'.")
  if shrinkage:
    covariances = [ledoit_wolf(x)[0] for x in (features, reference)]
  else:
    _check_number(min(len(features), len(reference)), features.shape[1])
    covariances = [np.atleast_2d(np.cov(x, rowvar=False)) for x in (features, reference)]
  return frechet_of_gaussians(
    features.mean(0), covariances[0], reference.mean(0), covariances[1]
  )


def frechet_infinity(
  features: np.ndarray, reference: np.ndarray, *, num_sizes: int = 8, num_draws: int = 4,
  seed: int = 0,
) -> Extrapolation:
  """Frechet distance for infinitely many features (the idea of arXiv 1911.07023).

  The distance of random subsets of n points is biased by about b / n. Subsets of `num_sizes` sizes,
  evenly spaced in 1 / n from just above what a covariance needs (or a third of N) up to N, give the
  line whose intercept is the value.

  Raises:
    TooFewError: there are fewer than 1.5 times as many points as dimensions.
  """
  features, reference = _checked(features), _checked(reference, features)
  number, dim = features.shape
  least = max(dim + 2, number // 3)
  if least * 1.5 > number:
    raise TooFewError(
      f'{number} points of {dim} dimensions cannot be thinned out; {int(1.5 * (dim + 2)) + 1} can.'
    )
  rng = np.random.default_rng(seed)
  sizes = np.unique(np.round(1 / np.linspace(1 / least, 1 / number, num_sizes)).astype(int))
  x, y = [], []
  for size in sizes:
    for _ in range(num_draws if size < number else 1):
      chosen = features[rng.permutation(number)[:size]]
      x.append(1 / size)
      y.append(frechet_distance(chosen, reference))
  return extrapolate(np.array(x), np.array(y))


def extrapolate(inverse_sizes: np.ndarray, values: np.ndarray) -> Extrapolation:
  """The least-squares line through values against 1 / N, at 1 / N = 0."""
  fit = scipy.stats.linregress(inverse_sizes, values)
  return Extrapolation(float(fit.intercept), float(fit.slope), float(fit.rvalue**2))


def median_bandwidth(reference: np.ndarray) -> float:
  """Median Euclidean distance between different points of the reference; 1 if that is 0."""
  distances = scipy.spatial.distance.pdist(_checked(reference))
  return float(np.median(distances)) or 1.0


def gaussian_kernel(x: np.ndarray, y: np.ndarray, bandwidth: float) -> np.ndarray:
  """exp(-|x - y|^2 / (2 bandwidth^2)), [N, M]."""
  squares = scipy.spatial.distance.cdist(_checked(x), _checked(y), 'sqeuclidean')
  return np.exp(-squares / (2 * bandwidth**2))


def mmd2_of_kernels(xx: np.ndarray, yy: np.ndarray, xy: np.ndarray) -> float:
  """Unbiased squared maximum mean discrepancy (Gretton et al., 2012) of kernel matrices.

  Negative values happen where the sets are alike; they are no error.
  """
  n, m = len(xx), len(yy)
  if min(n, m) < 2:
    raise TooFewError(f'{n} and {m} points; 2 of each are needed.')
  within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
  return float(within - 2 * xy.mean())


def kernel_distance(
  features: np.ndarray, reference: np.ndarray, *, bandwidth: float | None = None
) -> float:
  """KAD (arXiv 2502.15602): unbiased MMD^2, Gaussian kernel, times 100.

  Args:
    features: [N, D].
    reference: [M, D].
    bandwidth: of the kernel; None for the reference's median distance.

  Raises:
    TooFewError: a set has fewer than 2 points.
  """
  features, reference = _checked(features), _checked(reference, features)
  width = bandwidth or median_bandwidth(reference)
  return KERNEL_SCALE * mmd2_of_kernels(
    gaussian_kernel(features, features, width),
    gaussian_kernel(reference, reference, width),
    gaussian_kernel(features, reference, width),
  )


def density_coverage(
  features: np.ndarray, reference: np.ndarray, k: int = NEIGHBOURS
) -> tuple[float, float]:
  """Density and coverage (Naeem et al., arXiv 2002.09797).

  A reference point's ball reaches to its k-th nearest other reference point. Density is the mean
  number of balls that a feature lies in, over k (about 1 for equal distributions, not bounded);
  coverage the share of balls that hold a feature: it falls when the features keep to a few modes.

  Raises:
    TooFewError: the reference has no more than k points.
  """
  features, reference = _checked(features), _checked(reference, features)
  if len(reference) <= k:
    raise TooFewError(f'{len(reference)} reference points; {k + 1} are needed for k={k}.')
  own = scipy.spatial.distance.cdist(reference, reference)
  radii = np.partition(own, k, axis=1)[:, k]  # The nearest of all is the point itself.
  inside = scipy.spatial.distance.cdist(reference, features) < radii[:, None]
  return float(inside.sum() / (k * len(features))), float(inside.any(1).mean())


def jackknife(
  statistic: Callable[[np.ndarray], float], groups: Sequence[str], level: float = 0.95
) -> tuple[float, float, float]:
  """A statistic of points and its interval, leaving out one group at a time.

  A bootstrap draws points twice, and to a distance of distributions repeated points look like a
  mode that the model fell into; leaving groups out repeats nothing.

  Args:
    statistic: takes a bool mask over the points, True for those that count.
    groups: the group (track) of each point.
    level: of the interval, by Student's t with one degree of freedom less than groups.

  Returns:
    (value, low, high); NaN bounds with fewer than 3 groups or where a part is too small.
  """
  groups = np.asarray(groups)
  names = np.unique(groups)
  value = statistic(np.ones(len(groups), bool))
  if len(names) < 3:
    return value, float('nan'), float('nan')
  try:
    parts = np.array([statistic(groups != name) for name in names])
  except TooFewError:
    return value, float('nan'), float('nan')
  number = len(names)
  error = np.sqrt((number - 1) / number * np.sum((parts - parts.mean()) ** 2))
  reach = scipy.stats.t.ppf((1 + level) / 2, number - 1) * error
  return value, float(value - reach), float(value + reach)


def _checked(features: np.ndarray, like: np.ndarray | None = None) -> np.ndarray:
  x = np.asarray(features, np.float64)
  other = x.shape if like is None else np.shape(like)
  if x.ndim != 2 or other[1:] != x.shape[1:]:
    shapes = x.shape if like is None else (other, x.shape)
    raise ValueError(f'Embeddings of shape {shapes}; [N, D] of one D are compared.')
  if not len(x):
    raise TooFewError('A set of embeddings is empty.')
  if not np.isfinite(x).all():
    raise ValueError(f'{np.sum(~np.isfinite(x))} numbers of {x.size} in an embedding are not '
                     'finite.')  # fmt: skip
  return x


def _check_number(number: int, dim: int):
  if number <= dim:
    raise TooFewError(
      f'N={number} is not above the {dim} dimensions, so the covariance is singular; give more '
      "samples or declare shrinkage='ledoit_wolf'."
    )


def _clipped(values: np.ndarray) -> np.ndarray:
  largest = max(float(values.max(initial=0.0)), 1e-300)
  if values.min(initial=0.0) < -_NEGATIVE * largest:
    raise ValueError(
      f'A covariance has the eigenvalue {values.min():.3g} (largest {largest:.3g}).'
    )
  return np.maximum(values, 0)
