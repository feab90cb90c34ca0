"""Residual vector quantization: greedy codes, their sums, and how codebooks are fitted and kept.

Level k of an RVQ codes what levels 0..k-1 left over: r_0 = x, code_k = argmin_c |c - r_k|^2,
r_{k+1} = r_k - codebook_k[code_k] (SoundStream, arXiv 2107.03312, section III-C). Codebooks are
started by k-means on residuals and kept by an exponential moving average of the vectors that choose
each code; codes that nothing chooses are moved onto data.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from models import low_rank

# Rows per matrix product when codes are searched: bounds the [rows, codes] score matrix.
_SEARCH_ROWS = 4096


def nearest(x: jax.Array, codebook: jax.Array) -> jax.Array:
  """Index of the nearest code: [N, D], [C, D] -> [N] int32; ties go to the lowest index.

  Scores are |c|^2 - 2 x.c: |x|^2 is the same for all codes.
  """
  scores = jnp.sum(codebook * codebook, axis=-1) - 2.0 * x @ codebook.T
  return jnp.argmin(scores, axis=-1).astype(jnp.int32)


def quantize(x: jax.Array, codebooks: jax.Array, num_levels: int | None = None) -> jax.Array:
  """Greedy residual codes.

  Args:
    x: [..., D] float32.
    codebooks: [K, C, D] float32.
    num_levels: how many levels to code, 1..K; None means K.

  Returns:
    [..., num_levels] int32 in 0..C-1.

  Raises:
    ValueError: sizes do not agree or num_levels is out of range.
  """
  codebooks = _checked(x.shape[-1], codebooks, num_levels)

  def level(residual, codebook):
    codes = nearest(residual, codebook)
    return residual - codebook[codes], codes

  flat = jnp.reshape(jnp.asarray(x, codebooks.dtype), [-1, x.shape[-1]])
  _, codes = jax.lax.scan(level, flat, codebooks)
  return jnp.reshape(codes.T, x.shape[:-1] + (len(codebooks),))


def dequantize(codes: jax.Array, codebooks: jax.Array) -> jax.Array:
  """Sum of the chosen codes, level 0 first.

  Args:
    codes: [..., k] int32, k <= K: the first k levels.
    codebooks: [K, C, D] float32.

  Returns:
    [..., D] float32.

  Raises:
    ValueError: there are more levels than codebooks.
  """
  num_levels = codes.shape[-1]
  codebooks = _checked(None, codebooks, num_levels)
  flat = jnp.reshape(codes, [-1, num_levels]).T

  def level(total, inputs):
    codebook, level_codes = inputs
    return total + codebook[level_codes], None

  start = jnp.zeros([flat.shape[1], codebooks.shape[-1]], codebooks.dtype)
  total, _ = jax.lax.scan(level, start, (codebooks, flat))
  return jnp.reshape(total, codes.shape[:-1] + (codebooks.shape[-1],))


class Assignments(NamedTuple):
  """What one pass of `assign` found, for N vectors, K levels, C codes.

  Attributes:
    codes: [N, K] int32.
    quantized: [N, D] the sum of the first `depths` codes of each vector.
    counts: [K, C] how many vectors chose each code.
    sums: [K, C, D] sum of the residuals that chose each code.
    residuals: [K, N, D] what each level was given.
  """

  codes: jax.Array
  quantized: jax.Array
  counts: jax.Array
  sums: jax.Array
  residuals: jax.Array


def assign(x: jax.Array, codebooks: jax.Array, depths: jax.Array | None = None) -> Assignments:
  """Codes `x` [N, D] and gathers what the moving averages need.

  Args:
    x: [N, D] float32.
    codebooks: [K, C, D] float32.
    depths: [N] int, levels that count towards `quantized`; None means all. The statistics always
      cover every level.
  """
  num_levels, num_codes, _ = codebooks.shape
  depths = jnp.full([len(x)], num_levels) if depths is None else depths

  def level(carry, inputs):
    residual, total = carry
    codebook, index = inputs
    codes = nearest(residual, codebook)
    chosen = codebook[codes]
    total = total + jnp.where((index < depths)[:, None], chosen, 0.0)
    counts = jax.ops.segment_sum(jnp.ones(len(x)), codes, num_codes)
    sums = jax.ops.segment_sum(residual, codes, num_codes)
    return (residual - chosen, total), (codes, counts, sums, residual)

  start = (x, jnp.zeros_like(x))
  (_, total), found = jax.lax.scan(level, start, (codebooks, jnp.arange(num_levels)))
  codes, counts, sums, residuals = found
  return Assignments(codes.T, total, counts, sums, residuals)


class CodebookState(NamedTuple):
  """Codebooks under a moving average.

  Attributes:
    codebooks: [K, C, D] float32.
    counts: [K, C] averaged number of vectors per update that choose a code.
    sums: [K, C, D] averaged sum of these vectors; codebooks = sums / counts.
  """

  codebooks: jax.Array
  counts: jax.Array
  sums: jax.Array


def codebook_state(codebooks: jax.Array, vectors_per_update: float = 1.0) -> CodebookState:
  """A state in which every code has its equal share of `vectors_per_update` vectors."""
  codebooks = jnp.asarray(codebooks, jnp.float32)
  counts = jnp.full(codebooks.shape[:2], vectors_per_update / codebooks.shape[1], jnp.float32)
  return CodebookState(codebooks, counts, codebooks * counts[..., None])


def ema_update(state: CodebookState, counts: jax.Array, sums: jax.Array, decay: float):
  """Moves averages towards one batch's counts [K, C] and sums [K, C, D]; gives the new state.

  count' = decay count + (1 - decay) counts, likewise the sums; code = sum' / count'
  (VQ-VAE, arXiv 1711.00937, appendix A.1). A code whose average count has vanished stays where it
  is.
  """
  counts = decay * state.counts + (1.0 - decay) * counts
  sums = decay * state.sums + (1.0 - decay) * sums
  alive = counts[..., None] > 1e-6
  codebooks = jnp.where(alive, sums / jnp.maximum(counts[..., None], 1e-6), state.codebooks)
  return CodebookState(codebooks, counts, sums)


def revive_dead_codes(
  state: CodebookState, residuals: jax.Array, rng: jax.Array, threshold: float
) -> tuple[CodebookState, jax.Array]:
  """Moves codes whose average count is under `threshold` onto residuals of the batch.

  Args:
    state: as `ema_update` gives it.
    residuals: [K, N, D] what each level was given in this batch.
    rng: key; one residual is drawn per code.
    threshold: average count per update under which a code is dead.

  Returns:
    (state, [K] number of codes revived). A revived code starts with the level's mean count.
  """
  num_levels, num_codes, _ = state.codebooks.shape
  dead = state.counts < threshold
  picks = jax.random.randint(rng, [num_levels, num_codes], 0, residuals.shape[1])
  fresh = jnp.take_along_axis(residuals, picks[..., None], axis=1)
  mean_count = jnp.mean(state.counts, axis=1, keepdims=True)
  counts = jnp.where(dead, jnp.maximum(mean_count, threshold), state.counts)
  codebooks = jnp.where(dead[..., None], fresh, state.codebooks)
  sums = jnp.where(dead[..., None], fresh * counts[..., None], state.sums)
  return CodebookState(codebooks, counts, sums), jnp.sum(dead, axis=1)


def fit_residual_kmeans(
  x: np.ndarray,
  num_levels: int,
  codebook_size: int,
  *,
  seed: int,
  iterations: int = 10,
  folds: int = 1,
  ranks: tuple[int, ...] | None = None,
  weights: np.ndarray | None = None,
) -> np.ndarray:
  """Residual codebooks by Lloyd's k-means, one level after the other.

  Codes start on distinct vectors; a code that loses all its vectors restarts on a vector drawn at
  random. Where there are fewer vectors than codes, the rest start on slightly jittered copies.

  With few vectors per code a level fits its vectors better than others, and if the next level were
  fitted to what that leaves, it would be too small for other data, the more so level by level.
  `folds` lessens this: level k is fitted to the vectors of fold k mod folds alone, whose residuals
  the levels just before it have not been fitted to.

  Args:
    x: [N, D] float32, N >= 1.
    num_levels: K.
    codebook_size: C.
    seed: of the draws; the result is a function of the arguments.
    iterations: Lloyd steps per level.
    folds: parts that `x` is dealt into, 1..N.
    ranks: of each level, whose codes lie in the subspace of that many principal components of what
      is left over; None lets them point everywhere.

  Returns:
    [K, C, D] float32.

  Raises:
    ValueError: `x` is empty or not finite, there are more folds than vectors, or not one rank for
      each level.
  """
  x = np.asarray(x, np.float32)
  if x.ndim != 2 or not len(x):
    raise ValueError(f'k-means needs [N >= 1, D] vectors; got shape {x.shape}.')
  if not np.isfinite(x).all():
    raise ValueError('k-means got vectors that are not finite.')
  if not 1 <= folds <= len(x):
    raise ValueError(f'folds={folds} is not in 1..{len(x)} (the number of vectors).')
  if ranks is not None and len(ranks) != num_levels:
    raise ValueError(f'{len(ranks)} ranks do not fit {num_levels} levels.')
  random = np.random.default_rng(seed)
  order, size = random.permutation(len(x)), len(x) // folds
  residual = x[order]
  weights = np.ones(len(x), np.float32) if weights is None else weights[order].astype(np.float32)
  codebooks = []
  for level in range(num_levels):
    fold = slice(level % folds * size, (level % folds + 1) * size)
    part, heavy = residual[fold], weights[fold]
    directions = np.eye(x.shape[1], dtype=np.float32)
    if ranks is not None:
      directions = low_rank.span(np.sqrt(heavy)[:, None] * part, ranks[level])
    part = part @ directions.T
    start = _starting_codes(part, codebook_size, random)
    spares = random.integers(size, size=[iterations, codebook_size])
    codes = _lloyd(jnp.asarray(part), jnp.asarray(heavy), start, jnp.asarray(spares))
    codebook = codes @ directions
    residual = np.asarray(_subtract_nearest(jnp.asarray(residual), codebook))
    codebooks.append(np.asarray(codebook))
  return np.stack(codebooks)


def move_unused_codes(
  codebooks: np.ndarray, x: np.ndarray, *, seed: int, ranks: tuple[int, ...] | None = None
) -> np.ndarray:
  """Codebooks whose codes that nothing in `x` chooses stand on residuals of `x` instead.

  Args:
    codebooks: [K, C, D] float32.
    x: [N, D] float32.
    seed: of the choice of residuals.
    ranks: of the levels' subspaces, which they keep; None where they have none.

  Returns:
    [K, C, D] float32. Level by level: what a level leaves over is that of its changed codes.
  """
  random = np.random.default_rng(seed)
  residual, moved = jnp.asarray(x, jnp.float32), []
  for level, codebook in enumerate(np.asarray(codebooks, np.float32)):
    codes = np.asarray(_nearest_in_blocks(residual, codebook))
    counts = np.bincount(codes, minlength=len(codebook))
    unused = np.flatnonzero(counts == 0)
    fresh = np.asarray(residual[random.integers(len(x), size=len(unused))])
    if ranks is not None:
      directions = low_rank.span(codebook, ranks[level])
      fresh = fresh @ directions.T @ directions
    codebook = codebook.copy()
    codebook[unused] = fresh
    residual = _subtract_nearest(residual, jnp.asarray(codebook))
    moved.append(codebook)
  return np.stack(moved)


def _starting_codes(x: np.ndarray, codebook_size: int, random: np.random.Generator) -> np.ndarray:
  """`codebook_size` distinct rows of `x`; missing ones are copies moved by 1 % of the spread."""
  order = random.permutation(len(x))[:codebook_size]
  extra = random.integers(len(x), size=codebook_size - len(order))
  jitter = random.standard_normal([len(extra), x.shape[1]]) * (0.01 * x.std() + 1e-6)
  return np.concatenate([x[order], x[extra] + jitter]).astype(np.float32)


@jax.jit
def _lloyd(
  x: jax.Array, weights: jax.Array, codebook: jax.Array, spares: jax.Array
) -> jax.Array:
  """Lloyd steps on one level: [C, D] codes."""

  def step(codebook, spare):
    codes = _nearest_in_blocks(x, codebook)
    counts = jax.ops.segment_sum(weights, codes, len(codebook))
    sums = jax.ops.segment_sum(weights[:, None] * x, codes, len(codebook))
    means = sums / jnp.where(counts > 0, counts, 1.0)[:, None]
    return jnp.where(counts[:, None] > 0, means, x[spare]), None

  return jax.lax.scan(step, codebook, spares)[0]


@jax.jit
def _subtract_nearest(x: jax.Array, codebook: jax.Array) -> jax.Array:
  return x - codebook[_nearest_in_blocks(x, codebook)]


def _nearest_in_blocks(x: jax.Array, codebook: jax.Array) -> jax.Array:
  """`nearest` for many rows, without a score matrix of all of them at once."""
  padding = -len(x) % min(_SEARCH_ROWS, len(x))
  blocks = jnp.pad(x, [(0, padding), (0, 0)]).reshape([-1, min(_SEARCH_ROWS, len(x)), x.shape[1]])
  codes = jax.lax.map(functools.partial(nearest, codebook=codebook), blocks)
  return codes.reshape(-1)[: len(x)]


def _checked(dim: int | None, codebooks: jax.Array, num_levels: int | None) -> jax.Array:
  """The first `num_levels` codebooks, after their sizes have been checked."""
  codebooks = jnp.asarray(codebooks)
  levels = len(codebooks) if num_levels is None else num_levels
  if not 1 <= levels <= len(codebooks):
    raise ValueError(f'{levels} levels are not in 1..{len(codebooks)} (the codebooks there are).')
  if dim is not None and dim != codebooks.shape[-1]:
    raise ValueError(f'Vectors of {dim} features do not fit codebooks of {codebooks.shape[-1]}.')
  return codebooks[:levels]
