"""SpectroStream's encoder and decoder as functions of a nested dict of parameters.

Names in the dict are those of the released weights ('encoder/encoder_0/conv2d_3x3/conv/kernel').
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from models.spec import LiveMusicSpec
from models.spectrostream import config as config_lib
from models.spectrostream.config import SpectroStreamConfig
from models.spectrostream.layers import (
  Params,
  conv,
  decode_unit,
  elu,
  encode_unit,
  plain_unit,
  unit_kernel,
)


def hop_size(spec: LiveMusicSpec) -> int:
  """Samples between STFT frames, which is also the number of bins (480)."""
  return spec.samples_per_frame // config_lib.TIME_STRIDE


def encode(
  params: Params,
  spectrum: jax.Array,
  num_frames: jax.Array | None = None,
  in_turn: bool = False,
) -> jax.Array:
  """Spectrum [B, T, F, 4] -> latents [B, ceil(T / 4), D].

  Args:
    params: of the encoder.
    spectrum: as `stft` gives it.
    num_frames: scalar int; STFT frames that exist where `spectrum` has been padded.
    in_turn: one audio channel after the other where they are apart, which is kinder to a CPU's
      caches; the values are the same.
  """

  def separate(x: jax.Array) -> jax.Array:
    x = conv(params['base_conv_first'], x)
    return _encode_units(params, x, num_frames, range(apart))

  apart = config_lib.SEPARATE_ENCODER_UNITS
  x = split_channels(spectrum)
  x = jax.lax.map(lambda one: separate(one[None])[0], x) if in_turn else separate(x)
  if num_frames is not None:
    num_frames = -(-num_frames // math.prod(time for time, _ in config_lib.ENCODER_STRIDES[:apart]))
  rest = range(apart, len(config_lib.ENCODER_STRIDES))
  x = _encode_units(params, join_channels(x), num_frames, rest)
  return encoder_output(params, plain_unit(params['bottleneck'], x, 'conv2d_3x3', 'conv2d_3x3_a'))


def _encode_units(
  params: Params, x: jax.Array, num_frames: jax.Array | None, units: range
) -> jax.Array:
  """The encoder's residual units of these numbers, one after the other."""
  for index in units:
    stride = config_lib.ENCODER_STRIDES[index]
    x = encode_unit(params[f'encoder_{index}'], x, stride, num_frames)
    num_frames = None if num_frames is None else -(-num_frames // stride[0])
  return x


def encoder_output(params: Params, x: jax.Array) -> jax.Array:
  """What the bottleneck gives, [B, N, bins, width] -> latents [B, N, D]; frame by frame."""
  x = jnp.reshape(x, [*x.shape[:2], 1, -1])
  output = params['output_convs']
  branch = conv(output['shortcut_layer']['conv1x1_b1'], elu(x))
  branch = conv(output['shortcut_layer']['conv1x1_b2'], elu(branch))
  return (conv(output['conv1x1_last'], x) + branch)[:, :, 0]


def decode(params: Params, latents: jax.Array) -> jax.Array:
  """Latents [B, N, D] -> spectrum [B, 4 (N - 1), F, 4], aligned with the encoder's.

  The output runs one latent behind: what concerns the time of latent j needs latent j + 1.
  """
  unit = params['input_layers_residual_unit']
  x = plain_unit(unit, decoder_input(params, latents), 'conv2d_3x3_a', 'conv2d_3x3')
  for index, stride in enumerate(config_lib.DECODER_STRIDES):
    if index == config_lib.JOINT_DECODER_UNITS:
      x = split_channels(x)
    x = decode_unit(params[f'decoder_{index}'], x, stride)
  x = conv(params['output_layer']['base_conv_last'], elu(x))
  return join_channels(x)[:, config_lib.LOOKAHEAD :]


def decoder_input(params: Params, latents: jax.Array) -> jax.Array:
  """Latents [B, N, D] -> what the first unit takes, [B, N, bins, width]; frame by frame."""
  x = latents[:, :, None]
  first = params['input_layer']
  branch = conv(first['shortcut_layer']['conv1x1_b1'], x)
  x = conv(first['conv1x1_first'], x) + conv(first['shortcut_layer']['conv1x1_b2'], elu(branch))
  width = params['input_layers_residual_unit']['conv2d_3x3']['conv']['bias'].shape[0]
  return jnp.reshape(x, [*x.shape[:2], -1, width])


def split_channels(x: jax.Array) -> jax.Array:
  """[B, T, F, 2 C] -> [2 B, T, F, C]: the audio channels of an example become batch neighbours."""
  batch, frames, bins, width = x.shape
  x = jnp.reshape(x, [batch, frames, bins, 2, width // 2])
  return jnp.transpose(x, [0, 3, 1, 2, 4]).reshape([2 * batch, frames, bins, width // 2])


def join_channels(x: jax.Array) -> jax.Array:
  """[2 B, T, F, C] -> [B, T, F, 2 C], left first; the inverse of `split_channels`."""
  batch, frames, bins, width = x.shape
  x = jnp.reshape(x, [batch // 2, 2, frames, bins, width])
  return jnp.transpose(x, [0, 2, 3, 1, 4]).reshape([batch // 2, frames, bins, 2 * width])


Shapes = dict[str, tuple[int, ...]]


def kernel_shapes(config: SpectroStreamConfig, spec: LiveMusicSpec) -> Shapes:
  """{'encoder/base_conv_first': [kt, kf, in, out], ...} of every layer, as the signal flows."""
  bins = hop_size(spec) // config_lib.FREQUENCY_STRIDE
  return _encoder_shapes(config, bins) | _decoder_shapes(config, bins)


def _encoder_shapes(config: SpectroStreamConfig, bins: int) -> Shapes:
  first, *widths = config.encoder_widths
  shapes: Shapes = {'encoder/base_conv_first': (7, 7, 2, first)}
  width = first
  for index, (out, stride) in enumerate(zip(widths, config_lib.ENCODER_STRIDES, strict=True)):
    name = f'encoder/encoder_{index}'
    width *= 2 if index == config_lib.SEPARATE_ENCODER_UNITS else 1
    kt, kf = unit_kernel(stride)
    shapes[f'{name}/conv2d_3x3'] = (3, 3, width, width)
    shapes[f'{name}/conv2d_{kt}x{kf}_a'] = (kt, kf, width, out)
    if width != out:
      shapes[f'{name}/shortcut_layer/conv1x1'] = (1, 1, width, out)
    width = out
  flat, features = bins * width, config.num_features
  return shapes | {
    'encoder/bottleneck/conv2d_3x3': (3, 3, width, width),
    'encoder/bottleneck/conv2d_3x3_a': (3, 3, width, width),
    'encoder/output_convs/conv1x1_last': (1, 1, flat, features),
    'encoder/output_convs/shortcut_layer/conv1x1_b1': (1, 1, flat, flat),
    'encoder/output_convs/shortcut_layer/conv1x1_b2': (1, 1, flat, features),
  }


def _decoder_shapes(config: SpectroStreamConfig, bins: int) -> Shapes:
  width, *widths = config.decoder_widths
  flat, features = bins * width, config.num_features
  shapes: Shapes = {
    'decoder/input_layer/conv1x1_first': (1, 1, features, flat),
    'decoder/input_layer/shortcut_layer/conv1x1_b1': (1, 1, features, flat),
    'decoder/input_layer/shortcut_layer/conv1x1_b2': (1, 1, flat, flat),
    'decoder/input_layers_residual_unit/conv2d_3x3_a': (3, 3, width, width),
    'decoder/input_layers_residual_unit/conv2d_3x3': (3, 3, width, width),
  }
  for index, (out, stride) in enumerate(zip(widths, config_lib.DECODER_STRIDES, strict=True)):
    name = f'decoder/decoder_{index}'
    width //= 2 if index == config_lib.JOINT_DECODER_UNITS else 1
    kt, kf = unit_kernel(stride)
    shapes[f'{name}/conv2dtranspose_{kt}x{kf}'] = (kt, kf, width, out)
    shapes[f'{name}/conv2d_3x3'] = (3, 3, out, out)
    if width != out:
      shapes[f'{name}/shortcut_layer/conv1x1'] = (1, 1, width, out)
    width = out
  return shapes | {'decoder/output_layer/base_conv_last': (7, 7, width, 2)}


def init_params(rng: jax.Array, config: SpectroStreamConfig, spec: LiveMusicSpec) -> Params:
  """Starting parameters {'encoder': ..., 'decoder': ...}, float32.

  Kernels are normal with variance 1 / fan-in, biases 0. One layer of every residual branch
  starts smaller, so that units do not add up to large outputs.
  """
  params: Params = {}
  shapes = kernel_shapes(config, spec)
  # One long draw cut into pieces: compiling a draw per layer would take longer than all the rest.
  ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
  draws = jnp.split(jax.random.normal(rng, [ends[-1]], jnp.float32), ends[:-1])
  for draw, (name, shape) in zip(draws, shapes.items(), strict=True):
    *path, leaf = name.split('/')
    node = params
    for part in path:
      node = node.setdefault(part, {})
    scale = _initial_gain(name) / math.sqrt(math.prod(shape[:-1]))
    kernel = scale * jnp.reshape(draw, shape)
    node[leaf] = {'conv': {'kernel': kernel, 'bias': jnp.zeros(shape[-1:], jnp.float32)}}
  return params


def _initial_gain(name: str) -> float:
  unit, leaf = name.split('/')[1], name.split('/')[-1]
  if unit == 'base_conv_first':
    return _INPUT_GAIN
  if unit == 'output_layer':
    return _OUTPUT_GAIN
  return _BRANCH_GAIN if leaf in ('conv2d_3x3', 'conv1x1_b2') else 1.0


# Spectra of music at full level have a root mean square near 4: the first layer brings them to
# about 1, the last one back from what the residual units have added up.
_INPUT_GAIN = 0.25
_BRANCH_GAIN = 0.7
_OUTPUT_GAIN = 1.0
