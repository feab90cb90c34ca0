"""Style presets: named embeddings in one safetensors file, and those that sum up a catalog."""

import pathlib
from collections.abc import Mapping

import numpy as np

from models import rvq, weights


def catalog_presets(
  embeddings: np.ndarray, num_centroids: int, *, name: str = 'catalog', seed: int = 0
) -> dict[str, np.ndarray]:
  """The mean of a catalog and the centroids of its k-means clusters, biggest cluster first.

  Args:
    embeddings: [N >= 1, style_dim], one a window or a track.
    num_centroids: clusters; at most N are made. 0 for the mean alone.
    name: of the mean; centroids are `<name>-1`, `<name>-2`, ...
    seed: of the k-means start.

  Returns:
    float32 [style_dim] by name.

  Raises:
    ValueError: there are no embeddings, or they are not finite.
  """
  embeddings = np.asarray(embeddings, np.float32)
  if embeddings.ndim != 2 or not len(embeddings):
    raise ValueError(f'Presets need [N >= 1, style_dim] embeddings; got shape {embeddings.shape}.')
  presets = {name: embeddings.mean(axis=0)}
  count = min(num_centroids, len(embeddings))
  if count < 1:
    return presets
  centroids = rvq.fit_residual_kmeans(embeddings, 1, count, seed=seed)
  members = np.bincount(np.asarray(rvq.quantize(embeddings, centroids))[:, 0], minlength=count)
  order = np.argsort(-members, kind='stable')
  return presets | {f'{name}-{i}': centroids[0, k] for i, k in enumerate(order, 1)}


def save_presets(
  path: str | pathlib.Path, presets: Mapping[str, np.ndarray], style_hash: str
) -> pathlib.Path:
  """Writes presets in float32 with the hash of the style model that they belong to.

  Raises:
    ValueError: there are none, a name is empty or has a slash, or one is not a finite vector.
  """
  if not presets:
    raise ValueError('There are no presets to save.')
  for name, preset in presets.items():
    if not name or '/' in name:
      raise ValueError(f'The preset name {name!r} is empty or has a slash.')
    if np.ndim(preset) != 1 or not np.isfinite(preset).all():
      raise ValueError(f'The preset {name!r} is not one finite vector (shape {np.shape(preset)}).')
  metadata = {'kind': 'presets', 'style_hash': style_hash}
  return weights.save(path, {'presets': dict(presets)}, metadata, np.float32)


def load_presets(
  path: str | pathlib.Path, style_hash: str | None = None
) -> dict[str, np.ndarray]:
  """Reads presets: float32 [style_dim] by name.

  Args:
    path: a file of `save_presets`, or the presets of a bundle.
    style_hash: `content_hash` of the style model that they are to be used with; None for no check.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is truncated, no presets, or belongs to another style model.
  """
  tree, metadata = weights.load(path)
  if metadata.get('kind') != 'presets':
    raise ValueError(f'{path} holds {metadata.get("kind", "something else")}, not presets.')
  # Bundles name their style model in spec.json, not here.
  found = metadata.get('style_hash')
  if style_hash is not None and found is not None and found != style_hash:
    raise ValueError(
      f'The presets in {path} are embeddings of the style model with hash {found}; this one has '
      f'hash {style_hash}, and its space is another. Make the presets anew with it.'
    )
  return tree['presets']
