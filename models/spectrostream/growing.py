"""A trained codec in a larger one: more channels, carried or free, and more latents.

Carried channels stay in front, the decoder's constant stays last, free channels come between them
(see `linear_start`). What is new starts as it is in the larger codec and is heard by nothing that
was there, so that the free channels do what they did (Net2Net, arXiv 1511.05641).
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from models.spec import LiveMusicSpec
from models.spectrostream import config as config_lib
from models.spectrostream import network
from models.spectrostream.config import SpectroStreamConfig
from models.spectrostream.linear_components import LinearStart

Tree = dict[str, Any]
# Widths of a codec, and how many of its channels are carried.
Sizes = tuple[SpectroStreamConfig, LinearStart]


@dataclasses.dataclass(frozen=True)
class _Size:
  """The channels of one stage: `carried` in front, a constant behind or not, free ones between."""

  width: int
  carried: int
  constants: int = 0


def grow(params: Tree, old: Sizes, fresh: Tree, new: Sizes, spec: LiveMusicSpec) -> Tree:
  """Puts a codec's channels into a larger codec.

  Args:
    params: {'encoder': ..., 'decoder': ...} of the trained codec.
    old: its widths, and how many of its channels are carried.
    fresh: parameters of the larger one.
    new: its widths, and how many of its channels are carried.
    spec: sample and frame rate of both.

  Returns:
    Like `fresh`, float32. What carried channels do is left to `linear_start.linear_refit`.

  Raises:
    ValueError: see `check_can_grow`.
  """
  check_can_grow(old, new, spec)
  places = _places(old, new, spec)

  def merge(path: tuple[Any, ...], given: jax.Array, value: jax.Array) -> np.ndarray:
    *names, _, leaf = [key.key for key in path]
    ins, outs = places['/'.join(names)]
    given, merged = np.asarray(given, np.float32), np.array(value, np.float32)
    if leaf == 'bias':
      merged[outs] = given
      return merged
    merged[..., outs] = 0.0
    merged[..., ins[:, None], outs[None]] = given
    return merged

  return jax.tree_util.tree_map_with_path(merge, params, fresh)


def check_can_grow(old: Sizes, new: Sizes, spec: LiveMusicSpec):
  """Checks that one codec has room for another.

  Raises:
    ValueError: a stage of the new codec is too narrow for what the old one has there, or a unit has
      a projection in one of them only.
  """
  layers = [set(network.kernel_shapes(config, spec)) for config, _ in (old, new)]
  if different := sorted(layers[0] ^ layers[1]):
    raise ValueError(
      f'{", ".join(different)} is in one of the two codecs only: a unit that keeps its width has '
      'no projection. Let the same neighbouring widths be equal in both.'
    )
  _places(old, new, spec)


def _places(
  old: Sizes, new: Sizes, spec: LiveMusicSpec
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Where the inputs and outputs of every layer of the old codec lie in the new one."""
  (old_config, old_start), (config, start) = old, new
  bins = network.hop_size(spec) // config_lib.FREQUENCY_STRIDE
  encoder = [
    _kept(_Size(w, c), _Size(v, d), f'encoder_widths[{i}]')
    for i, (w, c, v, d) in enumerate(
      zip(old_config.encoder_widths, old_start.carried, config.encoder_widths, start.carried,
          strict=True)
    )
  ]  # fmt: skip
  decoder = []
  for i, (w, v) in enumerate(zip(old_config.decoder_widths, config.decoder_widths, strict=True)):
    # This stage holds both audio channels side by side.
    parts, name = (2, 'half of ') if i == config_lib.JOINT_DECODER_UNITS else (1, '')
    sizes = (_Size(w // parts, old_start.carried[-1 - i], 1),
             _Size(v // parts, start.carried[-1 - i], 1))  # fmt: skip
    decoder.append(_kept(*sizes, f'{name}decoder_widths[{i}]'))
  latents = _kept(
    _Size(old_config.num_features, old_start.features),
    _Size(config.num_features, start.features), 'num_features',
  )  # fmt: skip

  def flat(kept: np.ndarray, width: int) -> np.ndarray:
    return (width * np.arange(bins)[:, None] + kept).reshape(-1)

  two, last, first = np.arange(2), encoder[-1], decoder[0]
  read, written = flat(last, config.encoder_widths[-1]), flat(first, config.decoder_widths[0])
  places = {
    'encoder/base_conv_first': (two, encoder[0]),
    'encoder/bottleneck/conv2d_3x3': (last, last),
    'encoder/bottleneck/conv2d_3x3_a': (last, last),
    'encoder/output_convs/conv1x1_last': (read, latents),
    'encoder/output_convs/shortcut_layer/conv1x1_b1': (read, read),
    'encoder/output_convs/shortcut_layer/conv1x1_b2': (read, latents),
    'decoder/input_layer/conv1x1_first': (latents, written),
    'decoder/input_layer/shortcut_layer/conv1x1_b1': (latents, written),
    'decoder/input_layer/shortcut_layer/conv1x1_b2': (written, written),
    'decoder/input_layers_residual_unit/conv2d_3x3_a': (first, first),
    'decoder/input_layers_residual_unit/conv2d_3x3': (first, first),
    'decoder/output_layer/base_conv_last': (decoder[-1], two),
  }
  for index, stride in enumerate(config_lib.ENCODER_STRIDES):
    ins, outs, unit = encoder[index], encoder[index + 1], f'encoder/encoder_{index}'
    if index == config_lib.SEPARATE_ENCODER_UNITS:
      ins = np.concatenate([ins, config.encoder_widths[index] + ins])
    kt, kf = network.unit_kernel(stride)
    places[f'{unit}/conv2d_3x3'] = (ins, ins)
    places[f'{unit}/conv2d_{kt}x{kf}_a'] = places[f'{unit}/shortcut_layer/conv1x1'] = (ins, outs)
  for index, stride in enumerate(config_lib.DECODER_STRIDES):
    ins, outs, unit = decoder[index], decoder[index + 1], f'decoder/decoder_{index}'
    if index < config_lib.JOINT_DECODER_UNITS:
      outs = np.concatenate([outs, config.decoder_widths[index + 1] // 2 + outs])
    kt, kf = network.unit_kernel(stride)
    resampled = f'{unit}/conv2dtranspose_{kt}x{kf}'
    places[f'{unit}/conv2d_3x3'] = (outs, outs)
    places[resampled] = places[f'{unit}/shortcut_layer/conv1x1'] = (ins, outs)
  return places


def _kept(old: _Size, new: _Size, name: str) -> np.ndarray:
  """Where the channels of an old stage lie in a new one: [old.width]."""
  free = old.width - old.carried - old.constants
  if new.carried < old.carried or new.width - new.carried - new.constants < free:
    raise ValueError(
      f'{name}={new.width} with {new.carried} carried channels has no room for {old.carried} '
      f'carried and {free} free ones. Make it wider.'
    )
  return np.concatenate([
    np.arange(old.carried),
    new.carried + np.arange(free),
    new.width - old.constants + np.arange(old.constants),
  ])
