"""Audio in and out: ranges, rates, channels, and lengths that headers promise."""

import numpy as np
import pytest
import soundfile

from preprocessing import audio

RATE = 44_100


def _tones(secs: float, rate: int = RATE) -> np.ndarray:
  t = np.arange(round(secs * rate)) / rate
  return 0.4 * np.stack([np.sin(2 * np.pi * 441 * t), np.sin(2 * np.pi * 661.5 * t)], axis=1)


@pytest.mark.parametrize('suffix', ['.wav', '.flac', '.mp3', '.ogg', '.opus', '.aiff'])
def test_written_audio_reads_back(tmp_path, suffix):
  rate = 48_000 if suffix == '.opus' else RATE
  path = tmp_path / f'tones{suffix}'
  audio.write_audio(path, _tones(3, rate), rate)
  read = audio.read_audio(path, sample_rate=rate)
  assert read.shape == (3 * rate, 2) and read.dtype == np.float32
  middle = slice(rate, 2 * rate)
  error = np.abs(read[middle] - _tones(3, rate)[middle]).max()
  assert error < (0.05 if suffix in ('.mp3', '.ogg', '.opus') else 1e-4)
  header = audio.read_header(path)
  assert (header.sample_rate, header.channels, header.complete) == (rate, 2, True)


def test_a_long_ogg_file_is_written_in_blocks(tmp_path):
  """One call with 60 s crashes the process."""
  path = tmp_path / 'long.ogg'
  audio.write_audio(path, np.zeros([60 * 48_000, 2]), 48_000)
  assert soundfile.info(path).frames == 60 * 48_000


def test_resampling_keeps_a_tones(tmp_path):
  path = tmp_path / 'tones.wav'
  audio.write_audio(path, _tones(2), RATE)
  read = audio.read_audio(path)  # 48 kHz stereo
  assert len(read) == 96_000
  middle = slice(24_000, 72_000)
  np.testing.assert_allclose(read[middle], _tones(2, 48_000)[middle], atol=2e-4)


@pytest.mark.parametrize('start, secs', [(0.0, 2.0), (0.4, 1.0), (3.37, 1.5), (5.5, 9.0)])
@pytest.mark.parametrize('suffix', ['.flac', '.mp3'])
def test_a_range_equals_the_same_range_of_the_whole(tmp_path, suffix, start, secs):
  path = tmp_path / f'tones{suffix}'
  audio.write_audio(path, _tones(6), RATE)
  whole = audio.read_audio(path)
  first = round(start * 48_000)
  expected = whole[first : first + round(secs * 48_000)]
  part = audio.read_audio(path, start=start, duration=secs)
  assert part.shape == expected.shape
  np.testing.assert_allclose(part, expected, atol=2e-6)


def test_ranges_beyond_the_end_are_cut(tmp_path):
  path = tmp_path / 'tones.wav'
  audio.write_audio(path, _tones(2), RATE)
  assert audio.read_audio(path, start=5.0, duration=1.0).shape == (0, 2)
  with pytest.raises(ValueError, match='start=-1'):
    audio.read_audio(path, start=-1)


def test_channels():
  x = np.array([[1.0, 3.0], [2.0, -2.0]], np.float32)
  np.testing.assert_array_equal(audio.mix_channels(x, 1), [[2.0], [0.0]])
  np.testing.assert_array_equal(audio.mix_channels(x[:, :1], 2), [[1.0, 1.0], [2.0, 2.0]])
  np.testing.assert_array_equal(audio.mix_channels(x, 2), x)


def test_too_loud_samples_are_clipped_and_nan_is_refused(tmp_path):
  path = tmp_path / 'loud.wav'
  audio.write_audio(path, np.full([100, 2], 1.7), 48_000)
  np.testing.assert_allclose(audio.read_audio(path), 1.0, atol=1e-4)
  with pytest.raises(ValueError, match='NaN'):
    audio.write_audio(path, np.full([100, 2], np.nan), 48_000)
  with pytest.raises(ValueError, match=r"cannot write '\.xyz'"):
    audio.write_audio(tmp_path / 'a.xyz', np.zeros([9, 2]), 48_000)


@pytest.mark.parametrize('suffix', ['.wav', '.mp3', '.aiff'])
def test_headers_promise_more_than_truncated_files_hold(tmp_path, suffix):
  whole, cut = tmp_path / f'whole{suffix}', tmp_path / f'cut{suffix}'
  audio.write_audio(whole, _tones(6), RATE)
  data = whole.read_bytes()
  cut.write_bytes(data[: len(data) * 6 // 10])
  decoded = sum(len(block) for block in audio.read_blocks(cut)) / RATE
  assert decoded < 4  # silently short ...
  assert audio.read_header(cut).promised_secs == pytest.approx(6.0, abs=0.06)  # ... yet known


@pytest.mark.parametrize('suffix', ['.ogg', '.opus'])
def test_truncated_ogg_lacks_its_end_mark(tmp_path, suffix):
  whole, cut = tmp_path / f'whole{suffix}', tmp_path / f'cut{suffix}'
  audio.write_audio(whole, _tones(6, 48_000), 48_000)
  data = whole.read_bytes()
  cut.write_bytes(data[: len(data) * 6 // 10])
  assert audio.read_header(whole).complete
  assert not audio.read_header(cut).complete


@pytest.mark.parametrize(
  'content, reason', [(b'', 'empty_file'), (b'no audio at all ' * 99, 'not_audio')]
)
def test_unusable_files_say_why(tmp_path, content, reason):
  path = tmp_path / 'bad.flac'
  path.write_bytes(content)
  with pytest.raises(audio.AudioError) as caught:
    audio.read_audio(path)
  assert caught.value.reason == reason


def test_missing_files_are_unreadable(tmp_path):
  with pytest.raises(audio.AudioError) as caught:
    audio.read_header(tmp_path / 'nowhere.wav')
  assert caught.value.reason == 'unreadable'


def test_audio_in_a_bucket(tmp_path, bucket):
  """The stand-in for gs:// is a folder: header, ranges and blocks are those of the local file."""
  x = _tones(3.0, 44_100)
  audio.write_audio(bucket / 'music' / 'x.flac', x, 44_100)
  uri, local = 'gs://bucket/music/x.flac', bucket / 'music' / 'x.flac'
  assert audio.read_header(uri) == audio.read_header(local)
  remote = audio.read_audio(uri, start=0.5, duration=1.0)
  np.testing.assert_array_equal(remote, audio.read_audio(local, start=0.5, duration=1.0))
  with pytest.raises(audio.AudioError) as raised:
    audio.read_header('gs://bucket/music/none.flac')
  assert raised.value.reason == 'unreadable'
