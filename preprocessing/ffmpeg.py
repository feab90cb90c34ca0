"""Audio that soundfile does not decode (AAC, ALAC, WMA, APE, WavPack, WebM ...), by PyAV.

PyAV brings FFmpeg's libraries in its wheels; no program is started. Files are told by their first
bytes, and each kind is read by the one demuxer that is named for it, so that no playlist is
followed; FFmpeg is given an open file and may open no other, nor use any network protocol.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np

from preprocessing.mpeg_frames import tag_size
from preprocessing.sliced_file import FileBytes, Part, SlicedFile

# First bytes, at which place, and FFmpeg's demuxer.
_HEADS = (
  (0, bytes.fromhex('3026b2758e66cf11'), 'asf'),
  (0, bytes.fromhex('1a45dfa3'), 'matroska'),
  (4, b'ftyp', 'mov'), (4, b'moov', 'mov'), (4, b'mdat', 'mov'), (4, b'wide', 'mov'),
  (0, b'MAC ', 'ape'), (0, b'wvpk', 'wv'), (0, b'MPCK', 'mpc8'), (0, b'MP+', 'mpc'),
  (0, b'TTA1', 'tta'), (0, b'tBaK', 'tak'), (0, b'ajkg', 'shn'), (0, b'DSD ', 'dsf'),
  (0, b'FRM8', 'iff'), (0, b'#!AMR', 'amr'), (0, b'.RMF', 'rm'), (0, b'FLV\1', 'flv'),
  (0, bytes.fromhex('7ffe8001'), 'dts'), (0, bytes.fromhex('000001ba'), 'mpeg'),
)  # fmt: skip
# What libsndfile reads too, unless the codec inside is another one.
_SHARED_HEADS = (
  (8, b'WAVE', 'wav'), (0, b'fLaC', 'flac'), (0, b'OggS', 'ogg'), (0, b'caff', 'caf'),
  (8, b'AIFF', 'aiff'), (8, b'AIFC', 'aiff'), (0, b'.snd', 'au'),
)  # fmt: skip
# Sample entries of protected (DRM) audio in MP4 files: Apple's, Audible's, Common Encryption's.
_PROTECTED = ('drms', 'aavd', 'enca')
# Middle and full scale of whole numbers.
_SCALES = {
  'u8': (128.0, 2.0**7), 's16': (0.0, 2.0**15), 's32': (0.0, 2.0**31), 's64': (0.0, 2.0**63),
}  # fmt: skip


class FfmpegError(RuntimeError):
  """FFmpeg cannot decode a file; `protected` is True if copy protection is the reason."""

  def __init__(self, message: str, protected: bool = False):
    super().__init__(message)
    self.protected = protected


@dataclasses.dataclass(frozen=True)
class StreamFacts:
  """Facts of a file's first audio stream before it is decoded as a whole.

  Attributes:
    frames: samples per channel by the packets that are there; a few may be trimmed away.
    promised_secs: seconds that the container promises, None where it does not.
    sample_rate: Hz, of what is decoded.
    channels: number of channels.
    names: of the channels in their order; 'NONE' where FFmpeg knows none.
    codec: its name.
    num_streams: audio streams in the file.
  """

  frames: int
  promised_secs: float | None
  sample_rate: int
  channels: int
  names: tuple[str, ...]
  codec: str
  num_streams: int


def demuxer_for(path: str) -> str:
  """Returns FFmpeg's demuxer for a local file that only FFmpeg reads, '' for all others.

  Raises:
    OSError: the file cannot be read.
  """
  return _by_heads(_head(path), _HEADS)


def shared_demuxer_for(path: str) -> str:
  """Returns FFmpeg's demuxer for a container that libsndfile also reads, '' for all others."""
  return _by_heads(_head(path), _SHARED_HEADS)


def _head(path: str) -> bytes:
  with open(path, 'rb') as file:
    head = file.read(1024)
    if size := tag_size(head):
      file.seek(size)
      head = file.read(1024)
  return head


def _by_heads(head: bytes, heads) -> str:
  for place, magic, name in heads:
    if head[place : place + len(magic)] == magic:
      return name
  if heads is not _HEADS:
    return ''
  if head[:4] == b'RIFF' and head[8:12] == b'AVI ':
    return 'avi'
  if len(head) > 188 and head[0] == head[188] == 0x47:
    return 'mpegts'
  if len(head) >= 7 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
    # A sync word of 12 ones, then layer 0, which no MPEG audio has: AAC in ADTS frames.
    return 'aac'
  if head[:2] == b'\x0b\x77' and len(head) > 5:
    return 'eac3' if head[5] >> 3 > 10 else 'ac3'
  return ''


def adts_damage(path: str) -> str:
  """Returns where a local ADTS file (AAC) has bytes that belong to no frame; '' if nowhere."""
  with FileBytes(path) as data:
    place = begin = tag_size(data[:10])
    kind = data[begin : begin + 2]
    while place + 7 <= len(data):
      head = data[place : place + 7]
      length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
      if head[:2] != kind or length < 7:
        return '' if head[:3] in (b'TAG', b'ID3', b'APE') else f'no frame begins at byte {place}'
      place += length
    return '' if place >= len(data) or not any(data[place:]) else 'its end is damaged'


@contextlib.contextmanager
def _opened(path: str, demuxer: str, parts: tuple[Part, ...] | None):
  """An open container. FFmpeg's errors, which are of many classes, become `FfmpegError`."""
  import av

  try:
    source = SlicedFile(path, parts) if parts else open(path, 'rb')  # noqa: SIM115
    with source, av.open(
      source,
      format=demuxer,
      # Nothing else may be opened, and damage is an error, not something to be concealed.
      container_options={'protocol_whitelist': 'none'},
      options={'err_detect': 'crccheck+explode'},
      metadata_errors='replace',
    ) as container:
      yield container
  except FfmpegError:
    raise
  except (av.FFmpegError, ValueError, IndexError, RuntimeError) as error:
    raise FfmpegError(_told(error)) from error


def _told(error: Exception) -> str:
  text = getattr(error, 'strerror', None) or str(error) or type(error).__name__
  return text[0].lower() + text[1:].rstrip('.')


def _audio_stream(container):
  import av

  streams = container.streams.audio
  if not streams:
    raise FfmpegError('no audio stream')
  for stream in streams:
    tag = stream.codec_context.codec_tag if stream.codec_context else ''
    if tag in _PROTECTED:
      raise FfmpegError('copy protection (DRM)', protected=True)
  if streams[0].codec_context is None:
    raise FfmpegError(f'no decoder for this audio, {av.__name__} says')
  return streams[0]


def probe(path: str, demuxer: str) -> StreamFacts:
  """Finds facts of the first audio stream: counts all packets, decodes the first.

  Raises:
    FfmpegError: there is no audio in it that can be decoded.
  """
  if demuxer == 'aac' and (damage := adts_damage(path)):
    raise FfmpegError(f'it is damaged, {damage}')
  first = next(_frames(path, demuxer, None), None)
  if first is None:
    raise FfmpegError('no samples in its audio stream')
  with _opened(path, demuxer, None) as container:
    stream = _audio_stream(container)
    promised = _promised_secs(container, stream)
    secs = sum(float((packet.duration or 0) * packet.time_base) for packet in _packets(container))
    if not secs:
      raise FfmpegError('its packets do not say how long they are')
    return StreamFacts(
      round(secs * first.sample_rate), promised, first.sample_rate, first.layout.nb_channels,
      tuple(channel.name for channel in first.layout.channels), stream.codec_context.name,
      len(container.streams.audio),
    )  # fmt: skip


def _promised_secs(container, stream) -> float | None:
  if container.format.name in ('aac', 'ac3', 'eac3', 'dts', 'mpeg', 'mpegts', 'amr', 'loas'):
    return None  # Nothing but a guess by size and bit rate.
  if stream.duration:
    return float(stream.duration * stream.time_base)
  return container.duration / 1e6 if container.duration else None


def _packets(container):
  for packet in container.demux(container.streams.audio[0]):
    if packet.size and packet.time_base is not None:
      yield packet


def count_samples(path: str, demuxer: str, parts: tuple[Part, ...] | None = None) -> int:
  """Counts samples per channel by packets, for formats timed in samples, such as FLAC.

  Raises:
    FfmpegError: there is no audio in it.
  """
  with _opened(path, demuxer, parts) as container:
    stream = _audio_stream(container)
    secs = sum((packet.duration or 0) * packet.time_base for packet in _packets(container))
    return round(secs * stream.codec_context.sample_rate)


def channel_names(path: str, demuxer: str) -> tuple[str, ...]:
  """Returns the channels' names by the header; () if FFmpeg does not know them."""
  try:
    with _opened(path, demuxer, None) as container:
      layout = _audio_stream(container).codec_context.layout
      return tuple(channel.name for channel in layout.channels)
  except (FfmpegError, OSError):
    return ()


def blocks(path: str, demuxer: str) -> Iterator[np.ndarray]:
  """Decodes the first audio stream of a local file: float32 [n, channels], as it comes.

  Raises:
    FfmpegError: a packet is damaged, or rate or channels change on the way.
    OSError: the file cannot be read.
  """
  for frame in _frames(path, demuxer, None):
    yield _as_float(frame)


def _frames(path: str, demuxer: str, parts: tuple[Part, ...] | None):
  with _opened(path, demuxer, parts) as container:
    stream = _audio_stream(container)
    first, done = None, 0
    try:
      for packet in container.demux(stream):
        if packet.is_corrupt:
          raise FfmpegError(f'a damaged packet at {_secs(done, first):.2f} s')
        for frame in packet.decode():
          first = first or frame
          if (frame.sample_rate, frame.layout.name) != (first.sample_rate, first.layout.name):
            raise FfmpegError(
              f'{first.layout.name} at {first.sample_rate} Hz until {_secs(done, first):.2f} s, '
              f'then {frame.layout.name} at {frame.sample_rate} Hz'
            )
          done += frame.samples
          yield frame
    except FfmpegError:
      raise
    except (ValueError, OSError, RuntimeError, IndexError) as error:
      raise FfmpegError(f'{_told(error)} at {_secs(done, first):.2f} s') from error


def _secs(samples: int, frame) -> float:
  return samples / frame.sample_rate if frame is not None else 0.0


def _as_float(frame) -> np.ndarray:
  """A frame's samples, float32 [n, channels], full scale being 1."""
  x = frame.to_ndarray()
  name, count = frame.format.name.rstrip('p'), frame.layout.nb_channels
  x = x.T if frame.format.is_planar else x.reshape(-1, count)
  if name in _SCALES:
    offset, scale = _SCALES[name]
    x = (x.astype(np.float64) - offset) / scale
  return np.ascontiguousarray(x, np.float32)
