"""Residual codebooks whose levels lie in subspaces, and how such codebooks are stored.

A level's 1024 codes need not point everywhere: the finer a level, the fewer directions are worth
its 10 bits. A level of rank r is stored as 1024 x r numbers and r directions (factorized codes as
in arXiv 2306.06546, section 3.2), and fewer vectors suffice to fit it.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class LowRankCodebooks:
  """Codebooks as products, with values that float16 holds: level k's are codes_k @ directions_k.

  Attributes:
    ranks: of each level.
    codes: [codebook_size, sum(ranks)] float32, level after level.
    directions: [sum(ranks), D] float32.
  """

  ranks: tuple[int, ...]
  codes: np.ndarray
  directions: np.ndarray

  @classmethod
  def of(cls, codebooks: np.ndarray, ranks: tuple[int, ...]) -> 'LowRankCodebooks':
    """The best products of these ranks for codebooks [K, C, D]: exact to float16 where they fit.

    Raises:
      ValueError: there is not one rank in 1..min(C, D) for each level.
    """
    num_levels, *shape = codebooks.shape
    if len(ranks) != num_levels or not all(1 <= rank <= min(shape) for rank in ranks):
      raise ValueError(
        f'ranks={ranks} must be {num_levels} numbers in 1..{min(shape)}, one for each level.'
      )
    codes, directions = [], []
    for codebook, rank in zip(codebooks, ranks, strict=True):
      basis = span(codebook, rank)
      directions.append(_as_stored(basis))
      codes.append(_as_stored(codebook @ np.linalg.pinv(directions[-1])))
    return cls(tuple(ranks), np.concatenate(codes, axis=1), np.concatenate(directions))

  @classmethod
  def from_tree(cls, tree: dict[str, np.ndarray]) -> 'LowRankCodebooks':
    """What `tree` gave."""
    return cls(tuple(int(r) for r in tree['ranks']), tree['codes'], tree['directions'])

  def tree(self) -> dict[str, np.ndarray]:
    return {
      'ranks': np.array(self.ranks, np.int32), 'codes': self.codes, 'directions': self.directions
    }  # fmt: skip

  @property
  def full(self) -> np.ndarray:
    """[K, C, D] float32; the same bits wherever the same file is read."""
    ends = np.cumsum(self.ranks)[:-1]
    parts = zip(
      np.split(self.codes, ends, axis=1), np.split(self.directions, ends), strict=True
    )
    # In float64, so that the order in which a library adds up does not show.
    return np.stack([a.astype(np.float64) @ b.astype(np.float64) for a, b in parts]).astype(
      np.float32
    )


def span(vectors: np.ndarray, rank: int) -> np.ndarray:
  """[N, D] -> [rank, D] orthonormal rows: the directions that hold most of the vectors' energy."""
  moment = vectors.astype(np.float64).T @ vectors.astype(np.float64)
  return np.linalg.eigh(moment)[1][:, ::-1][:, :rank].T.astype(np.float32)


def _as_stored(x: np.ndarray) -> np.ndarray:
  return x.astype(np.float16).astype(np.float32)
