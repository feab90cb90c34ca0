"""Each metric moves the right way on sets of known order (the table of docs/metrics.md)."""

import numpy as np
import pytest

from benchmarks import truth


def failures(outcomes):
  return [outcome for outcome in outcomes if not outcome.holds]


@pytest.mark.parametrize('case', [truth.copies, truth.obedience, truth.losses])
def test_what_needs_no_music(case):
  assert failures(case()) == []


@pytest.fixture(scope='module')
def music():
  return truth.works(3, 8.0)


@pytest.mark.parametrize('case', [truth.loops, truth.seams, truth.damage])
def test_damage_of_single_clips(case, music):
  assert failures(case(music)) == []


def test_what_holds_is_what_rises():
  assert truth.rising([1, 2, 3])
  assert not truth.rising([1, 1, 3]) and not truth.rising([1, np.nan])


@pytest.mark.slow
def test_the_whole_table():
  assert failures(truth.run(32)) == []
