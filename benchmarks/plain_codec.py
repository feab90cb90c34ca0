"""SpectroStream in the plainest form: strided and dilated convolutions, a loop over levels.

What `models.spectrostream` rewrites for speed, this computes as it is defined, from the same
parameters; the benchmark compares the two in time, the tests in values.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from models.spectrostream.config import DECODER_STRIDES, ENCODER_STRIDES, LOOKAHEAD
from models.spectrostream.stft import inverse_stft, stft

Params = dict[str, Any]
Stride = tuple[int, int]
_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def encode(params: Params, samples: jax.Array, hop: int) -> jax.Array:
  """Samples [B, n, 2] -> latents [B, frames, D]."""
  spectrum = stft(samples, hop)
  channels = [_encode_channel(params, spectrum[..., 2 * c : 2 * c + 2]) for c in (0, 1)]
  x = _encode_unit(params['encoder_6'], jnp.concatenate(channels, axis=-1), ENCODER_STRIDES[6])
  unit = params['bottleneck']
  x = x + _conv(unit['conv2d_3x3_a'], jax.nn.elu(_conv(unit['conv2d_3x3'], jax.nn.elu(x))))
  x = jnp.reshape(x, [*x.shape[:2], 1, -1])
  output = params['output_convs']
  branch = _conv(output['shortcut_layer']['conv1x1_b1'], jax.nn.elu(x))
  branch = _conv(output['shortcut_layer']['conv1x1_b2'], jax.nn.elu(branch))
  return (_conv(output['conv1x1_last'], x) + branch)[:, :, 0]


def decode(params: Params, latents: jax.Array, hop: int) -> jax.Array:
  """Latents [B, N, D] -> samples [B, (N - 1) * 4 * hop, 2]."""
  x, first = latents[:, :, None], params['input_layer']
  branch = jax.nn.elu(_conv(first['shortcut_layer']['conv1x1_b1'], x))
  x = _conv(first['conv1x1_first'], x) + _conv(first['shortcut_layer']['conv1x1_b2'], branch)
  unit = params['input_layers_residual_unit']
  x = jnp.reshape(x, [*x.shape[:2], -1, unit['conv2d_3x3']['conv']['bias'].size])
  x = x + _conv(unit['conv2d_3x3'], jax.nn.elu(_conv(unit['conv2d_3x3_a'], jax.nn.elu(x))))
  x = _decode_unit(params['decoder_0'], x, DECODER_STRIDES[0])
  channels = [_decode_channel(params, half) for half in jnp.split(x, 2, axis=-1)]
  return inverse_stft(jnp.concatenate(channels, axis=-1)[:, LOOKAHEAD:], hop)


def quantize(codebooks: jax.Array, latents: jax.Array) -> jax.Array:
  """Latents [..., D] -> codes [..., K] int32, level after level."""
  residual, codes = latents, []
  for codebook in codebooks:
    distances = jnp.sum(codebook**2, axis=-1) - 2.0 * residual @ codebook.T
    codes.append(jnp.argmin(distances, axis=-1))
    residual = residual - codebook[codes[-1]]
  return jnp.stack(codes, axis=-1)


def _encode_channel(params: Params, x: jax.Array) -> jax.Array:
  x = _conv(params['base_conv_first'], x)
  for index, stride in enumerate(ENCODER_STRIDES[:6]):
    x = _encode_unit(params[f'encoder_{index}'], x, stride)
  return x


def _decode_channel(params: Params, x: jax.Array) -> jax.Array:
  for index, stride in enumerate(DECODER_STRIDES[1:], start=1):
    x = _decode_unit(params[f'decoder_{index}'], x, stride)
  return _conv(params['output_layer']['base_conv_last'], jax.nn.elu(x))


def _encode_unit(layer: Params, x: jax.Array, stride: Stride) -> jax.Array:
  st, sf = stride
  h = jax.nn.elu(_conv(layer['conv2d_3x3'], jax.nn.elu(x)))
  h = _conv(layer[f'conv2d_{max(3, 2 * st)}x{max(3, 2 * sf)}_a'], h, stride)
  padding = [(0, 0), (0, -x.shape[1] % st), (0, 0), (0, 0)]
  window = (1, st, sf, 1)
  pooled = lax.reduce_window(x, 0.0, lax.add, window, window, padding) / (st * sf)
  return h + _shortcut(layer, pooled)


def _decode_unit(layer: Params, x: jax.Array, stride: Stride) -> jax.Array:
  st, sf = stride
  name = f'conv2dtranspose_{max(3, 2 * st)}x{max(3, 2 * sf)}'
  h = _conv_transposed(layer[name], jax.nn.elu(x), stride)
  h = _conv(layer['conv2d_3x3'], jax.nn.elu(h))
  return h + jnp.repeat(jnp.repeat(_shortcut(layer, x), st, axis=1), sf, axis=2)


def _shortcut(layer: Params, x: jax.Array) -> jax.Array:
  return _conv(layer['shortcut_layer']['conv1x1'], x) if 'shortcut_layer' in layer else x


def _conv(layer: Params, x: jax.Array, stride: Stride = (1, 1)) -> jax.Array:
  kernel, bias = layer['conv']['kernel'], layer['conv']['bias']
  left = max(kernel.shape[0] - stride[0], 0)
  sides = max(kernel.shape[1] - stride[1], 0)
  padding = [(left, kernel.shape[0] - 1 - left), (sides // 2, sides - sides // 2)]
  return lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=_LAYOUT) + bias


def _conv_transposed(layer: Params, x: jax.Array, stride: Stride) -> jax.Array:
  kernel, bias = layer['conv']['kernel'], layer['conv']['bias']
  (kt, kf), (st, sf) = kernel.shape[:2], stride
  sides = kf + sf - 2
  padding = [(kt - 1, st - 1), (sides - sides // 2, sides // 2)]
  y = lax.conv_general_dilated(
    x, kernel, (1, 1), padding, lhs_dilation=stride, dimension_numbers=_LAYOUT
  )
  return y + bias
