"""Training can begin at the unigram: the first predictions are how often each code occurs."""

import jax
import numpy as np
import pytest

from models.depthformer import DepthformerConfig, DepthformerModel
from models.depthformer.codebook_start import start_from_codebooks
from models.depthformer.unigram_start import start_from_unigram
from models.spec import LiveMusicSpec

SPEC = LiveMusicSpec(
  codebook_size=16, context_frames=6, context_levels=2, chunk_frames=4, target_levels=4,
  style_levels=2, style_offset=82, vocab_size=128,
)  # fmt: skip
CONFIG = DepthformerConfig(embed_dim=64, num_heads=2, head_dim=8, mlp_dim=32, loss_over='level')
MODEL = DepthformerModel(CONFIG, SPEC)


@pytest.fixture(scope='module')
def counts():
  """Frequencies far from even, of another kind on each level."""
  rng = np.random.default_rng(0)
  falling = np.round(1000 * 0.7 ** np.arange(16)).astype(int)
  return rng.permuted(np.tile(falling, (4, 1)), axis=1)


@pytest.fixture(scope='module')
def examples(counts):
  rng = np.random.default_rng(1)
  codes = np.stack([rng.choice(16, [8, 4], p=row / row.sum()) for row in counts], axis=-1)
  targets = (codes + SPEC.codec_offset + 16 * np.arange(4)).reshape(8, -1).astype(np.int32)
  inputs = np.full([8, SPEC.inputs_length], SPEC.mask_id, np.int32)
  inputs[:, :12] = targets.reshape(8, 4, 4)[:, [0, 1, 2, 3, 0, 1], :2].reshape(8, -1)
  return inputs, targets


@pytest.fixture(scope='module')
def before():
  rng = np.random.default_rng(2)
  books = rng.standard_normal((4, 16, 3)).astype(np.float32)
  params = MODEL.init(jax.random.key(0))
  return start_from_codebooks(params, books, rng.standard_normal((2, 16, 9)), SPEC, 0)


def test_first_predictions_are_the_unigram(before, counts, examples):
  params = start_from_unigram(before, counts, *examples, CONFIG, SPEC)
  score = jax.jit(MODEL.token_log_probs)
  got = np.asarray(score(params, *examples)).reshape(8, 4, 4).mean(axis=(0, 1))
  codes = (examples[1].reshape(8, 4, 4) - SPEC.codec_offset) - 16 * np.arange(4)
  table = np.log((counts + 1) / (counts + 1).sum(axis=1, keepdims=True))
  wanted = np.stack([table[level][codes[..., level]].mean() for level in range(4)])
  np.testing.assert_allclose(got, wanted, atol=0.1)
  plain = np.asarray(score(before, *examples)).reshape(8, 4, 4).mean(axis=(0, 1))
  assert (plain < wanted - 0.4).all(), 'else there is nothing to start from'


def test_only_one_coordinate_is_taken(before, counts, examples):
  params = start_from_unigram(before, counts, *examples, CONFIG, SPEC)
  np.testing.assert_array_equal(params['embedding'][:, 1:], before['embedding'][:, 1:])
  np.testing.assert_array_equal(params['logits'][1:], before['logits'][1:])
  assert np.ptp(params['embedding'][:, 0]) == 0
  others = np.r_[0 : SPEC.codec_offset, SPEC.codec_offset + 64 : SPEC.vocab_size]
  np.testing.assert_array_equal(np.asarray(params['logits'])[0, others], 0)
  assert params['encoder'] is before['encoder']


def test_counts_of_other_levels_are_refused(before, counts, examples):
  with pytest.raises(ValueError, match=r'Counts of shape \(3, 16\); 4 levels of 16 codes'):
    start_from_unigram(before, counts[:3], *examples, CONFIG, SPEC)
