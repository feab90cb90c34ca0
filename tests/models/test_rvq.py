"""Residual vector quantization against NumPy in float64 and hand-worked cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import rvq


def _reference_codes(x, codebooks):
  """Greedy search by explicit distances in float64."""
  residual, codes = np.asarray(x, np.float64), []
  for codebook in np.asarray(codebooks, np.float64):
    distances = np.square(residual[:, None] - codebook[None]).sum(-1)
    codes.append(distances.argmin(-1))
    residual = residual - codebook[codes[-1]]
  return np.stack(codes, -1)


@pytest.fixture(name='case')
def _case():
  rng = np.random.default_rng(0)
  scales = 0.8 ** np.arange(5)[:, None, None]
  codebooks = (scales * rng.standard_normal([5, 32, 6])).astype(np.float32)
  return rng.standard_normal([3, 40, 6]).astype(np.float32), codebooks


def test_codes_equal_a_float64_search(case):
  x, codebooks = case
  codes = np.asarray(rvq.quantize(x, codebooks))
  assert codes.dtype == np.int32
  expected = _reference_codes(x.reshape([-1, 6]), codebooks)
  np.testing.assert_array_equal(codes.reshape([-1, 5]), expected)


def test_fewer_levels_are_a_prefix(case):
  x, codebooks = case
  np.testing.assert_array_equal(
    rvq.quantize(x, codebooks, 2), np.asarray(rvq.quantize(x, codebooks))[..., :2]
  )


@pytest.mark.parametrize('levels', [1, 3, 5])
def test_dequantize_sums_the_chosen_codes(case, levels):
  x, codebooks = case
  codes = np.asarray(rvq.quantize(x, codebooks))[..., :levels]
  expected = sum(codebooks[k][codes[..., k]].astype(np.float64) for k in range(levels))
  np.testing.assert_allclose(rvq.dequantize(codes, codebooks), expected, atol=1e-5)


def test_ties_go_to_the_lowest_index():
  codebooks = np.array([[[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]], np.float32)
  assert np.asarray(rvq.quantize(np.zeros([1, 2], np.float32), codebooks)).item() == 0
  assert np.asarray(rvq.quantize(np.array([[2.0, 0.0]], np.float32), codebooks)).item() == 0


def test_a_level_count_out_of_range_is_an_error(case):
  x, codebooks = case
  with pytest.raises(ValueError, match=r'6 levels are not in 1\.\.5'):
    rvq.quantize(x, codebooks, 6)
  with pytest.raises(ValueError, match='4 features do not fit codebooks of 6'):
    rvq.quantize(x[..., :4], codebooks)


def test_assign_counts_what_quantize_chooses(case):
  x, codebooks = case
  flat = x.reshape([-1, 6])
  depths = np.arange(len(flat)) % 6
  found = rvq.assign(flat, codebooks, depths)
  codes = np.asarray(rvq.quantize(flat, codebooks))
  np.testing.assert_array_equal(found.codes, codes)
  residual = flat.astype(np.float64)
  partial = [np.zeros_like(residual)]
  for k in range(5):
    np.testing.assert_array_equal(found.counts[k], np.bincount(codes[:, k], minlength=32))
    sums = np.zeros([32, 6])
    np.add.at(sums, codes[:, k], residual)
    np.testing.assert_allclose(found.sums[k], sums, atol=1e-4)
    residual = residual - codebooks[k][codes[:, k]]
    partial.append(partial[-1] + codebooks[k][codes[:, k]])
  expected = np.stack(partial)[depths, np.arange(len(flat))]
  np.testing.assert_allclose(found.quantized, expected, atol=1e-5)


def test_moving_average_worked_by_hand():
  state = rvq.codebook_state(np.array([[[0.0], [10.0]]]), vectors_per_update=4)  # 2 per code.
  state = rvq.ema_update(state, jnp.array([[6.0, 0.0]]), jnp.array([[[12.0], [0.0]]]), decay=0.5)
  # counts (2 + 6) / 2 = 4 and (2 + 0) / 2 = 1; sums (0 + 12) / 2 = 6 and (20 + 0) / 2 = 10.
  np.testing.assert_allclose(state.counts, [[4.0, 1.0]])
  np.testing.assert_allclose(state.codebooks, [[[1.5], [10.0]]])


def test_dead_codes_move_onto_residuals():
  state = rvq.CodebookState(
    jnp.array([[[1.0], [2.0], [3.0]]]),
    jnp.array([[4.0, 0.01, 2.0]]),
    jnp.array([[[4.0], [0.02], [6.0]]]),
  )
  residuals = jnp.array([[[7.0], [7.0]]])
  state, revived = rvq.revive_dead_codes(state, residuals, jax.random.key(0), threshold=0.1)
  np.testing.assert_allclose(state.codebooks, [[[1.0], [7.0], [3.0]]])
  assert revived.tolist() == [1]
  mean = (4 + 0.01 + 2) / 3
  np.testing.assert_allclose(state.counts, [[4.0, mean, 2.0]], rtol=1e-6)
  np.testing.assert_allclose(state.sums[0, 1], 7 * mean, rtol=1e-6)


def test_kmeans_finds_clusters_and_reduces_error_level_by_level():
  rng = np.random.default_rng(1)
  centres = rng.standard_normal([8, 4]) * 10
  x = (centres[rng.integers(8, size=600)] + 0.1 * rng.standard_normal([600, 4])).astype(np.float32)
  codebooks = rvq.fit_residual_kmeans(x, 3, 16, seed=0)
  errors = [
    np.square(x - np.asarray(rvq.dequantize(rvq.quantize(x, codebooks, k), codebooks))).mean()
    for k in (1, 2, 3)
  ]
  assert errors[0] < 0.02 * x.var()
  assert errors[0] > errors[1] > errors[2]
  # Lloyd's fixed point: level 0 codes are the means of what chooses them.
  codes = np.asarray(rvq.quantize(x, codebooks, 1))[:, 0]
  used = np.unique(codes)
  means = np.stack([x[codes == code].mean(0) for code in used])
  assert np.abs(codebooks[0][used] - means).max() < 0.2


def test_kmeans_with_fewer_vectors_than_codes_is_finite_and_exact():
  x = np.random.default_rng(2).standard_normal([5, 3]).astype(np.float32)
  codebooks = rvq.fit_residual_kmeans(x, 2, 8, seed=0)
  assert codebooks.shape == (2, 8, 3) and np.isfinite(codebooks).all()
  decoded = rvq.dequantize(rvq.quantize(x, codebooks), codebooks)
  np.testing.assert_allclose(decoded, x, atol=0.1)


def test_kmeans_weighs_the_errors_of_vectors():
  """Two codes for vectors at three places: which two of them share one?"""
  x = np.repeat(np.float32([[0.0, 0.0], [1.0, 0.0], [2.5, 0.0]]), 20, axis=0)
  weights = np.repeat([100.0, 100.0, 1.0], 20)

  def codes(weights):
    found = [
      rvq.fit_residual_kmeans(x, 1, 2, seed=seed, iterations=20, weights=weights)[0]
      for seed in range(8)
    ]
    cost = [
      (weights * np.square(x[:, None] - book).sum(-1).min(1)).sum() if weights is not None
      else np.square(x[:, None] - book).sum(-1).min(1).sum()
      for book in found
    ]  # fmt: skip
    return sorted(found[int(np.argmin(cost))][:, 0].tolist())

  assert codes(weights) == pytest.approx([0.0, (100 * 1.0 + 2.5) / 101])
  assert codes(None) == pytest.approx([0.5, 2.5])


def test_kmeans_refuses_what_it_cannot_fit():
  with pytest.raises(ValueError, match='N >= 1'):
    rvq.fit_residual_kmeans(np.zeros([0, 3]), 1, 4, seed=0)
  with pytest.raises(ValueError, match='not finite'):
    rvq.fit_residual_kmeans(np.full([2, 3], np.nan), 1, 4, seed=0)


def test_unused_codes_move_onto_residuals():
  x = np.array([[1.0], [1.1], [5.0], [5.2]], np.float32)
  codebooks = np.array([[[1.0], [5.0], [99.0]], [[0.0], [0.1], [77.0]]], np.float32)
  moved = rvq.move_unused_codes(codebooks, x, seed=0)
  np.testing.assert_array_equal(moved[0, :2], codebooks[0, :2])
  assert moved[0, 2, 0] in x
  assert moved[1, 2, 0] != 77.0
  codes = np.asarray(rvq.quantize(x, moved))
  assert 2 in codes[:, 0]


def test_folds_generalize_where_vectors_are_few():
  """Fitted to 400 vectors, codebooks by folds leave less of fresh vectors than those without."""
  rng = np.random.default_rng(5)
  x, fresh = (rng.standard_normal([400, 8]).astype(np.float32) for _ in range(2))
  left = {}
  for folds in (1, 2):
    codebooks = rvq.fit_residual_kmeans(x, 12, 64, seed=0, folds=folds)
    decoded = rvq.dequantize(rvq.quantize(fresh, codebooks), codebooks)
    left[folds] = np.square(fresh - np.asarray(decoded)).mean()
  assert left[2] < left[1]
