"""Codes that lie near each other in a codebook start near each other in the language model."""

import jax
import numpy as np
import pytest
import scipy.stats

from models.depthformer import DepthformerConfig, DepthformerModel
from models.depthformer.codebook_start import LOGIT_SCALE, start_from_codebooks
from models.spec import LiveMusicSpec

SPEC = LiveMusicSpec(
  codebook_size=16, context_frames=6, context_levels=2, chunk_frames=4, target_levels=4,
  style_levels=2, style_offset=82, vocab_size=128,
)  # fmt: skip
WIDTH = 256
CONFIG = DepthformerConfig(embed_dim=WIDTH, num_heads=2, head_dim=4, mlp_dim=8)


@pytest.fixture(scope='module')
def codebooks():
  rng = np.random.default_rng(0)
  # Residuals shrink from level to level and do not lie around 0.
  shrink = 10.0 ** -np.arange(6)[:, None, None]
  return {
    'codec': (shrink * (rng.standard_normal((6, 16, 3)) + 5)).astype(np.float32),
    'style': rng.standard_normal((12, 16, 40)).astype(np.float32),
  }


@pytest.fixture(scope='module')
def before():
  return DepthformerModel(CONFIG, SPEC).init(jax.random.key(0))


@pytest.fixture(scope='module')
def after(before, codebooks):
  return start_from_codebooks(before, codebooks['codec'], codebooks['style'], SPEC, seed=0)


def _distances(points):
  return np.linalg.norm(points[:, None] - points[None], axis=-1)[np.triu_indices(len(points), 1)]


@pytest.mark.parametrize('kind, levels, offset', [('codec', 4, 2), ('style', 2, 82)])
def test_distances_of_codes_survive(after, codebooks, kind, levels, offset):
  embedding = np.asarray(after['embedding'])
  for level in range(levels):
    rows = embedding[offset + 16 * level :][:16]
    wanted = _distances(codebooks[kind][level])
    assert scipy.stats.spearmanr(_distances(rows), wanted).statistic > 0.9
    assert np.var(rows) == pytest.approx(1.09, abs=0.12)  # Unit variance and the level's offset.


def test_an_output_column_is_the_embedding_of_its_id(after):
  ids = slice(2, 2 + 4 * 16)
  embedding, logits = np.asarray(after['embedding']), np.asarray(after['logits'])
  np.testing.assert_allclose(logits[:, ids].T * 16, LOGIT_SCALE * embedding[ids], rtol=1e-5)
  # What the decoder holds has unit variance, so these are the first logits.
  hidden = np.random.default_rng(1).standard_normal((1000, WIDTH))
  assert np.std(hidden @ logits[:, ids]) == pytest.approx(LOGIT_SCALE, rel=0.1)


def test_everything_else_stays(before, after):
  used = np.zeros(SPEC.vocab_size, bool)
  used[2:66] = used[82:114] = True
  before_rows, after_rows = np.asarray(before['embedding']), np.asarray(after['embedding'])
  np.testing.assert_array_equal(before_rows[~used], after_rows[~used])
  assert (before_rows[used] != after_rows[used]).any(axis=1).all()
  np.testing.assert_array_equal(before['logits'][:, 66:], after['logits'][:, 66:])
  assert before['encoder'] is after['encoder'] and before['depth'] is after['depth']


def test_codebooks_that_do_not_fit_are_refused(before, codebooks):
  with pytest.raises(ValueError, match='codec codebooks have 3 levels of 16 codes.*needs 4 levels'):
    start_from_codebooks(before, codebooks['codec'][:3], codebooks['style'], SPEC, 0)
  with pytest.raises(ValueError, match='style codebooks have 12 levels of 15 codes'):
    start_from_codebooks(before, codebooks['codec'], codebooks['style'][:, :15], SPEC, 0)


def test_codes_that_are_parked_do_not_press_the_others_together(before, codebooks):
  style = codebooks['style'].copy()
  style[0, 5:] = 0
  style[0, 5:, 0] = 1e4  # All in one far place.
  params = start_from_codebooks(before, codebooks['codec'], style, SPEC, seed=0)
  rows = np.asarray(params['embedding'])[82:][:16]
  assert np.var(rows[:5] - rows[:5].mean(0)) == pytest.approx(1, abs=0.25)
  np.testing.assert_allclose(rows[5:], np.broadcast_to(rows[5], rows[5:].shape))
  # At the centre of those in use.
  np.testing.assert_allclose(rows[5], rows[:5].mean(0), atol=1e-4)
