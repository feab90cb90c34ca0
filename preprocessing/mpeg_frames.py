"""Walks through MPEG audio (MP3, MP2) by frames: finds how much there really is.

Nothing is decoded: the headers of ISO/IEC 11172-3 and 13818-3 lead from frame to frame. A Xing,
Info or VBRI frame promises a number of frames, often a wrong one (files cut, joined or written to
a pipe), and without one a decoder guesses by size and bit rate.
"""

import dataclasses
import struct

from preprocessing.sliced_file import FileBytes, Part

# kbit/s by (MPEG-1 or not, layer); the first is "free", which says no length.
_BITRATES = {
  (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
  (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
  (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
  (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
  (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
  (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}
# Frames that must follow each other for bytes to be taken for MPEG audio.
_CHAIN = 3
# Foreign bytes before the first frame, as of a recording that begins inside a frame.
_MAX_LEADING = 8192
# Foreign bytes behind the last frame: the beginning of a frame that was cut.
MAX_LEFT_OVER = 2881
# Samples that mpg123 leaves out at the beginning besides an encoder's own delay.
_DECODER_DELAY = 529
# Where LAME's part of a Xing frame lies, and in it the encoder's delay and padding.
_LAME_PLACE, _DELAY_PLACE = 120, 141
_INFO_NAMES = (b'Xing', b'Info')
_UNKNOWN_COUNTS = (0, 0xFFFFFFFF, 0x7FFFFFFF)


@dataclasses.dataclass(frozen=True)
class FrameHeader:
  """One frame's header.

  Attributes:
    length: bytes of the frame with its header; 0 for free format, which does not say.
    layer: 1 to 3.
    sample_rate: Hz.
    channels: 1 or 2.
    samples: per channel.
    mpeg1: whether it is MPEG-1; else MPEG-2 or 2.5.
  """

  length: int
  layer: int
  sample_rate: int
  channels: int
  samples: int
  mpeg1: bool


@dataclasses.dataclass(frozen=True)
class Gap:
  """Bytes that are neither frames nor tags: where, how many, and after how many seconds."""

  position: int
  length: int
  secs: float


@dataclasses.dataclass(frozen=True)
class MpegFrames:
  """The content of a file of MPEG audio.

  Attributes:
    first: header of the first frame.
    count: whole frames with audio in them.
    runs: ranges of bytes of these frames; what lies between is tags, info frames and gaps.
    info: the first Xing, Info or VBRI frame, b'' for none.
    num_infos: how many of them there are: more than one where files were joined.
    promised_frames: that the info frames promise, None where they promise nothing.
    promised_bytes: likewise.
    num_bytes: of the frames, info frames included.
    gaps: foreign bytes between frames.
    leading, trailing: foreign bytes before the first frame and behind the last whole one.
    change: '' or where and how rate or channels change.
  """

  first: FrameHeader
  count: int
  runs: tuple[tuple[int, int], ...]
  info: bytes
  num_infos: int
  promised_frames: int | None
  promised_bytes: int | None
  num_bytes: int
  gaps: tuple[Gap, ...]
  leading: int
  trailing: int
  change: str

  @property
  def secs(self) -> float:
    """Returns seconds of audio in the whole frames."""
    return self.count * self.first.samples / self.first.sample_rate

  @property
  def promised_secs(self) -> float | None:
    """Returns the promised seconds; None without a promise, or if all promised bytes are there."""
    if self.promised_frames is None:
      return None
    if self.promised_bytes is not None and self.num_bytes >= self.promised_bytes * 0.999:
      return None
    return self.promised_frames * self.first.samples / self.first.sample_rate

  def parts(self) -> tuple[Part, ...]:
    """Returns the frames alone, after an info frame that counts them (layer III only).

    The samples are those of the file itself: its info frame is kept but for the counts. A new one
    makes mpg123 leave out a decoder's delay that it keeps without one, so a silent frame goes first
    and is all that is left out.
    """
    size = sum(end - begin for begin, end in self.runs)
    place = _info_place(self.first)
    if self.info[place : place + 4] in _INFO_NAMES:
      (flags,) = struct.unpack_from('>I', self.info, place + 4)
      if flags & 3 == 3:
        counts = struct.pack('>II', self.count, size + len(self.info))
        # Of a frame with side information, libmpg123 does not believe that it is an info frame.
        head = self.info[:4].ljust(place, b'\0') + self.info[place : place + 8]
        return head + counts + self.info[place + 16 :], *self.runs
    header = _counting_header(self.first)
    length = _parse(header).length
    silence = struct.pack('>I', header).ljust(length, b'\0')
    counts = b'Xing' + struct.pack('>III', 15, self.count + 1, size + 2 * length)
    counts += bytes(range(100))  # A table of contents, which nothing here seeks by.
    delay = (self.first.samples - _DECODER_DELAY) << 12
    lame = b'LAME3.100'.ljust(21, b'\0') + delay.to_bytes(3, 'big')
    tag = counts.ljust(_LAME_PLACE, b'\0') + lame
    return silence[:place] + tag + silence[place + len(tag) :], silence, *self.runs


def _info_place(first: FrameHeader) -> int:
  """Where a Xing frame has its name, behind header and side information."""
  if first.mpeg1:
    return 4 + (17 if first.channels == 1 else 32)
  return 4 + (9 if first.channels == 1 else 17)


def _counting_header(first: FrameHeader) -> int:
  """A header of the first frame's kind, without CRC, with room for the counts."""
  for version in _RATES:
    if first.sample_rate in _RATES[version]:
      rate = _RATES[version].index(first.sample_rate)
      mode = 3 if first.channels == 1 else 0
      for bitrate in range(1, 15):
        header = 0xFFE00000 | version << 19 | 1 << 17 | 1 << 16 | bitrate << 12 | rate << 10
        header |= mode << 6
        if _parse(header).length >= _info_place(first) + _LAME_PLACE + 36:
          return header
  raise AssertionError(first)


def _parse(header: int) -> FrameHeader | None:
  """The header of a frame, None where the 32 bits are none."""
  version, layer_bits = header >> 19 & 3, header >> 17 & 3
  bitrate, rate = header >> 12 & 15, header >> 10 & 3
  if header >> 21 != 0x7FF or version == 1 or not layer_bits or bitrate == 15 or rate == 3:
    return None
  layer, mpeg1 = 4 - layer_bits, version == 3
  sample_rate = _RATES[version][rate]
  bits = _BITRATES[mpeg1, layer][bitrate] * 1000
  padding = header >> 9 & 1
  if layer == 1:
    samples, length = 384, (12 * bits // sample_rate + padding) * 4
  else:
    samples = 576 if layer == 3 and not mpeg1 else 1152
    length = samples // 8 * bits // sample_rate + padding
  channels = 1 if header >> 6 & 3 == 3 else 2
  return FrameHeader(length if bits else 0, layer, sample_rate, channels, samples, mpeg1)


def read_frames(path: str) -> MpegFrames | None:
  """Walks through a local file; returns None if it is not MPEG audio, or is of free format.

  Raises:
    OSError: the file cannot be read.
  """
  with FileBytes(path) as data:
    return _Walk(data).result()


def begins_as_frames(path: str) -> bool:
  """Returns whether a local file begins with MPEG audio frames, or with a tag and frames."""
  with FileBytes(path) as data:
    return _Walk(data).begins()


class _Walk:
  """One walk through a file's bytes."""

  def __init__(self, data: FileBytes):
    self._data, self._size = data, len(data)
    self._first: FrameHeader | None = None
    self._count = self._num_bytes = self._num_infos = 0
    self._runs: list[tuple[int, int]] = []
    self._info = b''
    self._promised: list[tuple[int | None, int | None]] = []
    self._gaps: list[Gap] = []
    self._leading = self._trailing = 0
    self._change = ''
    self._headers: dict[int, FrameHeader | None] = {}
    self._padding: int | None = None

  def begins(self) -> bool:
    return self._is_chain(self._after_tags(0))

  def result(self) -> MpegFrames | None:
    place = self._after_tags(0)
    while place < self._size and not self._change:
      begin = self._next_chain(place, _MAX_LEADING if self._first is None else self._size)
      if self._first is None:
        if begin is None:
          return None
        self._leading = begin - place
        self._first = self._header(begin)
      elif begin is None:
        self._trailing = self._size - place
        break
      elif begin > place:
        secs = self._count * self._first.samples / self._first.sample_rate
        self._gaps.append(Gap(place, begin - place, secs))
      place = self._after_tags(self._run(begin))
    if self._first is None:
      return None
    return MpegFrames(
      self._first, self._count, tuple(self._runs), self._last_info(), self._num_infos,
      *self._promises(), self._num_bytes, tuple(self._gaps), self._leading, self._trailing,
      self._change,
    )  # fmt: skip

  def _promises(self) -> tuple[int | None, int | None]:
    sums: list[int | None] = []
    for column in zip(*self._promised, strict=True) if self._promised else ((None,), (None,)):
      known = [value for value in column if value is not None]
      sums.append(sum(known) if len(known) == len(column) else None)
    return sums[0], sums[1]

  def _last_info(self) -> bytes:
    """The first info frame, with the padding of the last one where several were joined."""
    at = _info_place(self._first) + _DELAY_PLACE
    if self._num_infos > 1 and self._padding is not None and len(self._info) > at + 3:
      delay = int.from_bytes(self._info[at : at + 3], 'big') & 0xFFF000
      padded = (delay | self._padding).to_bytes(3, 'big')
      return self._info[:at] + padded + self._info[at + 3 :]
    return self._info

  def _header(self, place: int) -> FrameHeader | None:
    if place + 4 > self._size:
      return None
    value = int.from_bytes(self._data[place : place + 4], 'big')
    key = value & 0xFFFEFEC0  # Without CRC, private and mode extension bits.
    if key not in self._headers:
      if len(self._headers) > 4096:
        self._headers.clear()
      self._headers[key] = _parse(value)
    return self._headers[key]

  def _next_chain(self, place: int, reach: int) -> int | None:
    """The next place where frames of one kind follow each other, or end with the file."""
    last = place + reach
    while True:
      place = self._data.find(b'\xff', place, last)
      if place < 0 or place + 4 > self._size:
        return None
      if self._is_chain(place):
        return place
      place += 1

  def _is_chain(self, place: int) -> bool:
    header = self._header(place)
    for count in range(_CHAIN):
      found = self._header(place)
      if found is None or not found.length or found.sample_rate != header.sample_rate:
        # A short file, whose frames end with it or with a tag.
        return count > 0 and (place >= self._size or self._after_tags(place) > place)
      if (found.layer, found.mpeg1) != (header.layer, header.mpeg1):
        return False
      place += found.length
      if place > self._size:
        return count > 0  # The first one at least must be whole.
    return True

  def _run(self, place: int) -> int:
    """Goes through whole frames of the first one's kind; returns where they end."""
    first, begin = self._first, place
    kind = (first.layer, first.mpeg1, first.sample_rate, first.channels)
    info_place, is_layer_3 = _info_place(first), first.layer == 3
    while (header := self._header(place)) is not None and header.length:
      end = place + header.length
      if (header.layer, header.mpeg1, header.sample_rate, header.channels) != kind:
        if self._is_chain(place):
          secs = self._count * first.samples / first.sample_rate
          self._change = (
            f'{_channels(first.channels)} at {first.sample_rate} Hz until {secs:.2f} s, '
            f'then {_channels(header.channels)} at {header.sample_rate} Hz'
          )
        break
      if end > self._size:
        break
      self._num_bytes += header.length
      name = self._data[place + info_place : place + info_place + 4]
      if (name in _INFO_NAMES or self._data[place + 36 : place + 40] == b'VBRI') and is_layer_3:
        self._add_info(self._data[place:end])
        if place > begin:
          self._runs.append((begin, place))
        begin = end
      else:
        self._count += 1
      place = end
    if place > begin:
      self._runs.append((begin, place))
    return place

  def _add_info(self, frame: bytes):
    self._num_infos += 1
    self._info = self._info or frame
    place = _info_place(self._first)
    frames = size = None
    if frame[36:40] == b'VBRI' and len(frame) >= 54:
      size, frames = struct.unpack_from('>II', frame, 46)
    elif len(frame) >= place + 16:
      flags, *counts = struct.unpack_from('>III', frame, place + 4)
      if flags & 1:
        frames = counts.pop(0)
      if flags & 2:
        size = counts.pop(0)
      at = place + _DELAY_PLACE
      if len(frame) > at + 3 and frame[place + _LAME_PLACE : place + _LAME_PLACE + 4].isalnum():
        self._padding = int.from_bytes(frame[at : at + 3], 'big') & 0xFFF
    frames, size = (None if value in _UNKNOWN_COUNTS else value for value in (frames, size))
    self._promised.append((frames, size))

  def _after_tags(self, place: int) -> int:
    """The place behind any tags (ID3v2, ID3v1, APE, Lyrics3) that begin here."""
    while True:
      head = self._data[place : place + 32]
      if head[:3] == b'ID3' and len(head) >= 10 and max(head[6:10]) < 0x80:
        place += _id3_size(head)
      elif head[:3] == b'TAG' and self._size - place <= 128 + 227:
        return self._size
      elif head[:8] == b'APETAGEX' and len(head) == 32:
        size, _, flags = struct.unpack_from('<III', head, 12)
        place += size + 32 if flags & 1 << 29 else 32
      elif head[:11] == b'LYRICSBEGIN':
        end = max(self._data.find(b'LYRICSEND', place), self._data.find(b'LYRICS200', place))
        if end < 0:
          return place
        place = end + 9
      else:
        return min(place, self._size)


def is_free_format(head: bytes) -> bool:
  """Returns whether 4 bytes are a frame header of free format, without the frame's length."""
  header = _parse(int.from_bytes(head, 'big')) if len(head) == 4 else None
  return header is not None and not header.length


def _id3_size(head: bytes) -> int:
  size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
  return 10 + size + (10 if head[5] & 0x10 else 0)


def tag_size(head: bytes) -> int:
  """Returns the size of the ID3v2 tag that a file's first 10 bytes announce; 0 for none."""
  if head[:3] == b'ID3' and len(head) >= 10 and max(head[6:10]) < 0x80:
    return _id3_size(head)
  return 0


def _channels(count: int) -> str:
  return 'mono' if count == 1 else 'stereo'
