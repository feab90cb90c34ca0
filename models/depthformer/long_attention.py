"""Self-attention of the encoder, whose 1006 x 1006 weights are never kept for the backward pass.

Forward saves the output and the logsumexp of each query; backward computes the weights anew (Dao et
al., arXiv 2205.14135, section 3). On a lone CPU one (row, head) pair is processed at a time, as its
weights then stay in cache: 2.5 times faster than the batched form there. Where several devices
share rows or heads, all pairs are batched: a loop over them could not be shared.
"""

import functools

import jax
import jax.numpy as jnp

from models import logical_axes
from models.depthformer import layers


def long_attention(
  queries: jax.Array,
  keys: jax.Array,
  values: jax.Array,
  present: jax.Array,
  segment_ids: jax.Array | None = None,
) -> jax.Array:
  """Softmax attention without 1/sqrt(K), over the positions that are present.

  Args:
    queries: [B, L, H, K].
    keys: [B, L, H, K].
    values: [B, L, H, K].
    present: bool [B, L]; positions with False are not attended. What comes out at such a position
      itself is of no use: the encoder multiplies it by zero.
    segment_ids: int32 [B, L]; positions attend within their segment only.

  Returns:
    [B, L, H * K], joined heads.
  """
  if segment_ids is not None:
    same = segment_ids[:, None, :, None] == segment_ids[:, None, None, :]
    bias = layers.mask_bias(present[:, None, None, :] & same, queries.dtype)
    return layers.attend(queries, keys, values, bias)
  queries, keys, values = (jnp.swapaxes(x, 1, 2) for x in (queries, keys, values))
  mixed = _attend(queries, keys, values, layers.mask_bias(present[:, None, :], queries.dtype))
  mixed = jnp.swapaxes(mixed, 1, 2)
  return mixed.reshape(mixed.shape[:2] + (-1,))


@jax.custom_vjp
def _attend(q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array) -> jax.Array:
  """[B, H, L, K] each, bias [B, 1, L] over keys -> [B, H, L, K]."""
  return _forward(q, k, v, bias)[0]


def _forward(
  q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  if logical_axes.current() is None:
    mixed, normaliser = jax.lax.platform_dependent(
      q, k, v, bias, cpu=functools.partial(_by_head, _weighted_values), default=_all_weighted_values
    )
  else:
    mixed, normaliser = _all_weighted_values(q, k, v, bias)
  return mixed, (q, k, v, bias, mixed, normaliser)


def _backward(saved: tuple[jax.Array, ...], gradient: jax.Array) -> tuple[jax.Array | None, ...]:
  q, k, v, bias, mixed, normaliser = saved
  inner = jnp.sum((gradient * mixed).astype(jnp.float32), axis=-1)
  arguments = (q, k, v, bias, normaliser, inner, gradient)
  if logical_axes.current() is None:
    dq, dk, dv = jax.lax.platform_dependent(
      *arguments, cpu=functools.partial(_by_head, _gradients), default=_all_gradients
    )
  else:
    dq, dk, dv = _all_gradients(*arguments)
  return dq, dk, dv, None


_attend.defvjp(_forward, _backward)


def _by_head(function, q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array, *rest):
  """Maps a function of one (row, head) pair over both axes, one after the other."""
  shape = q.shape[:2]
  bias = jnp.broadcast_to(bias[:, None], shape + bias.shape[1:])
  merged = [x.reshape((-1,) + x.shape[2:]) for x in (q, k, v, bias, *rest)]
  results = jax.lax.map(lambda arguments: function(*arguments), merged)
  return tuple(x.reshape(shape + x.shape[1:]) for x in results)


def _weighted_values(
  q: jax.Array, k: jax.Array, v: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """One head: [L, K] each, bias [1, L] -> mixed values [L, K], float32 logsumexp [L]."""
  logits = q @ k.T + bias
  best = jnp.max(logits, axis=-1, keepdims=True)
  weights = jnp.exp(logits - best)
  total = jnp.sum(weights, axis=-1, keepdims=True, dtype=jnp.float32)
  normaliser = best.astype(jnp.float32) + jnp.log(total)
  return (weights @ v) / total.astype(v.dtype), normaliser[:, 0]


_all_weighted_values = jax.vmap(jax.vmap(_weighted_values, in_axes=(0, 0, 0, None)))


def _gradients(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  bias: jax.Array,
  normaliser: jax.Array,
  inner: jax.Array,
  gradient: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """One head: gradients of q, k, v; `inner` [L] is the sum of gradient * output."""
  logits = (q @ k.T + bias).astype(jnp.float32)
  weights = jnp.exp(logits - normaliser[:, None])
  d_logits = (weights * (gradient @ v.T - inner[:, None])).astype(q.dtype)
  return d_logits @ k, d_logits.T @ q, weights.astype(q.dtype).T @ gradient


_all_gradients = jax.vmap(jax.vmap(_gradients, in_axes=(0, 0, 0, None, 0, 0, 0)))
