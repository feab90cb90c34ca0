"""Style tokens: a residual quantizer kept in the subspace that the embeddings span."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from models import rvq

_PARKED = 100.0  # Radii away from the data.


@dataclasses.dataclass(frozen=True)
class StyleQuantizer:
  """Residual codebooks in `style_dim` dimensions, stored as coordinates in a smaller basis.

  Level 0's codes are `mean + codes[0] @ basis`, later levels' `codes[k] @ basis`.

  Attributes:
    mean: [style_dim] float32.
    basis: [rank, style_dim] float32, orthonormal rows.
    codes: [levels, codebook_size, rank] float32.
  """

  mean: np.ndarray
  basis: np.ndarray
  codes: np.ndarray

  @property
  def codebooks(self) -> np.ndarray:
    """Codebooks in full, float32 [levels, codebook_size, style_dim]."""
    full = self.codes.astype(np.float64) @ self.basis.astype(np.float64)
    full[0] += self.mean
    return full.astype(np.float32)

  def tree(self) -> dict[str, np.ndarray]:
    return {'mean': self.mean, 'basis': self.basis, 'codes': self.codes}


@dataclasses.dataclass(frozen=True)
class FullQuantizer:
  """Residual codebooks as they are.

  Attributes:
    codebooks: float32 [levels, codebook_size, style_dim].
  """

  codebooks: np.ndarray

  def tree(self) -> dict[str, np.ndarray]:
    return {'codebooks': self.codebooks}


Quantizer = StyleQuantizer | FullQuantizer


def quantizer_from_tree(tree: dict[str, np.ndarray]) -> Quantizer:
  """What `tree()` of either form gave."""
  return (FullQuantizer if 'codebooks' in tree else StyleQuantizer)(**tree)


def float16_values(x: np.ndarray) -> np.ndarray:
  """float32 array of the values that remain after storage in float16."""
  return np.asarray(x, np.float16).astype(np.float32)


def fit_quantizer(
  embeddings: np.ndarray,
  num_levels: int,
  codebook_size: int,
  *,
  rank: int,
  seed: int,
  active_codes: tuple[int, ...] = (),
) -> StyleQuantizer:
  """Fits codebooks by residual k-means on the embeddings' principal components.

  Args:
    embeddings: [N, style_dim] float; of audio and text together, so that both share codes.
    num_levels: RVQ levels.
    codebook_size: rows per level.
    rank: principal components kept; at most min(N, style_dim) are.
    seed: of the k-means starts.
    active_codes: rows in use on the first levels, coarse to fine (the rest are in full use). A
      small corpus cannot fill 1024 clusters: level 0 would name the clip rather than its style.
      Rows out of use are parked far away and never chosen.

  Raises:
    ValueError: an entry of `active_codes` is not in 1..codebook_size, or there are more entries
      than levels.
  """
  if len(active_codes) > num_levels or any(not 1 <= n <= codebook_size for n in active_codes):
    raise ValueError(
      f'active_codes={active_codes} needs at most {num_levels} entries in 1..{codebook_size}.'
    )
  embeddings = np.asarray(embeddings, np.float64)
  mean = float16_values(embeddings.mean(0))
  centred = embeddings - mean
  rank = min(rank, *centred.shape)
  _, _, axes = np.linalg.svd(centred, full_matrices=False)
  signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
  basis = float16_values((axes * signs[:, None])[:rank])
  residual = (centred @ basis.T.astype(np.float64)).astype(np.float32)
  parked = np.zeros([rank], np.float32)
  parked[0] = _PARKED * max(float(np.linalg.norm(residual, axis=1).max()), 1.0)
  counts = [*active_codes, *[codebook_size] * (num_levels - len(active_codes))]
  levels = []
  for level, count in enumerate(counts):
    fitted = rvq.fit_residual_kmeans(residual, 1, count, seed=seed + level)
    book = np.tile(parked, [codebook_size, 1])
    book[:count] = np.asarray(fitted[0])
    book = float16_values(book)
    picked = np.asarray(rvq.quantize(residual, jnp.asarray(book[None])))[..., 0]
    residual = residual - book[picked]
    levels.append(book)
  return StyleQuantizer(mean, basis, np.stack(levels))
