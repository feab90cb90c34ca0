"""Paired differences against SciPy's permutation test and by hand."""

import numpy as np
import pytest
import scipy.stats

from evaluation import paired


@pytest.mark.parametrize('seed', range(3))
def test_sign_flips_are_scipys(seed):
  x = np.random.default_rng(seed).normal(0.4, 1, size=9)
  expected = scipy.stats.permutation_test(
    (x,), np.mean, permutation_type='samples', n_resamples=np.inf
  ).pvalue
  assert paired.sign_flip_p(x) == pytest.approx(expected)


def test_many_groups_are_drawn():
  x = np.random.default_rng(1).normal(0.5, 1, size=30)
  exact = scipy.stats.ttest_1samp(x, 0).pvalue
  assert paired.sign_flip_p(x) == pytest.approx(exact, abs=0.01)


def test_smallest_p():
  assert paired.sign_flip_p([1, 1, 1, 1]) == 2 / 16
  assert paired.sign_flip_p([1, -1]) == 1
  assert np.isnan(paired.sign_flip_p([1]))


def test_differences_are_taken_track_by_track():
  found = paired.paired_difference([1, 2, 3, 5], [2, 4, 3, np.nan], ['a', 'a', 'b', 'c'])
  assert found.difference == pytest.approx((1.5 + 0) / 2)
  assert found.num_groups == 2
  assert found.low == 0 and found.high == 1.5
  assert found.p == 1  # Of four patterns all reach |sum| = 1.5.
  with pytest.raises(ValueError, match='No pair'):
    paired.paired_difference([np.nan], [1], ['a'])
  with pytest.raises(ValueError, match='3 groups'):
    paired.paired_difference([1], [1], list('abc'))


def test_holm_by_hand():
  # Sorted .01 .02 .04: times 3, 2, 1 -> .03 .04 .04.
  assert paired.holm([0.04, np.nan, 0.01, 0.02])[2:] == pytest.approx([0.03, 0.04])
  assert paired.holm([0.04, np.nan, 0.01, 0.02])[0] == pytest.approx(0.04)
  assert np.isnan(paired.holm([0.04, np.nan])[1])
  assert paired.holm([0.9, 0.8]) == [1, 1]
