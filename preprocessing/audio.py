"""Audio files in and out: decoding by range, resampling, writing, and what the header promises.

Audio is float32 [samples, channels] everywhere. soundfile decodes WAV, FLAC, MP3, OGG (Vorbis and
Opus), AIFF, CAF, AU and W64; PyAV AAC and others; soxr resamples at its high quality setting. More
than two channels become stereo by ITU-R BS.775. What counts is what decoding gives, not what the
header promises (`preprocessing.decoding`). Paths may be URIs: such a file is copied first. To read
a file more than once, do it inside `decodable`, so that it is copied, and decoded by PyAV, once.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator

import mutagen
import mutagen.wave
import numpy as np
import soundfile
import soxr

from models.spec import LiveMusicSpec
from preprocessing import channels as channel_layouts
from preprocessing import decoding, files

_SPEC = LiveMusicSpec()
# libsndfile crashes when a long signal is written to OGG in one call.
WRITE_BLOCK_FRAMES = 65_536
READ_BLOCK_SECS = 20

_SUBTYPES = {
  '.wav': ('WAV', 'PCM_16'),
  '.flac': ('FLAC', 'PCM_16'),
  '.mp3': ('MP3', 'MPEG_LAYER_III'),
  '.ogg': ('OGG', 'VORBIS'),
  '.opus': ('OGG', 'OPUS'),
  '.aiff': ('AIFF', 'PCM_16'),
}
WRITABLE_SUFFIXES = tuple(_SUBTYPES)


class AudioError(ValueError):
  """An audio file cannot be used; `reason` is a code of `preprocessing.quality`."""

  def __init__(self, reason: str, message: str):
    super().__init__(message)
    self.reason = reason

  def __reduce__(self):
    return (type(self), (self.reason, str(self)))


@dataclasses.dataclass(frozen=True)
class AudioHeader:
  """What a file holds, as far as that is known before it is decoded.

  Attributes:
    frames: samples per channel that decoding gives, or nearly so where `estimated`.
    sample_rate: Hz.
    channels: number of channels.
    container: libsndfile's name of the container, e.g. 'WAV', or 'FFMPEG'.
    subtype: libsndfile's name of the sample format, e.g. 'PCM_16', or the codec's name.
    promised_secs: seconds that the header promises, read independently of the file's length, or
      None where the container makes no such promise.
    complete: False where the container's end mark is missing.
    estimated: whether `frames` is counted by packets, of which a decoder trims a few samples.
    layout: of more than two channels; see `channels.layout_text`.
    notes: what was repaired, skipped or guessed, in words.
  """

  frames: int
  sample_rate: int
  channels: int
  container: str
  subtype: str
  promised_secs: float | None = None
  complete: bool = True
  estimated: bool = False
  layout: str = ''
  notes: str = ''

  @property
  def duration_secs(self) -> float:
    return self.frames / self.sample_rate


def read_header(path: str | os.PathLike) -> AudioHeader:
  """Finds out what a file holds without decoding it.

  Raises:
    AudioError: 'unreadable', 'empty_file', 'not_audio', 'decode_error' or 'unsupported_format'.
  """
  name = os.fspath(path)
  with _errors_named(name), files.local_file(path) as local:
    reading = _examined(local)
    promised, complete = reading.promised_secs, reading.complete
    if not reading.demuxer and 'MPEG' not in reading.subtype and reading.container != 'OGG':
      promised = None if reading.links else _promise(local)
    notes = (*reading.notes, *filter(None, [channel_layouts.describe(reading.layout)]))
    return AudioHeader(
      reading.frames, reading.sample_rate, reading.channels, reading.container, reading.subtype,
      promised, complete, reading.estimated, reading.layout, '; '.join(notes),
    )  # fmt: skip


def _examined(local: str) -> decoding.Reading:
  """`decoding.examine` of what is a file and has bytes."""
  if not os.path.isfile(local):
    os.stat(local)
    raise decoding.RefusedError('unreadable', 'is not a regular file')
  if not os.path.getsize(local):
    raise decoding.RefusedError('empty_file', 'has no bytes')
  return decoding.examine(local)


@contextlib.contextmanager
def _errors_named(name: str) -> Iterator[None]:
  """Whatever is wrong with a file becomes an AudioError that names it."""
  try:
    yield
  except AudioError:
    raise
  except decoding.RefusedError as error:
    raise AudioError(error.reason, f'{name} {error}.') from error
  except soundfile.LibsndfileError as error:
    text = str(getattr(error, 'error_string', '') or error).rstrip('.')
    raise AudioError('decode_error', f'{name} fails while decoding: {text}.') from error
  except OSError as error:
    raise AudioError('unreadable', f'{name}: {error.strerror or error}.') from error
  except MemoryError as error:
    raise AudioError(
      'decode_error', f'{name} takes more memory than there is; read it in blocks, or cut it.'
    ) from error


@contextlib.contextmanager
def decodable(path: str | os.PathLike) -> Iterator[str]:
  """Yields a local path with the samples of a file: the file, a copy, or what PyAV decoded.

  Copies are removed at the end of the block.

  Raises:
    AudioError: 'unreadable', 'unsupported_format' or 'decode_error'.
  """
  name = os.fspath(path)
  with contextlib.ExitStack() as stack:
    with _errors_named(name):
      local = stack.enter_context(files.local_file(path))
      reading = _examined(local)
      if reading.demuxer:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        local = _decoded(local, reading, os.path.join(folder, 'decoded.w64'))
    yield local


def _decoded(local: str, reading: decoding.Reading, target: str) -> str:
  """Writes a file's samples, as stereo where it has more channels, in float."""
  with decoding.decoder(local, reading) as decoder, soundfile.SoundFile(
    target, 'w', reading.sample_rate, min(2, reading.channels), format='W64', subtype='FLOAT'
  ) as file:  # fmt: skip
    while len(block := decoder.read(READ_BLOCK_SECS * reading.sample_rate)):
      file.write(_downmixed(block, reading.layout))
  return target


def _promise(path: str) -> float | None:
  """Length that a WAV's, AIFF's or FLAC's header promises.

  libsndfile shortens it to what the file holds, so mutagen, which believes the header, is asked.
  """
  try:
    tagged = mutagen.File(path)
  except Exception:  # noqa: BLE001  a parser of foreign bytes fails in many ways
    return None
  length = getattr(tagged.info, 'length', 0) if tagged is not None else 0
  if not length or (isinstance(tagged, mutagen.wave.WAVE) and _is_no_size(tagged.info)):
    return None
  return float(length)


def _is_no_size(info: mutagen.wave.WaveStreamInfo) -> bool:
  """Whether a WAV file bears one of the sizes that programs write when they do not know it."""
  size = info.length * info.sample_rate * info.channels * info.bits_per_sample / 8
  return any(abs(size - none) < 1 << 16 for none in (0xFFFFFFFF, 0x7FFFFFFF))


def read_blocks(
  path: str | os.PathLike, block_secs: float = READ_BLOCK_SECS
) -> Iterator[np.ndarray]:
  """Yields the whole file as blocks [n, 1 or 2] float32 at its own sample rate.

  Raises:
    AudioError: 'not_audio', 'decode_error' or 'unreadable'.
  """
  with _errors_named(os.fspath(path)), files.local_file(path) as local:
    reading = _examined(local)
    with decoding.decoder(local, reading) as decoder:
      frames = max(1, round(block_secs * reading.sample_rate))
      while len(block := decoder.read(frames)):
        yield _downmixed(block, reading.layout)


def read_audio(
  path: str | os.PathLike,
  sample_rate: int = _SPEC.sample_rate,
  channels: int = _SPEC.num_channels,
  start: float = 0.0,
  duration: float | None = None,
) -> np.ndarray:
  """Decodes a range of a file.

  Args:
    path: any file that soundfile or PyAV decodes.
    sample_rate: Hz of the result.
    channels: channels of the result; see `mix_channels`.
    start: seconds from the beginning.
    duration: seconds to read, at most; None reads to the end.

  Returns:
    float32 [n, channels]. A range beyond the end is cut, not padded. A range equals the same range
    of the whole file resampled, because the resampler is given a second of audio on both sides.

  Raises:
    AudioError: the file is not audio ('not_audio', 'empty_file', 'unreadable') or breaks while it
      is decoded ('decode_error').
  """
  if start < 0 or (duration is not None and duration < 0):
    raise ValueError(f'start={start} and duration={duration} must not be negative.')
  with _errors_named(os.fspath(path)), files.local_file(path) as local:
    return _read_local(local, _examined(local), sample_rate, channels, start, duration)


def _read_local(
  path: str,
  reading: decoding.Reading,
  sample_rate: int,
  channels: int,
  start: float,
  duration: float | None,
) -> np.ndarray:
  rate = reading.sample_rate
  first = round(start * rate)
  wanted = None if duration is None else round(duration * rate)
  lead = min(first, rate) if rate != sample_rate else 0
  # The lead must be a whole number of samples at both rates: a second, or all there is.
  if lead and lead < rate:
    lead = first
  trail = rate if rate != sample_rate else 0
  with decoding.decoder(path, reading) as decoder:
    if decoder.skip(first - lead) < first - lead:
      return np.zeros([0, channels], np.float32)
    x = _read_mixed(decoder, reading, channels, None if wanted is None else lead + wanted + trail)
  found = max(0, len(x) - lead)
  found = found if wanted is None else min(found, wanted)
  if not found:
    return np.zeros([0, channels], np.float32)
  if rate == sample_rate:
    return x
  length = min(round(found / rate * sample_rate), max(0, len(x) * sample_rate // rate))
  skip = round(lead / rate * sample_rate)
  return np.ascontiguousarray(resample(x, rate, sample_rate)[skip : skip + length])


def _read_mixed(
  decoder: decoding.Decoder, reading: decoding.Reading, channels: int, frames: int | None
) -> np.ndarray:
  """The next `frames` samples, or all: memory grows with what is there, not with a promise."""
  pieces: list[np.ndarray] = []
  block_frames = READ_BLOCK_SECS * reading.sample_rate
  while frames is None or frames > 0:
    block = decoder.read(block_frames if frames is None else min(frames, block_frames))
    if not len(block):
      break
    pieces.append(mix_channels(_downmixed(block, reading.layout), channels))
    frames = None if frames is None else frames - len(block)
  if len(pieces) == 1:
    return pieces[0]
  return np.concatenate(pieces) if pieces else np.zeros([0, channels], np.float32)


def _downmixed(x: np.ndarray, layout: str) -> np.ndarray:
  """[n, any] -> [n, 1 or 2]: more than two channels become stereo by ITU-R BS.775."""
  if x.shape[1] <= 2:
    return x
  return x @ channel_layouts.downmix_matrix(layout, x.shape[1])


def mix_channels(x: np.ndarray, channels: int) -> np.ndarray:
  """[n, 1 or 2] -> [n, channels]: mono is duplicated, stereo becomes mono by averaging."""
  if x.shape[1] == channels:
    return x
  if channels == 1:
    return x.mean(axis=1, keepdims=True)
  if x.shape[1] == 1:
    return np.repeat(x, channels, axis=1)
  raise ValueError(f'Cannot make {channels} channels of {x.shape[1]}; ask for 1 or 2.')


def resample(x: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
  """Resamples [n] or [n, channels] float32; the length becomes about n * to_rate / from_rate."""
  if from_rate == to_rate or not len(x):
    return x
  return soxr.resample(np.asarray(x, np.float32), from_rate, to_rate, quality='HQ')


def write_audio(path: str | os.PathLike, x: np.ndarray, sample_rate: int = _SPEC.sample_rate):
  """Writes [n] or [n, channels] audio in -1..1; the format follows the suffix.

  WAV, FLAC and AIFF are 16 bits. Values outside of -1..1 are clipped, not wrapped.

  Raises:
    ValueError: an unknown suffix, or a signal that is not finite.
  """
  path = os.fspath(path)
  suffix = os.path.splitext(path)[1].lower()
  if suffix not in _SUBTYPES:
    raise ValueError(f'{path}: cannot write {suffix!r}; use one of {sorted(_SUBTYPES)}.')
  x = np.asarray(x, np.float32)
  if x.ndim == 1:
    x = x[:, None]
  if not np.isfinite(x).all():
    raise ValueError(f'{path}: the signal has NaN or infinite samples.')
  container, subtype = _SUBTYPES[suffix]
  with soundfile.SoundFile(
    os.fsencode(path), 'w', sample_rate, x.shape[1], format=container, subtype=subtype
  ) as file:
    for begin in range(0, len(x), WRITE_BLOCK_FRAMES):
      file.write(np.clip(x[begin : begin + WRITE_BLOCK_FRAMES], -1.0, 1.0))
