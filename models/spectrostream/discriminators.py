"""STFT discriminators: one judge per window length, as functions of explicit parameters.

Each sees one audio channel's spectrogram at a time through four residual down-blocks and both
channels together from there on (SoundStream, arXiv 2107.03312, section III-D; SpectroStream,
arXiv 2508.05207).
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models.config import Config
from models.spectrostream import network
from models.spectrostream.layers import Params, average_pool, conv, unit_kernel

# Strides (time, frequency) of the down-blocks; the audio channels are joined behind the fourth.
STRIDES = ((1, 2), (2, 2), (1, 2), (2, 2), (1, 2), (2, 2))
SEPARATE_BLOCKS = 4
_PLANES = 3  # Real part, imaginary part, magnitude.
_SLOPE = 0.2
_FREQUENCY_STRIDE = math.prod(frequency for _, frequency in STRIDES)


@dataclasses.dataclass(frozen=True)
class DiscriminatorConfig(Config):
  """Sizes of all discriminators.

  Attributes:
    windows: STFT windows in samples, one discriminator each; the hop is half a window.
    width: channels behind the first convolution.
    growth: channels behind each down-block, as multiples of `width`.
  """

  windows: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096)
  width: int = 32
  growth: tuple[int, ...] = (2, 4, 4, 8, 8, 16)

  def __post_init__(self):
    # Lists come from JSON and gin; a frozen config is hashable.
    for name in ('windows', 'growth'):
      object.__setattr__(self, name, tuple(getattr(self, name)))
    if len(self.growth) != len(STRIDES) or min(self.growth) < 1 or self.width < 1:
      raise ValueError(
        f'width={self.width}, growth={self.growth}: one width and {len(STRIDES)} multiples of it '
        'are needed, all at least 1.'
      )
    if not self.windows or len(set(self.windows)) < len(self.windows):
      raise ValueError(f'windows={self.windows} must be different lengths, at least one.')
    for window in self.windows:
      if window < 1 or window % (2 * _FREQUENCY_STRIDE):
        raise ValueError(
          f'A window of {window} samples is not a multiple of {2 * _FREQUENCY_STRIDE}, which '
          f'{len(STRIDES)} halvings of its bins need.'
        )


class Judgement(NamedTuple):
  """What one discriminator says of a batch.

  Attributes:
    logits: [B, time steps]; above 0 for 'original'.
    features: what every layer before gives, [B or 2 B, time, frequency, channels].
  """

  logits: jax.Array
  features: list[jax.Array]


def window_name(window: int) -> str:
  """Key of a discriminator's parameters."""
  return f'window_{window}'


def discriminate(
  params: Params, audio: jax.Array, config: DiscriminatorConfig
) -> dict[str, Judgement]:
  """Audio [B, n, 2] -> {'window_128': judgement, ...}.

  Raises:
    ValueError: the audio is shorter than a window; names both.
  """
  names = {window_name(window): window for window in config.windows}
  return {name: _judge(params[name], spectrogram(audio, names[name])) for name in names}


def spectrogram(audio: jax.Array, window: int) -> jax.Array:
  """[B, n, 2] -> [2 B, n // hop - 1, window // 2, 3]: real, imaginary, magnitude.

  The audio channels of an example are batch neighbours. Hann windows of unit energy, so that noise
  has the same level at every length; hop window / 2; the Nyquist bin is dropped.
  """
  hop = window // 2
  batch, samples, channels = audio.shape
  if samples < window:
    raise ValueError(f'Crops of {samples} samples are shorter than the window of {window}.')
  num_hops = samples // hop
  x = jnp.transpose(audio, [0, 2, 1])[..., : num_hops * hop]
  hops = jnp.reshape(x, [batch * channels, num_hops, hop])
  frames = jnp.concatenate([hops[:, :-1], hops[:, 1:]], axis=-1)
  spectrum = jnp.fft.rfft(frames * _analysis_window(window), axis=-1)[..., :-1]
  real, imaginary = jnp.real(spectrum), jnp.imag(spectrum)
  magnitude = jnp.sqrt(jnp.square(real) + jnp.square(imaginary) + 1e-12)
  return jnp.stack([real, imaginary, magnitude], axis=-1)


def init_params(rng: jax.Array, config: DiscriminatorConfig) -> Params:
  """Starting parameters {'window_128': {'first': ..., 'block_0': ..., ...}, ...}, float32.

  Kernels are normal with variance 1 / fan-in; scales 1, biases 0.
  """
  shapes = {window_name(window): param_shapes(config, window) for window in config.windows}
  leaves, structure = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
  # One long draw cut into pieces: compiling a draw per layer would take longer than all the rest.
  sizes = [math.prod(shape) if len(shape) > 1 else 0 for shape in leaves]
  draws = jnp.split(jax.random.normal(rng, [sum(sizes)], jnp.float32), np.cumsum(sizes)[:-1])
  values = [
    jnp.reshape(draw, shape) / math.sqrt(math.prod(shape[:-1])) if size else jnp.zeros(shape)
    for draw, shape, size in zip(draws, leaves, sizes, strict=True)
  ]
  tree = jax.tree.unflatten(structure, values)
  return jax.tree_util.tree_map_with_path(
    lambda path, x: jnp.ones_like(x) if path[-1].key == 'scale' else x, tree
  )


def param_shapes(config: DiscriminatorConfig, window: int) -> dict:
  """Shapes of one discriminator's parameters, in their tree."""
  width = config.width
  shapes = {'first': _conv_shapes(7, 7, _PLANES, width)}
  for index, (growth, stride) in enumerate(zip(config.growth, STRIDES, strict=True)):
    width *= 2 if index == SEPARATE_BLOCKS else 1
    out = growth * config.width
    block = {
      'norm_a': _norm_shapes(width),
      'conv_a': _conv_shapes(3, 3, width, width),
      'norm_b': _norm_shapes(width),
      'conv_b': _conv_shapes(*unit_kernel(stride), width, out),
    }
    if width != out:
      block['shortcut'] = _conv_shapes(1, 1, width, out)
    shapes[f'block_{index}'] = block
    width = out
  bins = window // 2 // _FREQUENCY_STRIDE
  return {**shapes, 'norm_last': _norm_shapes(width), 'last': _conv_shapes(3, bins, width, 1)}


def _judge(params: Params, x: jax.Array) -> Judgement:
  """One discriminator on its spectrogram [2 B, time, frequency, 3]."""
  x = conv(params['first'], x)
  features = [x]
  for index, stride in enumerate(STRIDES):
    if index == SEPARATE_BLOCKS:
      x = network.join_channels(x)
    x = _down_block(params[f'block_{index}'], x, stride)
    features.append(x)
  x = _activated(params['norm_last'], x)
  # Three time steps and all bins at once: frequency becomes channels of a convolution over time.
  kernel, bias = params['last']['conv']['kernel'], params['last']['conv']['bias']
  steps = x.shape[1]
  x = jnp.pad(jnp.reshape(x, [*x.shape[:2], -1]), [(0, 0), (1, 1), (0, 0)])
  taps = jnp.reshape(kernel, [len(kernel), -1])
  logits = sum(x[:, tap : tap + steps] @ taps[tap] for tap in range(len(taps)))
  return Judgement(logits + bias, features)


def _down_block(layer: Params, x: jax.Array, stride: tuple[int, int]) -> jax.Array:
  """Body: norm, leaky ReLU, 3x3, the same with the strided kernel. Shortcut: average pooling."""
  h = conv(layer['conv_a'], _activated(layer['norm_a'], x))
  h = conv(layer['conv_b'], _activated(layer['norm_b'], h), stride)
  shortcut = average_pool(x, stride)
  return h + (conv(layer['shortcut'], shortcut) if 'shortcut' in layer else shortcut)


def _activated(norm: Params, x: jax.Array) -> jax.Array:
  """Layer norm over frequency and channels of each time step, then leaky ReLU."""
  mean = jnp.mean(x, axis=(2, 3), keepdims=True)
  variance = jnp.mean(jnp.square(x - mean), axis=(2, 3), keepdims=True)
  x = (x - mean) * jax.lax.rsqrt(variance + 1e-6) * norm['scale'] + norm['bias']
  return jnp.maximum(x, _SLOPE * x)


def _conv_shapes(kt: int, kf: int, width: int, out: int) -> dict:
  return {'conv': {'kernel': (kt, kf, width, out), 'bias': (out,)}}


def _norm_shapes(width: int) -> dict:
  return {'scale': (width,), 'bias': (width,)}


@functools.lru_cache(maxsize=16)
def _analysis_window(window: int) -> np.ndarray:
  values = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
  return (values / np.sqrt(np.square(values).sum())).astype(np.float32)
