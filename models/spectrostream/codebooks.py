"""Codebooks while a codec is trained: what latents choose, and how codes follow the latents.

They live beside the parameters, as a dict: the fields of `rvq.CodebookState`, and 'calibrated',
which is 0 until k-means or a given codec has filled them; till then nothing is quantized.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from models import rvq
from models.spectrostream.recipe import CodecRecipe

Books = dict[str, jax.Array]


def empty(num_levels: int, num_codes: int, num_features: int) -> Books:
  """Zeros, not calibrated."""
  zeros = jnp.zeros([num_levels, num_codes, num_features], jnp.float32)
  return {**rvq.codebook_state(zeros)._asdict(), 'calibrated': jnp.zeros([], jnp.float32)}


def filled(codebooks: np.ndarray, vectors_per_update: float) -> Books:
  """Codebooks [K, C, D], calibrated, each code with an equal share of the vectors of a step."""
  state = rvq.codebook_state(codebooks, vectors_per_update)
  return {**state._asdict(), 'calibrated': jnp.ones([], jnp.float32)}


def assign(books: Books, latents: jax.Array, depths: jax.Array) -> rvq.Assignments:
  """What latents [B, frames, D] choose with depths [B] levels; zeros before calibration."""
  per_frame = jnp.repeat(depths, latents.shape[1])
  flat = latents.reshape([-1, latents.shape[-1]])
  search = functools.partial(rvq.assign, flat, books['codebooks'], per_frame)
  nothing = functools.partial(
    jax.tree.map, lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(search)
  )
  return jax.lax.cond(books['calibrated'] > 0, search, nothing)


def follow(
  books: Books, found: rvq.Assignments, rng: jax.Array, step: jax.Array, recipe: CodecRecipe
) -> tuple[Books, jax.Array]:
  """Moving averages, then dead codes onto residuals: (books, number of codes revived)."""

  def update():
    state = rvq.CodebookState(*(books[name] for name in rvq.CodebookState._fields))
    state = rvq.ema_update(state, found.counts, found.sums, recipe.ema_decay)
    equal_use = found.codes.shape[0] / state.codebooks.shape[1]
    threshold = jnp.where(step < recipe.revive_until, recipe.dead_threshold * equal_use, -1.0)
    state, revived = rvq.revive_dead_codes(state, found.residuals, rng, threshold)
    return state._asdict(), jnp.sum(revived)

  def wait():
    return {name: books[name] for name in rvq.CodebookState._fields}, jnp.zeros([], jnp.int32)

  followed, revived = jax.lax.cond(books['calibrated'] > 0, update, wait)
  return {**books, **followed}, revived
