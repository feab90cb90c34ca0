"""A style model that remembers on disk what it has embedded, by content.

An entry is keyed by the style model's hash and the SHA-256 of what its tower sees: the ids of a
text, the samples of one window. Renamed or moved files are found again; changed ones are not
confused.
"""

import hashlib
import pathlib
from collections.abc import Callable

import numpy as np

from models.musiccoca.embedder import StyleEmbedder
from models.vector_cache import VectorCache

_FORMAT = 'v1'


class CachedEmbedder(StyleEmbedder):
  """A style model behind a cache: the same results, each computed once."""

  def __init__(self, model: StyleEmbedder, directory: str | pathlib.Path):
    """Wraps `model`.

    Args:
      model: any style model.
      directory: of the cache; several models and processes may share one.
    """
    self.model = model
    self.spec = model.spec
    self.vocabulary = model.vocabulary
    name = '-'.join(filter(None, [_FORMAT, model.content_hash, model.variant]))
    self.cache = VectorCache(pathlib.Path(directory) / name, model.spec.style_dim)

  @property
  def content_hash(self) -> str:
    return self.model.content_hash

  @property
  def variant(self) -> str:
    return self.model.variant

  @property
  def codebooks(self) -> np.ndarray:
    return self.model.codebooks

  def tokenize(self, embeddings: np.ndarray) -> np.ndarray:
    """See `StyleEmbedder.tokenize`."""
    return self.model.tokenize(embeddings)

  def embed_ids(self, ids: np.ndarray, paddings: np.ndarray) -> np.ndarray:
    """What the vocabulary makes of N texts -> float32 [N, style_dim]."""
    return self._cached('text', self.model.embed_ids, ids, paddings)

  def embed_clips(self, clips: np.ndarray) -> np.ndarray:
    """Mono windows [N, window_samples] at the model's rate -> float32 [N, style_dim]."""
    return self._cached('audio', self.model.embed_clips, clips)

  def _cached(
    self, kind: str, embed: Callable[..., np.ndarray], *arrays: np.ndarray
  ) -> np.ndarray:
    """Rows from the cache; those that are not there are embedded together, each content once."""
    keys = [_key(kind, *row) for row in zip(*arrays)]
    known = {key: self.cache.get(key) for key in dict.fromkeys(keys)}
    missing = [key for key, vector in known.items() if vector is None]
    if missing:
      rows = [keys.index(key) for key in missing]
      for key, vector in zip(missing, embed(*(array[rows] for array in arrays))):
        known[key] = vector
        self.cache.put(key, vector)
    return np.asarray([known[key] for key in keys], np.float32).reshape(-1, self.spec.style_dim)


def _key(kind: str, *row: np.ndarray) -> str:
  digest = hashlib.sha256(kind.encode())
  for array in row:
    digest.update(f'{array.dtype.str}{array.shape}'.encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()
