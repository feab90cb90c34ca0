"""Quality: what is measured, and the right reason for every bad file."""

import numpy as np
import pytest
import soundfile

from preprocessing import audio, quality

RATE = 48_000


def _music(secs=6.0, seed=0):
  noise = np.random.default_rng(seed).normal(size=[round(secs * RATE), 2])
  return np.clip(noise * 0.1, -0.9, 0.9).astype(np.float32)


def _reason(path, **limits):
  with pytest.raises(audio.AudioError) as caught:
    quality.examine(str(path), quality.QualityLimits(**limits))
  assert caught.value.reason in quality.REASONS
  return caught.value.reason


def test_a_good_file_is_measured(tmp_path):
  path = tmp_path / 'good.wav'
  x = _music(45)
  x[:, 1] *= 0.5
  soundfile.write(path, x, RATE, subtype='FLOAT')
  header, found = quality.examine(str(path))
  assert header.duration_secs == found.duration_secs == 45
  assert found.peak == np.abs(x).max()
  assert found.rms_dbfs == pytest.approx(
    10 * np.log10(np.mean(x.astype(np.float64) ** 2)), abs=1e-3
  )
  assert found.dc_offset == pytest.approx(np.abs(x.mean(axis=0)).max(), abs=1e-6)
  assert (found.clipped_share, found.silent_share) == (0, 0)
  assert found.finite and not found.true_mono


def test_shares_of_clipping_and_silence_are_exact(tmp_path):
  path = tmp_path / 'x.wav'
  x = _music(10)
  x[:, 1] = x[:, 0]
  x[: 4 * RATE] = 0
  x[5 * RATE : 5 * RATE + 4800] = 1.0  # a run: clipped
  x[7 * RATE :: 1000] = 1.0  # single peaks: not clipped
  soundfile.write(path, x, RATE, subtype='FLOAT')
  found = quality.measure(str(path), RATE)
  assert found.silent_share == pytest.approx(0.4)
  assert found.clipped_share == pytest.approx(4800 / (10 * RATE))
  assert found.true_mono


@pytest.mark.parametrize('suffix', ['.wav', '.mp3', '.flac', '.ogg', '.aiff'])
def test_truncated_files(tmp_path, suffix):
  whole, cut = tmp_path / f'whole{suffix}', tmp_path / f'cut{suffix}'
  audio.write_audio(whole, _music(12), RATE)
  data = whole.read_bytes()
  cut.write_bytes(data[: len(data) * 7 // 10])
  quality.examine(str(whole))
  expected = 'decode_error' if suffix == '.flac' else 'truncated'
  assert _reason(cut) == expected


def test_silent_files(tmp_path):
  path = tmp_path / 'x.wav'
  soundfile.write(path, np.zeros([6 * RATE, 2]), RATE)
  assert _reason(path) == 'silent'


def test_short_and_long_files(tmp_path):
  path = tmp_path / 'x.wav'
  soundfile.write(path, _music(3), RATE)
  assert _reason(path) == 'too_short'
  assert _reason(path, max_secs=2) == 'too_long'


def test_clipped_files(tmp_path):
  path = tmp_path / 'x.wav'
  soundfile.write(path, np.sign(_music()) * np.ones([1, 2]), RATE)
  assert _reason(path) == 'clipped'


def test_files_off_the_zero_line(tmp_path):
  path = tmp_path / 'x.wav'
  soundfile.write(path, _music() * 0.5 + 0.3, RATE)
  assert _reason(path) == 'dc_offset'


def test_files_with_nan(tmp_path):
  path = tmp_path / 'x.wav'
  x = _music()
  x[5000] = np.nan
  soundfile.write(path, x, RATE, subtype='FLOAT')
  assert _reason(path) == 'not_finite'


def test_low_rates_and_mono(tmp_path):
  path = tmp_path / 'x.wav'
  soundfile.write(path, _music()[:, 0], 8000)
  assert _reason(path) == 'low_sample_rate'
  assert _reason(path, min_sample_rate=8000, require_stereo=True) == 'not_stereo'
