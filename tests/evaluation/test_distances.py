"""Distances of distributions against SciPy, scikit-learn and cases worked by hand."""

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from evaluation import distances


def two_sets():
  """The sets for which scikit-learn 1.9.1 gave the numbers below."""
  rng = np.random.default_rng(7)
  return rng.normal(size=[12, 5]) * [1, 2, 0.5, 1, 3] + 1, rng.normal(size=[9, 5])


def test_ledoit_wolf_is_scikit_learns():
  covariance, weight = distances.ledoit_wolf(two_sets()[0])
  assert weight == pytest.approx(0.3559385205822017, rel=1e-10)
  assert np.trace(covariance) == pytest.approx(12.009114995836484, rel=1e-10)
  assert covariance[0, 4] == pytest.approx(-0.8423315039966058, rel=1e-10)
  assert covariance[4, 4] == pytest.approx(5.504640755133266, rel=1e-10)


def test_frechet_by_hand():
  # Commuting covariances: sum of (sqrt s - sqrt t)^2, plus the squared gap of means.
  value = distances.frechet_of_gaussians([0, 0], np.diag([4, 9]), [3, 4], np.diag([1, 25]))
  assert value == pytest.approx(25 + (2 - 1) ** 2 + (3 - 5) ** 2)
  assert distances.frechet_of_gaussians([1], np.zeros([1, 1]), [1], np.zeros([1, 1])) == 0


def test_frechet_is_that_of_scipys_matrix_root():
  rng = np.random.default_rng(0)
  x = rng.normal(size=[40, 6]) @ rng.normal(size=[6, 6])
  y = rng.normal(size=[50, 6]) @ rng.normal(size=[6, 6]) + 0.5
  s, t = np.cov(x.T), np.cov(y.T)
  root = scipy.linalg.sqrtm(s @ t).real
  expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(s + t - 2 * root)
  assert distances.frechet_distance(x, y) == pytest.approx(expected, rel=1e-8)
  assert distances.frechet_distance(x, x) == pytest.approx(0, abs=1e-8)
  assert distances.frechet_distance(x, y) == pytest.approx(distances.frechet_distance(y, x))


def test_frechet_refuses_too_few_points_unless_shrinkage_is_declared():
  x, y = two_sets()
  with pytest.raises(distances.TooFewError, match='N=5 is not above the 5 dimensions'):
    distances.frechet_distance(x[:5], y)
  shrunk = distances.frechet_distance(x[:5], y, shrinkage='ledoit_wolf')
  expected = distances.frechet_of_gaussians(
    x[:5].mean(0), distances.ledoit_wolf(x[:5])[0], y.mean(0), distances.ledoit_wolf(y)[0]
  )
  assert shrunk == pytest.approx(expected)
  with pytest.raises(ValueError, match="shrinkage='oas'"):
    distances.frechet_distance(x, y, shrinkage='oas')
  with pytest.raises(ValueError, match='not finite'):
    distances.frechet_distance(x * np.nan, y)


def test_negative_eigenvalues_are_cut_or_refused():
  tiny = np.diag([1.0, -1e-12])
  assert distances.frechet_of_gaussians([0, 0], tiny, [0, 0], tiny) == pytest.approx(0, abs=1e-9)
  with pytest.raises(ValueError, match='eigenvalue'):
    distances.frechet_of_gaussians([0, 0], np.diag([1.0, -0.1]), [0, 0], np.eye(2))


def test_extrapolation_is_scipys_line():
  x, y = np.array([0.1, 0.05, 0.02]), np.array([1.3, 1.14, 1.07])
  line = scipy.stats.linregress(x, y)
  found = distances.extrapolate(x, y)
  assert (found.value, found.slope) == pytest.approx((line.intercept, line.slope))
  assert found.r2 == pytest.approx(line.rvalue**2)
  exact = distances.extrapolate(x, 2 + 3 * x)
  assert (exact.value, exact.slope, exact.r2) == pytest.approx((2, 3, 1))


def test_infinity_removes_the_bias_of_few_samples():
  rng = np.random.default_rng(1)
  reference = rng.normal(size=[6000, 8])
  features = rng.normal(size=[160, 8])  # The same distribution: the true distance is 0.
  found = distances.frechet_infinity(features, reference, seed=0)
  plain = distances.frechet_distance(features, reference)
  assert plain > 0.08
  assert abs(found.value) < plain / 2
  assert found.r2 > 0.5 and found.slope > 0
  with pytest.raises(distances.TooFewError, match='16 can'):
    distances.frechet_infinity(features[:12], reference)


def test_kernel_distance_is_that_of_scikit_learns_kernels():
  x, y = two_sets()
  value = distances.kernel_distance(x, y, bandwidth=1.7)
  assert value == pytest.approx(14.11267499117519, rel=1e-10)


def test_kernel_distance_by_hand_and_its_sign():
  # |0 - 1| = |1 - 2| = 1: kernel k; |0 - 2| = 2: kernel k^4. Bandwidth 1.
  k = np.exp(-0.5)
  expected = 100 * (k + k - 2 * np.mean([k, k**4, 1, k]))
  assert distances.kernel_distance([[0], [1]], [[1], [2]], bandwidth=1) == pytest.approx(expected)
  rng = np.random.default_rng(0)
  draws = [
    distances.kernel_distance(rng.normal(size=[30, 3]), rng.normal(size=[30, 3]), bandwidth=2)
    for _ in range(40)
  ]
  assert abs(np.mean(draws)) < 2 * np.std(draws) / np.sqrt(40) + 0.02  # Unbiased: some below 0.
  assert min(draws) < 0


def test_median_bandwidth_by_hand():
  assert distances.median_bandwidth([[0.0], [3.0], [7.0]]) == 4
  assert distances.median_bandwidth([[1.0], [1.0]]) == 1


def test_density_and_coverage_by_hand():
  reference = np.array([[0.0], [1.0], [3.0], [10.0]])
  # k=1: radii 1, 1, 2, 7. Features 0.5 and 3.5: balls of 0 and 1; of 3 and 10 (|10 - 3.5| < 7).
  density, coverage = distances.density_coverage([[0.5], [3.5]], reference, k=1)
  assert density == (2 + 2) / (1 * 2)
  assert coverage == 1
  density, coverage = distances.density_coverage([[0.5], [0.5]], reference, k=1)
  assert (density, coverage) == (2, 0.5)
  with pytest.raises(distances.TooFewError, match='5 are needed'):
    distances.density_coverage([[0.5]], reference, k=4)


def test_density_is_that_of_scikit_learns_neighbours():
  x, y = two_sets()
  assert distances.density_coverage(x / 2, y, k=3) == pytest.approx((1.0555555555555556, 1.0))


def test_jackknife_of_a_mean_is_the_t_interval():
  values = np.array([1.0, 2.0, 4.0, 7.0])
  value, low, high = distances.jackknife(lambda kept: float(values[kept].mean()), list('abcd'))
  expected = scipy.stats.t.interval(0.95, 3, values.mean(), scipy.stats.sem(values))
  assert (value, low, high) == pytest.approx((3.5, *expected))
  value, low, high = distances.jackknife(lambda kept: 1.0, ['a', 'b'])
  assert value == 1 and np.isnan([low, high]).all()


def test_known_orders():
  """Clean < mild < strong shifts; a collapsed set loses coverage, not density."""
  rng = np.random.default_rng(3)
  reference = rng.normal(size=[150, 6])
  found = [rng.normal(size=[150, 6]) + shift for shift in (0, 0.5, 1.5)]
  for distance in (distances.frechet_distance, distances.kernel_distance):
    values = [distance(x, reference) for x in found]
    assert values[0] < values[1] < values[2]
  modes = reference[np.argsort(np.linalg.norm(reference, axis=1))[:2]]
  collapsed = modes.repeat(75, 0) + 0.05 * rng.normal(size=[150, 6])
  whole, part = (distances.density_coverage(x, reference) for x in (found[0], collapsed))
  assert part[1] < 0.3 * whole[1]
  assert part[0] > 0.5 * whole[0]
