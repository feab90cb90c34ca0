"""Audio that soundfile does not decode (AAC, ALAC, WMA, APE, WavPack, Musepack), where ffmpeg is.

ffmpeg is not needed otherwise. It gets local files of known kinds only, told by their first bytes,
so that no playlist or script is run.
"""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator

SUFFIXES = ('.m4a', '.mp4', '.m4b', '.aac', '.wma', '.ape', '.wv', '.mpc', '.alac')
_ASF = bytes.fromhex('3026b2758e66cf11')
_HEADS = (_ASF, b'MAC ', b'wvpk', b'MPCK', b'MP+')
_TIMEOUT_SECS = 3600
_INPUT = ('-v', 'error', '-protocol_whitelist', 'file')


class FfmpegError(RuntimeError):
  """ffmpeg does not decode a file; the message is its last line."""


def is_installed() -> bool:
  """Whether ffmpeg and ffprobe are on the PATH."""
  return bool(shutil.which('ffmpeg') and shutil.which('ffprobe'))


def is_needed(path: str) -> bool:
  """Whether the first bytes of a local file are of a kind that only ffmpeg decodes."""
  try:
    with open(path, 'rb') as file:
      head = file.read(12)
  except OSError:
    return False
  return head[4:8] == b'ftyp' or head.startswith(_HEADS) or _is_adts_head(head)


def is_adts(path: str) -> bool:
  """Whether a local file is bare AAC, which says nowhere how long it is."""
  with open(path, 'rb') as file:
    return _is_adts_head(file.read(2))


def _is_adts_head(head: bytes) -> bool:
  # A sync word of 12 ones, then layer 0, which no MPEG audio has.
  return len(head) >= 2 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0


def probe(path: str) -> tuple[float, int, int, str]:
  """(seconds, sample rate, channels, codec's name) that a local file promises.

  Raises:
    FfmpegError: there is no audio in it.
  """
  entries = 'format=duration:stream=codec_name,sample_rate,channels,duration'
  told = _run(
    'ffprobe',
    *_INPUT,
    '-select_streams',
    'a:0',
    '-show_entries',
    entries,
    '-of',
    'json',
    _url(path),
  )
  facts = json.loads(told or '{}')
  streams = facts.get('streams') or []
  if not streams or not int(streams[0].get('sample_rate', 0)):
    raise FfmpegError('no audio stream')
  stream = streams[0]
  secs = stream.get('duration') or facts.get('format', {}).get('duration') or 0
  return float(secs), int(stream['sample_rate']), int(stream['channels']), stream['codec_name']


@contextlib.contextmanager
def decoded(path: str) -> Iterator[str]:
  """A temporary WAV file (RF64 from 4 GB on), in float, of a local file's first audio stream.

  Raises:
    FfmpegError: it is not decoded.
  """
  with tempfile.TemporaryDirectory() as folder:
    target = os.path.join(folder, 'decoded.wav')
    stream = ('-vn', '-map', '0:a:0', '-c:a', 'pcm_f32le', '-rf64', 'auto', '-f', 'wav')
    _run('ffmpeg', '-nostdin', *_INPUT, '-i', _url(path), *stream, target)
    yield target


def _url(path: str) -> str:
  # A name that begins with a dash or has a colon would be taken for something else.
  return f'file:{os.path.abspath(path)}'


def _run(*command: str) -> str:
  try:
    done = subprocess.run(
      command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=_TIMEOUT_SECS
    )
  except subprocess.CalledProcessError as error:
    lines = error.stderr.decode('utf-8', 'replace').strip().splitlines()
    raise FfmpegError(lines[-1] if lines else f'exit status {error.returncode}') from error
  except (OSError, subprocess.TimeoutExpired) as error:
    raise FfmpegError(str(error)) from error
  return done.stdout.decode('utf-8', 'replace')
