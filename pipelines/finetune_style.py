"""Where a catalog lies in the style space, as the codec plays it.

What a model plays has gone through the codec with the levels that the model predicts, and that
moves an embedding: held-out gamelan, which the bundled codec has not heard either, has a cosine of
0.96 to its catalog as it is, 0.08 after 16 levels of the codec, and 0.97 if both have gone through
them. So outputs are laid beside the catalog's own tokens, decoded.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation import adherence, bootstrap
from models.spec import LiveMusicSpec

NUM_EXCERPTS = 16


def decoded_embeddings(
  data_dir: str | pathlib.Path,
  split: str,
  spec: LiveMusicSpec,
  codec: Any,
  style: Any,
  number: int = NUM_EXCERPTS,
) -> np.ndarray:
  """Style embeddings of excerpts that are decoded from their tokens.

  Args:
    data_dir: prepared, with records of `split`.
    split: of the data.
    spec: token layout; as many levels are decoded as a model predicts.
    codec: of the tokens.
    style: the style model.
    number: of excerpts at most, each from the middle of a record; records evenly spread.

  Returns:
    float32 [N, style_dim].
  """
  from preprocessing.records import read_split
  from tasks.source import find_token_folder

  clips = [tokens.acoustic_tokens for tokens, _ in read_split(find_token_folder(data_dir), split)]
  frames = round(spec.style_window_secs * spec.frame_rate)
  found = []
  for clip in clips[:: max(1, -(-len(clips) // number))]:
    start = max(0, (len(clip) - frames) // 2)
    codes = np.asarray(clip[start : start + frames, : spec.target_levels], np.int32)
    found.append(style.embed_audio(codec.decode(codes), spec.sample_rate))
  return np.stack(found).astype(np.float32)


def style_figures(
  before: np.ndarray, after: np.ndarray, training: np.ndarray, held_out: np.ndarray, seed: int
) -> dict[str, Any]:
  """The `style` of a `TuningReport`.

  Args:
    before: embeddings [N, D] of what the base plays.
    after: of what the tuned model plays, of the same prompts with the same random numbers.
    training: of the catalog's training tracks, decoded.
    held_out: of its held-out tracks, decoded.
    seed: of the bootstrap over outputs.
  """
  mean = training.mean(axis=0)
  cosines = [adherence.cosine(rows, mean) for rows in (before, after)]
  _, low, high = bootstrap.mean_interval(cosines[1] - cosines[0], seed=seed)
  return {
    'before': float(cosines[0].mean()),
    'after': float(cosines[1].mean()),
    'low': float(low),
    'high': float(high),
    'num_clips': len(before),
    'catalog': float(adherence.cosine(held_out, mean).mean()),
  }


def spread(vectors: Sequence[np.ndarray] | np.ndarray) -> float:
  """Mean of 1 - cosine over all pairs of [N, D]; 0 for a single one."""
  vectors = np.asarray(vectors)
  first, second = np.triu_indices(len(vectors), 1)
  if not len(first):
    return 0.0
  return float(1 - adherence.cosine(vectors[first], vectors[second]).mean())
