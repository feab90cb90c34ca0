"""The building blocks of every stack: norm, attention, gated MLP, dropout, positions.

All are pure functions. Activations are [..., length, embed_dim]; leading axes are batch axes, so
the depth stack runs on [B, frames, levels, D] as it stands.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from models import logical_axes
from models.adapters import AdaptedKernel

NORM_EPSILON = 1e-6
# Added to the logits of forbidden pairs. Large enough to swallow the logits themselves, so that a
# row in which everything is forbidden attends uniformly and stays finite.
MASKED = -1e10


def stream(x: jax.Array) -> jax.Array:
  """A residual stream [B, ..., D], laid out as such where several devices share the work."""
  return logical_axes.constrain(x, *_leading(x, 1), 'embed')


def _leading(x: jax.Array, num_last: int) -> tuple[str, ...]:
  """Names of all axes but the last ones."""
  return ('batch',) + ('length',) * (x.ndim - num_last - 1)


def rms_norm(x: jax.Array, scale: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """x / rms(x) * scale, statistics in float32, result in `dtype`."""
  x = x.astype(jnp.float32)
  x = x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + NORM_EPSILON)
  return x.astype(dtype) * scale.astype(dtype)


def dropout(x: jax.Array, rate: float, rng: jax.Array | None) -> jax.Array:
  """Drops channels of x [..., length, D], the same ones at all positions; no-op without a key."""
  if rng is None or rate == 0.0:
    return x
  keep = jax.random.bernoulli(rng, 1.0 - rate, x.shape[:-2] + (1,) + x.shape[-1:])
  return jnp.where(keep, x / jnp.asarray(1.0 - rate, x.dtype), 0)


def keys(rng: jax.Array | None, num: int) -> list[jax.Array | None]:
  """Splits a key; None (no dropout) gives as many Nones."""
  return [None] * num if rng is None else list(jax.random.split(rng, num))


def lookup(table: jax.Array | AdaptedKernel, ids: jax.Array) -> jax.Array:
  """Rows of an embedding table [vocab, D]: ids [...] -> [..., D]."""
  return table.rows(ids) if isinstance(table, AdaptedKernel) else jnp.asarray(table)[ids]


def project(x: jax.Array, kernel: jax.Array | AdaptedKernel, dtype: jnp.dtype) -> jax.Array:
  """x [..., D] times a kernel [D, N], in `dtype`."""
  if isinstance(kernel, AdaptedKernel):
    return kernel.project(x, dtype)
  return jnp.dot(x.astype(dtype), kernel.astype(dtype))


def split_heads(x: jax.Array, num_heads: int) -> jax.Array:
  """[..., length, H * K] -> [..., length, H, K]."""
  x = x.reshape(x.shape[:-1] + (num_heads, -1))
  return logical_axes.constrain(x, *_leading(x, 2), 'heads', 'kv')


def keys_and_values(
  params: dict[str, jax.Array], x: jax.Array, num_heads: int, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
  """Keys and values [..., length, H, K] of x [..., length, D]."""
  return (
    split_heads(project(x, params['key'], dtype), num_heads),
    split_heads(project(x, params['value'], dtype), num_heads),
  )


def drop_values(values: jax.Array, rate: float, rng: jax.Array | None) -> jax.Array:
  """Dropout on attention weights that share one mask over the queries, per head and batch row.

  A weight dropped for every query is a value row dropped, so this never touches the weights:
  values [..., length, H, K] lose whole (position, head) rows.
  """
  if rng is None or rate == 0.0:
    return values
  keep = jax.random.bernoulli(rng, 1.0 - rate, values.shape[:-1] + (1,))
  return jnp.where(keep, values / jnp.asarray(1.0 - rate, values.dtype), 0)


def attend(queries: jax.Array, keys: jax.Array, values: jax.Array, bias: jax.Array) -> jax.Array:
  """Softmax attention without 1/sqrt(K).

  Args:
    queries: [..., q, H, K].
    keys: [..., k, H, K].
    values: [..., k, H, K].
    bias: broadcastable to [..., H, q, k], in the dtype of the queries.

  Returns:
    [..., q, H * K], joined heads.
  """
  logits = jnp.einsum('...qhd,...khd->...hqk', queries, keys) + bias
  weights = jax.nn.softmax(logits, axis=-1)
  mixed = jnp.einsum('...hqk,...khd->...qhd', weights, values)
  return mixed.reshape(mixed.shape[:-2] + (-1,))


def mask_bias(allowed: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """0 where allowed, `MASKED` elsewhere."""
  return jnp.where(allowed, 0.0, MASKED).astype(dtype)


def gated_mlp(
  params: dict[str, jax.Array],
  x: jax.Array,
  dtype: jnp.dtype,
  dropout_rate: float = 0.0,
  rng: jax.Array | None = None,
) -> jax.Array:
  """out(dropout(gelu(x gate) * (x up))), gelu in its tanh approximation."""
  hidden = jax.nn.gelu(project(x, params['gate'], dtype), approximate=True)
  hidden = dropout(hidden * project(x, params['up'], dtype), dropout_rate, rng)
  hidden = logical_axes.constrain(hidden, *_leading(hidden, 1), 'mlp')
  return project(hidden, params['out'], dtype)


def relative_buckets(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
  """Bucket of each causal distance 0..length-1, int32 [length].

  Half of the buckets hold one distance each, the rest grow logarithmically up to `max_distance`.
  """
  half = num_buckets // 2
  distance = np.arange(length)
  epsilon = np.finfo(np.float32).eps
  ratio = np.log(distance / half + epsilon) / np.log(max_distance / half)
  coarse = half + np.floor(ratio * (num_buckets - half)).astype(np.int32)
  return np.where(distance < half, distance, np.minimum(coarse, num_buckets - 1)).astype(np.int32)


def relative_bias(table: jax.Array, length: int, max_distance: int) -> jax.Array:
  """[H, buckets] -> additive bias [H, length, length] of query and key position."""
  buckets = relative_buckets(length, table.shape[-1], max_distance)
  distance = np.arange(length)[:, None] - np.arange(length)[None, :]
  return table[:, buckets[np.maximum(distance, 0)]]


@functools.lru_cache(maxsize=8)
def sinusoid(length: int, embed_dim: int) -> np.ndarray:
  """Position code float32 [length, embed_dim]: sines, then cosines, in halves."""
  half = embed_dim // 2
  rates = np.exp(-np.arange(half) * (np.log(10_000.0) / (half - 1)))
  angles = np.arange(length)[:, None] * rates[None, :]
  return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
