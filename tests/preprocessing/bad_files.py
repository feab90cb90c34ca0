"""Bad files and odd names for the campaign: each kind makes one file and knows its outcome."""

import dataclasses
import io
import os
import pathlib
import struct
import zipfile
from collections.abc import Callable

import mutagen
import mutagen.id3
import numpy as np
import sound_files
import soundfile
import soxr

from preprocessing import audio

RATE = 22_050
KEPT = 'kept'
PASSED_OVER = 'passed over'


@dataclasses.dataclass(frozen=True)
class Kind:
  """A kind of bad file or odd name.

  Attributes:
    name: what it is.
    file: name of the file below the corpus.
    outcome: KEPT, PASSED_OVER or a code of `quality.REASONS`.
    make: writes it, given its path and a number that no other kind has.
    slow: whether it takes long.
  """

  name: str
  file: str
  outcome: str
  make: Callable[[str, int], None]
  slow: bool = False


def music(seed: int, secs: float = 5.0, rate: int = RATE, channels: int = 2) -> np.ndarray:
  """A random melody with noise, float32 [n, channels]; no two seeds are alike."""
  rng = np.random.default_rng(seed)
  notes = np.repeat(rng.uniform(150, 1200, round(5 * secs) + 1), rate // 5)[: round(secs * rate)]
  phase = np.cumsum(notes) / rate
  wave = np.sin(2 * np.pi * phase) + 0.3 * np.sin(6 * np.pi * phase)
  noise = rng.normal(size=[len(wave), channels]) * 0.1
  return ((wave[:, None] + noise) * 0.2).astype(np.float32)


def _sound(suffix='', rate=RATE, subtype=None, form=None, **facts):
  """Writes music by soundfile, in the format of the suffix."""

  def make(path, seed):
    data = io.BytesIO()
    kind = form or {'mp3': 'MP3', 'opus': 'OGG', 'aiff': 'AIFF'}.get(suffix, suffix.upper())
    sub = subtype or {'mp3': 'MPEG_LAYER_III', 'ogg': 'VORBIS', 'opus': 'OPUS'}.get(suffix)
    soundfile.write(data, music(seed, rate=rate, **facts), rate, format=kind, subtype=sub)
    _put(path, data.getvalue())

  return make


def _samples(change, rate=RATE, subtype='FLOAT'):
  """Writes a WAV file of what `change` makes of the music."""

  def make(path, seed):
    data = io.BytesIO()
    soundfile.write(data, change(music(seed, rate=rate)), rate, format='WAV', subtype=subtype)
    _put(path, data.getvalue())

  return make


def _bytes(content):
  return lambda path, seed: _put(path, content(seed) if callable(content) else content)


def _cut(suffix, share=0.6, rate=RATE):
  """Writes a file whose end is missing."""

  def make(path, seed):
    _sound(suffix, rate=rate, secs=12.0)(path, seed)
    content = _get(path)
    _put(path, content[: round(len(content) * share)])

  return make


def _changed(suffix, change):
  """Writes a file and changes its bytes."""

  def make(path, seed):
    _sound(suffix, secs=8.0)(path, seed)
    _put(path, change(_get(path)))

  return make


def _pyav(kind, share=1.0, rate=RATE, **options):
  """Writes music by PyAV, or the first part of the file."""

  def make(path, seed):
    content = sound_files.encoded(music(seed, 8.0, rate), rate, kind, **options)
    _put(path, content[: round(len(content) * share)])

  return make


def _tagged(change):
  def make(path, seed):
    _sound('mp3')(path, seed)
    file = mutagen.File(path)
    if file.tags is None:
      file.add_tags()
    change(file.tags)
    file.save()

  return make


def _put(path, content: bytes):
  with open(path, 'wb') as file:
    file.write(content)


def _get(path) -> bytes:
  with open(path, 'rb') as file:
    return file.read()


def _noise(seed, count=20_000):
  return np.random.default_rng(seed).bytes(count)


def _zip(seed):
  content = io.BytesIO()
  with zipfile.ZipFile(content, 'w') as file:
    file.writestr('song.wav', _noise(seed))
  return content.getvalue()


def _cover_only(path, seed):
  tags = mutagen.id3.ID3()
  tags.add(mutagen.id3.APIC(encoding=3, mime='image/png', type=3, desc='', data=_noise(seed)))
  tags.save(path)


def _wav_header(rate=RATE, channels=2, promised=0):
  block = 2 * channels
  form = struct.pack('<IHHIIHH', 16, 1, channels, rate, rate * block, block, 16)
  size, data = struct.pack('<I', 36 + promised), struct.pack('<I', promised)
  return b'RIFF' + size + b'WAVEfmt ' + form + b'data' + data


def _patched(offset, value):
  """Writes a 4-byte number into a WAV file's header."""
  return lambda content: content[:offset] + struct.pack('<I', value) + content[offset + 4 :]


def _without_length(path, seed):
  """A WAV file as written to a pipe: its lengths are not known."""
  _sound('wav')(path, seed)
  content = bytearray(_get(path))
  at = content.index(b'data') + 4
  content[4:8] = content[at : at + 4] = b'\xff' * 4
  _put(path, bytes(content))


def _low_band(x):
  return soxr.resample(soxr.resample(x, RATE, 6000), 6000, RATE)


def _silence(path, seed, secs=20.0):
  with soundfile.SoundFile(path, 'w', RATE, 2, format='WAV', subtype='PCM_16') as file:
    for _ in range(round(secs / 20)):
      file.write(np.zeros([20 * RATE, 2], np.int16))


def _self_link(path, seed):
  os.symlink(os.path.basename(path), path)


def _folder_loop(path, seed):
  os.mkdir(path)
  os.symlink('..', os.path.join(path, 'up'))
  os.symlink('.', os.path.join(path, 'here'))


def _hard_link(path, seed):
  _sound('wav')(path, seed)
  os.link(path, path[:-4] + ' (hard link).wav')


def _soft_link(path, seed):
  target = pathlib.Path(path).parents[1] / f'outside {seed}.wav'
  _sound('wav')(str(target), seed)
  os.symlink(target, path)


def _unreadable(path, seed):
  _sound('wav')(path, seed)
  os.chmod(path, 0)


_MIDDLE_GONE = _changed(
  'mp3', lambda data: data[: len(data) // 3] + bytes(40_000) + data[2 * len(data) // 3 :]
)
_ODD_NAMES = {
  'spaces': '  a  b .wav', 'newline': 'two\nlines.wav', 'tab and quotes': 'a\t"b\'c.wav',
  'accents, composed': 'caf\u00e9.wav', 'accents, decomposed': 'cafe\u0301.wav',
  'Japanese': '\u97f3\u697d.wav', 'right to left': '\u0645\u0648\u0633\u064a\u0642\u0649.wav',
  'emoji': '\U0001f3b5.wav', 'no UTF-8': os.fsdecode(b'latin\xe9.wav'), 'leading dash': '-rf.wav',
  'wildcards': '[1]*?.wav', 'dollar and backslash': '$HOME\\n.wav', 'percent': '100%25.wav',
  'colon': 'http:song.wav', 'upper case': 'LOUD.WAV', 'dots': 'a..b...wav',
  '255 bytes': 'x' * 251 + '.wav', 'control characters': 'bell\x07\x1b[31m.wav', 'hash': '#1;.wav',
  'at shard-like': 'song@2.wav',
}  # fmt: skip

KINDS = (
  # Nothing in it, or something else.
  Kind('zero bytes, WAV', 'zero.wav', 'empty_file', _bytes(b'')),
  Kind('zero bytes, MP3', 'zero.mp3', 'empty_file', _bytes(b'')),
  Kind('one byte', 'one.flac', 'not_audio', _bytes(b'f')),
  Kind('garbage, .mp3', 'garbage.mp3', 'not_audio', _bytes(_noise)),
  Kind('garbage, .wav', 'garbage.wav', 'not_audio', _bytes(_noise)),
  Kind('garbage, .m4a', 'garbage.m4a', 'not_audio', _bytes(_noise)),
  Kind('zeros, .mp3', 'zeros.mp3', 'not_audio', _bytes(bytes(50_000))),
  Kind('a page of HTML', 'error.mp3', 'not_audio', _bytes(b'<html>404 Not Found</html>' * 99)),
  Kind('text', 'text.ogg', 'not_audio', _bytes(b'la la la\n' * 999)),
  Kind('an archive', 'archive.wav', 'not_audio', _bytes(_zip)),
  Kind('a picture', 'cover.mp3', 'not_audio', _bytes(b'\x89PNG\r\n\x1a\n' + bytes(9999))),
  Kind('cover art only', 'art.mp3', 'not_audio', _cover_only),
  Kind('a WAV header and no more', 'header.wav', 'too_short', _bytes(_wav_header())),
  Kind('a WAV header that promises', 'promise.wav', 'truncated',
       _bytes(_wav_header(promised=RATE * 40))),
  # Broken.
  Kind('truncated WAV', 'cut.wav', 'truncated', _cut('wav')),
  Kind('truncated AIFF', 'cut.aiff', 'truncated', _cut('aiff')),
  Kind('truncated MP3', 'cut.mp3', 'truncated', _cut('mp3')),
  Kind('truncated FLAC', 'cut.flac', 'decode_error', _cut('flac')),
  Kind('truncated OGG', 'cut.ogg', 'truncated', _cut('ogg')),
  Kind('truncated Opus', 'cut.opus', 'truncated', _cut('opus', rate=24_000)),
  Kind('truncated M4A, index last', 'cut.m4a', 'not_audio', _pyav('m4a', 0.6)),
  Kind('truncated M4A, index first', 'cut_first.m4a', 'decode_error',
       _pyav('m4a', 0.6, movflags='+faststart')),
  Kind('MP3, middle overwritten', 'middle.mp3', 'decode_error', _MIDDLE_GONE),
  Kind('FLAC, middle overwritten', 'middle.flac', 'decode_error', _changed(
    'flac', lambda data: data[: len(data) // 2] + bytes(30_000) + data[len(data) // 2 + 30_000 :])),
  Kind('sample rate 0', 'rate0.wav', 'not_audio', _changed('wav', _patched(24, 0))),
  Kind('sample rate 4 GHz', 'rate4g.wav', 'not_audio', _changed('wav', _patched(24, 2**32 - 1))),
  Kind('no channels', 'none.wav', 'not_audio', _bytes(_wav_header(channels=0) + bytes(99_999))),
  # The wrong name for the content.
  Kind('FLAC named .mp3', 'flac.mp3', KEPT, _sound(form='FLAC')),
  Kind('MP3 named .wav', 'mp3.wav', KEPT, _sound(form='MP3', subtype='MPEG_LAYER_III')),
  Kind('OGG named .flac', 'ogg.flac', KEPT, _sound(form='OGG', subtype='VORBIS')),
  Kind('WAV named .m4a', 'wav.m4a', KEPT, _sound('wav')),
  Kind('M4A named .mp3', 'm4a.mp3', KEPT, _pyav('m4a')),
  # Samples that are none.
  Kind('NaN', 'nan.wav', 'not_finite', _samples(
    lambda x: np.where(np.arange(len(x))[:, None] == 5000, np.nan, x))),
  Kind('infinity', 'inf.wav', 'not_finite', _samples(
    lambda x: np.where(np.arange(len(x))[:, None] == 5000, np.inf, x))),
  Kind('floats at the scale of integers', 'scale.wav', KEPT, _samples(lambda x: x * 32768)),
  Kind('clipped', 'clipped.wav', 'clipped', _samples(lambda x: np.clip(x * 20, -1, 1))),
  Kind('one sample of 1000', 'spike.wav', 'spikes', _samples(
    lambda x: np.where(np.arange(len(x))[:, None] == 5000, 1000, x))),
  Kind('off the zero line', 'dc.wav', 'dc_offset', _samples(lambda x: x + 0.3)),
  Kind('silence', 'silence.wav', 'silent', _silence),
  Kind('3 hours of silence', 'hours.wav', 'silent', lambda path, seed: _silence(path, seed, 10_800),
       slow=True),
  Kind('noise floor only', 'floor.wav', 'silent', _samples(lambda x: x * 1e-3)),
  Kind('too quiet', 'quiet.wav', 'too_quiet', _samples(lambda x: x * 0.011)),
  Kind('0.1 s', 'tenth.wav', 'too_short', _samples(lambda x: x[: RATE // 10])),
  Kind('one sample', 'sample.wav', 'too_short', _samples(lambda x: x[:1])),
  Kind('8 kHz', 'telephone.wav', 'low_sample_rate', _sound('wav', rate=8000)),
  Kind('upsampled from 6 kHz', 'upsampled.wav', 'band_limited', _samples(_low_band)),
  # Rare, and good.
  Kind('8 bits', 'bits8.wav', KEPT, _samples(lambda x: x, subtype='PCM_U8')),
  Kind('24 bits', 'bits24.wav', KEPT, _samples(lambda x: x, subtype='PCM_24')),
  Kind('64-bit floats', 'bits64.wav', KEPT, _samples(lambda x: x, subtype='DOUBLE')),
  Kind('mu-law', 'ulaw.wav', KEPT, _samples(lambda x: x, subtype='ULAW')),
  Kind('ADPCM', 'adpcm.wav', KEPT, _samples(lambda x: x, subtype='IMA_ADPCM')),
  Kind('192 kHz', 'khz192.wav', KEPT, _samples(lambda x: x, rate=192_000, subtype='PCM_24')),
  Kind('8 channels', 'channels8.wav', KEPT, _sound('wav', channels=8)),
  Kind('mono', 'mono.flac', KEPT, _sound('flac', channels=1)),
  Kind('two equal channels', 'equal.wav', KEPT, _samples(lambda x: x[:, [0, 0]])),
  Kind('one silent channel', 'onesided.wav', KEPT, _samples(lambda x: x * [[1, 0]])),
  Kind('floats a little beyond 1', 'hot.wav', KEPT, _samples(lambda x: x * 3.6)),
  Kind('floats far beyond 1', 'hotter.wav', KEPT, _samples(lambda x: x * 9)),
  Kind('W64', 'w64.w64', KEPT, _sound('w64')),
  Kind('CAF', 'caf.caf', KEPT, _sound('caf')),
  Kind('WAV from a pipe, no length', 'pipe.wav', KEPT, _without_length),
  Kind('bytes after the end', 'tail.wav', KEPT, _changed('wav', lambda data: data + _noise(1))),
  Kind('MP3 with 2 MB of cover art', 'bigart.mp3', KEPT, _tagged(lambda tags: tags.add(
    mutagen.id3.APIC(encoding=3, mime='image/png', type=3, desc='', data=_noise(2, 2_000_000))))),
  Kind('tags of odd letters', 'oddtags.mp3', KEPT, _tagged(lambda tags: tags.add(
    mutagen.id3.TIT2(encoding=1, text='nul\0bell\x07 \U0001f3b5\u202e $x$ <b>')))),
  Kind('AAC', 'aac.m4a', KEPT, _pyav('m4a')),
  Kind('ADTS AAC', 'adts.aac', KEPT, _pyav('aac')),
  Kind('WMA', 'wma.wma', KEPT, _pyav('wma')),
  Kind('WebM', 'webm.webm', KEPT, _pyav('webm', rate=24_000)),
  Kind('Matroska', 'mka.mka', KEPT, _pyav('mka', rate=24_000)),
  Kind('MP2', 'mp2.mp2', KEPT, _pyav('mp2', rate=48_000)),
  Kind('TTA', 'tta.tta', KEPT, _pyav('tta')),
  # The file system.
  Kind('a link to itself', 'selflink.wav', 'unreadable', _self_link),
  Kind('a link to nothing', 'dangling.mp3', 'unreadable',
       lambda path, seed: os.symlink('/nowhere/at/all.mp3', path)),
  Kind('a link to a good file', 'link.wav', KEPT, _soft_link),
  Kind('a pipe', 'fifo.wav', 'unreadable', lambda path, seed: os.mkfifo(path)),
  Kind('not to be read', 'locked.wav', 'unreadable', _unreadable),
  Kind('a folder named .wav, with links in circles', 'folder.wav', PASSED_OVER, _folder_loop),
  Kind('hidden', '.hidden.wav', PASSED_OVER, _sound('wav')),
  Kind('AppleDouble', '._song.mp3', PASSED_OVER, _bytes(_noise)),
  Kind('two names for one content', 'twice.wav', KEPT, _hard_link),
  Kind('written to after the manifest', 'changed.wav', 'changed', _sound('wav')),
  Kind('deleted after the manifest', 'deleted.wav', 'unreadable', _sound('wav')),
  *(Kind(f'name: {kind}', file, KEPT, _sound('wav')) for kind, file in _ODD_NAMES.items()),
)  # fmt: skip


def skipped(kind: Kind, slow: bool) -> str:
  """Why a kind is left out here, '' where it is not."""
  if kind.slow and not slow:
    return 'slow'
  if kind.make is _unreadable and os.geteuid() == 0:
    return 'root reads everything'
  return ''


def make_corpus(folder: pathlib.Path, slow: bool = False) -> dict[str, Kind]:
  """Writes all kinds into a folder and returns them by path; good files lie among them."""
  folder.mkdir(parents=True)
  made = {}
  for seed, kind in enumerate(KINDS):
    if not skipped(kind, slow):
      path = os.path.join(folder, kind.file)
      kind.make(path, seed)
      made[path] = kind
  for number in range(3):
    audio.write_audio(folder / f'good {number}.flac', music(1000 + number), RATE)
  return made
