"""Every stage of SpectroStream, and the released size, against the official module's goldens."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import rvq, weights
from models.spec import LiveMusicSpec
from models.spectrostream import SpectroStreamConfig, layers, network
from models.spectrostream.stft import inverse_stft, stft

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
HOP = 480


@pytest.fixture(name='tiny', scope='module')
def _tiny():
  with np.load(GOLDEN / 'spectrostream_tiny.npz') as file:
    arrays = dict(file)
  flat = {name[9:]: arrays[name] for name in arrays if name.startswith('w:params/')}
  return arrays, weights.unflatten(flat)


def _close(value, expected, atol):
  assert value.shape == expected.shape
  np.testing.assert_allclose(value, expected, rtol=0, atol=atol)


def test_stages_where_the_channels_are_joined(tiny):
  golden, params = tiny

  @jax.jit
  def encoder(params, left, right):
    x = network.join_channels(jnp.concatenate([left, right]))
    joined = layers.encode_unit(params['encoder_6'], x, (2, 1))
    bottleneck = layers.plain_unit(
      params['bottleneck'], joined, 'conv2d_3x3', 'conv2d_3x3_a'
    )
    return joined, bottleneck, network.encoder_output(params, bottleneck)

  @jax.jit
  def decoder(params, latents):
    x = network.decoder_input(params, latents)
    unit = layers.plain_unit(
      params['input_layers_residual_unit'], x, 'conv2d_3x3_a', 'conv2d_3x3'
    )
    return x, unit, layers.decode_unit(params['decoder_0'], unit, (2, 1))

  found = encoder(
    params['encoder'], golden['mid:enc:encoder_5:ch0'], golden['mid:enc:encoder_5:ch1']
  )
  for name, value in zip(('encoder_6', 'bottleneck', 'output_convs'), found, strict=True):
    expected = golden[f'mid:enc:{name}']
    _close(value, expected[:, :, 0] if name == 'output_convs' else expected, 5e-5)
  found = decoder(params['decoder'], golden['dequant'][:, :4])
  names = ('input_layer', 'input_layers_residual_unit', 'decoder_0')
  for name, value in zip(names, found, strict=True):
    expected = golden[f'mid:dec:{name}']
    _close(value, expected.reshape(value.shape), 5e-5)


def test_last_stages_of_the_decoder(tiny):
  golden, params = tiny
  both = np.concatenate([golden['mid:dec:decoder_6:ch0'], golden['mid:dec:decoder_6:ch1']])
  last = layers.conv(params['decoder']['output_layer']['base_conv_last'], layers.elu(both))
  for channel in range(2):
    _close(last[channel : channel + 1], golden[f'mid:dec:output_layer:ch{channel}'], 5e-5)
  _close(network.join_channels(last)[:, 4:], golden['mid:dec:lookahead'], 5e-5)


def test_float64_values_are_as_near(tiny):
  """The golden's own float32 noise is 3e-6 in latents and 7e-7 in samples."""
  golden, params = tiny
  spectrum = jax.jit(network.decode)(params['decoder'], golden['dequant'])
  _close(inverse_stft(spectrum, HOP), golden['decoded_float64'], 5e-6)
  latents = jax.jit(network.encode)(params['encoder'], stft(golden['audio'], HOP))
  _close(latents, golden['latent_float64'], 2e-5)


@pytest.fixture(name='real', scope='module')
def _real():
  """Goldens, and the weights of the released size as their recipe draws them."""
  with np.load(GOLDEN / 'spectrostream_real.npz') as file:
    arrays = dict(file)
  recipe = json.loads((GOLDEN / 'spectrostream_real.json').read_text())
  shapes = {}
  kernels = network.kernel_shapes(SpectroStreamConfig.real(), LiveMusicSpec())
  for layer, shape in kernels.items():
    shapes |= {f'{layer}/conv/kernel': shape, f'{layer}/conv/bias': shape[-1:]}
  random, flat = np.random.RandomState(recipe['seed']), {}
  for name in sorted(shapes):
    scale = 0.1 if name.endswith('bias') else 1.0 / np.sqrt(np.prod(shapes[name][:-1]))
    flat[name] = (random.standard_normal(shapes[name]) * scale).astype(np.float32)
  random = np.random.RandomState(recipe['seed'] + 1)
  codebooks = np.stack([
    (random.standard_normal([1024, 256]) * scale).astype(np.float32)
    for scale in recipe['codebook_recipe']['level_scale']
  ])  # fmt: skip
  return arrays, weights.unflatten(flat), codebooks, recipe['weight_check']


def test_the_released_size_is_drawn_as_the_goldens_were(real):
  _, params, codebooks, sums = real
  flat = {f'params/{name}': value for name, value in weights.flatten(params).items()}
  flat |= {'params/quantizer/embedding': codebooks}
  assert sorted(flat) == sorted(sums)
  for name, value in flat.items():
    assert np.abs(value.astype(np.float64)).sum() == pytest.approx(sums[name], rel=1e-5), name
  assert sum(value.size for value in flat.values()) == 61_713_666


def test_released_size_encodes_and_quantizes(real):
  golden, params, codebooks, _ = real
  latents = jax.jit(network.encode)(params['encoder'], stft(golden['audio'], HOP))
  _close(latents, golden['latent'], 2e-5)
  np.testing.assert_array_equal(rvq.quantize(latents, codebooks), golden['codes'])


@pytest.mark.parametrize('levels', [12, 16, 64])
def test_released_size_decodes(real, levels):
  golden, params, codebooks, _ = real
  latents = rvq.dequantize(golden['codes'][..., :levels], codebooks)
  _close(latents, golden[f'dequant_{levels}'], 2e-5)
  # One compilation for all: with the latent that follows, which changes nothing before it.
  padded = np.pad(latents, [(0, 0), (0, 1), (0, 0)])
  audio = inverse_stft(_decode(params['decoder'], padded), HOP)
  expected = golden[f'decoded_{levels}']
  # Untrained weights let 64 levels out at up to 2.9; the tolerance is for samples within 1.
  atol = 5e-6 * max(1.0, np.abs(expected).max())
  _close(audio[:, : expected.shape[1]], expected, atol)
  if levels == 64:
    _close(audio, golden['decoded_64_zero_tail'], atol)


_decode = jax.jit(network.decode)
