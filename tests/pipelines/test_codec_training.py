"""A codec's run ends in a file that loads as the same codec."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.spec import LiveMusicSpec
from models.spectrostream import SpectroStream, SpectroStreamConfig
from models.spectrostream.training import CodecTrainable
from pipelines.codec_training import save_codec

SPEC = LiveMusicSpec(codec_levels=16, codebook_size=8, style_offset=2 + 16 * 8, vocab_size=256)


def _state(trainable, calibrated):
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(trainable.init, jax.random.key(0))
  params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float16), shapes)
  params = jax.tree.map(lambda x: jnp.float32(x), params)
  aux = jax.eval_shape(trainable.init_aux, jax.random.key(0))
  aux = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in aux.items()}
  codebooks = rng.normal(size=aux['codebooks'].shape).astype(np.float16).astype(np.float32)
  aux |= {'codebooks': codebooks, 'calibrated': jnp.float32(calibrated)}
  return types.SimpleNamespace(step=jnp.int32(12), params=params, aux=aux)


def test_saved_codec_is_that_of_the_state(tmp_path):
  trainable = CodecTrainable(SpectroStreamConfig.tiny(), spec=SPEC)
  state = _state(trainable, 1.0)
  codec = SpectroStream.load(save_codec(state, trainable, str(tmp_path)))
  assert codec.config == trainable.config and codec.spec == SPEC
  jax.tree.map(np.testing.assert_array_equal, codec.params, state.params)
  np.testing.assert_array_equal(codec.codebooks, state.aux['codebooks'])


def test_nothing_is_saved_before_there_are_codebooks(tmp_path):
  trainable = CodecTrainable(SpectroStreamConfig.tiny(), spec=SPEC)
  with pytest.raises(ValueError, match='at step 12'):
    save_codec(_state(trainable, 0.0), trainable, str(tmp_path))
  assert not list(tmp_path.iterdir())
