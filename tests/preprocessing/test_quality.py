"""Quality: what is measured, and the right reason for every bad file."""

import dataclasses

import numpy as np
import pytest
import soundfile
import soxr

from evaluation import signal_health
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


def test_a_length_just_below_the_limit_is_told_as_such(tmp_path):
  path = tmp_path / 'x.wav'
  soundfile.write(path, _music()[: 4 * RATE - 200], RATE)
  with pytest.raises(audio.AudioError, match='^3.996 s; at least 4 s$'):
    quality.examine(str(path))


def test_clipped_files(tmp_path):
  path = tmp_path / 'x.wav'
  soundfile.write(path, np.sign(_music()) * np.ones([1, 2]), RATE)
  assert _reason(path) == 'clipped'


def _written(path, x, subtype='FLOAT'):
  soundfile.write(path, x, RATE, subtype=subtype)
  return quality.examine(str(path))[1]


def test_float_files_beyond_full_scale_are_judged_at_full_scale(tmp_path):
  """Preparation scales them down, so nothing of them is lost; what was cut off stays cut off."""
  path, x = tmp_path / 'x.wav', _music()
  tone = np.sin(2 * np.pi * 220 * np.arange(len(x)) / RATE)[:, None]
  whole = ((x + tone) / np.abs(x + tone).max()).astype(np.float32)
  found = _written(path, 4 * whole)
  assert found.peak == found.over_scale == 4
  assert quality.clipped_share(found, audio.read_header(path)) == 0
  assert found.clipped_share > 0.3  # So much lies beyond full scale.
  # An offset of 0.3 of 4 is 0.075 of full scale, and no fault.
  _written(path, 3.7 * whole + 0.3)
  soundfile.write(path, 3.4 * whole + 0.6, RATE, subtype='FLOAT')
  with pytest.raises(audio.AudioError, match=r'mean 0.150 after its peak of 4 is scaled to 1'):
    quality.examine(str(path))
  soundfile.write(path, 4 * np.clip(3 * whole, -1, 1), RATE, subtype='FLOAT')
  assert _reason(path) == 'clipped'


@pytest.mark.parametrize('suffix', ['mp3', 'ogg'])
def test_lossy_files_beyond_full_scale(tmp_path, suffix):
  path, x = tmp_path / f'x.{suffix}', _music()
  tone = np.sin(2 * np.pi * 220 * np.arange(len(x)) / RATE)[:, None] + x / 10
  audio.write_audio(path, np.clip(3 * tone, -1, 1), RATE)
  assert quality.measure(str(path), RATE).peak > 1
  assert _reason(path) == 'clipped'
  kind = {'mp3': ('MP3', 'MPEG_LAYER_III'), 'ogg': ('OGG', 'VORBIS')}[suffix]
  soundfile.write(path, 3 * tone, RATE, format=kind[0], subtype=kind[1])
  assert quality.examine(str(path))[1].peak > 2.5


def test_a_spike_is_named_with_its_place(tmp_path):
  """One sample of 1000 would make silence of the music beside it."""
  path, x = tmp_path / 'x.wav', _music()
  x[123_456, 1] = -1000
  soundfile.write(path, x, RATE, subtype='FLOAT')
  with pytest.raises(audio.AudioError, match='a sample of 1000 at 2.5720 s, 6. dB above') as raised:
    quality.examine(str(path))
  assert raised.value.reason == 'spikes'
  # With the limit off, the level that it leaves to the music is the reason.
  assert _reason(path, max_spike_db=1000) == 'too_quiet'
  found = quality.measure(str(path), RATE)
  assert 0.3 < found.robust_peak < 1 and found.silent_share == 0
  # More samples than a click has are music: a drum.
  x[200_000:200_033] = np.hanning(35)[1:-1, None] * 20
  assert _written(path, np.delete(x, 123_456, axis=0) / 25).spike_db < 20
  soundfile.write(path, np.where(np.arange(len(x)) == 9, 0.5, 0)[:, None], RATE)
  assert _reason(path) == 'silent'


def test_files_off_the_zero_line(tmp_path):
  path = tmp_path / 'x.wav'
  soundfile.write(path, _music() * 0.5 + 0.3, RATE)
  assert _reason(path) == 'dc_offset'


def test_files_with_nan(tmp_path):
  path = tmp_path / 'x.wav'
  x = _music()
  x[222_000, 1] = np.nan
  x[250_000] = np.inf
  soundfile.write(path, x, RATE, subtype='FLOAT')
  with pytest.raises(audio.AudioError, match=r'at 4.6250 s \(sample 222000\)') as raised:
    quality.examine(str(path))
  assert raised.value.reason == 'not_finite'


def test_low_rates_and_mono(tmp_path):
  path = tmp_path / 'x.wav'
  soundfile.write(path, _music()[:, 0], 8000)
  assert _reason(path) == 'low_sample_rate'
  assert _reason(path, min_sample_rate=8000, require_stereo=True) == 'not_stereo'


def test_files_that_are_too_quiet(tmp_path):
  path = tmp_path / 'x.wav'
  soundfile.write(path, _music() * 10 ** (-40 / 20), RATE, subtype='PCM_24')
  assert _reason(path, silence_dbfs=-100) == 'too_quiet'
  quality.examine(str(path), quality.QualityLimits(min_level_dbfs=-70, silence_dbfs=-100))


@pytest.mark.parametrize('cutoff', [3000, 3700])
def test_upsampled_files_are_band_limited(tmp_path, cutoff):
  """What was resampled from a lower rate has nothing above half of it."""
  path = tmp_path / 'x.wav'
  low = soxr.resample(_music(), RATE, 2 * cutoff)
  soundfile.write(path, soxr.resample(low, 2 * cutoff, RATE), RATE, subtype='PCM_16')
  found = quality.measure(str(path), RATE)
  assert 0.9 * cutoff < found.bandwidth_hz < 1.05 * cutoff
  assert _reason(path) == 'band_limited'
  quality.examine(str(path), quality.QualityLimits(min_bandwidth_hz=2500))


def test_bandwidth_of_the_whole_band(tmp_path):
  path = tmp_path / 'x.wav'
  soundfile.write(path, _music(), RATE)
  assert quality.measure(str(path), RATE).bandwidth_hz > 0.99 * RATE / 2


def test_stereo_that_is_mono_in_truth(tmp_path):
  """Equal channels, all but equal ones, and one silent channel; side and mid by hand."""
  path, x = tmp_path / 'x.wav', _music()
  near = x[:, :1] + np.array([[1.0, -1.0]]) * 1e-4 * np.random.default_rng(5).normal(size=x.shape)
  for stereo in (x[:, [0, 0]], near, x * [[1.0, 0.0]]):
    soundfile.write(path, stereo, RATE, subtype='FLOAT')
    assert quality.measure(str(path), RATE).true_mono
    assert _reason(path, require_stereo=True) == 'true_mono'
    quality.examine(str(path))
  soundfile.write(path, x, RATE, subtype='FLOAT')
  left, right = x.astype(np.float64).T
  expected = 10 * np.log10(np.sum((left - right) ** 2) / np.sum((left + right) ** 2))
  found = quality.measure(str(path), RATE)
  assert found.side_db == pytest.approx(expected, abs=1e-3) and not found.true_mono


def test_loudness_is_measured_in_the_same_pass(tmp_path):
  path, x = tmp_path / 'x.wav', _music(25)
  soundfile.write(path, x, RATE, subtype='FLOAT')
  heard = []
  found = quality.measure(str(path), RATE, listener=heard.append)
  assert found.loudness_lufs == pytest.approx(signal_health.loudness_lufs(x, RATE), abs=1e-3)
  np.testing.assert_array_equal(np.concatenate(heard), x.astype(np.float32))


def test_the_stereo_downmix_is_measured(tmp_path):
  """A 5.1 file with the music in front and something in the LFE, which a downmix leaves out."""
  x = _music()
  wide = np.concatenate([x, np.zeros([len(x), 4])], axis=1)
  wide[:, 3] = 1
  soundfile.write(tmp_path / 'x.flac', wide, RATE, subtype='PCM_24')
  soundfile.write(tmp_path / 'y.flac', x / (1 + 2 * np.sqrt(0.5)), RATE, subtype='PCM_24')
  wide, front = (quality.examine(str(tmp_path / name))[1] for name in ('x.flac', 'y.flac'))
  for name, value in dataclasses.asdict(front).items():
    assert getattr(wide, name) == pytest.approx(value, rel=1e-3), name


def test_a_file_that_is_written_to_while_it_is_read(tmp_path):
  path = tmp_path / 'x.wav'
  soundfile.write(path, _music(), RATE)

  def append(block):
    with open(path, 'ab') as file:
      file.write(b'more')

  with pytest.raises(audio.AudioError) as raised:
    quality.examine(str(path), listener=append)
  assert raised.value.reason == 'changed'


def test_limits_by_name():
  limits = quality.parse_limits(
    ['min_secs=2', 'max_clipped_share=0.5', 'require_stereo=true', 'max_secs=none'], max_secs=9.0
  )
  assert limits == quality.QualityLimits(2.0, None, max_clipped_share=0.5, require_stereo=True)
  for setting, message in (
    ('loudness=3', "'loudness=3' is not of the form LIMIT=VALUE; limits are"),
    ('min_secs', "'min_secs' is not of the form"),
    ('min_secs=long', "'long' is not a number"),
    ('require_stereo=1', 'require_stereo is true or false'),
    ('max_clipped_share=3', 'max_clipped_share=3.0 is not in 0..1'),
    ('max_secs=1', 'max_secs=1.0 is not above min_secs=4.0'),
  ):
    with pytest.raises(ValueError, match=message):
      quality.parse_limits([setting])
