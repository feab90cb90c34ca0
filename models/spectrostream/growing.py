"""A trained codec in a larger one: more channels, carried or free, and more latents.

Carried channels stay in front, the decoder's constant stays last, free channels come between them
(see `linear_start`). What is new starts as it is in the larger codec and is heard by nothing that
was there, so that the free channels do what they did (Net2Net, arXiv 1511.05641).
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from models.spectrostream import config as config_lib
from models.spectrostream.config import SpectroStreamConfig
from models.spectrostream.linear_start import LinearStart

Tree = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Size:
  """The channels of one stage: `carried` in front, a constant behind or not, free ones between."""

  width: int
  carried: int
  constants: int = 0


def grow(
  params: Tree,
  old: tuple[SpectroStreamConfig, LinearStart],
  fresh: Tree,
  new: tuple[SpectroStreamConfig, LinearStart],
) -> Tree:
  """Puts a codec's channels into a larger codec.

  Args:
    params: {'encoder': ..., 'decoder': ...} of the trained codec.
    old: its widths, and how many of its channels are carried.
    fresh: parameters of the larger one.
    new: its widths, and how many of its channels are carried.

  Returns:
    Like `fresh`, float32. What carried channels do is left to `linear_start.linear_refit`.

  Raises:
    ValueError: the new codec lacks room for a stage of the old one, or has a projection where the
      old one has none.
  """
  places = _places(*old, *new)

  def merge(path: tuple[Any, ...], value: jax.Array) -> np.ndarray:
    *names, leaf = [key.key for key in path]
    merged, node = np.array(value, np.float32), params
    for name in [*names, leaf]:
      if name not in node:
        return merged
      node = node[name]
    given = np.asarray(node, np.float32)
    ins, outs = places['/'.join(names[:-1])]
    if leaf == 'bias':
      merged[outs] = given
      return merged
    merged[..., outs] = 0.0
    merged[..., ins[:, None], outs[None]] = given
    return merged

  return jax.tree_util.tree_map_with_path(merge, fresh)


def check_can_grow(
  old: tuple[SpectroStreamConfig, LinearStart], new: tuple[SpectroStreamConfig, LinearStart]
):
  """Raises the ValueError that `grow` would."""
  _places(*old, *new)


def _places(
  old: SpectroStreamConfig, old_start: LinearStart, new: SpectroStreamConfig, new_start: LinearStart
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Where the inputs and outputs of every layer of the old codec lie in the new one."""
  encoder = [
    _kept(_Size(w, c), _Size(v, d), f'encoder_widths[{i}]')
    for i, (w, c, v, d) in enumerate(
      zip(old.encoder_widths, old_start.carried, new.encoder_widths, new_start.carried, strict=True)
    )
  ]
  decoder = []
  for i, (w, v) in enumerate(zip(old.decoder_widths, new.decoder_widths, strict=True)):
    parts = 2 if i == config_lib.JOINT_DECODER_UNITS else 1
    c, d = (start.carried[-1 - i] for start in (old_start, new_start))
    # The last stage's output layer hears no constant.
    kept = _kept(_Size(w // parts, c, 1), _Size(v // parts, d, 1), f'decoder_widths[{i}]')
    decoder.append(kept)
  halves = (old.decoder_widths[1] // 2, new.decoder_widths[1] // 2)
  latents = _kept(
    _Size(old.num_features, old_start.features), _Size(new.num_features, new_start.features),
    'num_features',
  )  # fmt: skip
  two = np.arange(2)
  places = {'encoder/base_conv_first': (two, encoder[0])}
  for index in range(len(config_lib.ENCODER_STRIDES)):
    ins, outs, unit = encoder[index], encoder[index + 1], f'encoder/encoder_{index}'
    if index == config_lib.SEPARATE_ENCODER_UNITS:
      ins = np.concatenate([ins, new.encoder_widths[index] + ins])
    places |= {
      f'{unit}/conv2d_3x3': (ins, ins),
      f'{unit}/shortcut_layer/conv1x1': (ins, outs),
      **{f'{unit}/conv2d_{kernel}_a': (ins, outs) for kernel in _KERNELS},
    }
  last = encoder[-1]
  flat = _flat(last, new.encoder_widths[-1])
  places |= {
    'encoder/bottleneck/conv2d_3x3': (last, last),
    'encoder/bottleneck/conv2d_3x3_a': (last, last),
    'encoder/output_convs/conv1x1_last': (flat, latents),
    'encoder/output_convs/shortcut_layer/conv1x1_b1': (flat, flat),
    'encoder/output_convs/shortcut_layer/conv1x1_b2': (flat, latents),
  }
  first = decoder[0]
  flat = _flat(first, new.decoder_widths[0])
  places |= {
    'decoder/input_layer/conv1x1_first': (latents, flat),
    'decoder/input_layer/shortcut_layer/conv1x1_b1': (latents, flat),
    'decoder/input_layer/shortcut_layer/conv1x1_b2': (flat, flat),
    'decoder/input_layers_residual_unit/conv2d_3x3_a': (first, first),
    'decoder/input_layers_residual_unit/conv2d_3x3': (first, first),
  }
  for index in range(len(config_lib.DECODER_STRIDES)):
    ins, outs, unit = decoder[index], decoder[index + 1], f'decoder/decoder_{index}'
    if index < config_lib.JOINT_DECODER_UNITS:
      outs = np.concatenate([outs, halves[1] + outs])
    places |= {
      f'{unit}/conv2d_3x3': (outs, outs),
      f'{unit}/shortcut_layer/conv1x1': (ins, outs),
      **{f'{unit}/conv2dtranspose_{kernel}': (ins, outs) for kernel in _KERNELS},
    }
  places['decoder/output_layer/base_conv_last'] = (decoder[-1], two)
  return places


_KERNELS = ('3x4', '3x6', '4x4', '4x3')
_NUM_BINS = 5


def _kept(old: _Size, new: _Size, name: str) -> np.ndarray:
  """Where the channels of an old stage lie in a new one: [old.width]."""
  free = old.width - old.carried - old.constants
  if new.carried < old.carried or new.width - new.carried - new.constants < free:
    raise ValueError(
      f'{name}={new.width} with {new.carried} carried has no room for {old.carried} carried and '
      f'{free} free channels.'
    )
  return np.concatenate([
    np.arange(old.carried),
    new.carried + np.arange(free),
    new.width - old.constants + np.arange(old.constants),
  ])


def _flat(kept: np.ndarray, width: int) -> np.ndarray:
  """The same in a flattened [bins, width]."""
  return (width * np.arange(_NUM_BINS)[:, None] + kept).reshape(-1)
