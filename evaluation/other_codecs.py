"""Other codecs to hold ours against: Opus and MP3, by programs that may be installed or not."""

import dataclasses
import pathlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable

import numpy as np
import soundfile


class Unavailable(RuntimeError):
  """A comparison that this machine cannot make; the message says what is absent."""


def opus_round_trip(audio: np.ndarray, sample_rate: int, kbps: float) -> tuple[np.ndarray, float]:
  """Opus at a constant bit rate, by opus-tools.

  Returns:
    Decoded audio of the same shape, and the rate of the file that was written in kbit/s (container
    included).

  Raises:
    Unavailable: opusenc or opusdec is absent, or the rate is below Opus's 6 kbit/s.
  """
  _check_available('Opus', kbps)
  with tempfile.TemporaryDirectory() as folder:
    source, coded, decoded = (pathlib.Path(folder) / name for name in ('a.wav', 'b.opus', 'c.wav'))
    soundfile.write(source, audio, sample_rate, subtype='FLOAT')
    rate_flags = ('--hard-cbr', '--bitrate', f'{kbps:g}', '--padding', '0', '--discard-comments')
    _call('opusenc', '--quiet', *rate_flags, source, coded)
    _call('opusdec', '--quiet', '--float', '--rate', str(sample_rate), coded, decoded)
    result, _ = soundfile.read(decoded, dtype='float32', always_2d=True)
    rate = coded.stat().st_size * 8 / 1000 / (len(audio) / sample_rate)
  return _same_shape(result, audio), rate


def mp3_round_trip(audio: np.ndarray, sample_rate: int, kbps: float) -> tuple[np.ndarray, float]:
  """MP3 at a constant bit rate, by ffmpeg; below 32 kbit/s at half the sample rate (MPEG-2).

  Returns:
    As `opus_round_trip`.

  Raises:
    Unavailable: ffmpeg is absent, or the rate is below MP3's 8 kbit/s.
  """
  _check_available('MP3', kbps)
  coded_rate = sample_rate if kbps >= 32 else sample_rate // 2
  with tempfile.TemporaryDirectory() as folder:
    source, coded, decoded = (pathlib.Path(folder) / name for name in ('a.wav', 'b.mp3', 'c.wav'))
    soundfile.write(source, audio, sample_rate, subtype='FLOAT')
    quiet = ('-nostdin', '-loglevel', 'error', '-y')
    rate_flags = ('-ar', str(coded_rate), '-c:a', 'libmp3lame', '-b:a', f'{kbps:g}k')
    _call('ffmpeg', *quiet, '-i', source, *rate_flags, coded)
    _call('ffmpeg', *quiet, '-i', coded, '-ar', str(sample_rate), '-c:a', 'pcm_f32le', decoded)
    result, _ = soundfile.read(decoded, dtype='float32', always_2d=True)
    rate = coded.stat().st_size * 8 / 1000 / (len(audio) / sample_rate)
  return _same_shape(result, audio), rate


@dataclasses.dataclass(frozen=True)
class OtherCodec:
  """A codec of another kind, run by programs that may be installed.

  Attributes:
    round_trip: audio, sample rate, kbit/s -> decoded audio, kbit/s of the file.
    tools: programs that it needs.
    package: Debian package that brings them.
    least_kbps: its lowest rate.
  """

  round_trip: Callable[[np.ndarray, int, float], tuple[np.ndarray, float]]
  tools: tuple[str, ...]
  package: str
  least_kbps: float

  def version(self) -> str:
    """What the first of its programs calls itself; '' where it is absent."""
    if not shutil.which(self.tools[0]):
      return ''
    flag = '--version' if self.tools[0] == 'opusenc' else '-version'
    done = subprocess.run([self.tools[0], flag], capture_output=True, text=True, check=False)
    return done.stdout.partition('\n')[0].partition(' Copyright')[0]


OTHER_CODECS = {
  'Opus': OtherCodec(opus_round_trip, ('opusenc', 'opusdec'), 'opus-tools', 6),
  'MP3': OtherCodec(mp3_round_trip, ('ffmpeg',), 'ffmpeg', 8),
}


def _check_available(name: str, kbps: float):
  codec = OTHER_CODECS[name]
  for tool in codec.tools:
    if not shutil.which(tool):
      raise Unavailable(f'{tool} absent (Debian package {codec.package})')
  if kbps < codec.least_kbps:
    raise Unavailable(f'{name} has no rate below {codec.least_kbps:g} kbit/s')


def _same_shape(decoded: np.ndarray, audio: np.ndarray) -> np.ndarray:
  missing = max(0, len(audio) - len(decoded))
  return np.pad(decoded, ((0, missing), (0, 0)))[: len(audio)]


def _call(*command):
  done = subprocess.run(
    [str(part) for part in command], capture_output=True, text=True, check=False
  )
  if done.returncode:
    raise Unavailable(f'{command[0]} failed: {done.stderr.strip()[-200:]}')
