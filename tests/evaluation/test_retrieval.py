"""Retrieval figures against values worked out by hand."""

import numpy as np
import pytest

from evaluation import retrieval


def test_ranks_and_recall():
  similarities = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.4], [0.3, 0.3, 0.3]])
  # Rows: first; second (0.8 is above); ties count against: last.
  np.testing.assert_array_equal(retrieval.ranks(similarities), [0, 1, 2])
  assert retrieval.recall_at(similarities, 1) == pytest.approx(1 / 3)
  assert retrieval.recall_at(similarities, 2) == pytest.approx(2 / 3)


def test_cosines_ignore_norms():
  got = retrieval.cosines([[3.0, 0.0], [1.0, 1.0]], [[0.0, 9.0]])
  np.testing.assert_allclose(got, [[0.0], [np.sqrt(0.5)]])


def test_scores_of_a_perfect_and_of_a_blind_model():
  pairs = np.eye(12)
  perfect = retrieval.retrieval_scores(pairs, 5 * pairs)
  assert perfect['text_to_audio_recall_at_1'] == perfect['audio_to_text_recall_at_1'] == 1.0
  assert perfect['text_to_audio_median_rank'] == 1.0
  blind = retrieval.retrieval_scores(np.ones([12, 4]), np.ones([12, 4]))
  assert blind['text_to_audio_recall_at_10'] == 0.0


def test_token_agreement_by_level():
  first, second = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 2, 9], [4, 0, 9]])
  np.testing.assert_allclose(retrieval.token_agreement(first, second, 3), [1.0, 0.5, 0.0])
