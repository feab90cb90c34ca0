"""Style tokens: codebooks that are fitted, refined, and shared with texts."""

import jax.numpy as jnp
import numpy as np
import pytest

from models import rvq
from models.musiccoca import codebooks
from models.musiccoca.codebooks import CodebookRecipe, fit_codebooks


def _codes(fitted, x):
  return np.asarray(rvq.quantize(x.astype(np.float32), jnp.asarray(fitted.codebooks)))


def _left(fitted, x, levels=None):
  codes = _codes(fitted, x)[:, :levels]
  found = np.asarray(rvq.dequantize(codes, jnp.asarray(fitted.codebooks)))
  return np.square(x - found).sum() / np.square(x - x.mean(0)).sum()


def _clusters(count, noise, seed=0):
  rng = np.random.default_rng(seed)
  centres = 3 * rng.standard_normal([6, 20])
  return (centres[np.arange(count) % 6] + noise * rng.standard_normal([count, 20])).astype(
    np.float32
  )


def test_each_level_leaves_less():
  x = _clusters(400, 1.0)
  fitted = fit_codebooks(x, x[:0], 4, 32, CodebookRecipe(ema_passes=0))
  left = [_left(fitted, x, k) for k in (1, 2, 3, 4)]
  assert left[0] < 0.5 and all(b < 0.8 * a for a, b in zip(left, left[1:]))
  assert fitted.basis.shape == (20, 20), 'no more axes than dimensions'
  np.testing.assert_allclose(fitted.basis @ fitted.basis.T, np.eye(20), atol=2e-3)


def test_both_ways_to_principal_axes_agree():
  x = np.random.default_rng(0).standard_normal([8, 8]) * np.arange(1, 9)
  wide = codebooks._principal_axes(x, 3)
  tall = codebooks._principal_axes(np.concatenate([x, np.zeros([2, 8])]), 3)
  np.testing.assert_allclose(wide, tall, atol=1e-8)


def test_a_moving_average_refines_all_levels_together():
  """Two levels fitted one after the other are not the best two: what they leave falls."""
  x = np.random.default_rng(1).standard_normal([1500, 6]).astype(np.float32)
  plain, refined = (
    fit_codebooks(
      x, x[:0], 3, 16, CodebookRecipe(ema_passes=passes, ema_decay=0.9, ema_batch_size=250)
    )
    for passes in (0, 30)
  )
  assert _left(refined, x) < 0.98 * _left(plain, x)


def test_rows_out_of_use_are_never_chosen_and_those_in_use_are():
  x = _clusters(300, 0.8)
  recipe = CodebookRecipe(active_codes=(4, 8), ema_passes=3, ema_batch_size=64)
  fitted = fit_codebooks(x, x[:0], 3, 32, recipe)
  codes = _codes(fitted, x)
  assert sorted(set(codes[:, 0])) == [0, 1, 2, 3] and codes[:, 1].max() < 8
  far = _codes(fitted, 50 * x)
  assert far[:, 0].max() < 4 and far[:, 1].max() < 8
  assert np.isfinite(np.float16(fitted.codes)).all()


def test_shared_levels_code_what_texts_know():
  """Audio has loud detail that texts lack: plain level 1 codes it, a shared one does not."""
  rng = np.random.default_rng(2)
  facts = rng.integers(0, 4, 800), rng.integers(0, 4, 800)
  known = np.zeros([800, 24])
  known[np.arange(800), facts[0]] = 4
  known[np.arange(800), 4 + facts[1]] = 2
  audio = known + np.concatenate([np.zeros([800, 8]), 2.5 * rng.standard_normal([800, 16])], 1)
  text = known + 0.1 * rng.standard_normal([800, 24])
  agreement = []
  for shared in (0, 2):
    recipe = CodebookRecipe(
      active_codes=(4, 4), shared_levels=shared, shared_rank=6, ema_passes=2, ema_batch_size=200
    )
    fitted = fit_codebooks(audio[:600], text[:600], 3, 32, recipe)
    same = _codes(fitted, audio[600:]) == _codes(fitted, text[600:])
    agreement.append(same[:, :2].all(1).mean())
  assert agreement[1] > 0.95 and agreement[0] < 0.7


def test_recipes_that_do_not_fit_are_refused():
  x = _clusters(20, 0.5)
  with pytest.raises(ValueError, match=r'active_codes=\(64,\)'):
    fit_codebooks(x, x, 2, 32, CodebookRecipe(active_codes=(64,)))
  with pytest.raises(ValueError, match='shared_levels=3'):
    fit_codebooks(x, x, 2, 32, CodebookRecipe(shared_levels=3))
  with pytest.raises(ValueError, match='needs embeddings of texts'):
    fit_codebooks(x, x[:0], 2, 32, CodebookRecipe(shared_levels=1))
