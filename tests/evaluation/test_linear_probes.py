"""Linear probes against hand-computed values, and on features that do and do not know."""

import numpy as np
import pytest

from evaluation import linear_probes


def test_auroc_counts_pairs_and_halves_ties():
  scores = np.array([[0.1, 1.0], [0.4, 1.0], [0.4, 1.0], [0.9, 1.0]])
  labels = np.array([[0, 1], [1, 1], [0, 1], [1, 1]], bool)
  # Column 0: pairs (0.4 > 0.1), (0.4 = 0.4), (0.9 > 0.1), (0.9 > 0.4): 3.5 of 4. Column 1 has no
  # negative.
  found = linear_probes.auroc(scores, labels)
  assert found[0] == pytest.approx(3.5 / 4) and np.isnan(found[1])


def test_rows_of_a_work_share_a_fold():
  groups = np.repeat([f'w{i}' for i in range(20)], 3)
  folds = linear_probes.deal(groups, 5, seed=1)
  assert all(len(set(folds[groups == g])) == 1 for g in set(groups))
  assert np.bincount(folds).tolist() == [12] * 5
  with pytest.raises(ValueError, match='4 works cannot be dealt into 5'):
    linear_probes.deal(['a', 'b', 'c', 'd'], 5, 0)


def test_a_probe_finds_a_linear_fact_and_not_one_that_is_not_there():
  rng = np.random.default_rng(0)
  features = rng.standard_normal([200, 30])
  truth = features @ rng.standard_normal(30)
  noise = rng.standard_normal(200)
  groups = np.arange(200)
  scores = linear_probes.held_out_scores(features, np.stack([truth, noise], 1), groups)
  found = linear_probes.explained_variance(scores[:, 0], truth, groups, num_resamples=100)
  assert found.value > 0.95 and found.low > 0.9 and found.chance == 0
  assert linear_probes.explained_variance(scores[:, 1], noise, groups, 100).value < 0.1
  labels = np.stack([truth > 0, noise > 0], 1)
  both = linear_probes.auroc(linear_probes.held_out_scores(features, labels, groups), labels)
  assert both[0] > 0.9 and 0.3 < both[1] < 0.7


def test_a_probe_does_not_learn_works_by_heart():
  """Features that only name the work say nothing of works unseen."""
  groups = np.repeat(np.arange(30), 4)
  rng = np.random.default_rng(0)
  truth = rng.permutation(np.arange(30) % 2)[groups]
  scores = linear_probes.held_out_scores(np.eye(30)[groups], np.eye(2)[truth], groups)
  assert linear_probes.accuracy(scores.argmax(1), truth, groups, 50).value < 0.7


def test_ridge_is_least_squares_without_a_penalty():
  rng = np.random.default_rng(1)
  x, y, test = (rng.standard_normal(shape) for shape in ([40, 3], [40, 2], [5, 3]))
  got = linear_probes._ridge(x, y, test, [1e-9])[0]
  design = np.c_[np.ones(40), x]
  expected = np.c_[np.ones(5), test] @ np.linalg.lstsq(design, y, rcond=None)[0]
  np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_wide_and_tall_ridge_agree():
  """More features than rows: the same as in the form for few features."""
  rng = np.random.default_rng(2)
  x, y, test = (rng.standard_normal(shape) for shape in ([12, 30], [12, 2], [4, 30]))
  mean, deviation = x.mean(0), x.std(0)
  scaled, penalty = (x - mean) / deviation, 0.7
  weights = np.linalg.solve(scaled.T @ scaled + penalty * np.eye(30), scaled.T @ (y - y.mean(0)))
  expected = (test - mean) / deviation @ weights + y.mean(0)
  np.testing.assert_allclose(linear_probes._ridge(x, y, test, [penalty])[0], expected, rtol=1e-8)


def test_figures_carry_chance_and_an_interval_over_works():
  groups = np.repeat(np.arange(50), 2)
  hits = np.repeat(np.arange(50) % 5 == 0, 2)
  found = linear_probes.share(hits, 0.1, groups)
  assert found.value == pytest.approx(0.2) and found.low < 0.2 < found.high
  assert found.high - found.low == pytest.approx(2 * 1.96 * (0.2 * 0.8 / 50) ** 0.5, rel=0.2)
  named = linear_probes.accuracy(['a', 'b', 'b'], ['a', 'a', 'b'], [0, 1, 2])
  assert named.value == pytest.approx(2 / 3) and named.chance == pytest.approx(2 / 3)
  assert np.isnan(linear_probes.median([1, 2, 3], 5, ['w'] * 3).low)
