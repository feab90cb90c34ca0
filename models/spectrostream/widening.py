"""More channels for a trained decoder, which plays the same before its next step.

Channels that are new start at random in what they hear and are heard by nothing that was there
(function-preserving growth: Chen et al., Net2Net, arXiv 1511.05641). They lie before the last
channel of a stage, which a linear start keeps as its constant.
"""

from typing import Any

import jax
import numpy as np

from models.spectrostream import config as config_lib
from models.spectrostream.config import SpectroStreamConfig

Tree = dict[str, Any]


def check_can_widen(narrow: SpectroStreamConfig, wide: SpectroStreamConfig):
  """Whether a decoder can be widened from one config to the other.

  Raises:
    ValueError: the configs differ in something else than wider decoder stages behind the point
      where the audio channels part, or a stage's shortcut would come or go.
  """
  if (narrow.num_features, narrow.encoder_widths) != (wide.num_features, wide.encoder_widths):
    raise ValueError(f'Only decoders can be widened: {narrow} and {wide} differ in their encoders.')
  old, new = narrow.decoder_widths, wide.decoder_widths
  joint = config_lib.JOINT_DECODER_UNITS + 1
  if old[:joint] != new[:joint] or any(a > b for a, b in zip(old, new, strict=True)):
    raise ValueError(
      f'decoder_widths {old} cannot become {new}: the first {joint} must stay, others may grow.'
    )
  inside = [(w[joint - 1] // 2, *w[joint:]) for w in (old, new)]
  for stage in range(len(inside[0]) - 1):
    kept = [widths[stage] == widths[stage + 1] for widths in inside]
    if kept[0] != kept[1]:
      raise ValueError(
        f'decoder_widths {old} cannot become {new}: decoder_{stage + joint - 1} has a projection '
        f'with {"the new" if kept[0] else "the old"} widths only.'
      )


def widen(narrow: Tree, fresh: Tree) -> Tree:
  """A decoder's parameters in a wider decoder; where the sizes are the same, they are `narrow`.

  Args:
    narrow: of the trained decoder.
    fresh: of a new one, at least as wide; not changed.

  Returns:
    Like `fresh`, float32: decodes as `narrow` does.
  """

  def merge(path: tuple[Any, ...], old: jax.Array, new: jax.Array) -> np.ndarray:
    old = np.asarray(old, np.float32)
    if old.shape == new.shape:
      return old
    merged = np.array(new, np.float32)
    outs = _kept(old.shape[-1], merged.shape[-1])
    if path[-1].key == 'bias':
      merged[outs] = old
      return merged
    ins = _kept(old.shape[-2], merged.shape[-2])
    # What was there hears nothing that is new.
    merged[..., outs] = 0.0
    merged[..., ins[:, None], outs[None]] = old
    return merged

  return jax.tree_util.tree_map_with_path(merge, narrow, fresh)


def _kept(old: int, new: int) -> np.ndarray:
  """Where `old` channels lie among `new`."""
  return np.append(np.arange(old - 1), new - 1)
