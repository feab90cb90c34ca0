"""From the decoder's output at one step to the next ids: guidance, temperature, top-k, the draw."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from models.spec import LiveMusicSpec

# Below this, v1 takes the best id instead of sampling.
GREEDY_TEMPERATURE = 1e-4
_DROPPED = -1e7


def frame_noise(
  rng: jax.Array, options: Any, spec: LiveMusicSpec, num_rows: int
) -> jax.Array | None:
  """Gumbel noise of all draws, float32 [frames, levels, draws, candidates], or None.

  Drawn at once because a generator called in the loop costs as much as the model. The reference
  sampler draws step by step, as v1 does.
  """
  if options.greedy or options.reference:
    return None
  draws = num_rows // 2 if options.guided else num_rows
  size = spec.codebook_size if options.constrain_levels else spec.vocab_size
  candidates = min(options.top_k_bound or size, size)
  keys = jax.random.split(rng, options.num_frames)
  shape = (spec.target_levels, draws, candidates)
  return jax.vmap(lambda key: jax.random.gumbel(key, shape))(keys)


def guide(logits: jax.Array, guidance_weight: jax.Array) -> jax.Array:
  """(1 + w) conditioned - w unconditioned, of interleaved rows [2 n, ids] -> [n, ids]."""
  return (1.0 + guidance_weight) * logits[0::2] - guidance_weight * logits[1::2]


def make_sampler(
  head: jax.Array,
  temperature: jax.Array,
  top_k: jax.Array,
  guidance_weight: jax.Array,
  spec: LiveMusicSpec,
  options: Any,
) -> Callable[..., Any]:
  """Returns choose(x [rows, D], level, noise [levels, draws, candidates], rows) -> rows.

  `head` is the output layer, [levels, D, codes] by level or [D, vocab_size].
  """

  def logits_of(x: jax.Array, level: jax.Array) -> jax.Array:
    if options.by_level:
      logits = x @ jax.lax.dynamic_index_in_dim(head, level, 0, keepdims=False)
    else:
      logits = x @ head
    logits = guide(logits, guidance_weight) if options.guided else logits
    if options.constrain_levels and options.reference:
      ids = jnp.arange(spec.vocab_size) - spec.codec_offset - level * spec.codebook_size
      logits = jnp.where((ids >= 0) & (ids < spec.codebook_size), logits, -jnp.inf)
    return logits

  def choose(x: jax.Array, level: jax.Array, noise: jax.Array | None, rows: Any) -> Any:
    logits = logits_of(x, level)
    score = jnp.zeros(len(logits))
    if options.greedy:
      ids = jnp.argmax(logits, axis=-1)
    elif options.reference:
      key, carried = jax.random.split(rows.rng)
      rows = rows._replace(rng=carried)
      logits = _scaled(logits, temperature, top_k, options.top_k_bound)
      # v1 draws for every row, those without an own say included.
      drawn = jnp.repeat(logits, 2, axis=0) if options.guided else logits
      ids = jax.random.categorical(key, drawn)[:: 2 if options.guided else 1]
      score = jnp.take_along_axis(jax.nn.log_softmax(logits), ids[:, None], axis=-1)[:, 0]
    else:
      noise = jax.lax.dynamic_index_in_dim(noise, level, 0, keepdims=False)
      limit = top_k if options.top_k_bound else None
      ids, score = _draw_from_best(logits, temperature, limit, noise)
    if options.by_level:
      ids = ids + spec.codec_offset + level * spec.codebook_size
    return _write(rows, ids.astype(jnp.int32), score)

  def _write(rows: Any, ids: jax.Array, score: jax.Array) -> Any:
    if options.guided:
      ids, score = jnp.repeat(ids, 2), jnp.repeat(score, 2)
    # v1 defines no end token and falls back to id 1: it is written, and zeros after it.
    return rows._replace(
      token=jnp.where(rows.ended, spec.pad_id, ids),
      ended=rows.ended | (ids == spec.mask_id),
      score=rows.score + jnp.where(rows.ended, 0.0, score),
    )

  return choose


def _scaled(
  logits: jax.Array, temperature: jax.Array, top_k: jax.Array, top_k_bound: int
) -> jax.Array:
  """Divides by the temperature and drops all but the k best (ties with the k-th stay)."""
  logits = logits / jnp.maximum(temperature, GREEDY_TEMPERATURE)
  if not top_k_bound:
    return logits
  best = jax.lax.top_k(logits, min(top_k_bound, logits.shape[-1]))[0]
  threshold = jax.lax.dynamic_index_in_dim(best, top_k - 1, best.ndim - 1)
  return jnp.where(logits < threshold, _DROPPED, logits)


def _draw_from_best(
  logits: jax.Array, temperature: jax.Array, top_k: jax.Array | None, noise: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Samples among the top_k best, or all; noise [rows, candidates]. Index and log-probability."""
  logits = logits / jnp.maximum(temperature, GREEDY_TEMPERATURE)
  if top_k is None:
    values, indices = logits, None
  else:
    values, indices = jax.lax.top_k(logits, noise.shape[-1])
    values = jnp.where(jnp.arange(noise.shape[-1]) < top_k, values, -jnp.inf)
  slot = jnp.argmax(values + noise, axis=-1)[:, None]
  score = jnp.take_along_axis(jax.nn.log_softmax(values), slot, axis=-1)[:, 0]
  ids = slot if indices is None else jnp.take_along_axis(indices, slot, axis=-1)
  return ids[:, 0], score
