"""Audio files in and out: decoding by range, resampling, writing, and what the header promises.

Audio is float32 [samples, channels] everywhere. soundfile decodes WAV, FLAC, MP3, OGG (Vorbis and
Opus), AIFF, CAF and W64; ffmpeg, where it is installed, AAC and others; soxr resamples at its high
quality setting. Paths may be URIs: such a file is copied first. Who reads a file more than once
does it inside `decodable`, so that it is copied and taken through ffmpeg once.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import mutagen
import mutagen.mp3
import mutagen.wave
import numpy as np
import soundfile
import soxr

from models.spec import LiveMusicSpec
from preprocessing import ffmpeg, files

_SPEC = LiveMusicSpec()
# libsndfile crashes when a long signal is written to OGG in one call.
WRITE_BLOCK_FRAMES = 65_536
READ_BLOCK_SECS = 20

AUDIO_SUFFIXES = (
  '.wav', '.flac', '.mp3', '.ogg', '.oga', '.opus', '.aif', '.aiff', '.aifc', '.w64', '.caf',
)  # fmt: skip
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
  """What a file says about itself.

  Attributes:
    frames: samples per channel that the decoder announces.
    sample_rate: Hz.
    channels: number of channels.
    container: libsndfile's name of the container, e.g. 'WAV'.
    subtype: libsndfile's name of the sample format, e.g. 'PCM_16'.
    promised_secs: seconds that the header promises, read independently of the file's length, or
      None where the container makes no such promise.
    complete: False where the container's end mark is missing.
    estimated: whether `frames` is a guess by size and bit rate, which promises nothing.
  """

  frames: int
  sample_rate: int
  channels: int
  container: str
  subtype: str
  promised_secs: float | None = None
  complete: bool = True
  estimated: bool = False

  @property
  def duration_secs(self) -> float:
    return self.frames / self.sample_rate


def read_header(path: str | os.PathLike) -> AudioHeader:
  """Reads a file's header without decoding it.

  Raises:
    AudioError: 'unreadable', 'empty_file', 'not_audio' or 'unsupported_format'.
  """
  try:
    with files.local_file(path) as local:
      return _local_header(local, os.fspath(path))
  except OSError as error:
    raise AudioError('unreadable', f'{os.fspath(path)}: {error.strerror or error}.') from error


def _local_header(path: str, name: str) -> AudioHeader:
  size = os.path.getsize(path)
  if not os.path.isfile(path):
    raise AudioError('unreadable', f'{name} is not a regular file.')
  if not size:
    raise AudioError('empty_file', f'{name} has no bytes.')
  if ffmpeg.is_needed(path):
    _require_ffmpeg(name)
    try:
      secs, rate, channels, codec = ffmpeg.probe(path)
    except ffmpeg.FfmpegError as error:
      raise AudioError('not_audio', f'{name} cannot be decoded: {error}') from error
    guessed = ffmpeg.is_adts(path)
    return AudioHeader(
      round(secs * rate), rate, channels, 'FFMPEG', codec.upper(), None if guessed else secs,
      estimated=guessed,
    )  # fmt: skip
  try:
    info = soundfile.info(os.fsencode(path))
  except (soundfile.LibsndfileError, OSError) as error:
    reason = 'not_audio' if os.access(path, os.R_OK) else 'unreadable'
    # libsndfile's MP3 part says of what is no MP3 that there is no such file.
    told = '' if 'does not exist' in str(error) else f': {getattr(error, "error_string", error)}'
    raise AudioError(reason, f'{name} cannot be decoded{told}') from error
  if not (info.samplerate > 0 and info.channels > 0):
    raise AudioError('not_audio', f'{name}: {info.channels} channels at {info.samplerate} Hz.')
  promised, complete = _promise(path, info)
  return AudioHeader(
    info.frames, info.samplerate, info.channels, info.format, info.subtype, promised, complete
  )


def _require_ffmpeg(name: str):
  if not ffmpeg.is_installed():
    raise AudioError(
      'unsupported_format',
      f'{name} is of a format that takes ffmpeg, which is not installed; install it, or convert '
      'the file to FLAC or WAV.',
    )


@contextlib.contextmanager
def decodable(path: str | os.PathLike) -> Iterator[str]:
  """A local path that soundfile decodes: the file itself, a copy, or what ffmpeg makes of it.

  What is made lasts as long as the block.

  Raises:
    AudioError: 'unreadable', 'unsupported_format' or 'decode_error'.
  """
  with contextlib.ExitStack() as stack:
    try:
      local = stack.enter_context(files.local_file(path))
      if ffmpeg.is_needed(local):
        _require_ffmpeg(os.fspath(path))
        local = stack.enter_context(ffmpeg.decoded(local))
    except OSError as error:
      raise AudioError('unreadable', f'{os.fspath(path)}: {error.strerror or error}.') from error
    except ffmpeg.FfmpegError as error:
      raise AudioError(
        'decode_error', f'{os.fspath(path)} fails while decoding: {error}'
      ) from error
    yield local


def _promise(path: str, info) -> tuple[float | None, bool]:
  """Length promised by the header and whether the end mark is there.

  libsndfile shortens a WAV's or AIFF's length to what the file holds, so mutagen, which believes
  the header, is asked too. An OGG stream ends with a page that bears an end flag.
  """
  if info.format == 'OGG':
    return None, _ogg_ends(path)
  try:
    tagged = mutagen.File(path)
  except Exception:  # noqa: BLE001  a parser of foreign bytes fails in many ways
    return None, True
  if tagged is None or not getattr(tagged.info, 'length', 0):
    return None, True
  # Without a Xing or VBRI frame an MP3's length is only guessed from the file size.
  mode = getattr(tagged.info, 'bitrate_mode', None)
  if isinstance(tagged.info, mutagen.mp3.MPEGInfo) and mode == mutagen.mp3.BitrateMode.UNKNOWN:
    return None, True
  if isinstance(tagged, mutagen.wave.WAVE) and _is_no_size(tagged.info):
    return None, True
  return float(tagged.info.length), True


def _is_no_size(info: mutagen.wave.WaveStreamInfo) -> bool:
  """Whether a WAV file bears one of the sizes that programs write when they do not know it."""
  size = info.length * info.sample_rate * info.channels * info.bits_per_sample / 8
  return any(abs(size - none) < 1 << 16 for none in (0xFFFFFFFF, 0x7FFFFFFF))


def _ogg_ends(path: str) -> bool:
  with open(path, 'rb') as file:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - (1 << 17)))
    tail = file.read()
  last = tail.rfind(b'OggS')
  if last < 0 or last + 27 > len(tail):
    return False
  body = last + 27 + tail[last + 26]
  page_end = body + sum(tail[last + 27 : body])
  return bool(tail[last + 5] & 4) and page_end <= len(tail)


def read_blocks(
  path: str | os.PathLike, block_secs: float = READ_BLOCK_SECS
) -> Iterator[np.ndarray]:
  """Yields the whole file as blocks [n, channels] float32 at its own sample rate.

  Raises:
    AudioError: 'not_audio' or 'decode_error'.
  """
  try:
    with decodable(path) as local, soundfile.SoundFile(os.fsencode(local)) as file:
      block_frames = max(1, round(block_secs * file.samplerate))
      while True:
        block = file.read(block_frames, dtype='float32', always_2d=True)
        if not len(block):
          return
        yield block
  except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
    message = f'{os.fspath(path)} fails while decoding: {error}'
    raise AudioError('decode_error', message) from error


def read_audio(
  path: str | os.PathLike,
  sample_rate: int = _SPEC.sample_rate,
  channels: int = _SPEC.num_channels,
  start: float = 0.0,
  duration: float | None = None,
) -> np.ndarray:
  """Decodes a range of a file.

  Args:
    path: any file that soundfile decodes.
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
  with decodable(path) as local:
    return _read_local(local, os.fspath(path), sample_rate, channels, start, duration)


def _read_local(
  path: str, name: str, sample_rate: int, channels: int, start: float, duration: float | None
) -> np.ndarray:
  header = read_header(path)
  rate = header.sample_rate
  first = round(start * rate)
  last = header.frames if duration is None else min(header.frames, first + round(duration * rate))
  if first >= last:
    return np.zeros([0, channels], np.float32)
  lead = min(first, rate) if rate != sample_rate else 0
  # The lead must be a whole number of samples at both rates: a second, or all there is.
  if lead and lead < rate:
    lead = first
  trail = rate if rate != sample_rate else 0
  try:
    with soundfile.SoundFile(os.fsencode(path)) as file:
      file.seek(first - lead)
      x = file.read(last - first + lead + trail, dtype='float32', always_2d=True)
  except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
    raise AudioError('decode_error', f'{name} fails while decoding: {error}') from error
  x = mix_channels(x, channels)
  if rate == sample_rate:
    return x
  length = min(round((last - first) / rate * sample_rate), max(0, len(x) * sample_rate // rate))
  skip = round(lead / rate * sample_rate)
  return np.ascontiguousarray(resample(x, rate, sample_rate)[skip : skip + length])


def mix_channels(x: np.ndarray, channels: int) -> np.ndarray:
  """[n, any] -> [n, channels]: mono is duplicated, anything else becomes mono by averaging.

  More than two channels become stereo by their first two (front left and right).
  """
  if x.shape[1] == channels:
    return x
  if channels == 1:
    return x.mean(axis=1, keepdims=True)
  if x.shape[1] == 1:
    return np.repeat(x, channels, axis=1)
  if x.shape[1] > channels:
    return np.ascontiguousarray(x[:, :channels])
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
    path, 'w', sample_rate, x.shape[1], format=container, subtype=subtype
  ) as file:
    for begin in range(0, len(x), WRITE_BLOCK_FRAMES):
      file.write(np.clip(x[begin : begin + WRITE_BLOCK_FRAMES], -1.0, 1.0))
