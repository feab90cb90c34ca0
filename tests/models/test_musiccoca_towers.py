"""The towers: sizes, masks, the soft cap, and a layer against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from models.musiccoca import towers
from models.musiccoca.config import MusicCoCaConfig, TowerConfig

_TOWER = TowerConfig(
  num_layers=2, model_dim=16, num_heads=2, head_dim=8, mlp_dim=24, pooler_heads=2, pooler_head_dim=4
)
_CONFIG = MusicCoCaConfig(audio=_TOWER, text=_TOWER, vocab_size=50, max_text_length=12)
_KEY = jax.random.key(0)
_embed = jax.jit(towers.embed_text_ids, static_argnums=3)
_features = jax.jit(towers.audio_features, static_argnums=2)


def _perturbed(params: dict, scale: float = 0.3) -> dict:
  """Parameters away from zeros and ones, so that every one of them matters."""
  rng = np.random.default_rng(7)
  moved = lambda x: x + np.float32(scale) * rng.standard_normal(x.shape, np.float32)  # noqa: E731
  return jax.tree.map(moved, params)


@pytest.fixture(scope='module')
def text_params() -> dict:
  return _perturbed(jax.jit(lambda: towers.init_text_tower(_KEY, _CONFIG, 20))())


def test_real_sizes_have_the_released_parameter_counts():
  config = MusicCoCaConfig.real()
  text = jax.eval_shape(lambda: towers.init_text_tower(_KEY, config, 768))
  audio = jax.eval_shape(lambda: towers.init_audio_tower(_KEY, config, 160_000, 768))
  assert towers.num_parameters(text) == 104_531_712
  assert towers.num_parameters(audio) == 92_722_944


def _norm64(x: np.ndarray, params: dict) -> np.ndarray:
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  return x * params['scale'] + params['bias']


def _softmax64(x: np.ndarray) -> np.ndarray:
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def _layers64(x: np.ndarray, params: dict, tower: TowerConfig, cap: float) -> np.ndarray:
  """All layers of unpadded tokens [T, width], head by head."""
  for i in range(tower.num_layers):
    p = jax.tree.map(lambda leaf: leaf[i], params)  # noqa: B023
    h = _norm64(x, p['attention_norm'])
    q, k, v = (h @ p[n]['kernel'] + p[n]['bias'] for n in ('query', 'key', 'value'))
    heads = []
    for head in range(tower.num_heads):
      at = slice(head * tower.head_dim, (head + 1) * tower.head_dim)
      logits = (q[:, at] / np.sqrt(tower.head_dim)) @ k[:, at].T
      heads.append(_softmax64(cap * np.tanh(logits / cap)) @ v[:, at])
    x = x + np.concatenate(heads, -1) @ p['out']['kernel'] + p['out']['bias']
    h = _norm64(x, p['mlp_norm']) @ p['mlp_in']['kernel'] + p['mlp_in']['bias']
    h = h * 0.5 * (1 + special.erf(h / np.sqrt(2)))
    x = x + h @ p['mlp_out']['kernel'] + p['mlp_out']['bias']
  return x


def _pool64(x: np.ndarray, p: dict, tower: TowerConfig) -> np.ndarray:
  """One query over tokens [T, width] -> the embedding; logits neither scaled nor capped."""
  k, v = (x @ p[n]['kernel'] + p[n]['bias'] for n in ('key', 'value'))
  heads = []
  for head in range(tower.pooler_heads):
    at = slice(head * tower.pooler_head_dim, (head + 1) * tower.pooler_head_dim)
    heads.append(_softmax64(p['query'][0, at] @ k[:, at].T) @ v[:, at])
  return _norm64(np.concatenate(heads) @ p['out']['kernel'] + p['out']['bias'], p['norm'])


def _text_tower64(params: dict, ids: np.ndarray, tower: TowerConfig, cap: float) -> np.ndarray:
  """The text tower of one unpadded text."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  x = params['tokens'][ids] + params['positions'][: len(ids)]
  x = _norm64(_layers64(x, params['layers'], tower, cap), params['norm'])
  return _pool64(x, params['pooler'], tower)


def _audio_tower64(params: dict, log_mel: np.ndarray, tower: TowerConfig, cap: float) -> np.ndarray:
  """The audio tower of one picture [frames, bands], patch by patch."""
  params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  frames, bands = log_mel.shape
  x = np.stack([
    log_mel[t : t + 16, f : f + 16].reshape(-1) @ params['patch']['kernel']
    for t in range(0, frames, 16)
    for f in range(0, bands, 16)
  ])
  x = _layers64(x + params['positions'], params['layers'], tower, cap)
  return _pool64(_norm64(x, params['norm']), params['pooler'], tower)


def test_text_tower_equals_a_float64_reference(text_params):
  ids = np.array([1, 7, 30, 49, 7], np.int32)
  got = _embed(text_params, ids[None], jnp.zeros([1, 5]), _CONFIG)
  expected = _text_tower64(text_params, ids, _TOWER, 50.0)
  np.testing.assert_allclose(np.asarray(got)[0], expected, atol=2e-4)


def test_audio_tower_equals_a_float64_reference():
  params = _perturbed(jax.jit(lambda: towers.init_audio_tower(_KEY, _CONFIG, 6_000, 20))(), 0.1)
  log_mels = np.random.default_rng(3).standard_normal([2, 32, 128]) * 2 - 3
  embed = jax.jit(towers.embed_log_mel, static_argnums=2)
  got = np.asarray(embed(params, jnp.asarray(log_mels, jnp.float32), _CONFIG))
  for row in range(2):
    expected = _audio_tower64(params, log_mels[row], _TOWER, 50.0)
    np.testing.assert_allclose(got[row], expected, atol=2e-4)


def test_padding_changes_nothing(text_params):
  ids = np.array([[1, 7, 30, 0, 0, 0], [1, 7, 30, 9, 9, 9]], np.int32)
  paddings = np.array([[0, 0, 0, 1, 1, 1]] * 2, np.float32)
  short = _embed(text_params, ids[:1, :3], paddings[:1, :3], _CONFIG)
  padded = np.asarray(_embed(text_params, ids, paddings, _CONFIG))
  np.testing.assert_allclose(padded[0], np.asarray(short)[0], atol=1e-5)
  np.testing.assert_allclose(padded[1], np.asarray(short)[0], atol=1e-5)
  unpadded = np.asarray(_embed(text_params, ids, 0 * paddings, _CONFIG))
  assert np.abs(unpadded[0] - padded[0]).max() > 1e-2


def test_text_tower_is_bidirectional(text_params):
  """The features of the first position hear a later word."""

  def first_feature(ids: list[int]) -> np.ndarray:
    x = text_params['tokens'][jnp.asarray([ids])] + text_params['positions'][: len(ids)]
    return np.asarray(towers.apply_layers(x, text_params['layers'], _TOWER, _CONFIG))[0, 0]

  assert np.abs(first_feature([1, 7, 30]) - first_feature([1, 7, 31])).max() > 1e-3


def test_logits_are_capped_before_they_are_masked():
  queries = jnp.full([1, 1, 1, 1], 1000.0)
  keys = jnp.array([1.0, 0.5, 1.0]).reshape(1, 3, 1, 1)
  values = jnp.array([3.0, 5.0, 700.0]).reshape(1, 3, 1, 1)
  mask = jnp.array([1.0, 1.0, 0.0])[None, None, None]
  logits = 2.0 * np.tanh(np.array([1000.0, 500.0]) / 2.0)
  weights = np.exp(logits) / np.exp(logits).sum()
  got = float(towers.attend(queries, keys, values, mask, 2.0)[0, 0, 0])
  assert got == pytest.approx(weights @ [3.0, 5.0], rel=1e-6)
  assert float(towers.attend(queries, keys, values, mask, None)[0, 0, 0]) == pytest.approx(3.0)


def test_feed_forward_output_is_zero_at_padding(text_params):
  layer = jax.tree.map(lambda x: x[0], text_params['layers'])
  seen = jnp.array([1.0, 0.0])[None, :, None]
  out = np.asarray(towers.feed_forward(jnp.ones([1, 2, 16]), layer, seen))
  assert not out[0, 1].any()
  assert np.abs(out[0, 0]).min() > 0


def test_kept_patches_keep_their_places():
  """All patches in another order, with their places: the same embedding."""
  params = _perturbed(
    jax.jit(lambda: towers.init_audio_tower(_KEY, _CONFIG, 6_000, 20))(), 0.1
  )
  count = _CONFIG.num_patches(6_000)
  tokens = jax.random.normal(_KEY, (1, count, 256))
  order = jax.random.permutation(_KEY, count)[None]
  plain = _features(params, tokens, _CONFIG)
  shuffled = _features(params, tokens[:, order[0]], _CONFIG, order)
  np.testing.assert_allclose(np.asarray(plain)[:, order[0]], np.asarray(shuffled), atol=1e-4)


def test_config_survives_json_and_refuses_unknown_fields():
  assert MusicCoCaConfig.from_dict(_CONFIG.to_dict()) == _CONFIG
  with pytest.raises(ValueError, match='num_layer'):
    MusicCoCaConfig.from_dict({'num_layer': 3})
