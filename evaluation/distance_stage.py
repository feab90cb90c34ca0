"""Distances of distributions over every embedding at hand, as tables with anchors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from evaluation import anchors, distances, metric_table
from evaluation.metric_table import HIGHER, LOWER, Metric

# Embedding -> (what it is, the anchors that it must tell apart).
_NOISES = (anchors.CORPUS, anchors.NOISY, anchors.WHITE_NOISE)
EMBEDDINGS = {
  'logmel': ('mean and deviation of 12 mel bands in windows of 2 s, fixed', _NOISES),
  'chroma': ('mean and deviation of 12 pitch classes in windows of 2 s, turned to the strongest, '
             'fixed', (anchors.CORPUS, anchors.WHITE_NOISE)),
  'musiccoca': ("the style model's space, on which the language model was trained", _NOISES),
  'musicnn': ('features of musicnn, a network of others that has heard recorded music, for each '
              '3 s', _NOISES),
  'codec_latents': ("the codec's vectors at the model's depth, a mean for each 2 s",
                    (anchors.CORPUS, anchors.RANDOM_CODES)),
}  # fmt: skip
_KINDS = {
  'fd': ('Frechet distance', LOWER, 2),
  'fd_infinity': ('Frechet distance, N to infinity', LOWER, 2),
  'kad': ('Kernel distance (KAD)', LOWER, 2),
  'density': ('Density', HIGHER, 2),
  'coverage': ('Coverage', HIGHER, 2),
}
# Below, even an unbiased distance is a lottery.
_LEAST_POINTS = 4

Points = tuple[np.ndarray, Sequence[str]]


def measure(
  embedding: str,
  columns: Mapping[str, Points],
  kinds: Mapping[str, str],
  *,
  shrinkage: str | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """The table of one embedding.

  Args:
    embedding: its name.
    columns: column -> (points [N, D], the track of each); `anchors.REFERENCE` is what all others
      are held against.
    kinds: column -> 'model' or 'anchor'.
    shrinkage: of covariances, see `distances.frechet_distance`; declared in the label.
    seed: of the subsets of the extrapolation.

  Returns:
    {'embedding', 'about', 'dim', 'columns', 'rows', 'r2': {column: R2 of the extrapolation},
    'skipped': [{'what', 'why'}]}.
  """
  reference, _ = columns[anchors.REFERENCE]
  others = {name: points for name, points in columns.items() if name != anchors.REFERENCE}
  about, order = EMBEDDINGS.get(embedding, ('embedding of others, from local weights', _NOISES))
  width = distances.median_bandwidth(reference)
  statistics: dict[str, Callable[[np.ndarray], float]] = {
    'fd': lambda x: distances.frechet_distance(x, reference, shrinkage=shrinkage),
    'kad': lambda x: distances.kernel_distance(x, reference, bandwidth=width),
    'density': lambda x: distances.density_coverage(x, reference)[0],
    'coverage': lambda x: distances.density_coverage(x, reference)[1],
  }
  values: dict[str, dict[str, list[float]]] = {kind: {} for kind in _KINDS}
  r2, reasons = {}, {}
  for name, (points, tracks) in others.items():
    if len(points) < _LEAST_POINTS:
      reasons[''] = f'{name} has {len(points)} points, fewer than {_LEAST_POINTS}'
      continue
    for kind, statistic in statistics.items():
      try:
        values[kind][name] = _interval(statistic, points, tracks)
      except distances.TooFewError as error:
        reasons.setdefault(kind, str(error))
    try:
      found = distances.frechet_infinity(points, reference, seed=seed)
      values['fd_infinity'][name], r2[name] = [found.value, np.nan, np.nan], found.r2
    except distances.TooFewError as error:
      reasons.setdefault('fd_infinity', str(error))
  rows = []
  for kind, by_column in values.items():
    if by_column:
      rows.append(metric_table.row(_metric(kind, embedding, order, shrinkage), by_column,
                                   anchors.REFERENCE))  # fmt: skip
  return {
    'embedding': embedding,
    'about': about,
    'dim': int(reference.shape[1]),
    'num_reference': len(reference),
    'columns': [
      {'name': name, 'kind': kinds[name], 'num_points': len(points), 'num_tracks': len(set(tracks))}
      for name, (points, tracks) in others.items()
    ],
    'rows': rows,
    'r2': r2,
    'skipped': [
      {'what': f'{_KINDS[kind][0] if kind else "Distances"} over {embedding}', 'why': why}
      for kind, why in reasons.items()
    ],
  }


def _interval(
  statistic: Callable[[np.ndarray], float], points: np.ndarray, tracks: Sequence[str]
) -> list[float]:
  return list(distances.jackknife(lambda kept: statistic(points[kept]), tracks))


def _metric(kind: str, embedding: str, order: tuple[str, ...], shrinkage: str | None) -> Metric:
  label, better, digits = _KINDS[kind]
  if kind == 'fd' and shrinkage:
    label += ', shrunk covariances'
  if kind == 'density':  # Counts balls that a point falls into: repeating one mode raises it.
    order = ()
  elif kind == 'coverage':  # Bounded by 0, where two strong degradations cannot be told apart.
    order = (order[0], order[-1])
  return Metric(f'{kind}_{embedding}', label, '', better, order, digits)
