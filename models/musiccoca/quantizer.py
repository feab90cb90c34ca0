"""Style tokens: a residual quantizer kept in the subspace that the embeddings span."""

import dataclasses

import numpy as np


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
