"""Weights on disk: nested dictionaries of arrays <-> one safetensors file with its description.

Files are written in float16 by default and read back as float32; what describes them (sizes,
recipe, licence) travels as JSON in the header's metadata, and with it a SHA-256 of everything else
in the file, which `load` compares. Files of older versions lack it and are read without.

An array of mostly zeros is stored as three: its shape, one bit a value that says whether it is
nonzero, and the nonzero values. Values too large for the type are divided by a power of two, which
is stored beside them.
"""

import hashlib
import json
import math
import pathlib
import re
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

Tree = dict[str, Any]
_SHA256 = 'sha256'
# What a mostly empty array is stored as, behind its name.
_SHAPE, _PLACES, _VALUES = '#shape', '#places', '#values'
_SCALE = '#scale'  # Of an array that was divided by a power of two.
_LEAST_STORED_SPARSELY = 4096


def flatten(tree: Tree, prefix: str = '') -> dict[str, np.ndarray]:
  """{'a': {'b': x}} -> {'a/b': x}, sorted by name."""
  flat = {}
  for key in sorted(tree):
    name = f'{prefix}/{key}' if prefix else key
    if isinstance(tree[key], dict):
      flat.update(flatten(tree[key], name))
    else:
      flat[name] = tree[key]
  return flat


def unflatten(flat: dict[str, Any]) -> Tree:
  """{'a/b': x} -> {'a': {'b': x}}."""
  tree: Tree = {}
  for name, value in flat.items():
    *parents, leaf = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[leaf] = value
  return tree


def save(
  path: str | pathlib.Path, tree: Tree, metadata: dict[str, Any], dtype: Any = np.float16,
  exact: str | None = None,
) -> pathlib.Path:  # fmt: skip
  """Writes `tree` and `metadata` (JSON values) to a safetensors file.

  Args:
    path: of the file.
    tree: arrays.
    metadata: what describes them.
    dtype: that floats become.
    exact: regular expression for names of arrays that are kept as they are.

  Raises:
    ValueError: a value is not finite.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  arrays = {}
  for name, value in flatten(tree).items():
    value = np.asarray(value)
    kept = exact is not None and re.search(exact, name)
    if np.issubdtype(value.dtype, np.floating) and value.dtype != dtype and not kept:
      scale = _scale_of(value, dtype)
      value = (value / scale).astype(dtype)
      if not np.isfinite(value).all():
        raise ValueError(f'{name} holds values that are not finite.')
      if scale != 1:
        arrays[name + _SCALE] = np.array(scale, np.float32)
    arrays |= _stored(name, np.ascontiguousarray(value))
  partial = path.with_suffix('.partial')
  try:
    partial.touch()  # save_file makes a file that only its owner may read; this one has its mode.
    mode = partial.stat().st_mode
    described = {key: json.dumps(metadata[key]) for key in sorted(metadata)}
    save_file(arrays, partial, described | {_SHA256: json.dumps(_exact_hash(arrays, described))})
    _sort_description(partial)
    partial.chmod(mode)
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)
  return path


def load(path: str | pathlib.Path) -> tuple[Tree, dict[str, Any]]:
  """Reads what `save` wrote: (tree with float32 leaves, metadata).

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is truncated, not safetensors, or not the one that was saved.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'No weights at {path}.')
  try:
    with safe_open(str(path), framework='numpy') as file:
      described = dict(file.metadata() or {})
      flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    metadata = {key: json.loads(value) for key, value in described.items()}
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError(f'{path} has a description that is not JSON: {error}') from error
  except (SafetensorError, LookupError, TypeError, AttributeError, UnicodeError) as error:
    raise ValueError(f'{path} is truncated or not safetensors: {error}') from error
  if metadata.pop(_SHA256, None) not in (None, _exact_hash(flat, described)):
    raise ValueError(
      f'{path} is damaged: it does not hold what was saved (SHA-256 differs). Copy the file again.'
    )
  try:
    flat = _read(flat)
  except (KeyError, ValueError, TypeError) as error:
    raise ValueError(f'{path} has an array whose parts do not fit: {error}') from error
  for name, value in flat.items():
    if np.issubdtype(value.dtype, np.floating):
      flat[name] = value.astype(np.float32)
  try:
    return unflatten(flat), metadata
  except (TypeError, AttributeError) as error:
    raise ValueError(f'{path} has an array where others lie below its name: {error}') from error


def _stored(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
  """The arrays that stand for one in a file."""
  if value.size < _LEAST_STORED_SPARSELY or not np.issubdtype(value.dtype, np.floating):
    return {name: value}
  # By its bits, so that -0.0 comes back as it was.
  nonzero = value.reshape(-1).view(f'u{value.itemsize}') != 0
  if 2 * np.count_nonzero(nonzero) > value.size:
    return {name: value}
  return {
    name + _SHAPE: np.array(value.shape, np.int64),
    name + _PLACES: np.packbits(nonzero),
    name + _VALUES: value.reshape(-1)[nonzero],
  }


def _scale_of(value: np.ndarray, dtype: Any) -> float:
  """The power of two by which values are divided so that the type holds them; mostly 1."""
  largest, limits = float(np.max(np.abs(value), initial=0.0)), np.finfo(dtype)
  if not math.isfinite(largest):
    return 1.0
  # Rounded as it will be stored, so that what is read back gets the same scale.
  fraction, exponent = math.frexp(largest)
  digits = 2.0 ** (limits.nmant + 1)
  rounded = math.ldexp(round(fraction * digits) / digits, exponent)
  if rounded <= float(limits.max):
    return 1.0
  return 2.0 ** (math.frexp(rounded)[1] - limits.maxexp)


def _read(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  """The inverse of `_stored`, for all arrays of a file."""
  flat = {}
  for name, value in arrays.items():
    if name.endswith(_SHAPE):
      name, shape = name.removesuffix(_SHAPE), tuple(value.tolist())
      places, values = arrays[name + _PLACES], arrays[name + _VALUES]
      size = math.prod(shape)
      if len(places) != -(-size // 8):
        raise ValueError(f'{name} has {len(places)} bytes of places for the shape {shape}.')
      nonzero = np.unpackbits(places, count=size).astype(bool)
      flat[name] = np.zeros(nonzero.size, values.dtype)
      flat[name][nonzero] = values
      flat[name] = flat[name].reshape(shape)
    elif not name.endswith((_PLACES, _VALUES, _SCALE)):
      flat[name] = value
  for name in [name for name in arrays if name.endswith(_SCALE)]:
    whole = name.removesuffix(_SCALE)
    flat[whole] = flat[whole].astype(np.float32) * np.float32(arrays[name])
  return flat


def content_hash(path: str | pathlib.Path) -> str:
  """SHA-256 of a file, as 16 hex digits: the identity of a codec or style model."""
  digest = hashlib.sha256(pathlib.Path(path).read_bytes())
  return digest.hexdigest()[:16]


def tree_hash(tree: Tree) -> str:
  """SHA-256 over names and float16 values, as 16 hex digits; the same before and after `save`."""
  digest = hashlib.sha256()
  for name, value in flatten(tree).items():
    value = np.asarray(value)
    if np.issubdtype(value.dtype, np.floating):
      scale = _scale_of(value, np.float16)
      value = (value / scale).astype(np.float16)
      name += '' if scale == 1 else f'{_SCALE}{scale:g}'
    digest.update(name.encode())
    digest.update(np.ascontiguousarray(value).tobytes())
  return digest.hexdigest()[:16]


def _sort_description(path: pathlib.Path):
  """Sorts the header's metadata, which safetensors does not: equal content, equal file."""
  with open(path, 'r+b') as file:
    length = int.from_bytes(file.read(8), 'little')
    header = json.loads(file.read(length))
    header['__metadata__'] = dict(sorted(header['__metadata__'].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(',', ':')).encode()
    if len(text) <= length:
      file.seek(8)
      file.write(text.ljust(length))


def _exact_hash(arrays: dict[str, np.ndarray], described: dict[str, str]) -> str:
  """SHA-256 over all there is in a file: names, dtypes, shapes, bytes, and its description."""
  digest = hashlib.sha256()
  for key in sorted(set(described) - {_SHA256}):
    digest.update(json.dumps([key, described[key]]).encode())
  for name in sorted(arrays):
    value = arrays[name]
    digest.update(json.dumps([name, value.dtype.name, value.shape]).encode())
    digest.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
  return digest.hexdigest()
