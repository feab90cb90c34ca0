"""Finds WAV, AIFF and FLAC files whose header is wrong: sizes left at 0, joined files.

Headers are compared with the places of chunks and frames; nothing is decoded.
"""

import dataclasses
import struct

from preprocessing.sliced_file import FileBytes, Part

_NO_SIZE = (0, 0x7FFFFFFF, 0xFFFFFFFF)
# A FLAC file begins with its name and a STREAMINFO block of 34 bytes.
_FLAC = b'fLaC'
_FLAC_HEADS = (b'fLaC\x00\x00\x00\x22', b'fLaC\x80\x00\x00\x22')


@dataclasses.dataclass(frozen=True)
class Joined:
  """The parts of a file of chunks.

  Attributes:
    links: parts of each file that was joined into this one; one where the header's size is mended;
      () where the file is read as it is.
    damage: why the file cannot be read at all; '' if it can.
  """

  links: tuple[tuple[Part, ...], ...] = ()
  damage: str = ''


def read_riff(path: str) -> Joined:
  """Compares header and content of a local WAV or AIFF file.

  Raises:
    OSError: the file cannot be read.
  """
  with FileBytes(path) as data:
    begins = [0]
    while (end := _riff_end(data, begins[-1])) is not None and end < len(data):
      # Odd sizes are padded, or not.
      follows = next((at for at in (end, end + 1) if _is_riff(data, at)), None)
      if follows is None:
        break
      begins.append(follows)
    if len(begins) > 1:
      return Joined(tuple(((a, b),) for a, b in zip(begins, [*begins[1:], len(data)])))
    return _data_size(data) if data[:4] == b'RIFF' else Joined()


def _is_riff(data: FileBytes, at: int) -> bool:
  name, kind = data[at : at + 4], data[at + 8 : at + 12]
  return (name, kind) in ((b'RIFF', b'WAVE'), (b'FORM', b'AIFF'), (b'FORM', b'AIFC'))


def _riff_end(data: FileBytes, begin: int) -> int | None:
  if not _is_riff(data, begin):
    return None
  order = '<' if data[begin : begin + 4] == b'RIFF' else '>'
  (size,) = struct.unpack(f'{order}I', data[begin + 4 : begin + 8])
  return None if size in _NO_SIZE else begin + 8 + size


def _data_size(data: FileBytes) -> Joined:
  """Whether the size of a WAV file's data chunk agrees with what follows it."""
  place, size = 12, len(data)
  while place + 8 <= size:
    name, length = struct.unpack('<4sI', data[place : place + 8])
    end = place + 8 + length
    if name == b'data':
      break
    place = end + (length & 1)
  else:
    return Joined()
  if end >= size or length in _NO_SIZE[1:]:
    return Joined()
  end += length & 1
  rest = size - end
  if rest < 8 or _is_chunk(data, end):
    return Joined()
  if length == 0:
    whole = struct.pack('<I', min(size - place - 8, 0xFFFFFFFE))
    return Joined((((0, place + 4), whole, (place + 8, size)),))
  riff = _riff_end(data, 0)
  if riff is not None and riff > end + 1 and riff <= size:
    return Joined(
      damage=f'the data chunk promises {length} bytes, but what follows is not a chunk, and the '
      f'file goes on for {rest} bytes'
    )
  return Joined()


def _is_chunk(data: FileBytes, place: int) -> bool:
  name, length = struct.unpack('<4sI', data[place : place + 8])
  printable = all(0x20 <= byte < 0x7F for byte in name)
  return printable and place + 8 + length <= len(data) + 1


def flac_begins(path: str) -> list[int]:
  """Returns the first byte of each FLAC file that a local file is joined of.

  Raises:
    OSError: the file cannot be read.
  """
  found = []
  with FileBytes(path) as data:
    place = data.find(_FLAC)
    while place >= 0:
      if data[place : place + 8] in _FLAC_HEADS and _is_streaminfo(data[place + 8 : place + 42]):
        found.append(place)
      place = data.find(_FLAC, place + 1)
  return found


def _is_streaminfo(block: bytes) -> bool:
  if len(block) < 34:
    return False
  least, most = struct.unpack_from('>HH', block)
  return 16 <= least <= most and int.from_bytes(block[10:13], 'big') >> 4 > 0


def flac_damage(path: str, begin: int) -> str:
  """Returns what is wrong with the FLAC file whose `fLaC` is at a byte; '' if nothing."""
  with open(path, 'rb') as file:
    file.seek(begin + 4)
    while len(head := file.read(4)) == 4:
      file.seek(int.from_bytes(head[1:], 'big'), 1)
      if head[0] & 0x80:
        place, sync = file.tell(), file.read(2)
        # 14 ones, a zero, and whether blocks are of one size.
        if len(sync) == 2 and sync[0] == 0xFF and sync[1] & 0xFE == 0xF8:
          return ''
        return f'no frame begins at byte {place}, where its metadata end'
  return 'its metadata go beyond its end'


def flac_total(path: str, begin: int) -> int:
  """Returns the samples promised by the FLAC file whose `fLaC` is at a byte; 0 if unknown."""
  with open(path, 'rb') as file:
    file.seek(begin + 21)
    return int.from_bytes(file.read(5), 'big') & 0xF_FFFF_FFFF


def flac_counting(path: str, begin: int, end: int, total: int) -> tuple[Part, ...]:
  """Returns the FLAC file in a range of bytes, with its number of samples corrected."""
  with open(path, 'rb') as file:
    file.seek(begin + 21)
    (upper,) = file.read(1)
  patched = bytes([upper & 0xF0 | total >> 32 & 0xF]) + struct.pack('>I', total & 0xFFFFFFFF)
  return (begin, begin + 21), patched, (begin + 26, end)


