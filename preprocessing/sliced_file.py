"""Reads local files by their bytes, and a file that is made of pieces of another one."""

import bisect
import errno
import io
import os
from collections.abc import Sequence

Part = bytes | tuple[int, int]
_BLOCK_BYTES = 1 << 16


class FileBytes:
  """The bytes of a local file by slices, read in blocks.

  Not `mmap`: where a disk is damaged or a file is cut while it is read, that ends the process.
  """

  def __init__(self, path: str):
    """Opens `path`; raises OSError where it cannot be, as do the other methods."""
    self._file = open(path, 'rb', buffering=0)  # noqa: SIM115  closed by __exit__
    self._size = os.fstat(self._file.fileno()).st_size
    self._begin, self._block = 0, b''

  def __enter__(self) -> 'FileBytes':
    return self

  def __exit__(self, *_):
    self._file.close()

  def __len__(self) -> int:
    return self._size

  def __getitem__(self, places: slice) -> bytes:
    begin, end, _ = places.indices(self._size)
    if begin < self._begin or end > self._begin + len(self._block):
      wanted = max(_BLOCK_BYTES, end - begin)
      self._begin, self._block = begin, os.pread(self._file.fileno(), wanted, begin)
      if len(self._block) < end - begin:
        raise OSError(errno.EIO, 'became shorter while it was read')
    return self._block[begin - self._begin : end - self._begin]

  def find(self, what: bytes, begin: int = 0, end: int | None = None) -> int:
    """The first place of `what` in begin..end, -1 for none."""
    end = self._size if end is None else min(end, self._size)
    while begin + len(what) <= end:
      block = self[begin : min(end, begin + _BLOCK_BYTES)]
      if (place := block.find(what)) >= 0:
        return begin + place
      begin += max(1, len(block) - len(what) + 1)
    return -1


class SlicedFile(io.RawIOBase):
  """A read-only file: bytes and ranges (begin, end) of a local file, one after the other."""

  def __init__(self, path: str, parts: Sequence[Part]):
    """Opens `path`; raises OSError where it cannot be."""
    super().__init__()
    self._parts = [part for part in parts if _size(part)]
    self._begins = [0]
    for part in self._parts:
      self._begins.append(self._begins[-1] + _size(part))
    self._place = 0
    self._file = open(path, 'rb', buffering=0)  # noqa: SIM115  closed by close()

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def tell(self) -> int:
    return self._place

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._begins[-1]}[whence]
    self._place = max(0, base + offset)
    return self._place

  def readinto(self, buffer) -> int:
    view = memoryview(buffer).cast('B')
    done = 0
    while done < len(view) and self._place < self._begins[-1]:
      index = bisect.bisect_right(self._begins, self._place) - 1
      part, inside = self._parts[index], self._place - self._begins[index]
      count = min(len(view) - done, _size(part) - inside)
      if isinstance(part, bytes):
        view[done : done + count] = part[inside : inside + count]
      else:
        self._file.seek(part[0] + inside)
        count = self._file.readinto(view[done : done + count])
        if not count:
          break  # The file has become shorter.
      done += count
      self._place += count
    return done

  def close(self):
    if not self.closed:
      self._file.close()
    super().close()


def _size(part: Part) -> int:
  return len(part) if isinstance(part, bytes) else max(0, part[1] - part[0])
