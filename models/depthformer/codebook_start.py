"""Embeddings and output columns that start from the codebooks of the codec and the style model.

The codes of an RVQ level are points of one space, and music moves through it smoothly: the next
code is often near the last one. Random embeddings hide that, and a model has to count every code
before it can say anything about it. Started from (a random projection of) the points themselves, an
untrained model already treats near codes alike, at its input and at its output.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from models.spec import LiveMusicSpec

Params = dict[str, Any]

# Spread of the levels' common offsets, which tell one level from another.
LEVEL_SPREAD = 0.3
# Standard deviation of the first logits.
LOGIT_SCALE = 0.1


def start_from_codebooks(
  params: Params,
  codec_codebooks: np.ndarray,
  style_codebooks: np.ndarray,
  spec: LiveMusicSpec,
  seed: int,
) -> Params:
  """Replaces the embeddings of codec and style ids, and the output columns of codec ids.

  Embeddings keep the unit variance of v1's initial values. An output column is the embedding of the
  same id, scaled, so that a code's logit begins as its likeness to what the decoder holds.

  Args:
    params: initial parameters of a Depthformer; not changed.
    codec_codebooks: float32 [>= target_levels, codebook_size, any width].
    style_codebooks: float32 [>= style_levels, codebook_size, any width].
    spec: token layout.
    seed: of the projections and of what is each code's own.

  Raises:
    ValueError: the codebooks have too few levels, or not `codebook_size` codes.
  """
  embedding, logits = np.array(params['embedding']), np.array(params['logits'])
  width = embedding.shape[1]
  rng = np.random.default_rng(seed)
  for kind, codebooks, levels, offset in (
    ('codec', codec_codebooks, spec.target_levels, spec.codec_offset),
    ('style', style_codebooks, spec.style_levels, spec.style_offset),
  ):
    if len(codebooks) < levels or codebooks.shape[1] != spec.codebook_size:
      raise ValueError(
        f'The {kind} codebooks have {len(codebooks)} levels of {codebooks.shape[1]} codes; the '
        f'token layout needs {levels} levels of {spec.codebook_size}.'
      )
    points = _embed(codebooks[:levels], width, rng).reshape(-1, width)
    ids = slice(offset, offset + len(points))
    embedding[ids] = points
    if kind == 'codec':
      logits[:, ids] = (LOGIT_SCALE / np.sqrt(width) * points).T
  return {**params, 'embedding': jnp.asarray(embedding), 'logits': jnp.asarray(logits)}


def _embed(codebooks: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
  """[levels, codes, any] -> [levels, codes, width], each level of about unit variance.

  One projection serves all levels: their residuals live in the same space. Rows that repeat are no
  codes (style models park those out of use in one far place): they start at the level's centre.
  """
  used = np.stack([_occur_once(level) for level in codebooks])[..., None]
  count = np.maximum(used.sum(axis=1, keepdims=True), 1)
  centre = np.sum(codebooks * used, axis=1, keepdims=True) / count
  points = (codebooks - centre) * used @ rng.standard_normal((codebooks.shape[-1], width))
  spread = np.sqrt(np.sum(np.square(points), axis=(1, 2), keepdims=True) / (count * width))
  points = points / np.maximum(spread, 1e-12)
  return points + LEVEL_SPREAD * rng.standard_normal((len(points), 1, width))


def _occur_once(rows: np.ndarray) -> np.ndarray:
  """Which rows have no equal."""
  _, index, counts = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
  return counts[index.reshape(-1)] == 1
