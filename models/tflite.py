"""What a TFLite file holds, read without TensorFlow or LiteRT: named constants and operators.

A TFLite file is a FlatBuffer (identifier TFL3). Only the fields that weights are found by are read.
"""

import dataclasses
import mmap
import pathlib
import struct
from collections.abc import Iterator

import numpy as np

# Builtin operators by their number in the TFLite schema, as far as anything here asks for them.
ADD, FULLY_CONNECTED, MUL, GATHER = 0, 9, 18, 36

_DTYPES = {0: '<f4', 1: '<f2', 2: '<i4', 3: 'u1', 4: '<i8', 6: '?', 7: '<i2', 9: 'i1', 10: '<f8'}


@dataclasses.dataclass(frozen=True)
class Operator:
  """One step of a graph: `code` as in the TFLite schema, tensors by index (-1 for none)."""

  code: int
  inputs: tuple[int, ...]
  outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Subgraph:
  """One graph of a file.

  Attributes:
    names: of every tensor, by index.
    constants: arrays of the tensors that are stored in the file, by index. They are views of the
      file: copy what is to outlive it.
    operators: in the order of execution.
  """

  names: tuple[str, ...]
  constants: dict[int, np.ndarray]
  operators: tuple[Operator, ...]

  def consumers(self, tensor: int) -> list[int]:
    """Codes of the operators that read `tensor`."""
    return [operator.code for operator in self.operators if tensor in operator.inputs]


def read(path: str | pathlib.Path) -> tuple[Subgraph, ...]:
  """Reads the graphs of a TFLite file; the first one is the main graph.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is truncated or no TFLite file.
  """
  path = pathlib.Path(path)
  size = path.stat().st_size
  broken = f'{path} ({size} bytes) is truncated or no TFLite file; fetch it again.'
  if size < 8:
    raise ValueError(broken)
  with path.open('rb') as file:
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  if data[4:8] != b'TFL3':
    raise ValueError(broken)
  try:
    return _read_model(data)
  except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
    raise ValueError(broken) from error


class _Table:
  """A FlatBuffer table: fields by number, absent ones at their default."""

  def __init__(self, data: mmap.mmap, position: int):
    self.data = data
    self.position = position
    self._fields = position - struct.unpack_from('<i', data, position)[0]
    self._size = struct.unpack_from('<H', data, self._fields)[0]

  def _at(self, field: int) -> int | None:
    entry = 4 + 2 * field
    if entry >= self._size:
      return None
    offset = struct.unpack_from('<H', self.data, self._fields + entry)[0]
    return self.position + offset if offset else None

  def number(self, field: int, kind: str) -> int:
    at = self._at(field)
    return 0 if at is None else struct.unpack_from(f'<{kind}', self.data, at)[0]

  def vector(self, field: int) -> tuple[int, int]:
    """(position of the first element, number of elements)."""
    at = self._at(field)
    if at is None:
      return 0, 0
    at += struct.unpack_from('<I', self.data, at)[0]
    return at + 4, struct.unpack_from('<I', self.data, at)[0]

  def array(self, field: int, dtype: str) -> np.ndarray:
    start, count = self.vector(field)
    return np.frombuffer(self.data, dtype, count, start) if count else np.zeros(0, dtype)

  def integers(self, field: int) -> tuple[int, ...]:
    return tuple(int(x) for x in self.array(field, '<i4'))

  def tables(self, field: int) -> Iterator['_Table']:
    start, count = self.vector(field)
    for at in range(start, start + 4 * count, 4):
      yield _Table(self.data, at + struct.unpack_from('<I', self.data, at)[0])

  def text(self, field: int) -> str:
    return self.array(field, 'u1').tobytes().decode()


def _read_model(data: mmap.mmap) -> tuple[Subgraph, ...]:
  model = _Table(data, struct.unpack_from('<I', data, 0)[0])
  # Numbers up to 127 stand in the old one-byte field too; the larger of both is the operator.
  codes = [max(code.number(0, 'b'), code.number(3, 'i')) for code in model.tables(1)]
  buffers = [_buffer(table) for table in model.tables(4)]
  graphs = []
  for graph in model.tables(2):
    tensors = list(graph.tables(0))
    constants = {}
    for index, tensor in enumerate(tensors):
      content = buffers[tensor.number(2, 'I')]
      dtype = _DTYPES.get(tensor.number(1, 'b'))
      if dtype and len(content):
        constants[index] = content.view(dtype).reshape(tensor.integers(0))
    operators = tuple(
      Operator(codes[operator.number(0, 'I')], operator.integers(1), operator.integers(2))
      for operator in graph.tables(3)
    )
    graphs.append(Subgraph(tuple(tensor.text(3) for tensor in tensors), constants, operators))
  return tuple(graphs)


def _buffer(table: _Table) -> np.ndarray:
  """Bytes of a buffer, which lie in its table, or behind the FlatBuffer in files over 2 GiB."""
  content = table.array(0, 'u1')
  offset, size = table.number(1, 'Q'), table.number(2, 'Q')
  # Offset 1 marks an empty buffer.
  if not len(content) and offset > 1 and size:
    content = np.frombuffer(table.data, 'u1', size, offset)
  return content
