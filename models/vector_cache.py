"""Vectors on disk by key, for results that are dear to compute.

Entries appear whole, by a rename: a process that is killed leaves at most a temporary file, several
processes may share a folder, and an entry that was damaged counts as absent.
"""

import hashlib
import os
import pathlib
import time
import uuid

import numpy as np

from models import notices

_DIGEST_BYTES = 16
_STALE_SECS = 3600


class VectorCache:
  """Vectors of one width on disk, by key.

  Attributes:
    hits: entries found since this object was made.
    misses: entries asked for and not found.
  """

  def __init__(self, directory: str | pathlib.Path, width: int):
    """Opens or makes the cache folder; removes what killed processes have left there."""
    self.directory = pathlib.Path(directory)
    self.width = width
    self.hits = 0
    self.misses = 0
    self._warned = False
    self._partial = self.directory / 'partial'
    self._partial.mkdir(parents=True, exist_ok=True)
    for path in self._partial.iterdir():
      try:
        if time.time() - path.stat().st_mtime > _STALE_SECS:
          path.unlink()
      except FileNotFoundError:  # Another process was faster.
        pass

  def get(self, key: str) -> np.ndarray | None:
    """The vector of `key`, float32 [width]; None if it is not there or damaged."""
    try:
      content = self._path(key).read_bytes()
    except FileNotFoundError:
      content = b''
    vector, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    if len(vector) != 4 * self.width or _digest(vector) != digest:
      self.misses += 1
      return None
    self.hits += 1
    return np.frombuffer(vector, '<f4').astype(np.float32)

  def put(self, key: str, vector: np.ndarray):
    """Stores a vector. A folder that is full or read-only costs a warning, never the result."""
    content = np.asarray(vector, '<f4').tobytes()
    partial = self._partial / uuid.uuid4().hex
    path = self._path(key)
    try:
      path.parent.mkdir(exist_ok=True)
      partial.write_bytes(content + _digest(content))
      os.replace(partial, path)
    except OSError as error:
      partial.unlink(missing_ok=True)
      if not self._warned:
        notices.say(f'Results are not kept in {self.directory}: {error}')
      self._warned = True

  def _path(self, key: str) -> pathlib.Path:
    return self.directory / key[:2] / key


def _digest(content: bytes) -> bytes:
  return hashlib.sha256(content).digest()[:_DIGEST_BYTES]
