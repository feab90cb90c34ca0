"""An output layer that starts from how often each code occurs, so that training begins there.

A model whose first logits are nearly alike spends its first steps on learning which codes are
frequent, level by level; on the fine levels of little music it may never get so far. One coordinate
of all embeddings gets the same value, the residual stream carries it past every layer, and the
output layer reads the logarithms of the frequencies off it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.depthformer import network
from models.depthformer.config import DepthformerConfig
from models.spec import LiveMusicSpec

Params = dict[str, Any]

# What the coordinate holds, beside embeddings of unit variance.
CONSTANT = 6.0
_COORDINATE = 0


def start_from_unigram(
  params: Params,
  counts: np.ndarray,
  encoder_tokens: np.ndarray,
  targets: np.ndarray,
  config: DepthformerConfig,
  spec: LiveMusicSpec,
) -> Params:
  """Sets one coordinate of the embeddings, and the row of the output layer that belongs to it.

  Args:
    params: initial parameters of a Depthformer; not changed.
    counts: [target_levels, codebook_size], how often each code occurs; one is added to each.
    encoder_tokens: int32 [B, inputs_length] of examples, by which it is found how large the
      coordinate is at the output layer, for each level.
    targets: int32 [B, targets_length] of the same examples.
    config: sizes.
    spec: token layout.

  Raises:
    ValueError: the counts are not those of these levels and codes.
  """
  if np.shape(counts) != (spec.target_levels, spec.codebook_size):
    raise ValueError(
      f'Counts of shape {np.shape(counts)}; {spec.target_levels} levels of {spec.codebook_size} '
      'codes are needed.'
    )
  embedding, logits = np.array(params['embedding']), np.array(params['logits'])
  embedding[:, _COORDINATE] = CONSTANT
  params = {**params, 'embedding': jnp.asarray(embedding)}

  @jax.jit
  def hidden(params: Params, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    encoded = network.encode(params, inputs, config, spec)
    return network.decode(params, encoded, inputs, targets, config, spec)[..., _COORDINATE]

  seen = np.asarray(hidden(params, encoder_tokens, targets), np.float64)
  sizes = seen.mean(axis=(0, 1))  # Of each level.
  frequencies = np.asarray(counts, np.float64) + 1
  log_probs = np.log(frequencies / frequencies.sum(axis=1, keepdims=True))
  log_probs -= log_probs.mean(axis=1, keepdims=True)
  logits[_COORDINATE] = 0
  ids = slice(spec.codec_offset, spec.codec_offset + log_probs.size)
  logits[_COORDINATE, ids] = (log_probs / sizes[:, None]).reshape(-1)
  return {**params, 'logits': jnp.asarray(logits)}
