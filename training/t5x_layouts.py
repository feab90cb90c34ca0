"""T5X's two checkpoint layouts as named arrays: msgpack + zarr ('t5x'), Orbax OCDBT ('t5x-orbax').

Names are paths in T5X's train state: 'target/encoder/encoder_norm/scale', 'state/step',
'state/param_states/encoder/encoder_norm/scale/v'. Which model they belong to is not known here.

    t5x         checkpoint                    flax msgpack: {version, optimizer: {target, state}}
                target.<dotted name>/         an array in zarr; in the msgpack stands a TensorStore
                                              spec in its place
    t5x-orbax   state/, _CHECKPOINT_METADATA  what T5X's Orbax manager writes
"""

import abc
import dataclasses
import itertools
import json
import math
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import msgpack
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from flax import serialization

from models import weights
from training import checksums, orbax_paths

LAYOUTS = ('t5x', 't5x-orbax')
MSGPACK_FILE = 'checkpoint'
PREFIX = 'checkpoint'
STEP = 'state/step'
_STATE = 'state'
_NAME = re.compile(PREFIX + r'_(\d+)')
_ORBAX_FILES = ('_METADATA', 'manifest.ocdbt')
_FORMAT_VERSION = 3
_CHUNK_BYTES = 64 * 2**20
_COMPRESSOR = {'id': 'gzip', 'level': 1}


@dataclasses.dataclass(frozen=True)
class ArrayInfo:
  """Shape and dtype of a stored array; the dtype's name, such as 'bfloat16'."""

  shape: tuple[int, ...]
  dtype: str

  def __str__(self) -> str:
    return f'{self.dtype}{list(self.shape)}'


class StoredState(abc.ABC):
  """An opened checkpoint.

  Attributes:
    folder: holds the msgpack file, or Orbax's files.
    layout: one of `LAYOUTS`.
    arrays: what the checkpoint says that it holds.
  """

  folder: pathlib.Path
  layout: str
  arrays: dict[str, ArrayInfo]

  @abc.abstractmethod
  def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads arrays in their stored dtype.

    Raises:
      ValueError: a file is missing, truncated or of another shape; names the first such array.
    """


def locate(path: str | pathlib.Path) -> tuple[str, pathlib.Path]:
  """The layout and the folder of the arrays that `path` means.

  Args:
    path: a T5X checkpoint folder, its `state` folder or its msgpack file, or a folder of
      checkpoint_<step> folders, whose newest is meant.

  Raises:
    FileNotFoundError: there is no T5X checkpoint; says what was looked for.
  """
  path = pathlib.Path(path)
  if path.name == MSGPACK_FILE and path.is_file():
    path = path.parent
  for folder in (path, path / _STATE):
    if any((folder / name).is_file() for name in _ORBAX_FILES):
      return 't5x-orbax', folder
    if (folder / MSGPACK_FILE).is_file():
      return 't5x', folder
  steps = [
    int(match[1])
    for child in (path.iterdir() if path.is_dir() else [])
    if (match := _NAME.fullmatch(child.name))
  ]
  if steps:
    return locate(path / f'{PREFIX}_{max(steps)}')
  raise FileNotFoundError(
    f'{path} is no T5X checkpoint: it holds neither a file {MSGPACK_FILE!r} (msgpack + zarr) nor '
    f'{_STATE}/{_ORBAX_FILES[0]} (Orbax), nor folders {PREFIX}_<step> with one of them.'
  )


def open_state(path: str | pathlib.Path) -> StoredState:
  """Opens a checkpoint of either layout; reads no arrays yet.

  Args:
    path: see `locate`.

  Raises:
    FileNotFoundError: there is none.
    ValueError: its description is truncated.
  """
  layout, folder = locate(path)
  for checkpoint in (folder, folder.parent):  # Of Orbax's layout, `folder` is one inside it.
    if checksums.listed(checkpoint) and (found := checksums.fault(checkpoint)):
      raise ValueError(f'{checkpoint} is damaged: {found}. Copy or export the checkpoint again.')
  return _MsgpackState(folder) if layout == 't5x' else _OrbaxState(folder)


class _MsgpackState(StoredState):
  """Layout 't5x'."""

  layout = 't5x'

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    path = folder / MSGPACK_FILE
    try:
      contents = serialization.msgpack_restore(path.read_bytes())
      # Without `optimizer` it is a plain flax checkpoint, which T5X reads, too.
      self._entries = dict(_flat(contents.get('optimizer', contents)))
    except (ValueError, AttributeError, msgpack.UnpackException) as error:
      raise ValueError(f'{path} is truncated or not a T5X msgpack: {error}') from error
    self.arrays = {}
    for name, entry in self._entries.items():
      if isinstance(entry, dict):
        shape = tuple(entry.get('metadata', {}).get('shape') or _zarray(folder, name, entry)[0])
        self.arrays[name] = ArrayInfo(shape, str(entry.get('dtype', 'float32')))
      else:
        value = np.asarray(entry)
        self.arrays[name] = ArrayInfo(value.shape, value.dtype.name)

  def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
    values, futures = {}, {}
    for name in names:
      entry = self._entries[name]
      if isinstance(entry, dict):
        futures[name] = self._start(name, entry)
      else:
        values[name] = np.asarray(entry)
    for name, future in futures.items():
      try:
        values[name] = future.result()
      except ValueError as error:
        raise _unreadable(self.folder, name, self.arrays[name], error) from error
    return values

  def _start(self, name: str, spec: dict[str, Any]) -> Any:
    """Begins to read one zarr array; TensorStore itself takes a missing chunk for zeros."""
    info = self.arrays[name]
    shape, missing = _zarray(self.folder, name, spec)
    if shape != info.shape:
      raise ValueError(
        f'{self.folder}: {name} has shape {shape} in its zarr folder, {info.shape} was expected by '
        f'the file {MSGPACK_FILE!r}; they belong to different checkpoints.'
      )
    if missing is not None:
      raise _unreadable(self.folder, name, info, f'its chunk {missing} is missing')
    folder = _array_folder(self.folder, name, spec)
    try:
      kvstore = {'driver': 'file', 'path': f'{orbax_paths.literal(self.folder)}/{folder.name}/'}
      return ts.open({'driver': 'zarr', 'kvstore': kvstore}).result().read()
    except ValueError as error:
      raise _unreadable(self.folder, name, info, error) from error


class _OrbaxState(StoredState):
  """Layout 't5x-orbax'."""

  layout = 't5x-orbax'

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    try:
      place = epath.Path(orbax_paths.literal(folder))
      tree = ocp.PyTreeCheckpointHandler().metadata(place).tree
    except (ValueError, KeyError, FileNotFoundError) as error:
      raise ValueError(f'{folder} is truncated or not written by Orbax: {error}') from error
    self.arrays = {
      name: ArrayInfo(tuple(getattr(leaf, 'shape', ())), np.dtype(leaf.dtype).name)
      for name, leaf in weights.flatten(tree).items()
      if leaf is not None
    }

  def read(self, names: Iterable[str]) -> dict[str, np.ndarray]:
    names = list(names)
    try:
      return self._restore(names)
    except (ValueError, OSError):
      # Orbax reads all at once and does not say where it failed.
      for name in names:
        try:
          self._restore([name])
        except (ValueError, OSError) as error:
          raise _unreadable(self.folder, name, self.arrays[name], error) from error
      raise

  def _restore(self, names: list[str]) -> dict[str, np.ndarray]:
    item = weights.unflatten(
      {n: jax.ShapeDtypeStruct(self.arrays[n].shape, np.dtype(self.arrays[n].dtype)) for n in names}
    )
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      tree = checkpointer.restore(
        orbax_paths.literal(self.folder),
        args=ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True),
      )
    flat = weights.flatten(tree)
    return {name: np.asarray(flat[name]) for name in names}


def write_state(
  directory: str | pathlib.Path, step: int, arrays: Mapping[str, Any], layout: str
) -> pathlib.Path:
  """Writes `directory`/checkpoint_<step>, which appears when it is complete.

  Args:
    directory: made if it does not exist.
    step: updates made; also stored, as 'state/step'.
    arrays: by their names in the train state, without the step.
    layout: one of `LAYOUTS`.

  Returns:
    The folder.

  Raises:
    FileExistsError: there is such a checkpoint already.
    ValueError: the layout is unknown.
  """
  if layout not in LAYOUTS:
    raise ValueError(f'layout={layout!r} is not one of {LAYOUTS}.')
  folder = pathlib.Path(directory).absolute() / f'{PREFIX}_{step}'
  if folder.exists():
    raise FileExistsError(f'{folder} exists; remove it or choose another folder.')
  folder.parent.mkdir(parents=True, exist_ok=True)
  arrays = dict(arrays) | {STEP: np.array(step, np.int32)}
  write = _write_msgpack if layout == 't5x' else _write_orbax
  write(folder, step, arrays)
  return folder


def _write_msgpack(folder: pathlib.Path, step: int, arrays: dict[str, Any]):
  del step
  partial = folder.with_name(f'{folder.name}.tmp-{os.getpid()}')
  partial.mkdir()
  try:
    entries = {}
    for name, value in arrays.items():
      value = np.asarray(value)
      entries[name] = _write_zarr(partial, name, value) if _has_axes(name, value) else value
    contents = {'version': _FORMAT_VERSION, 'optimizer': weights.unflatten(entries)}
    (partial / MSGPACK_FILE).write_bytes(serialization.msgpack_serialize(contents))
    checksums.write(partial)
    partial.rename(folder)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _has_axes(name: str, value: np.ndarray) -> bool:
  """Whether T5X partitions an array; it reads those from zarr alone, all others from the msgpack.

  Those are parameters and what Adafactor keeps in a parameter's shape; not its rows and columns.
  """
  return name.startswith('target/') or (name.endswith('/v') and value.shape != (1,))


def _write_zarr(folder: pathlib.Path, name: str, value: np.ndarray) -> dict[str, Any]:
  """Writes one array; returns the spec, its path relative, that stands for it in the msgpack."""
  place = name.replace('/', '.') + '/'
  chunks = _chunk_shape(value.shape, value.dtype.itemsize)
  metadata = {'shape': list(value.shape), 'chunks': chunks, 'compressor': dict(_COMPRESSOR)}
  spec = {
    'driver': 'zarr',
    'dtype': value.dtype.name,
    'kvstore': {'driver': 'file', 'path': place},
    'metadata': metadata,
  }
  path = f'{orbax_paths.literal(folder)}/{place}'
  absolute = spec | {'kvstore': {'driver': 'file', 'path': path}}
  ts.open(absolute, create=True, delete_existing=True).result().write(value).result()
  return spec


def _chunk_shape(shape: tuple[int, ...], itemsize: int) -> list[int]:
  """The fewest equal pieces of the longest axis that keep a chunk within T5X's 64 MiB."""
  if not shape or math.prod(shape) * itemsize <= _CHUNK_BYTES:
    return list(shape)
  axis = int(np.argmax(shape))
  least = math.ceil(math.prod(shape) * itemsize / _CHUNK_BYTES)
  pieces = next(n for n in range(least, shape[axis] + 1) if shape[axis] % n == 0)
  return [size // pieces if i == axis else size for i, size in enumerate(shape)]


def _write_orbax(folder: pathlib.Path, step: int, arrays: dict[str, Any]):
  options = ocp.CheckpointManagerOptions(
    step_prefix=PREFIX, enable_async_checkpointing=False, cleanup_tmp_directories=False
  )
  parent = orbax_paths.literal(folder.parent)
  with ocp.CheckpointManager(parent, item_names=(_STATE,), options=options) as manager:
    state = ocp.args.PyTreeSave(weights.unflatten(arrays))
    manager.save(step, args=ocp.args.Composite(**{_STATE: state}), force=True)
  checksums.write(folder)


def _flat(tree: Mapping[str, Any], prefix: str = '') -> Iterable[tuple[str, Any]]:
  """(name, array or TensorStore spec) of a nested dict, in order; leaves out None and {}."""
  for key in sorted(tree):
    value, name = tree[key], f'{prefix}{key}'
    if isinstance(value, dict) and not {'driver', 'kvstore'} <= set(value):
      yield from _flat(value, f'{name}/')
    elif value is not None:
      yield name, value


def _array_folder(folder: pathlib.Path, name: str, spec: dict[str, Any]) -> pathlib.Path:
  """Where an array lies: `folder` and the last part of the path in `spec`.

  The path stands in `kvstore`, beside it (TensorStore before 0.1.14), or in a URL; driver, bucket
  and leading folders tell where the array was written, which no longer matters.
  """
  kvstore = spec['kvstore']
  path = kvstore if isinstance(kvstore, str) else kvstore.get('path') or spec.get('path') or ''
  last = path.rstrip('/').rpartition('/')[2]
  if last in ('', '.', '..'):
    raise ValueError(f'{folder / MSGPACK_FILE}: the spec of {name} names no folder: {spec}.')
  return folder / last


def _zarray(
  folder: pathlib.Path, name: str, spec: dict[str, Any]
) -> tuple[tuple[int, ...], str | None]:
  """Shape in an array's own metadata, and the first chunk that ought to be there and is not."""
  place = _array_folder(folder, name, spec)
  try:
    metadata = json.loads((place / '.zarray').read_text(encoding='utf-8'))
    shape, chunks = tuple(metadata['shape']), metadata['chunks']
  except (OSError, ValueError, KeyError) as error:
    expected = tuple(spec.get('metadata', {}).get('shape', ()))
    raise ValueError(
      f'{folder}: {name} has no readable {place.name}/.zarray, shape {expected} was expected: '
      f'{error}'
    ) from error
  if metadata.get('fill_value') is not None:
    return shape, None
  grid = [range(math.ceil(size / chunk)) for size, chunk in zip(shape, chunks, strict=True)]
  separator = metadata.get('dimension_separator', '.')
  for index in itertools.product(*grid):
    chunk = separator.join(map(str, index)) or '0'
    if not (place / chunk).is_file():
      return shape, chunk
  return shape, None


def _unreadable(
  folder: pathlib.Path, name: str, info: ArrayInfo, reason: Exception | str
) -> ValueError:
  return ValueError(
    f'{folder}: {name} cannot be read, {info} was expected: {reason}. The copy is incomplete; '
    'fetch the checkpoint again.'
  )


def check_arrays(
  stored: StoredState, expected: Mapping[str, tuple[int, ...]], belongs: Callable[[str], bool]
):
  """Compares names and shapes with what a model needs.

  Args:
    stored: the checkpoint.
    expected: shapes by name.
    belongs: whether a stored name is one of those that `expected` lists in full.

  Raises:
    ValueError: names the first array, in alphabetical order, that is missing, unknown or of another
      shape, with the shape found and the one expected.
  """
  found = {name: info.shape for name, info in stored.arrays.items() if belongs(name)}
  for name in sorted(set(found) | set(expected)):
    if name not in found:
      raise ValueError(f'{stored.folder}: {name} is missing, {expected[name]} was expected.')
    if name not in expected:
      raise ValueError(
        f'{stored.folder}: {name} with shape {found[name]} is not part of a model of these sizes.'
      )
    if found[name] != tuple(expected[name]):
      raise ValueError(
        f'{stored.folder}: {name} has shape {found[name]}, {tuple(expected[name])} was expected.'
      )
