"""Token losses and their unigram anchor on hand-made corpora."""

import numpy as np
import pytest

from evaluation import token_losses
from models.spec import LiveMusicSpec

SPEC = LiveMusicSpec(
  codebook_size=4, codec_levels=3, target_levels=2, context_levels=1, chunk_frames=2
)


def test_unigram_by_hand():
  # Level 0 sees 0, 0, 1 and level 1 sees 3, 3, 3; add one to each of 4 codes: totals 7.
  counts = token_losses.count_codes(np.array([[0, 3], [0, 3]]), 4)
  counts = token_losses.count_codes(np.array([[1, 3]]), 4, counts)
  np.testing.assert_array_equal(counts, [[2, 1, 0, 0], [0, 0, 0, 3]])
  table = token_losses.unigram_log_probs(counts)
  np.testing.assert_allclose(np.exp(table), [[3 / 7, 2 / 7, 1 / 7, 1 / 7], [1 / 7] * 3 + [4 / 7]])
  targets = np.array([[[0, 3], [2, 0]]])  # one example, two frames
  log_probs, correct = token_losses.score_unigram(table, targets)
  np.testing.assert_allclose(np.exp(log_probs), [[3 / 7, 4 / 7, 1 / 7, 1 / 7]])
  np.testing.assert_array_equal(correct, [[True, True, False, False]])
  row = token_losses.summarize('unigram', log_probs, ['a'], SPEC, correct=correct)
  np.testing.assert_allclose(row.loss, [-np.log(3 / 49) / 2, -np.log(4 / 49) / 2])
  np.testing.assert_allclose(row.accuracy, [0.5, 0.5])
  assert row.coarse[0] == pytest.approx(row.loss[0])
  assert row.overall[0] == pytest.approx(row.loss.mean())


def test_unseen_corpus_gives_the_uniform_loss():
  table = token_losses.unigram_log_probs(np.zeros([2, 1024]))
  np.testing.assert_allclose(table, -np.log(1024))


def test_unigram_of_its_own_corpus_is_the_entropy():
  """With many samples the anchor tends to the entropy of the source."""
  rng = np.random.default_rng(0)
  p = np.array([0.5, 0.25, 0.125, 0.125])
  counts = token_losses.count_codes(rng.choice(4, size=[200_000, 2], p=p), 4)
  held_out = rng.choice(4, size=[2000, 50, 2], p=p)
  log_probs, _ = token_losses.score_unigram(token_losses.unigram_log_probs(counts), held_out)
  losses = -token_losses.per_level(log_probs, 2).mean(0)
  np.testing.assert_allclose(losses, 1.75 * np.log(2), atol=0.01)


def test_codes_out_of_range_are_refused():
  with pytest.raises(ValueError, match=r'-1\.\.2 leave 0\.\.3'):
    token_losses.count_codes(np.array([[-1, 2]]), 4)


def test_per_level_takes_apart_time_major_level_minor():
  values = np.array([[1.0, 10.0, 3.0, 30.0]])
  np.testing.assert_allclose(token_losses.per_level(values, 2), [[2, 20]])


def test_summary_weighs_examples_and_resamples_tracks():
  log_probs = -np.array([[1.0, 2, 1, 2], [1, 2, 1, 2], [5, 6, 5, 6]])
  row = token_losses.summarize('model', log_probs, ['a', 'a', 'b'], SPEC)
  np.testing.assert_allclose(row.loss, [7 / 3, 10 / 3])
  assert row.num_tracks == 2
  assert row.num_examples == 3
  # The only possible resamples are aa, ab and bb.
  np.testing.assert_allclose([row.low[0], row.high[0]], [1, 5])
  assert row.to_json()['loss'] == pytest.approx([7 / 3, 10 / 3])
  assert row.accuracy is None
