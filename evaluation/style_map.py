"""A picture of a catalog: embeddings in two dimensions, so that near neighbours stay near.

t-SNE (van der Maaten and Hinton, JMLR 9, 2008), exact, from the two principal components.
"""

import numpy as np

_MACHINE = 1e-12


def two_dimensions(
  x: np.ndarray, *, perplexity: float = 20.0, steps: int = 400, seed: int = 0
) -> np.ndarray:
  """[N, D] embeddings -> [N, 2], centred, of unit largest radius.

  Distances in the picture mean something among neighbours only.

  Args:
    x: [N, D]; rows are compared by cosine. N of some thousands at most: memory is N squared.
    perplexity: how many neighbours count, roughly; at most (N - 1) / 3.
    steps: of gradient descent.
    seed: of the tiny jitter that tells equal rows apart.
  """
  x = np.asarray(x, np.float64)
  x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _MACHINE)
  centred = x - x.mean(0)
  left, values, _ = np.linalg.svd(centred, full_matrices=False)
  start = np.zeros([len(x), 2])
  width = min(2, len(values))
  start[:, :width] = left[:, :width] * values[:width]
  if len(x) < 5:
    return _fitted(start)
  start = start / max(start.std(), _MACHINE) * 1e-2
  start += 1e-6 * np.random.default_rng(seed).standard_normal(start.shape)
  squared = np.maximum(2 - 2 * x @ x.T, 0)
  joint = _neighbours(squared, min(perplexity, (len(x) - 1) / 3))
  return _fitted(_descend(start, joint, steps))


def _neighbours(squared: np.ndarray, perplexity: float) -> np.ndarray:
  """Symmetric probabilities [N, N] in which each row sees `perplexity` neighbours."""
  target = np.log(perplexity)
  precision = np.ones(len(squared))
  low, high = np.zeros(len(squared)), np.full(len(squared), np.inf)
  distances = squared + np.diag(np.full(len(squared), np.inf))
  nearest = distances.min(1, keepdims=True)
  for _ in range(60):
    weights = np.exp(-(distances - nearest) * precision[:, None])
    rows = weights / weights.sum(1, keepdims=True)
    entropy = -(rows * np.log(np.maximum(rows, _MACHINE))).sum(1)
    wide = entropy > target
    low, high = np.where(wide, precision, low), np.where(wide, high, precision)
    precision = np.where(np.isinf(high), 2 * precision, (low + np.minimum(high, 1e30)) / 2)
  joint = rows + rows.T
  return np.maximum(joint / joint.sum(), _MACHINE)


def _descend(y: np.ndarray, joint: np.ndarray, steps: int) -> np.ndarray:
  speed, gains = np.zeros_like(y), np.ones_like(y)
  rate = max(len(y) / 12, 50.0)
  for step in range(steps):
    squared = np.square(y).sum(1)
    kernel = 1 / (1 + np.maximum(squared[:, None] + squared[None] - 2 * y @ y.T, 0))
    np.fill_diagonal(kernel, 0)
    early = step < 100
    force = ((12.0 if early else 1.0) * joint - kernel / kernel.sum()) * kernel
    gradient = 4 * (force.sum(1, keepdims=True) * y - force @ y)
    turned = gradient * speed >= 0
    gains = np.where(turned, np.maximum(gains * 0.8, 0.01), gains + 0.2)
    speed = (0.5 if early else 0.8) * speed - rate * gains * gradient
    y = y + speed
    y = y - y.mean(0)
  return y


def _fitted(y: np.ndarray) -> np.ndarray:
  y = y - y.mean(0)
  return y / max(np.linalg.norm(y, axis=1).max(), _MACHINE)
