"""Clips of any length in windows of a few sizes, which overlap by what a frame depends on.

So memory stays constant, nothing is compiled anew for another length, and the kept parts of the
windows are those of one pass.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

# Latent frames before a frame that its value can depend on: 54 STFT frames through the encoder, 54
# and one of overlap-add through the decoder, at 4 to a latent.
CONTEXT_FRAMES = 15
# Latent frames in a window: the smallest that holds the whole clip, or the largest.
BLOCK_SIZES = (32, 80, 208)
# Clips side by side in one call on an accelerator. A CPU is no faster with several than with one
# after the other.
_CLIPS_PER_CALL = 4


class Window(NamedTuple):
  """One window of B clips.

  Attributes:
    data: [B, size * unit + extra, C], filled up behind the end of the clips.
    count: how much of its second axis exists.
    kept: which of its frames are new and exist.
  """

  data: np.ndarray
  count: int
  kept: slice


def windows(
  pieces: Iterable[np.ndarray], unit: int, extra: int, fill: float
) -> Iterator[Window]:
  """Overlapping windows of clips that come in pieces.

  Args:
    pieces: [B, n, C] each, to be laid end to end; n may differ.
    unit: steps along the second axis in one frame.
    extra: steps that a window reaches beyond its frames.
    fill: value of steps behind the end.
  """
  parts, count = [], 0  # What is held, from the first frame of the next window on.
  kept, size = 0, BLOCK_SIZES[-1]  # Frames of that window which the one before it has given.
  for piece in pieces:
    parts.append(piece)
    count += piece.shape[1]
    while count >= size * unit + extra:
      held = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
      yield Window(held[:, : size * unit + extra], size * unit + extra, slice(kept, size))
      kept = CONTEXT_FRAMES
      parts, count = [held[:, (size - kept) * unit :]], count - (size - kept) * unit
  if not parts:
    return
  held = np.concatenate(parts, axis=1)
  if not kept:  # The clip is short: the first window is the last.
    size = next((size for size in BLOCK_SIZES if size * unit >= count), size)
  while kept * unit < count:
    window = held[:, : size * unit + extra]
    missing = size * unit + extra - window.shape[1]
    data = np.pad(window, [(0, 0), (0, missing), (0, 0)], constant_values=fill)
    yield Window(data, window.shape[1], slice(kept, min(size, -(-count // unit))))
    kept = CONTEXT_FRAMES
    held, count = held[:, (size - kept) * unit :], count - (size - kept) * unit


def over_clips(function: Callable[[np.ndarray], jax.Array], clips: np.ndarray) -> np.ndarray:
  """`function` of [b, ...] over clips [B, ...], as many at a time as suits the device."""
  count = max(1, len(clips))  # No clips still have a shape.
  step = 1 if jax.default_backend() == 'cpu' else min(_CLIPS_PER_CALL, count)
  results = []
  for start in range(0, count, step):
    some = clips[start : start + step]
    # The last call has the others' size, so that nothing is compiled for it.
    padded = np.pad(some, [(0, step - len(some))] + [(0, 0)] * (some.ndim - 1))
    # Cut on the host: a slice on the device would be compiled for every size.
    results.append(np.asarray(function(padded))[: len(some)])
  return results[0] if len(results) == 1 else np.concatenate(results)
