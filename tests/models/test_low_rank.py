"""Codebooks in subspaces: products of small matrices, exact where the codes fit the rank."""

import numpy as np
import pytest

from models import rvq
from models.low_rank import LowRankCodebooks, span


def _vectors(n=400, dim=12, seed=0):
  random = np.random.default_rng(seed)
  return (random.standard_normal([n, dim]) * np.linspace(3, 0.1, dim)).astype(np.float32)


def test_codebooks_of_that_rank_come_back_to_float16():
  ranks = (12, 4, 2)
  books = rvq.fit_residual_kmeans(_vectors(), 3, 16, seed=0, ranks=ranks)
  stored = LowRankCodebooks.of(books, ranks)
  assert stored.codes.shape == (16, 18)
  assert stored.directions.shape == (18, 12)
  np.testing.assert_allclose(stored.full, books, atol=3e-3 * np.abs(books).max())


def test_the_tree_holds_float16_values_and_gives_the_same_bits():
  stored = LowRankCodebooks.of(rvq.fit_residual_kmeans(_vectors(), 2, 16, seed=0), (5, 3))
  tree = stored.tree()
  for name in ('codes', 'directions'):
    np.testing.assert_array_equal(tree[name], tree[name].astype(np.float16))
  np.testing.assert_array_equal(LowRankCodebooks.from_tree(tree).full, stored.full)


def test_each_level_lies_in_the_principal_subspace_of_what_is_left():
  x = _vectors()
  books = rvq.fit_residual_kmeans(x, 2, 16, seed=0, ranks=(3, 2))
  assert [np.linalg.matrix_rank(book, tol=1e-3) for book in books] == [3, 2]
  first = span(x, 3)
  np.testing.assert_allclose(books[0] @ first.T @ first, books[0], atol=1e-4)
  codes = rvq.quantize(x, books[:1])
  left = x - np.asarray(rvq.dequantize(codes, books[:1]))
  principal = span(left, 2)
  np.testing.assert_allclose(books[1] @ principal.T @ principal, books[1], atol=1e-3)


def test_subspaces_generalize_where_vectors_are_few():
  train, test = _vectors(300, 48, seed=1), _vectors(300, 48, seed=2)

  def left_over(ranks):
    books = rvq.fit_residual_kmeans(train, 24, 64, seed=0, ranks=ranks)
    return np.square(test - np.asarray(rvq.dequantize(rvq.quantize(test, books), books))).sum()

  assert left_over((6,) * 24) < 0.5 * left_over(None)


def test_moved_codes_stay_in_their_subspace():
  x = _vectors()
  books = rvq.fit_residual_kmeans(x, 1, 16, seed=0, ranks=(3,))
  books[0, :4] = span(books[0], 3)[0] * 1e3  # Out of reach.
  moved = rvq.move_unused_codes(books, x, seed=0, ranks=(3,))
  assert np.linalg.matrix_rank(moved[0], tol=1e-2) == 3
  assert len(np.unique(np.asarray(rvq.quantize(x, moved)))) == 16


@pytest.mark.parametrize('ranks', [(3,), (3, 13), (0, 2)])
def test_ranks_that_do_not_fit_are_refused(ranks):
  with pytest.raises(ValueError, match='one for each level'):
    LowRankCodebooks.of(np.ones([2, 16, 12], np.float32), ranks)


def test_one_rank_for_each_level_is_needed():
  with pytest.raises(ValueError, match='1 ranks do not fit 2 levels'):
    rvq.fit_residual_kmeans(_vectors(), 2, 16, seed=0, ranks=(3,))
