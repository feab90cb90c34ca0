"""One step of a SpectroStream whose audio comes and goes frame by frame, as pure functions.

A state is a nested dict of arrays of fixed sizes: the audio or spectrum that is not done with, and
the last time steps of each convolution's input.
"""

from typing import Any

import jax
import jax.numpy as jnp

from models.spectrostream import config as config_lib
from models.spectrostream import layers, network
from models.spectrostream.stft import inverse_stft, stft

Params = layers.Params
State = dict[str, Any]


def encoder_state(encoder: Params, first: jax.Array) -> State:
  """The state after the first frame of audio [B, 1920, 2], of which nothing is coded yet."""
  frames = jax.eval_shape(_encoder_layers, encoder, first)
  return {'samples': jnp.asarray(first), 'layers': _zeros(frames)}


def encode_step(
  encoder: Params, state: State, samples: jax.Array, hops: jax.Array | None = None
) -> tuple[State, jax.Array]:
  """Codes as many frames as it is given, one frame late.

  Args:
    encoder: parameters.
    state: as `encoder_state` or this function gave it.
    samples: [B, m * 1920, 2] float32.
    hops: how many of the 4 m STFT frames exist, where the clip ends in `samples`; None is all.

  Returns:
    (state, latents [B, m, D]): from the frame before `samples` up to the last but one in it.
  """
  size = state['samples'].shape[1]
  hop = size // config_lib.TIME_STRIDE
  audio = jnp.concatenate([state['samples'], samples], axis=1)
  spectrum = stft(audio[:, : samples.shape[1] + hop], hop)[:, :-1]
  memory = Memory(state['layers'])
  latents = encode_frames(encoder, spectrum, memory, hops)
  return {'samples': audio[:, -size:], 'layers': memory.following}, latents


def decoder_state(decoder: Params, codebooks: jax.Array, batch_size: int = 1) -> State:
  """The state before the first frame of `batch_size` clips."""
  latents = jax.ShapeDtypeStruct([batch_size, 1, codebooks.shape[-1]], codebooks.dtype)
  spectrum, frames = jax.eval_shape(_decoder_layers, decoder, latents)
  last = jnp.zeros([batch_size, 1, *spectrum.shape[2:]], spectrum.dtype)
  return {'spectrum': last, 'started': jnp.zeros([], bool), 'layers': _zeros(frames)}


def decode_step(decoder: Params, state: State, latents: jax.Array) -> tuple[State, jax.Array]:
  """Decodes as many frames as it is given, one frame late.

  Args:
    decoder: parameters.
    state: as `decoder_state` or this function gave it.
    latents: [B, m, D] float32.

  Returns:
    (state, samples [B, m * 1920, 2]): from the frame before `latents` up to the last but one of
    them. Samples before the first frame are 0.
  """
  memory = Memory(state['layers'])
  spectrum = decode_frames(decoder, latents, memory)
  # What comes before the first frame must not ring into it.
  real = state['started'] | (jnp.arange(spectrum.shape[1]) >= config_lib.LOOKAHEAD)
  spectrum = jnp.where(real[:, None, None], spectrum, 0.0)
  spectrum = jnp.concatenate([state['spectrum'], spectrum], axis=1)
  hop = spectrum.shape[2]
  audio = inverse_stft(spectrum, hop)[:, hop:]
  following = {'spectrum': spectrum[:, -1:], 'started': jnp.ones([], bool)}
  return {**following, 'layers': memory.following}, audio


class Memory:
  """What convolutions must know of earlier frames, by the name of the layer."""

  def __init__(self, past: dict[str, jax.Array] | None = None):
    """`past` holds the last time steps of each layer's input; None stands for zeros."""
    self.past, self.following = past, {}

  def conv(self, params: Params, name: str, x: jax.Array, stride: layers.Stride = (1, 1)):
    """`layers.conv` of the layer `name`, such as 'encoder_0/conv2d_3x3'."""
    layer = _find(params, name)
    return layers.conv(layer, x, stride, self._recall(name, x, _kernel_size(layer) - stride[0]))

  def conv_transposed(self, params: Params, name: str, x: jax.Array, stride: layers.Stride):
    """`layers.conv_transposed` of the layer `name`."""
    layer = _find(params, name)
    steps = -(-_kernel_size(layer) // stride[0]) - 1
    return layers.conv_transposed(layer, x, stride, self._recall(name, x, steps))

  def _recall(self, name: str, x: jax.Array, steps: int) -> jax.Array:
    past = jnp.zeros([len(x), steps, *x.shape[2:]], x.dtype)
    past = past if self.past is None else self.past[name]
    self.following[name] = jnp.concatenate([past, x], axis=1)[:, -steps:]
    return past


def encode_frames(
  encoder: Params, spectrum: jax.Array, memory: Memory, num_frames: jax.Array | None
) -> jax.Array:
  """`network.encode`, going on from `memory`."""
  x = memory.conv(encoder, 'base_conv_first', network.split_channels(spectrum))
  for index, stride in enumerate(config_lib.ENCODER_STRIDES):
    if index == config_lib.SEPARATE_ENCODER_UNITS:
      x = network.join_channels(x)
    name, (kt, kf) = f'encoder_{index}', layers.unit_kernel(stride)
    h = layers.elu(memory.conv(encoder, f'{name}/conv2d_3x3', layers.elu(x)))
    if num_frames is not None and stride[0] > 1:
      real = (jnp.arange(x.shape[1]) < num_frames)[:, None, None]
      h, x = jnp.where(real, h, 0.0), jnp.where(real, x, 0.0)
      num_frames = -(-num_frames // stride[0])
    h = memory.conv(encoder, f'{name}/conv2d_{kt}x{kf}_a', h, stride)
    x = h + _project(encoder[name], layers.average_pool(x, stride))
  h = memory.conv(encoder, 'bottleneck/conv2d_3x3', layers.elu(x))
  x = x + memory.conv(encoder, 'bottleneck/conv2d_3x3_a', layers.elu(h))
  return network.encoder_output(encoder, x)


def decode_frames(decoder: Params, latents: jax.Array, memory: Memory) -> jax.Array:
  """`network.decode` without its look-ahead, going on from `memory`: [B, 4 N, F, 4]."""
  x = network.decoder_input(decoder, latents)
  name = 'input_layers_residual_unit'
  h = memory.conv(decoder, f'{name}/conv2d_3x3_a', layers.elu(x))
  x = x + memory.conv(decoder, f'{name}/conv2d_3x3', layers.elu(h))
  for index, stride in enumerate(config_lib.DECODER_STRIDES):
    if index == config_lib.JOINT_DECODER_UNITS:
      x = network.split_channels(x)
    name, (kt, kf) = f'decoder_{index}', layers.unit_kernel(stride)
    h = memory.conv_transposed(
      decoder, f'{name}/conv2dtranspose_{kt}x{kf}', layers.elu(x), stride
    )
    h = memory.conv(decoder, f'{name}/conv2d_3x3', layers.elu(h))
    x = h + layers.repeat(_project(decoder[name], x), stride)
  x = memory.conv(decoder, 'output_layer/base_conv_last', layers.elu(x))
  return network.join_channels(x)


def _encoder_layers(encoder: Params, samples: jax.Array) -> dict[str, jax.Array]:
  memory = Memory()
  encode_frames(encoder, stft(samples, samples.shape[1] // config_lib.TIME_STRIDE), memory, None)
  return memory.following


def _decoder_layers(
  decoder: Params, latents: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  memory = Memory()
  return decode_frames(decoder, latents, memory), memory.following


def _zeros(shapes: Any) -> Any:
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _find(params: Params, name: str) -> Params:
  for part in name.split('/'):
    params = params[part]
  return params


def _kernel_size(layer: Params) -> int:
  return layer['conv']['kernel'].shape[0]


def _project(unit: Params, x: jax.Array) -> jax.Array:
  return layers.conv(unit['shortcut_layer']['conv1x1'], x) if 'shortcut_layer' in unit else x
