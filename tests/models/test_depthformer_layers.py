"""Positions, attention and dropout of the Depthformer against tables and plain formulas."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import weights
from models.depthformer import DepthformerConfig, DepthformerModel, layers, network, parameters
from models.depthformer.long_attention import long_attention
from models.spec import LiveMusicSpec

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'llm_tiny.npz'
SPEC = LiveMusicSpec(
  codebook_size=16, context_frames=6, context_levels=2, chunk_frames=4, target_levels=4,
  style_levels=2, style_offset=82, vocab_size=128,
)  # fmt: skip
CONFIG = DepthformerConfig(
  embed_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1, num_temporal_layers=1,
  num_depth_layers=1, dropout_rate=0.5,
)  # fmt: skip


@pytest.fixture(scope='module')
def golden() -> dict[str, np.ndarray]:
  with np.load(GOLDEN) as file:
    return {name: file[name] for name in file.files if name.startswith('unit/')}


@pytest.mark.parametrize('buckets, distance', [(128, 128), (16, 16), (32, 128), (4, 4), (6, 6)])
def test_relative_buckets_are_v1s(golden, buckets, distance):
  expected = golden[f'unit/relpos_bucket_n{buckets}_d{distance}']
  np.testing.assert_array_equal(layers.relative_buckets(300, buckets, distance), expected)


@pytest.mark.parametrize('embed_dim', [32, 768, 1024])
def test_sinusoid_is_v1s(golden, embed_dim):
  expected = golden[f'unit/sinusoid_{embed_dim}_rows_0_1_2_499_1005']
  np.testing.assert_array_equal(layers.sinusoid(1006, embed_dim)[[0, 1, 2, 499, 1005]], expected)


def test_relative_bias_looks_up_the_causal_distance():
  table = jnp.arange(8.0).reshape(2, 4)
  bias = layers.relative_bias(table, 3, 4)
  np.testing.assert_array_equal(bias[1], [[4, 4, 4], [5, 4, 4], [6, 5, 4]])


def _random_params():
  rng = np.random.default_rng(0)
  flat = {
    name: rng.normal(size=leaf.stacked_shape, scale=0.3).astype(np.float32)
    for name, leaf in parameters.leaves(CONFIG, SPEC).items()
  }
  return weights.unflatten(flat)


def _reference_attention(q, k, v, present):
  logits = np.einsum('bqhd,bkhd->bhqk', *(np.asarray(x, np.float64) for x in (q, k)))
  logits = np.where(present[:, None, None, :], logits, -np.inf)
  weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
  weights /= weights.sum(axis=-1, keepdims=True)
  return np.einsum('bhqk,bkhd->bqhd', weights, np.asarray(v, np.float64)).reshape(*q.shape[:2], -1)


def test_long_attention_and_its_gradients_are_those_of_plain_attention():
  q, k, v, gradient = (
    jax.random.normal(key, [2, 7, 3, 4]) for key in jax.random.split(jax.random.key(0), 4)
  )
  present = np.ones([2, 7], bool)
  present[1, 4:] = False
  np.testing.assert_allclose(
    jax.jit(long_attention)(q, k, v, present),
    _reference_attention(q, k, v, present),
    rtol=0,
    atol=1e-6,
  )

  def plain(q, k, v):
    bias = layers.mask_bias(jnp.asarray(present)[:, None, None, :], q.dtype)
    return jnp.sum(layers.attend(q, k, v, bias) * gradient.reshape(2, 7, -1))

  def long(q, k, v):
    return jnp.sum(long_attention(q, k, v, present) * gradient.reshape(2, 7, -1))

  for ours, expected in zip(*(jax.jit(jax.grad(f, (0, 1, 2)))(q, k, v) for f in (long, plain))):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=2e-6)


def test_the_form_for_accelerators_computes_the_same(monkeypatch):
  """platform_dependent never takes the default branch on a CPU: take it by hand."""
  q, k, v = (jax.random.normal(key, [2, 7, 3, 4]) for key in jax.random.split(jax.random.key(1), 3))
  present = np.ones([2, 7], bool)

  def loss(q, k, v):
    return jnp.sum(jnp.sin(long_attention(q, k, v, present)))

  expected = jax.value_and_grad(loss, (0, 1, 2))(q, k, v)
  monkeypatch.setattr(
    jax.lax, 'platform_dependent', lambda *arguments, cpu, default: default(*arguments)
  )
  ours = jax.value_and_grad(loss, (0, 1, 2))(q, k, v)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-6), ours, expected)


def test_a_fully_masked_row_attends_uniformly():
  q, k, v = (jax.random.normal(key, [1, 5, 1, 4]) for key in jax.random.split(jax.random.key(0), 3))
  bias = layers.mask_bias(jnp.zeros([1, 1, 5, 5], bool), q.dtype)
  expected = np.broadcast_to(np.asarray(v)[0, :, 0].mean(axis=0), [5, 4])
  np.testing.assert_allclose(layers.attend(q, k, v, bias)[0], expected, rtol=0, atol=1e-6)


def test_dropout_drops_whole_channels_and_scales_the_rest():
  dropped = np.asarray(layers.dropout(jnp.ones([4, 9, 500]), 0.25, jax.random.key(0)))
  assert (dropped == dropped[:, :1]).all()
  assert set(np.unique(dropped)) == {0, np.float32(1 / 0.75)}
  assert 0.2 < (dropped == 0).mean() < 0.3
  assert (dropped[0] != dropped[1]).any()
  np.testing.assert_array_equal(layers.dropout(jnp.ones([2, 3]), 0.25, None), np.ones([2, 3]))


def test_dropped_values_are_attention_weights_dropped_for_all_queries():
  q, k, v = (jax.random.normal(key, [2, 5, 2, 4]) for key in jax.random.split(jax.random.key(0), 3))
  kept = layers.drop_values(jnp.ones([2, 5, 2, 4]), 0.5, jax.random.key(4))
  scale = np.asarray(kept[..., 0]).transpose(0, 2, 1)[:, :, None, :]
  assert set(np.unique(scale)) == {0.0, 2.0}
  logits = np.einsum('bqhd,bkhd->bhqk', q, k)
  weights = np.asarray(jax.nn.softmax(logits, axis=-1)) * scale
  expected = np.einsum('bhqk,bkhd->bqhd', weights, v).reshape(2, 5, 8)
  ours = layers.attend(q, k, layers.drop_values(v, 0.5, jax.random.key(4)), 0.0)
  np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


def test_depth_stack_drops_nothing_but_attention_weights():
  params = _random_params()
  x = jax.random.normal(jax.random.key(1), [2, 4, 4, 16])
  everything = jnp.ones([2, 4, 4], bool)

  _depth = jax.jit(network._depth, static_argnums=4)

  def run(params, rng):
    return _depth(params, x, everything, everything, CONFIG, rng)

  assert not np.allclose(run(params, jax.random.key(2)), run(params, None))
  out = params['depth']['layers']['attention']['out']
  params['depth']['layers']['attention']['out'] = jnp.zeros_like(out)
  np.testing.assert_array_equal(run(params, jax.random.key(2)), run(params, None))


def test_dropout_needs_a_key_and_differs_by_key():
  model = DepthformerModel(CONFIG, SPEC)
  params = _random_params()
  batch = {
    'encoder_input_tokens': np.full([2, 14], 3, np.int32),
    'decoder_target_tokens': np.full([2, 16], 3, np.int32) + np.tile(np.arange(4) * 16, 4),
  }
  loss = jax.jit(lambda key: model.loss_fn(params, batch, key)[0])
  expected = -jax.jit(model.token_log_probs)(params, *batch.values()).sum()
  penalty = float(loss(None)) - float(expected)
  assert 0 < penalty < 0.01 * float(expected)  # The z-loss: without a key nothing is dropped.
  first, second = float(loss(jax.random.key(1))), float(loss(jax.random.key(2)))
  assert first != second and first == float(loss(jax.random.key(1)))
