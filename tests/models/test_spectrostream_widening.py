"""A widened decoder plays what the narrow one played and learns with what is new."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.spec import LiveMusicSpec
from models.spectrostream import network
from models.spectrostream.config import SpectroStreamConfig
from models.spectrostream.linear_start import LinearStart, linear_start
from models.spectrostream.widening import check_can_widen, widen

SPEC = LiveMusicSpec()
NARROW = SpectroStreamConfig(
  num_features=6, encoder_widths=(4,) * 8, decoder_widths=(6, 12, 5, 4, 5, 4, 5, 4)
)
WIDE = dataclasses.replace(NARROW, decoder_widths=(6, 12, 5, 4, 6, 5, 8, 6))


def _decoder(config, seed):
  return network.init_params(jax.random.key(seed), config, SPEC)['decoder']


_decode = jax.jit(network.decode)


def _latents():
  return jax.random.normal(jax.random.key(2), [2, 5, NARROW.num_features])


def test_a_widened_decoder_plays_the_same():
  narrow, fresh = _decoder(NARROW, 0), _decoder(WIDE, 1)
  wide = widen(narrow, fresh)
  assert jax.tree.map(jnp.shape, wide) == jax.tree.map(jnp.shape, fresh)
  before = _decode(narrow, _latents())
  assert float(jnp.abs(before).max()) > 0.1
  np.testing.assert_allclose(_decode(wide, _latents()), before, atol=2e-6)


def test_new_channels_hear_and_are_about_to_be_heard():
  wide = widen(_decoder(NARROW, 0), _decoder(WIDE, 1))
  heard = np.abs(wide['output_layer']['base_conv_last']['conv']['kernel']).max((0, 1, 3))
  # Of six channels, the first three and the last are the old ones.
  assert (heard[[0, 1, 2, 5]] > 0).all()
  np.testing.assert_array_equal(heard[[3, 4]], 0.0)
  loss = jax.jit(jax.grad(lambda params: jnp.square(network.decode(params, _latents())).mean()))
  gradient = loss(wide)
  towards = np.abs(gradient['output_layer']['base_conv_last']['conv']['kernel']).max((0, 1, 3))
  assert (towards[[3, 4]] > 1e-4 * towards.max()).all()


def test_the_constant_of_a_linear_start_stays_the_last_channel():
  start = LinearStart(carried=(2, 2, 2, 2, 2, 2, 2, 2), features=4)
  audio = np.random.default_rng(0).normal(scale=0.1, size=[1, 8 * 1920, 2]).astype(np.float32)
  trees = {}
  for name, config in (('narrow', NARROW), ('wide', WIDE)):
    config = dataclasses.replace(config, encoder_widths=(5, 5, 5, 5, 5, 5, 5, 5))
    params = network.init_params(jax.random.key(3), config, SPEC)
    trees[name] = linear_start(params, config, SPEC, audio, start)
  wide = widen(trees['narrow'][0]['decoder'], trees['wide'][0]['decoder'])
  # What must not be trained is what the narrow decoder brings, or 0.
  fixed = 1 - trees['wide'][1]['decoder']['decoder_6']['conv2d_3x3']['conv']['bias']
  np.testing.assert_array_equal(np.flatnonzero(fixed), [0, 1, 5])
  got, brought = (
    tree['decoder_6']['conv2d_3x3']['conv'] for tree in (wide, trees['narrow'][0]['decoder'])
  )
  ours, theirs = np.array([0, 1, 5]), np.array([0, 1, 3])
  np.testing.assert_array_equal(got['bias'][ours], brought['bias'][theirs])
  np.testing.assert_array_equal(got['kernel'][:, :, [3, 4]][..., ours], 0.0)


def test_the_same_sizes_change_nothing():
  narrow = _decoder(NARROW, 0)
  for got, want in zip(
    jax.tree.leaves(widen(narrow, _decoder(NARROW, 1))), jax.tree.leaves(narrow), strict=True
  ):
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'num_features': 8}, 'differ in their encoders'),
    ({'encoder_widths': (5,) * 8}, 'differ in their encoders'),
    ({'decoder_widths': (8, 12, 5, 4, 5, 4, 5, 4)}, 'the first 2 must stay'),
    ({'decoder_widths': (6, 16, 5, 4, 5, 4, 5, 4)}, 'the first 2 must stay'),
    ({'decoder_widths': (6, 12, 5, 4, 5, 4, 4, 4)}, 'others may grow'),
    ({'decoder_widths': (6, 12, 6, 4, 5, 4, 5, 4)}, 'decoder_1 has a projection with the old'),
    ({'decoder_widths': (6, 12, 5, 4, 5, 5, 6, 4)}, 'decoder_4 has a projection with the old'),
  ],
)
def test_what_cannot_be_widened_is_named(change, message):
  check_can_widen(NARROW, WIDE)
  with pytest.raises(ValueError, match=message):
    check_can_widen(NARROW, dataclasses.replace(NARROW, **change))
