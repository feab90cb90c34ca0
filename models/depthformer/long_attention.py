"""Self-attention of the encoder."""

import jax
import jax.numpy as jnp

from models.depthformer import layers


def long_attention(
  queries: jax.Array,
  keys: jax.Array,
  values: jax.Array,
  present: jax.Array,
  segment_ids: jax.Array | None = None,
) -> jax.Array:
  """[B, L, H, K] each -> [B, L, H * K]; positions with `present` [B, L] false are not attended.

  What comes out at such a position itself is undefined: the encoder multiplies it by zero.
  """
  mask = present[:, None, None, :]
  if segment_ids is not None:
    mask &= segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
  return layers.attend(queries, keys, values, layers.mask_bias(mask, queries.dtype))
