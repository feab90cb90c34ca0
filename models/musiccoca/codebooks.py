"""How style tokens are fitted: residual k-means on embeddings, refined by a moving average.

Text says less than audio does. Where a level is `shared`, its codes lie in the few directions in
which texts differ, so that audio is coded there by what a text could say of it, and a text gets the
codes of the music that it describes; the levels behind code what only audio has.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from models import rvq
from models.musiccoca.quantizer import StyleQuantizer, float16_values

_PARKED = 100.0  # Radii away from the data.


@dataclasses.dataclass(frozen=True)
class CodebookRecipe:
  """How codebooks are fitted.

  Attributes:
    rank: principal components of the embeddings in which codebooks are stored; at most as many as
      there are embeddings or dimensions are kept.
    active_codes: rows in use on the first levels, coarse to fine; the rest are in full use. A small
      corpus cannot fill 1024 clusters: level 0 would name the clip rather than its style. Rows out
      of use are parked far away and never chosen.
    shared_levels: first levels whose codes lie in the texts' main directions.
    shared_rank: number of these directions.
    ema_passes: passes over the embeddings in which all levels are refined together; 0 for none.
    ema_decay: of the moving average, per minibatch.
    ema_batch_size: embeddings in a minibatch.
    seed: of k-means starts and minibatches.
  """

  rank: int = 128
  active_codes: tuple[int, ...] = ()
  shared_levels: int = 0
  shared_rank: int = 16
  ema_passes: int = 5
  ema_decay: float = 0.98
  ema_batch_size: int = 256
  seed: int = 0


def fit_codebooks(
  audio: np.ndarray,
  text: np.ndarray,
  num_levels: int,
  codebook_size: int,
  recipe: CodebookRecipe | None = None,
) -> StyleQuantizer:
  """Codebooks for embeddings of audio and of texts, which share all codes.

  Args:
    audio: [N, style_dim] float.
    text: [M, style_dim] float; M may be 0 where no level is shared.
    num_levels: RVQ levels.
    codebook_size: rows per level.
    recipe: how.

  Raises:
    ValueError: the recipe does not fit the number of levels, the codebook size, or the data.
  """
  recipe = recipe or CodebookRecipe()
  counts = _active_codes(recipe, num_levels, codebook_size)
  if recipe.shared_levels and not len(text):
    raise ValueError(f'shared_levels={recipe.shared_levels} needs embeddings of texts.')
  both = np.concatenate([audio, text]).astype(np.float64)
  mean = float16_values(both.mean(0))
  basis = float16_values(_principal_axes(both - mean, recipe.rank))
  x = ((both - mean) @ basis.T.astype(np.float64)).astype(np.float32)
  own = x[len(audio) :]
  projection = np.eye(x.shape[1], dtype=np.float32)
  if recipe.shared_levels:
    axes = _principal_axes(own - own.mean(0), recipe.shared_rank)
    projection = (axes.T @ axes).astype(np.float32)
  books, residual = [], x
  for level, count in enumerate(counts):
    seen = residual @ projection if level < recipe.shared_levels else residual
    book = rvq.fit_residual_kmeans(seen, 1, count, seed=recipe.seed + level)[0]
    residual = _left_over(residual, book)
    books.append(book)
  books = _refined(books, x, projection, recipe) if recipe.ema_passes else books
  return StyleQuantizer(mean, basis, _finished(books, x, projection, codebook_size, recipe))


def _active_codes(recipe: CodebookRecipe, num_levels: int, codebook_size: int) -> list[int]:
  """Rows in use on each level."""
  active = tuple(recipe.active_codes)
  if len(active) > num_levels or any(not 1 <= n <= codebook_size for n in active):
    raise ValueError(
      f'active_codes={active} needs at most {num_levels} entries in 1..{codebook_size}.'
    )
  if not 0 <= recipe.shared_levels <= num_levels:
    raise ValueError(f'shared_levels={recipe.shared_levels} is not in 0..{num_levels}.')
  return [*active, *[codebook_size] * (num_levels - len(active))]


def _principal_axes(centred: np.ndarray, rank: int) -> np.ndarray:
  """[at most rank, D] orthonormal rows, each with its largest entry positive."""
  if len(centred) > centred.shape[1]:  # Many times faster there.
    axes = np.linalg.eigh(centred.T @ centred)[1].T[::-1]
  else:
    axes = np.linalg.svd(centred, full_matrices=False)[2]
  signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
  return (axes * signs[:, None])[: min(rank, *centred.shape)]


def _left_over(x: np.ndarray, book: np.ndarray) -> np.ndarray:
  codes = np.asarray(rvq.quantize(x, jnp.asarray(book)[None]))[..., 0]
  return x - book[codes]


def _padded(books: list[np.ndarray], codebook_size: int, reach: float) -> np.ndarray:
  """[levels, codebook_size, rank]; rows out of use lie `_PARKED` times `reach` away."""
  parked = np.zeros([codebook_size, books[0].shape[1]], np.float32)
  parked[:, 0] = _PARKED * max(reach, 1.0)
  return np.stack([np.concatenate([book, parked[len(book) :]]) for book in books])


def _refined(
  books: list[np.ndarray], x: np.ndarray, projection: np.ndarray, recipe: CodebookRecipe
) -> list[np.ndarray]:
  """All levels moved together, as each fine level sees what the coarse ones leave by then.

  A code moves towards the residuals that choose it (`rvq.ema_update`); on shared levels towards
  their part in the shared directions.
  """
  size = min(recipe.ema_batch_size, len(x))
  padded = _padded(books, max(map(len, books)), float(np.linalg.norm(x, axis=1).max()))
  shared = jnp.arange(len(books)) < recipe.shared_levels
  state = rvq.codebook_state(padded, size)

  def step(state: rvq.CodebookState, batch: jax.Array) -> tuple[rvq.CodebookState, None]:
    found = rvq.assign(batch, state.codebooks)
    sums = jnp.where(shared[:, None, None], found.sums @ projection, found.sums)
    return rvq.ema_update(state, found.counts, sums, recipe.ema_decay), None

  run_pass = jax.jit(functools.partial(jax.lax.scan, step))
  for number in range(recipe.ema_passes):
    order = np.random.default_rng([recipe.seed, number]).permutation(len(x))
    batches = x[order[: len(x) // size * size]].reshape(-1, size, x.shape[1])
    state, _ = run_pass(state, batches)
  return [np.asarray(book)[: len(own)] for book, own in zip(state.codebooks, books, strict=True)]


def _finished(
  books: list[np.ndarray],
  x: np.ndarray,
  projection: np.ndarray,
  codebook_size: int,
  recipe: CodebookRecipe,
) -> np.ndarray:
  """Float16 values, level by level; codes in use that nothing chooses stand on residuals."""
  residual, finished = x, []
  for level, book in enumerate(books):
    seen = residual @ projection if level < recipe.shared_levels else residual
    book = rvq.move_unused_codes(book[None], seen, seed=recipe.seed + level)[0]
    book = float16_values(book)
    residual = _left_over(residual, book)
    finished.append(book)
  reach = float(np.linalg.norm(x, axis=1).max())
  return float16_values(_padded(finished, codebook_size, reach))
