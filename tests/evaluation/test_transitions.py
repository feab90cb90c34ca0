"""Prompt transitions by hand."""

import numpy as np
import pytest

from evaluation import adherence

A, B = np.array([1.0, 0]), np.array([0, 1.0])


def test_mixed_prompts_by_hand():
  np.testing.assert_allclose(adherence.mixed_prompts(A, B, 3), [[1, 0], [0.5, 0.5], [0, 1]])
  with pytest.raises(ValueError, match='num_steps=1'):
    adherence.mixed_prompts(A, B, 1)


def test_an_output_that_obeys_goes_all_the_way():
  curve = adherence.transition_curve(adherence.mixed_prompts(A, B, 5), A, B)
  assert curve['to_asked'] == pytest.approx([1] * 5)
  assert curve['to_first'] == pytest.approx(curve['to_second'][::-1])
  assert curve['to_second'][0] == 0 and curve['to_second'][2] == pytest.approx(np.sqrt(0.5))
  assert adherence.transition_gain(curve) == pytest.approx(2)


def test_an_output_that_ignores_its_prompt_goes_nowhere():
  curve = adherence.transition_curve(np.stack([[0.6, 0.8]] * 4), A, B)
  assert curve['to_first'] == pytest.approx([0.6] * 4)
  assert adherence.transition_gain(curve) == pytest.approx(0)
