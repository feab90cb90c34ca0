"""Reads a new checkpoint back before it counts: names, shapes and, in one process, every number."""

import errno
import pathlib
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath

from training import disk
from training.state import flat_names

_CACHE_BYTES = 1 << 26


class ReadBackError(disk.DiskError):
  """A checkpoint's files do not hold what was saved."""


def check(folder: pathlib.Path, tree: Any):
  """Compares the arrays in a folder with those that were saved; one array at a time in memory.

  Args:
    folder: Orbax's, `state`.
    tree: the arrays. Only shape and dtype are compared of those that are not NumPy arrays, because
      other processes may hold a part of them.

  Raises:
    ReadBackError: one is missing or differs; names it.
  """
  expected = flat_names(tree)
  try:
    stored = flat_names(ocp.PyTreeCheckpointHandler().metadata(epath.Path(folder)).tree)
  except (ValueError, OSError, LookupError) as error:
    raise ReadBackError(errno.EIO, f'its list of arrays cannot be read: {error}') from error
  # A cache of its own, for OCDBT's index: what is read comes from the files.
  context = ts.Context({'cache_pool': {'total_bytes_limit': _CACHE_BYTES}})
  for name in sorted(set(expected) | set(stored)):
    if name not in stored or name not in expected:
      raise ReadBackError(
        errno.EIO, f'{name} {"is missing" if name in expected else "is one array too many"}'
      )
    saved, found = expected[name], stored[name]
    if tuple(saved.shape) != tuple(found.shape) or saved.dtype != found.dtype:
      raise ReadBackError(errno.EIO, f'{name} is {found.dtype}{list(found.shape)} there')
    if isinstance(saved, np.ndarray) and not _same(saved, _read(folder, found.name, name, context)):
      raise ReadBackError(errno.EIO, f'{name} holds other numbers there')


def _read(folder: pathlib.Path, stored_name: str, name: str, context: ts.Context) -> np.ndarray:
  base = {'driver': 'file', 'path': f'{folder}/'}
  kvstore = {'driver': 'ocdbt', 'base': base, 'path': f'{stored_name}/'}
  try:
    return ts.open({'driver': 'zarr', 'kvstore': kvstore}, context=context).result().read().result()
  except ValueError as error:
    raise ReadBackError(errno.EIO, f'{name} cannot be read: {error}') from error


def _same(a: np.ndarray, b: np.ndarray) -> bool:
  """Whether two arrays are equal in every bit."""
  a, b = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
  return np.array_equal(a, b)
