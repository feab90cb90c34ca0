"""Decodes a local file: by soundfile, in pieces if its header is wrong, or by FFmpeg.

libsndfile gives as many samples as a header announces. So the frames of MP3 and FLAC and the pages
of Ogg are counted first (`examine`), and a file that announces too few, too many or none is read as
one with a correct header, or as several files, one after the other. The samples stay those of
libsndfile.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import soundfile

from preprocessing import channels, chunk_files, decoder_messages, ffmpeg, mpeg_frames, ogg_pages
from preprocessing.sliced_file import Part, SlicedFile

_MPEG_SUFFIXES = ('.mp3', '.mp2', '.mp1', '.mpa', '.mpga')
_REMEMBERED_FILES = 65_536
_SPOKEN_CODECS = {'vorbis': 'Vorbis', 'opus': 'Opus', 'flac': 'FLAC', 'speex': 'Speex'}


class RefusedError(ValueError):
  """A file cannot be decoded; `reason` is a code of `preprocessing.quality`."""

  def __init__(self, reason: str, message: str):
    super().__init__(message)
    self.reason = reason


@dataclasses.dataclass(frozen=True)
class Reading:
  """The content of a file and how it is read.

  Attributes:
    frames: samples per channel; None if only decoding can show it.
    sample_rate: Hz.
    channels: number of channels.
    container, subtype: libsndfile's names, or 'FFMPEG' and a codec's.
    layout: of more than two channels, see `channels.layout_text`.
    links: parts of each file that this one is joined of; () for the file as it is.
    demuxer: FFmpeg's, '' where soundfile decodes.
    promised_secs: seconds that the container promises; None if it does not, or wrongly.
    complete: False where the container's end mark is missing.
    estimated: whether `frames` may differ a little from what is decoded.
    notes: what was repaired, skipped or guessed.
  """

  frames: int
  sample_rate: int
  channels: int
  container: str
  subtype: str
  layout: str = ''
  links: tuple[tuple[Part, ...], ...] = ()
  demuxer: str = ''
  promised_secs: float | None = None
  complete: bool = True
  estimated: bool = False
  notes: tuple[str, ...] = ()


def examine(path: str) -> Reading:
  """Finds out how to read a local file; kept as long as its size and time stay the same.

  Raises:
    RefusedError: it cannot be read, and why.
    OSError: it cannot be opened.
  """
  status = os.stat(path)
  return _examine(path, status.st_size, status.st_mtime_ns, status.st_ino)


@functools.lru_cache(_REMEMBERED_FILES)
def _examine(path: str, *state: int) -> Reading:
  if demuxer := ffmpeg.demuxer_for(path):
    return _by_ffmpeg(path, demuxer)
  shared = ffmpeg.shared_demuxer_for(path)
  if shared == 'ogg':
    return _ogg(path)
  if shared == 'flac':
    return _flac(path)
  if shared in ('wav', 'aiff'):
    return _riff(path, shared)
  if not shared:
    frames = mpeg_frames.read_frames(path)
    if frames is not None:
      return _mpeg(path, frames)
    if _would_be_mpeg(path):
      raise RefusedError('not_audio', 'cannot be decoded: no MPEG audio frames follow each other')
  return _plain(path, shared)


def _would_be_mpeg(path: str) -> bool:
  """Whether libsndfile would search a file for MPEG audio, though it has no frames in a row."""
  with open(path, 'rb') as file:
    head = file.read(4)
  if mpeg_frames.is_free_format(head):
    return False
  sync = head[:1] == b'\xff' and len(head) > 1 and head[1] >= 0xE0
  return sync or head[:3] == b'ID3' or os.path.splitext(path)[1].lower() in _MPEG_SUFFIXES


def _plain(path: str, shared: str = '', links: tuple[tuple[Part, ...], ...] = ()) -> Reading:
  """By libsndfile's own word; a codec that it does not know goes to FFmpeg."""
  try:
    infos = [_info(path, parts) for parts in links or (None,)]
  except soundfile.LibsndfileError as error:
    if shared and not links:
      try:
        return _by_ffmpeg(path, shared)
      except RefusedError:
        pass
    # libsndfile's MP3 part says of what is no MP3 that there is no such file.
    text = '' if 'does not exist' in str(error) else _sndfile_text(error)
    raise RefusedError('not_audio', f'cannot be decoded{text and ": " + text}') from error
  first = infos[0]
  if not (first.samplerate > 0 and first.channels > 0):
    raise RefusedError('not_audio', f'has {first.channels} channels at {first.samplerate} Hz')
  for info in infos:
    if (info.samplerate, info.channels) != (first.samplerate, first.channels):
      raise RefusedError('decode_error', _changes(infos))
  layout = _layout(path, shared, first)
  notes = (f'{len(links)} files joined into one',) if len(links) > 1 else ()
  return Reading(
    sum(info.frames for info in infos), first.samplerate, first.channels, first.format,
    first.subtype, layout, links, notes=notes,
  )  # fmt: skip


def _changes(infos) -> str:
  secs = 0.0
  for before, after in zip(infos, infos[1:]):
    secs += before.frames / before.samplerate
    if (before.samplerate, before.channels) != (after.samplerate, after.channels):
      return (
        f'is joined of different files: {before.channels} channels at {before.samplerate} Hz until '
        f'{secs:.2f} s, then {after.channels} channels at {after.samplerate} Hz; cut it there'
      )
  raise AssertionError(infos)


def _layout(path: str, shared: str, info) -> str:
  if info.channels <= 2:
    return ''
  if info.format == 'OGG' and info.subtype in ('VORBIS', 'OPUS'):
    return channels.vorbis_layout(info.channels)
  names = ffmpeg.channel_names(path, shared) if shared else ()
  return channels.layout_text(list(names) or None, info.channels)


def _by_ffmpeg(path: str, demuxer: str) -> Reading:
  try:
    facts = ffmpeg.probe(path, demuxer)
  except ffmpeg.FfmpegError as error:
    reason = 'unsupported_format' if error.protected else 'not_audio'
    raise RefusedError(reason, f'cannot be decoded: {error}') from error
  notes = ()
  if facts.num_streams > 1:
    notes = (f'the first of {facts.num_streams} audio streams',)
  return Reading(
    facts.frames, facts.sample_rate, facts.channels, 'FFMPEG', facts.codec.upper(),
    channels.layout_text(list(facts.names), facts.channels), demuxer=demuxer,
    promised_secs=facts.promised_secs, estimated=True, notes=notes,
  )  # fmt: skip


def _ogg(path: str) -> Reading:
  pages = ogg_pages.read_pages(path)
  if pages is None or not pages.links:
    raise RefusedError('not_audio', 'cannot be decoded: no whole Ogg page')
  if pages.damage:
    raise RefusedError('decode_error', f'is damaged: {pages.damage}')
  if any(link.num_streams > 1 or link.codec not in _SPOKEN_CODECS for link in pages.links):
    if len(pages.links) > 1:
      raise RefusedError(
        'unsupported_format', 'is a chain of Ogg streams with more than audio in them; convert it'
      )
    return _by_ffmpeg(path, 'ogg')
  if len({link.codec for link in pages.links}) > 1:
    kinds = ', '.join(_SPOKEN_CODECS[link.codec] for link in pages.links)
    raise RefusedError(
      'decode_error', f'is a chain of different Ogg streams: {kinds}; cut it there'
    )
  links = ()
  if len(pages.links) > 1:
    links = tuple(((link.begin, link.end),) for link in pages.links)
  reading = _plain(path, 'ogg', links)
  if links:
    reading = dataclasses.replace(reading, notes=(f'{len(links)} chained Ogg streams',))
  complete = pages.complete and pages.links[-1].ended
  return dataclasses.replace(reading, complete=complete)


def _flac(path: str) -> Reading:
  begins = chunk_files.flac_begins(path)
  if not begins:
    raise RefusedError('not_audio', 'cannot be decoded: its FLAC header is damaged')
  ends = [*begins[1:], os.path.getsize(path)]
  links, mended, notes = [], False, []
  for begin, end in zip(begins, ends, strict=True):
    if damage := chunk_files.flac_damage(path, begin):
      raise RefusedError('decode_error', f'is damaged: {damage}')
    total = chunk_files.flac_total(path, begin)
    try:
      count = ffmpeg.count_samples(path, 'flac', ((begin, end),) if len(begins) > 1 else None)
    except ffmpeg.FfmpegError as error:
      raise RefusedError('decode_error', f'cannot be decoded: {error}') from error
    if count > total:
      mended = True
      links.append(chunk_files.flac_counting(path, begin, end, count))
      if total:
        notes.append(f'the header promises {total} samples, {count} are there')
    else:
      links.append(((begin, end),))
  reading = _plain(path, 'flac', tuple(links) if mended or len(links) > 1 else ())
  return dataclasses.replace(reading, notes=(*reading.notes, *notes))


def _riff(path: str, shared: str) -> Reading:
  joined = chunk_files.read_riff(path)
  if joined.damage:
    raise RefusedError('decode_error', f'is damaged: {joined.damage}')
  return _plain(path, shared, joined.links)


def _mpeg(path: str, frames: mpeg_frames.MpegFrames) -> Reading:
  if frames.change:
    raise RefusedError(
      'decode_error', f'is joined of different files: {frames.change}; cut it there'
    )
  if frames.gaps:
    gap = frames.gaps[0]
    raise RefusedError(
      'decode_error',
      f'is damaged at {len(frames.gaps)} places: first, {gap.length} bytes at {gap.secs:.2f} s '
      f'(byte {gap.position}) are not MPEG audio',
    )
  whole = frames.promised_frames is not None and frames.count >= frames.promised_frames
  if frames.trailing > mpeg_frames.MAX_LEFT_OVER and not whole:
    raise RefusedError(
      'decode_error',
      f'is damaged: {frames.trailing} bytes behind {frames.secs:.2f} s are not MPEG audio',
    )
  notes = []
  if frames.leading or frames.trailing:
    total = frames.leading + frames.trailing
    notes.append(f'{total} bytes before or behind the MPEG frames passed over')
  if frames.num_infos > 1:
    notes.append(f'{frames.num_infos} files joined into one')
  if frames.first.layer != 3:
    return _mpeg_layer_2(path, frames, tuple(notes))
  links: tuple[tuple[Part, ...], ...] = (frames.parts(),)
  with decoder_messages.named(path):
    counted = _plain(path, '', links)
    if _is_plain(frames) and _info(path, None).frames == counted.frames:
      links = ()
  return dataclasses.replace(
    counted, links=links, promised_secs=frames.promised_secs, notes=tuple(notes)
  )


def _is_plain(frames: mpeg_frames.MpegFrames) -> bool:
  """Whether libmpg123 finds nothing to remark on between the frames."""
  if frames.leading or frames.trailing or frames.num_infos > 1:
    return False
  if frames.promised_frames not in (None, frames.count):
    return False
  size = frames.promised_bytes
  return size is None or abs(size / frames.num_bytes - 1) < 0.005


def _mpeg_layer_2(path: str, frames: mpeg_frames.MpegFrames, notes: tuple[str, ...]) -> Reading:
  reading = _by_ffmpeg(path, 'mp3')
  total = frames.count * frames.first.samples
  return dataclasses.replace(reading, frames=total, promised_secs=None, notes=notes)


def _info(path: str, parts: tuple[Part, ...] | None):
  with _sound_file(path, parts) as file:
    return _Info(file.frames, file.samplerate, file.channels, file.format, file.subtype)


@dataclasses.dataclass(frozen=True)
class _Info:
  frames: int
  samplerate: int
  channels: int
  format: str
  subtype: str


@contextlib.contextmanager
def _sound_file(path: str, parts: tuple[Part, ...] | None) -> Iterator[soundfile.SoundFile]:
  if not parts:
    with soundfile.SoundFile(os.fsencode(path)) as file:
      yield file
    return
  with SlicedFile(path, parts) as sliced, soundfile.SoundFile(sliced) as file:
    yield file


def _sndfile_text(error: Exception) -> str:
  return str(getattr(error, 'error_string', '') or error).rstrip('.')


class Decoder(Protocol):
  """Decodes a file block by block: float32 [n, channels], without a downmix."""

  def read(self, frames: int) -> np.ndarray:
    """Returns the next samples, at most `frames`; none at the end."""

  def skip(self, frames: int) -> int:
    """Skips exactly `frames` samples, or those that are left; returns how many."""


class _SoundFileDecoder:
  """libsndfile, over all links."""

  def __init__(self, path: str, reading: Reading, stack: contextlib.ExitStack):
    self._path, self._stack = path, stack
    self._links = list(reading.links) or [None]
    self._is_mpeg = 'MPEG' in reading.subtype
    self._file = self._next()

  def _next(self) -> soundfile.SoundFile | None:
    self._stack.close()
    if not self._links:
      return None
    with self._logged():
      file = self._stack.enter_context(_sound_file(self._path, self._links.pop(0)))
      # Before its first seek, libsndfile leaves out too little of some Opus files' beginnings.
      file.seek(0)
      return file

  def _logged(self):
    return decoder_messages.named(self._path) if self._is_mpeg else contextlib.nullcontext()

  def read(self, frames: int) -> np.ndarray:
    while True:
      with self._logged():
        # `frames` bounds the memory; what the header announces may be any number.
        block = self._file.read(frames, dtype='float32', always_2d=True)
      if len(block) or not frames or not self._links:
        return block
      self._file = self._next()

  def skip(self, frames: int) -> int:
    skipped = 0
    while frames > skipped:
      here = min(frames - skipped, self._file.frames - self._file.tell())
      with self._logged():
        # From the beginning: of Opus, libsndfile seeks from the current place to a wrong one.
        self._file.seek(self._file.tell() + here)
      skipped += here
      if skipped < frames:
        if not self._links:
          break
        self._file = self._next()
    return skipped


class _FfmpegDecoder:
  """FFmpeg, from the beginning on: places are exact whatever the codec's frames are."""

  def __init__(self, path: str, reading: Reading):
    self._blocks = ffmpeg.blocks(path, reading.demuxer)
    self._rest = np.zeros([0, reading.channels], np.float32)

  def read(self, frames: int) -> np.ndarray:
    pieces, count = [self._rest], len(self._rest)
    while count < frames and (block := next(self._blocks, None)) is not None:
      pieces.append(block)
      count += len(block)
    x = np.concatenate(pieces) if len(pieces) > 1 else self._rest
    self._rest = x[frames:]
    return x[:frames]

  def skip(self, frames: int) -> int:
    done = 0
    while done < frames:
      count = len(self.read(min(frames - done, 1 << 16)))
      if not count:
        break
      done += count
    return done

  def close(self):
    self._blocks.close()


@contextlib.contextmanager
def decoder(path: str, reading: Reading) -> Iterator[Decoder]:
  """Opens a local file as `examine` found it.

  Raises:
    RefusedError: it turns out to be damaged, also inside the block.
  """
  try:
    if reading.demuxer:
      with contextlib.closing(_FfmpegDecoder(path, reading)) as opened:
        yield opened
    else:
      with contextlib.ExitStack() as stack:
        yield _SoundFileDecoder(path, reading, stack)
  except (soundfile.LibsndfileError, ffmpeg.FfmpegError, RuntimeError) as error:
    text = _sndfile_text(error) if isinstance(error, soundfile.LibsndfileError) else str(error)
    raise RefusedError('decode_error', f'fails while decoding: {text or "damaged data"}') from error
