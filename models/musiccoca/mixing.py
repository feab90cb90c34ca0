"""Styles between styles: weighted means, and paths from one embedding to the next."""

from collections.abc import Sequence

import numpy as np

from models.figures import exact
from models.musiccoca.inputs import StyleError, check_embeddings, check_weights

KINDS = ('linear', 'spherical')


def weighted_mean(embeddings: np.ndarray, weights: Sequence[float] | None = None) -> np.ndarray:
  """sum(w e) / sum(w) of embeddings [N, style_dim] -> float32 [style_dim].

  As Magenta RealTime mixes prompts: no renormalisation, so a mix of unlike styles is shorter than
  its parts. Embeddings of text and of audio may be mixed.

  Args:
    embeddings: [N, style_dim].
    weights: N numbers from 0 up, not all 0; None for equal ones.

  Raises:
    StyleError: there are no embeddings, their number is not that of the weights, a weight is
      negative, an embedding or a weight is not finite, or all weights are 0.
  """
  embeddings = np.asarray(embeddings, np.float64)
  if embeddings.ndim != 2 or not len(embeddings):
    raise StyleError(f'A mix needs [N >= 1, style_dim] embeddings; got shape {embeddings.shape}.')
  weights = np.ones(len(embeddings)) if weights is None else np.asarray(weights, np.float64)
  if weights.shape != (len(embeddings),):
    raise StyleError(f'{weights.size} weights are given for {len(embeddings)} embeddings.')
  shares = check_weights(weights)
  check_embeddings(embeddings, 'A style of the mix')
  return (shares @ embeddings).astype(np.float32)


def interpolate(
  start: np.ndarray, end: np.ndarray, fraction: float, kind: str = 'linear'
) -> np.ndarray:
  """The style at `fraction` of the way from `start` to `end`, float32 [style_dim].

  * linear: (1 - f) start + f end, the weighted mean of the two.
  * spherical: the direction turns at a constant rate (slerp) and the norm changes linearly, so the
    middle is not shorter than its ends.

  Raises:
    StyleError: the fraction is not in 0..1, the kind is unknown, a style is not finite, or a
      spherical path starts or ends at zero or joins opposite directions, between which no turn is
      the shortest.
  """
  start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
  for style in (start, end):
    check_embeddings(style, 'A style of the path')
  if not 0 <= fraction <= 1:
    raise StyleError(f'The fraction {exact(fraction)} is not in 0..1.')
  if kind not in KINDS:
    raise StyleError(f'The kind of path {kind!r} is not one of {list(KINDS)}.')
  if kind == 'linear':
    return ((1 - fraction) * start + fraction * end).astype(np.float32)
  norms = np.linalg.norm(start), np.linalg.norm(end)
  if not min(norms) > 0:
    raise StyleError('A spherical path cannot start or end at zero; use a linear one.')
  first, last = start / norms[0], end / norms[1]
  # From the chord, which keeps its precision for small angles, as the cosine does not.
  angle = 2 * np.arctan2(np.linalg.norm(last - first), np.linalg.norm(last + first))
  if np.pi - angle < 1e-6:
    raise StyleError('A spherical path cannot join opposite directions; give a waypoint.')
  norm = (1 - fraction) * norms[0] + fraction * norms[1]
  if angle < 1e-9:
    direction = first
  else:
    shares = np.sin((1 - fraction) * angle), np.sin(fraction * angle)
    direction = (shares[0] * first + shares[1] * last) / np.sin(angle)
  return (norm * direction).astype(np.float32)


def path(waypoints: np.ndarray, num_steps: int, kind: str = 'linear') -> np.ndarray:
  """Styles along a path through waypoints, its ends included.

  Every leg gets the same share of the steps' time; step i stands at i / (num_steps - 1) of it.

  Args:
    waypoints: [N >= 2, style_dim] embeddings.
    num_steps: styles to return, at least 2.
    kind: see `interpolate`.

  Returns:
    float32 [num_steps, style_dim].

  Raises:
    StyleError: too few waypoints or steps, or see `interpolate`.
  """
  waypoints = np.asarray(waypoints)
  if waypoints.ndim != 2 or len(waypoints) < 2:
    raise StyleError(f'A path needs [N >= 2, style_dim] waypoints; got shape {waypoints.shape}.')
  if num_steps < 2:
    raise StyleError(f'num_steps={num_steps} must be at least 2: a path has two ends.')
  styles = []
  for place in np.linspace(0, len(waypoints) - 1, num_steps):
    leg = min(int(place), len(waypoints) - 2)
    fraction = float(np.clip(place - leg, 0, 1))
    styles.append(interpolate(waypoints[leg], waypoints[leg + 1], fraction, kind))
  return np.stack(styles)
