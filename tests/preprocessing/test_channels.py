"""Downmix by ITU-R BS.775: factors, layouts of containers, and what the manifest says."""

import io

import numpy as np
import pytest
import sound_files
import soundfile

from preprocessing import audio, channels, manifest

RATE = 48_000
A = np.sqrt(0.5)


@pytest.mark.parametrize(
  'layout, left',
  [
    ('FL FR FC', [1, 0, A]),
    ('FL FR BL BR', [1, 0, A, 0]),
    ('FL FR FC BC', [1, 0, A, 0.5]),
    ('FL FR FC SL SR', [1, 0, A, A, 0]),
    ('FL FR FC LFE BL BR', [1, 0, A, 0, A, 0]),
    ('FL FC FR BL BR LFE', [1, A, 0, A, 0, 0]),
    ('FL FR FC LFE BL BR SL SR', [1, 0, A, 0, A, 0, A, 0]),
  ],
)
def test_factors(layout, left):
  """BS.775-4, annex 4, divided by their sum, so that no sum of samples exceeds full scale."""
  matrix = channels.downmix_matrix(layout, len(left))
  np.testing.assert_allclose(matrix[:, 0], np.array(left) / np.sum(left), rtol=1e-6)
  names = layout.split()
  other = {'L': 'R', 'R': 'L'}
  mirror = [names.index(n[:-1] + other.get(n[-1], n[-1])) if n not in ('LFE', 'FC', 'BC') else
            names.index(n) for n in names]  # fmt: skip
  np.testing.assert_array_equal(matrix[mirror, 1], matrix[:, 0])
  assert matrix.sum(axis=0).max() <= 1 + 1e-6


def test_unknown_layouts_are_said_and_averaged():
  assert channels.layout_text(['NONE'] * 10, 10) == 'unknown'
  assert channels.layout_text(['FL', 'FR', 'AMBI3'], 3) == 'unknown'
  np.testing.assert_allclose(channels.downmix_matrix('unknown', 10), 0.1)
  assert channels.layout_text(None, 6) == 'assumed FL FR FC LFE BL BR'
  assert channels.layout_text(['FL', 'FR'], 2) == channels.vorbis_layout(2) == ''
  assert 'assumed FL FR FC' in channels.describe('assumed FL FR FC')


def _tones(count):
  """Channel k has a tone of 300 (k + 1) Hz."""
  t = np.arange(RATE // 2) / RATE
  return np.stack([0.3 * np.sin(2 * np.pi * 300 * (k + 1) * t) for k in range(count)], axis=1)


def _levels(x, count):
  """Amplitudes [count, 2] of the tones in the middle of a stereo signal."""
  middle = x[RATE // 8 : RATE // 8 + RATE // 4]
  spectrum = np.abs(np.fft.rfft(middle, axis=0)) * 2 / len(middle) / 0.3
  return spectrum[[75 * (k + 1) for k in range(count)]]


@pytest.mark.parametrize(
  'form, subtype, layout',
  [
    ('WAVEX', 'PCM_24', 'FL FR FC LFE BL BR'),
    ('WAV', 'PCM_24', 'assumed FL FR FC LFE BL BR'),
    ('FLAC', 'PCM_24', 'FL FR FC LFE SL SR'),
    ('AIFF', 'PCM_24', 'assumed FL FR FC LFE BL BR'),
    ('OGG', 'VORBIS', 'FL FC FR BL BR LFE'),
    ('OGG', 'OPUS', 'FL FC FR BL BR LFE'),
  ],
)
def test_five_one(tmp_path, form, subtype, layout):
  """Every channel of a container comes in where its layout says, by blocks and by ranges."""
  path = tmp_path / f'film.{form.lower()}'
  soundfile.write(path, _tones(6), RATE, format=form, subtype=subtype)
  header = audio.read_header(path)
  assert (header.channels, header.layout) == (6, layout)
  expected = channels.downmix_matrix(layout, 6)
  lossy = subtype in ('VORBIS', 'OPUS')
  whole = audio.read_audio(path)
  np.testing.assert_allclose(_levels(whole, 6), expected, atol=0.03 if lossy else 1e-3)
  blocks = np.concatenate(list(audio.read_blocks(path, 0.1)))
  np.testing.assert_allclose(blocks, whole, atol=1e-6)
  part = audio.read_audio(path, start=0.1, duration=0.2, channels=1)
  np.testing.assert_allclose(part[:, 0], whole[4800:14_400].mean(axis=1), atol=1e-6)


def test_five_one_by_ffmpeg(tmp_path):
  """As it is, and through the file that `decodable` makes."""
  path = tmp_path / 'film.m4a'
  path.write_bytes(sound_files.encoded(_tones(6).astype(np.float32), RATE, 'alac.m4a'))
  layout = audio.read_header(path).layout
  assert sorted(layout.split()) == sorted(['FL', 'FR', 'FC', 'LFE', 'BL', 'BR'])
  whole = audio.read_audio(path)
  np.testing.assert_allclose(
    _levels(whole, 6), channels.downmix_matrix('FL FR FC LFE BL BR', 6), atol=1e-3
  )
  with audio.decodable(path) as made:
    np.testing.assert_allclose(audio.read_audio(made), whole, atol=1e-6)


def test_the_centre_is_not_lost_and_the_manifest_says_so(tmp_path):
  x = np.zeros([RATE, 6])
  x[:, 2] = _tones(1).repeat(2, axis=0)[:RATE, 0]
  soundfile.write(tmp_path / 'film.flac', x, RATE)
  soundfile.write(tmp_path / 'stereo.flac', x[:, 1:3], RATE)
  read = audio.read_audio(tmp_path / 'film.flac')
  np.testing.assert_allclose(read, x[:, [2, 2]] * A / (1 + 2 * A), atol=1e-4)
  (film, stereo), _ = manifest.build_manifest(tmp_path)
  assert film.channels == 6 and stereo.decoding == ''
  assert film.decoding == 'downmixed to stereo by ITU-R BS.775 from FL FR FC LFE SL SR'
  data = io.BytesIO(manifest.json_line(film))
  assert b'BS.775' in data.getvalue()
