"""The bytes of a shard of records: its size, its number of records, its first and last bytes.

A shard is a TFRecord file. Its records are counted by their lengths; nothing is parsed.
"""

import dataclasses
import gzip
import hashlib
import math
import os
import zlib
from typing import IO

from etils import epath

_END_BYTES = 4096
# A record: its length (8 bytes), the length's checksum (4), the content, its checksum (4).
_AROUND = 16


class TokenDataError(ValueError):
  """Token records are damaged, incomplete or missing; the message names the file.

  Attributes:
    problem: the message without the way out.
  """

  def __init__(self, problem: str, way_out: str = ''):
    super().__init__(f'{problem} {way_out}'.rstrip())
    self.problem = problem


@dataclasses.dataclass(frozen=True)
class ShardFacts:
  """Facts of a whole shard that are known without parsing records.

  Attributes:
    num_bytes: its size.
    num_records: records in it.
    ends: a hash of its first and last 4 KiB.
  """

  num_bytes: int
  num_records: int
  ends: str


def shard_facts(path: epath.PathLike, compression: str = '') -> ShardFacts:
  """Finds the facts of a shard by walking the lengths of its records.

  Raises:
    TokenDataError: the file ends inside a record, or cannot be uncompressed.
    OSError: it cannot be read.
  """
  size, ends = outside(path)
  return ShardFacts(size, count_records(path, compression), ends)


def outside(path: epath.PathLike) -> tuple[int, str]:
  """Returns the size in bytes and a hash of the first and last 4 KiB."""
  with _open(path) as file:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    digest = hashlib.sha256(file.read(_END_BYTES))
    file.seek(max(0, size - _END_BYTES))
    digest.update(file.read(_END_BYTES))
  return size, digest.hexdigest()[:32]


def _open(path: epath.PathLike) -> IO[bytes]:
  """Opens a file to read; of local ones there may be very many, and epath takes its time."""
  return epath.Path(path).open('rb') if is_remote(path) else open(path, 'rb', buffering=0)


def size_of(path: epath.PathLike) -> int:
  """Returns the size in bytes."""
  return epath.Path(path).stat().length if is_remote(path) else os.stat(path).st_size


def is_remote(path: epath.PathLike) -> bool:
  """Returns whether a path is in a bucket."""
  return '://' in os.fspath(path)


def count_records(path: epath.PathLike, compression: str = '') -> int:
  """Counts the records of a shard by their lengths, without parsing them.

  Raises:
    TokenDataError: the file ends inside a record, or cannot be uncompressed.
    OSError: it cannot be read.
  """
  path = epath.Path(path)
  with _open(path) as raw:
    if not compression:
      size = raw.seek(0, os.SEEK_END)
      return _count(raw, size, path)
    try:
      with gzip.open(raw) as file:
        return _count(file, math.inf, path)
    except (zlib.error, gzip.BadGzipFile) as error:
      raise TokenDataError(f'{path} is not a whole {compression} file: {error}.') from error


def _count(file: IO[bytes], size: float, path: epath.Path) -> int:
  position = count = 0
  try:
    while position < size:
      file.seek(position)
      header = file.read(8)
      if not header and size == math.inf and file.tell() == position:
        return count
      position += _AROUND + int.from_bytes(header, 'little')
      # No file is as long as a damaged length may say, and no platform seeks there.
      if len(header) < 8 or position > min(size, 2**62):
        break
      count += 1
  except EOFError:
    position, count = -1, max(0, count - 1)
  if position != size:
    raise TokenDataError(f'{path} ends inside of record {count}.')
  return count
