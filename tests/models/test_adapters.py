"""Adapters against the full-rank matrices that they stand for, in float64 by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import adapters, weights
from models.adapted import AdaptedModel, tuned
from models.adapters import AdapterConfig
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec

SPEC = LiveMusicSpec(
  context_frames=50, context_levels=2, chunk_frames=25, target_levels=4, codec_levels=4,
  codebook_size=16, style_levels=2, style_offset=80, vocab_size=128,
)  # fmt: skip
CONFIG = DepthformerConfig(
  embed_dim=8, num_heads=2, head_dim=4, mlp_dim=12, num_encoder_layers=2, num_temporal_layers=3,
  num_depth_layers=1,
)  # fmt: skip
MODEL = DepthformerModel(CONFIG, SPEC)
EVERYTHING = ('.',)


@functools.cache
def _params(seed=0):
  return jax.jit(MODEL.init)(jax.random.key(seed))


def _filled(params, config, seed=3):
  """An adapter whose arrays are all far from where they start."""
  adapter = adapters.init_adapter(jax.random.key(seed), params, config)
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(x + 0.3 * rng.standard_normal(x.shape), jnp.float32), adapter
  )


def _batch(seed=0, rows=2):
  rng = np.random.default_rng(seed)
  levels = rng.integers(0, SPEC.codebook_size, [rows, SPEC.chunk_frames, SPEC.target_levels])
  levels = levels + SPEC.codec_offset + SPEC.codebook_size * np.arange(SPEC.target_levels)
  inputs = rng.integers(2, SPEC.vocab_size, [rows, SPEC.inputs_length])
  return {
    'encoder_input_tokens': jnp.asarray(inputs, jnp.int32),
    'decoder_target_tokens': jnp.asarray(levels.reshape(rows, -1), jnp.int32),
  }


def _by_hand(base, arrays, scale):
  """W + s A B, and DoRA's columns brought to their norms, one layer at a time in float64."""
  base, a, b = (np.asarray(x, np.float64) for x in (base, arrays['a'], arrays['b']))
  matrix = base + scale * a @ b
  if 'm' in arrays:
    norms = np.sqrt((matrix**2).sum(-2, keepdims=True))
    matrix = matrix / norms * np.asarray(arrays['m'], np.float64)[..., None, :]
  return matrix


@pytest.mark.parametrize('method', adapters.METHODS)
@pytest.mark.parametrize('alpha', [None, 6.0])
def test_merged_matrices_are_the_formula(method, alpha):
  config = AdapterConfig(method, 3, alpha, ('mlp/', 'cross_attention/', '^logits$', '^embedding$'))
  params = _params()
  adapter = _filled(params, config)
  merged = weights.flatten(adapters.merge(params, adapter, config))
  flat = weights.flatten(params)
  names = adapters.adapted_names(flat, config)
  assert len(names) == 3 * 3 + 4 + 2
  for name, value in merged.items():
    if name not in names:
      np.testing.assert_array_equal(value, flat[name])
      continue
    node = adapter
    for part in name.split('/'):
      node = node[part]
    want = _by_hand(flat[name], node, 1.0 if alpha is None else alpha / 3)
    np.testing.assert_allclose(value, want, rtol=2e-4, atol=2e-5, err_msg=name)
    assert np.abs(want - flat[name]).max() > 0.1


@pytest.mark.parametrize('method', adapters.METHODS)
def test_loss_and_gradient_are_those_of_the_merged_model(method):
  """d loss / d A and d B through the chain rule from the gradient of the full matrix."""
  config = AdapterConfig(method, 2, 4.0, EVERYTHING)
  model, params = AdaptedModel(MODEL, config), _params()
  adapter, batch = _filled(params, config), _batch()

  def loss(adapter):
    return model.loss_fn({'base': params, 'adapter': adapter}, batch, None)[0]

  value, gradient = jax.jit(jax.value_and_grad(loss))(adapter)
  merged = adapters.merge(params, adapter, config)
  want, dense = jax.jit(jax.value_and_grad(lambda p: MODEL.loss_fn(p, batch, None)[0]))(merged)
  assert value == pytest.approx(float(want), rel=1e-5)

  flat, dense = weights.flatten(adapter), weights.flatten(dense)
  gradient, base = weights.flatten(gradient), weights.flatten(params)
  for name in adapters.adapted_names(base, config):
    d = np.asarray(dense[name], np.float64)
    a, b = (np.asarray(flat[f'{name}/{x}'], np.float64) for x in 'ab')
    if method == 'dora':
      raw = np.asarray(base[name], np.float64) + 2.0 * a @ b
      norms = np.sqrt((raw**2).sum(-2))
      want_m = (d * raw).sum(-2) / norms
      scale = np.abs(want_m).max() + 1e-3
      np.testing.assert_allclose(gradient[f'{name}/m'], want_m, atol=2e-3 * scale, err_msg=name)
      d = d * (np.asarray(flat[f'{name}/m'], np.float64) / norms)[..., None, :]
    for part, full in (('a', d @ np.swapaxes(b, -1, -2)), ('b', np.swapaxes(a, -1, -2) @ d)):
      got, full = gradient[f'{name}/{part}'], 2.0 * full
      np.testing.assert_allclose(got, full, atol=2e-3 * (np.abs(full).max() + 1e-3), err_msg=name)


def test_full_rank_lora_takes_the_step_of_full_tuning():
  """With A the identity and B at zero, a step of size h along B's gradient is one along W's."""
  config = AdapterConfig('lora', 8, None, ('^logits$',))
  params, batch = _params(), _batch()
  adapter = {'logits': {'a': jnp.eye(8), 'b': jnp.zeros([8, SPEC.vocab_size])}}
  model = AdaptedModel(MODEL, config)
  gradient = jax.jit(
    jax.grad(lambda adapter: model.loss_fn({'base': params, 'adapter': adapter}, batch, None)[0])
  )(adapter)
  stepped = {'logits': {'a': jnp.eye(8), 'b': -0.01 * gradient['logits']['b']}}
  full = jax.jit(jax.grad(lambda p: MODEL.loss_fn(p, batch, None)[0]))(params)
  want = params['logits'] - 0.01 * full['logits']
  got = adapters.merge(params, stepped, config)['logits']
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('method', adapters.METHODS)
def test_new_adapter_changes_nothing_and_strength_scales_the_change(method):
  config = AdapterConfig(method, 2, None, ('mlp/gate', '^embedding$'))
  params = _params()
  new = adapters.init_adapter(jax.random.key(1), params, config)
  same = adapters.merge(params, new, config)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), same, params)
  adapter = _filled(params, config)
  whole = weights.flatten(adapters.merge(params, adapter, config))
  half = weights.flatten(adapters.merge(params, adapter, config, strength=0.5))
  none = weights.flatten(adapters.merge(params, adapter, config, strength=0.0))
  for name, base in weights.flatten(params).items():
    np.testing.assert_allclose(half[name], (base + whole[name]) / 2, atol=2e-6)
    np.testing.assert_array_equal(none[name], base)


@pytest.mark.parametrize('method', adapters.METHODS)
def test_written_and_read_adapters_are_the_same(method, tmp_path):
  config = AdapterConfig(method, 2, 3.0, ('mlp/', '^logits$'))
  params = _params()
  adapter = _filled(params, config)
  path = tmp_path / adapters.FILE_NAME
  adapters.save_adapter(path, adapter, config, {'name': 'tiny', 'weights_hash': 'abc'})
  read, read_config, base = adapters.load_adapter(path)
  assert (read_config, base) == (config, {'name': 'tiny', 'weights_hash': 'abc'})
  jax.tree.map(np.testing.assert_array_equal, read, adapter)
  assert path.stat().st_size < 4 * adapters.num_numbers(adapter) + 8000


def test_axes_and_layers_follow_the_adapted_arrays():
  model = AdaptedModel(MODEL, AdapterConfig('dora', 2, None, ('mlp/gate', '^logits$')))
  params = jax.eval_shape(model.init, jax.random.key(0))
  axes, layers = model.logical_axes(), model.layer_axes()
  assert axes['adapter']['encoder']['layers']['mlp']['gate'] == {
    'a': ('layers', 'embed', None), 'b': ('layers', None, 'mlp'), 'm': ('layers', 'mlp'),
  }  # fmt: skip
  assert axes['adapter']['logits'] == {
    'a': ('embed', None), 'b': (None, 'vocab'), 'm': ('vocab',)
  }  # fmt: skip
  assert layers['adapter']['logits']['a'] is False
  assert layers['adapter']['depth']['layers']['mlp']['gate']['m'] is True
  for name, leaf in weights.flatten(params).items():
    node = axes
    for part in name.split('/'):
      node = node[part]
    assert len(node) == len(leaf.shape), name
  assert axes['base'] == MODEL.logical_axes()


@pytest.mark.parametrize(
  'make, message',
  [
    (lambda: AdapterConfig('rank'), "method='rank' is not one of lora, dora"),
    (lambda: AdapterConfig(rank=0), 'rank=0 is not a whole number of at least 1'),
    (lambda: AdapterConfig(alpha=0.0), 'alpha=0.0 must be above 0'),
    (lambda: AdapterConfig(patterns=()), 'patterns is empty'),
    (lambda: AdapterConfig(patterns=('(',)), 'no regular expression'),
    (lambda: adapters.init_adapter(jax.random.key(0), _params(), AdapterConfig(patterns=('norm',))),
     "'norm' matches no matrix"),
    (lambda: tuned(MODEL, 'half'), "method='half' is not one of full, depth_only, lora, dora"),
  ],
)  # fmt: skip
def test_options_out_of_range_name_themselves(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_adapter_of_other_sizes_is_refused():
  config = AdapterConfig(patterns=('mlp/gate',))
  other = DepthformerModel(
    DepthformerConfig(**{**CONFIG.to_dict(), 'mlp_dim': 16}), SPEC
  )  # fmt: skip
  adapter = adapters.init_adapter(jax.random.key(0), other.init(jax.random.key(0)), config)
  with pytest.raises(ValueError, match=r'mlp/gate is made for a matrix of \(1, 8, 16\)'):
    adapters.merge(_params(), adapter, config)
  with pytest.raises(ValueError, match='changes encoder/layers/mlp/gate, which'):
    adapters.merge({'logits': jnp.ones([2, 2])}, {
      'encoder': {'layers': {'mlp': {'gate': {'a': jnp.ones([1, 2, 1]), 'b': jnp.ones([1, 1, 2])}}}}
    }, config)  # fmt: skip
