"""Names, shapes, axes and initial values of the parameters, against v1's trees."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import weights
from models.depthformer import DepthformerConfig, DepthformerModel, from_v1, to_v1, v1_axes
from models.depthformer import parameters as parameters_lib
from models.spec import LiveMusicSpec

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
SPEC = LiveMusicSpec()
SMALL = LiveMusicSpec(
  codebook_size=16, context_frames=6, context_levels=2, chunk_frames=4, target_levels=4,
  style_levels=2, style_offset=82, vocab_size=128,
)  # fmt: skip
CONFIG = DepthformerConfig(
  embed_dim=16, num_heads=2, head_dim=4, mlp_dim=32, num_encoder_layers=2, num_temporal_layers=3,
  num_depth_layers=1,
)  # fmt: skip


WIDE = DepthformerConfig(embed_dim=256, num_heads=4, head_dim=16, mlp_dim=128, num_encoder_layers=2)


def _random_params():
  rng = np.random.default_rng(0)
  flat = {
    name: rng.normal(size=leaf.stacked_shape).astype(np.float32)
    for name, leaf in parameters_lib.leaves(CONFIG, SMALL).items()
  }
  return weights.unflatten(flat)


@pytest.fixture(scope='module')
def initial():
  return jax.jit(DepthformerModel(WIDE, SMALL).init)(jax.random.key(0))


@pytest.mark.parametrize(
  'size, total, arrays', [('base', 347_873_472, 430), ('large', 761_651_456, 538)]
)
def test_v1_tree_of_base_and_large(size, total, arrays):
  config = getattr(DepthformerConfig, size)()
  model = DepthformerModel(config, SPEC)
  params = jax.eval_shape(model.init, jax.random.key(0))
  tree = jax.eval_shape(lambda params: to_v1(params, config, SPEC), params)
  axes = v1_axes(config, SPEC)
  expected = json.loads((GOLDEN / f'llm_params_{size}.json').read_text())
  assert {
    name: {'axes': list(axes[name]), 'dtype': str(leaf.dtype), 'shape': list(leaf.shape)}
    for name, leaf in tree.items()
  } == expected
  assert axes.keys() == tree.keys() and len(tree) == arrays
  assert sum(math.prod(leaf.shape) for leaf in tree.values()) == total
  assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == total


def test_from_v1_inverts_to_v1_exactly():
  params = _random_params()
  flat = to_v1(params, CONFIG, SMALL)
  again = from_v1(flat, CONFIG, SMALL)
  assert jax.tree.structure(again) == jax.tree.structure(params)
  jax.tree.map(np.testing.assert_array_equal, again, params)
  np.testing.assert_array_equal(
    flat['decoder/decoder/temporal_decoder/layers_2/encoder_decoder_attention/out/kernel'],
    params['temporal']['layers']['cross_attention']['out'][2],
  )


def test_optimizer_statistics_keep_their_own_shapes():
  axes = v1_axes(CONFIG, SMALL)
  rows = {name: np.full([1 + i % 3], i, np.float32) for i, name in enumerate(sorted(axes))}
  same = {name: np.full([1], i, np.float32) for i, name in enumerate(sorted(axes))}
  stacked = from_v1(same, CONFIG, SMALL, check_shapes=False)
  assert stacked['temporal']['layers']['mlp']['gate'].shape == (3, 1)
  back = to_v1(stacked, CONFIG, SMALL)
  assert all((back[name] == same[name]).all() for name in same)
  with pytest.raises(ValueError, match='has shape'):
    from_v1(rows, CONFIG, SMALL)


def test_from_v1_names_the_first_array_that_does_not_fit():
  flat = to_v1(_random_params(), CONFIG, SMALL)
  name = 'encoder/layers_1/mlp/wi_0/kernel'
  with pytest.raises(ValueError, match=rf'{name} is missing \(\d+ arrays given\)'):
    from_v1({key: value for key, value in flat.items() if key != name}, CONFIG, SMALL)
  with pytest.raises(ValueError, match=rf'{name} has shape \(32, 16\); .* \(16, 32\)'):
    from_v1(flat | {name: flat[name].T}, CONFIG, SMALL)
  with pytest.raises(ValueError, match='encoder/layers_2/x is not part'):
    from_v1(flat | {'encoder/layers_2/x': flat[name]}, CONFIG, SMALL)


def test_layer_and_logical_axes_follow_the_tree():
  model = DepthformerModel(CONFIG, SMALL)
  params = weights.flatten(jax.eval_shape(model.init, jax.random.key(0)))
  stacked, axes = weights.flatten(model.layer_axes()), weights.flatten(model.logical_axes())
  for name, leaf in params.items():
    assert stacked[name] == ('/layers/' in name)
    assert len(axes[name]) == leaf.ndim
    assert (axes[name][0] == 'layers') == stacked[name]


def test_initial_values_are_distributed_as_v1s(initial):
  params = weights.flatten(initial)

  def std(name):
    return float(jnp.std(params[name]))

  assert std('embedding') == pytest.approx(1.0, rel=0.03)
  assert std('encoder/layers/attention/key') == pytest.approx(256**-0.5, rel=0.03)
  assert std('encoder/layers/attention/query') == pytest.approx(256**-0.5 / 4, rel=0.03)
  assert std('temporal/layers/cross_attention/out') == pytest.approx(64**-0.5, rel=0.03)
  assert std('depth/layers/mlp/out') == pytest.approx(128**-0.5, rel=0.03)
  assert std('logits') == pytest.approx(256**-0.5, rel=0.03)
  # Truncated at two standard deviations of the untruncated normal, attention kernels are not.
  truncation = 2 * 128**-0.5 / 0.8796
  assert float(jnp.abs(params['depth/layers/mlp/out']).max()) < truncation
  assert float(jnp.abs(params['encoder/layers/attention/key']).max()) > 4 * 256**-0.5
  limit = math.sqrt(3 / ((4 + 128) / 2))
  bias = params['temporal/relative_bias']
  assert 0.95 * limit < float(jnp.abs(bias).max()) < limit
  first, second = params['encoder/layers/mlp/gate']
  assert not np.allclose(first, second)
  assert (params['encoder/norm'] == 1).all() and (params['depth/layers/mlp_norm'] == 1).all()
  assert set(leaf.dtype for leaf in params.values()) == {jnp.dtype('float32')}


def test_loss_over_level_starts_near_the_logarithm_of_the_codes(initial):
  rng = np.random.default_rng(0)
  targets = 2 + rng.integers(0, 16, [8, 16]) + np.tile(np.arange(4), 4) * 16
  inputs = np.full([8, SMALL.inputs_length], SMALL.mask_id)
  log_probs = jax.jit(DepthformerModel(WIDE, SMALL).token_log_probs)(initial, inputs, targets)
  # Logits of unit variance add one half to ln 16.
  assert -float(log_probs.mean()) == pytest.approx(np.log(16) + 0.5, abs=0.25)


def test_sizes_out_of_range_are_refused_by_name():
  with pytest.raises(ValueError, match="loss_over='token' is not one of"):
    DepthformerConfig(loss_over='token')
  with pytest.raises(ValueError, match='num_depth_layers=0 must be at least 1'):
    DepthformerConfig(num_depth_layers=0)
  with pytest.raises(ValueError, match='embed_dim=33 must be even'):
    DepthformerConfig(embed_dim=33)
  with pytest.raises(ValueError, match='temporal_buckets=1 .* at least 2 buckets'):
    DepthformerConfig(temporal_buckets=1)
  with pytest.raises(ValueError, match='temporal_max_distance=64: .* fewer than the distance'):
    DepthformerConfig(temporal_buckets=128, temporal_max_distance=64)
  with pytest.raises(ValueError, match=r'dropout_rate=1.0 is not in \[0, 1\)'):
    DepthformerConfig(dropout_rate=1.0)
  with pytest.raises(ValueError, match=r"Unknown DepthformerConfig fields \['width'\]"):
    DepthformerConfig.from_dict({'width': 3})


def test_config_survives_its_dictionary():
  config = DepthformerConfig.large(dropout_rate=0.2)
  assert DepthformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_own_names_are_what_bundles_store():
  params = jax.eval_shape(DepthformerModel(CONFIG, SMALL).init, jax.random.key(0))
  shapes = {name: leaf.shape for name, leaf in weights.flatten(params).items()}
  expected = parameters_lib.leaves(CONFIG, SMALL)
  assert shapes == {name: leaf.stacked_shape for name, leaf in expected.items()}
