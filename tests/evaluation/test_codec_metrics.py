"""Codec metrics against closed forms, scipy and their own properties."""

import shutil

import numpy as np
import pytest
import scipy.signal

from evaluation import codec_metrics, other_codecs, spectra

RATE = 48_000


def music(secs=1.0, seed=0):
  """Two decaying chords with a little noise, different left and right."""
  rng = np.random.default_rng(seed)
  t = np.arange(round(secs * RATE)) / RATE
  notes = [220, 277, 330, 880, 2637, 5274]
  left = sum(np.sin(2 * np.pi * f * t) * np.exp(-3 * t) / 8 for f in notes)
  right = sum(np.sin(2 * np.pi * f * 1.5 * t) * np.exp(-2 * t) / 8 for f in notes)
  return (np.stack([left, right], -1) + 0.003 * rng.standard_normal([len(t), 2])).astype(np.float32)


def test_si_sdr_closed_form():
  """Noise orthogonal to the signal: the ratio of the energies, whatever the gain."""
  rng = np.random.default_rng(0)
  s = rng.standard_normal([5000, 2])
  noise = rng.standard_normal([5000, 2])
  noise -= np.sum(noise * s) / np.sum(s * s) * s
  expected = 10 * np.log10(np.sum(s * s) / np.sum(noise * noise))
  assert codec_metrics.si_sdr(s, s + noise) == pytest.approx(expected, abs=1e-9)
  assert codec_metrics.si_sdr(s, -3 * (s + noise)) == pytest.approx(expected, abs=1e-9)


def test_si_sdr_by_hand():
  # s = (1, 0), s' = (2, 1): target (2, 0), error (0, 1): 10 log10(4 / 1).
  s, t = np.array([[1.0], [0.0]]), np.array([[2.0], [1.0]])
  assert codec_metrics.si_sdr(s, t) == pytest.approx(10 * np.log10(4))
  assert codec_metrics.si_sdr(s, s) == np.inf
  assert codec_metrics.si_sdr(s, s[::-1]) == -np.inf
  assert np.isnan(codec_metrics.si_sdr(0 * s, s))


def test_magnitudes_equal_scipy():
  x = music(0.2)[:, 0]
  window, hop = 256, 64
  _, _, z = scipy.signal.stft(
    x, nperseg=window, noverlap=window - hop, window='hann', boundary=None, padded=False
  )
  # scipy's 'spectrum' scaling makes a full-scale sine 0.5; ours makes it 1.
  np.testing.assert_allclose(spectra.magnitudes(x, window, hop), 2 * np.abs(z).T, atol=1e-6)


def test_full_scale_sine_is_0_db():
  x = np.sin(2 * np.pi * 3000 * np.arange(8192) / RATE)
  assert spectra.magnitudes(x, 1024, 256).max() == pytest.approx(1, abs=1e-4)


def test_mel_filters_by_hand():
  # Two bands of 0..4000 Hz: edges equally spaced on the mel scale, mel(4000) = 2146.06.
  filters = spectra.mel_filters(8000, 800, 2)  # bins every 10 Hz
  edges = 700 * (10 ** (np.arange(4) * 2146.0646 / 3 / 2595) - 1)
  assert np.abs(filters.argmax(0) * 10 - edges[1:3]).max() <= 5
  np.testing.assert_allclose(filters.sum(0), 1, rtol=1e-5)
  assert filters[int(edges[2] / 10) + 1 :, 0].sum() == 0


def test_mel_distance_of_a_gain_is_that_gain():
  """Halving every sample lowers each band above the floor by 6.02 dB."""
  x = np.random.default_rng(0).uniform(-0.5, 0.5, [24_000, 2]).astype(np.float32)
  distance = codec_metrics.mel_distance(x, x / 2, RATE)
  assert distance == pytest.approx(20 * np.log10(2), abs=1e-4)


def test_stft_distance_of_a_gain():
  """x / 2: convergence 1/2, log term ln 2 where both lie above the floor."""
  x = np.random.default_rng(0).uniform(-1, 1, [24_000, 2]).astype(np.float32)
  assert codec_metrics.stft_distance(x, x / 2) == pytest.approx(0.5 + np.log(2), abs=1e-3)


@pytest.mark.parametrize('metric', ['mel_distance_db', 'stft_distance', 'si_sdr_db'])
def test_zero_on_identical_and_monotone_under_noise(metric):
  x = music()
  noise = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
  values = [
    codec_metrics.reconstruction_metrics(x, x + gain * noise, RATE)[metric]
    for gain in (0.0, 0.001, 0.003, 0.01, 0.03, 0.1)
  ]
  if metric == 'si_sdr_db':
    assert values[0] == np.inf
    assert all(np.diff(values[1:]) < 0)
  else:
    assert values[0] == 0
    assert all(np.diff(values) > 0)


def test_shapes_must_agree():
  with pytest.raises(ValueError, match=r'\(10, 2\) and \(9, 2\)'):
    codec_metrics.si_sdr(np.zeros([10, 2]), np.zeros([9, 2]))


def test_codebook_use_by_hand():
  counts = np.array([[1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 4, 0, 0]])
  use = codec_metrics.codebook_use(counts)
  np.testing.assert_allclose(use['entropy_bits'], [2, 0])
  np.testing.assert_allclose(use['perplexity'], [4, 1])
  np.testing.assert_allclose(use['used_share'], [0.5, 0.125])


@pytest.mark.skipif(not shutil.which('opusenc'), reason='opusenc absent')
def test_opus_keeps_length_rate_and_music():
  x = music(2.0)
  low, low_rate = other_codecs.opus_round_trip(x, RATE, 16)
  high, high_rate = other_codecs.opus_round_trip(x, RATE, 128)
  assert low.shape == high.shape == x.shape
  assert 15 < low_rate < 19  # The Ogg container adds a little to so short a file.
  assert 120 < high_rate < 140
  near, far = (codec_metrics.mel_distance(x, y, RATE) for y in (high, low))
  assert near < far
  assert codec_metrics.si_sdr(x, high) > 10  # Aligned to the sample.


def test_absent_tools_and_impossible_rates_are_said(monkeypatch):
  with pytest.raises(other_codecs.Unavailable, match='below 6 kbit/s|absent'):
    other_codecs.opus_round_trip(music(0.1), RATE, 4)
  monkeypatch.setattr(other_codecs.shutil, 'which', lambda name: None)
  with pytest.raises(other_codecs.Unavailable, match='opusenc absent'):
    other_codecs.opus_round_trip(music(0.1), RATE, 16)
  with pytest.raises(other_codecs.Unavailable, match='ffmpeg absent'):
    other_codecs.mp3_round_trip(music(0.1), RATE, 16)


def test_mel_distance_by_hand():
  """A sine of half the size: 6.02 dB in the bands above the floor in both, 0 where both lie below.

  The estimate of scale 1/2 of a signal whose every band is above the floor is tested above; here
  half of the frames are silent in both, so that the mean halves but for frames across the border.
  """
  x = np.random.default_rng(0).uniform(-0.5, 0.5, [96_000, 2]).astype(np.float32)
  x[48_000:] = 0
  distance = codec_metrics.mel_distance(x, x / 2, RATE)
  assert distance == pytest.approx(10 * np.log10(2), rel=0.02)


TONE = 0.5 * np.sin(2 * np.pi * 997 * np.arange(RATE) / RATE)
NULL = np.zeros_like(TONE)


@pytest.mark.parametrize(
  'left, right, width',
  [
    (TONE, TONE, -30),  # Mono: no side at all.
    (TONE, -TONE, 30),  # Nothing but side.
    (TONE, NULL, 0),  # One channel: side and middle are alike.
    (NULL, NULL, -30),
    (TONE, 0.5 * TONE, 20 * np.log10(0.5 / 1.5)),  # side 0.5 x, middle 1.5 x
    (TONE, -0.5 * TONE, 20 * np.log10(1.5 / 0.5)),
  ],
)
def test_width_by_hand(left, right, width):
  assert codec_metrics.width_db(np.stack([left, right], -1)) == pytest.approx(width, abs=1e-6)


def test_width_of_unrelated_noise_is_0():
  noise = np.random.default_rng(0).standard_normal([200_000, 2])
  assert codec_metrics.width_db(noise) == pytest.approx(0, abs=0.05)


def test_width_error_of_a_codec_that_plays_mono():
  stereo = np.stack([TONE, 0.5 * TONE], -1)
  mono = np.repeat(stereo.mean(1, keepdims=True), 2, 1)
  assert codec_metrics.width_error(stereo, mono) == pytest.approx(30 - 20 * np.log10(3), abs=1e-6)
  figures = codec_metrics.reconstruction_metrics(stereo, mono, RATE)
  assert figures['width_shift_db'] == pytest.approx(20 * np.log10(3) - 30, abs=1e-6)


def test_loudness_error_of_the_standards_tone():
  """BS.1770: 997 Hz at 0 dBFS in one channel is -3.01 LUFS, in both 0; a gain is its own error."""
  one = 2 * np.stack([TONE, NULL], -1)
  both = 2 * np.stack([TONE, TONE], -1)
  assert codec_metrics.loudness_error(one, both, RATE) == pytest.approx(3.01, abs=0.01)
  assert codec_metrics.loudness_error(both, both / 10, RATE) == pytest.approx(20, abs=0.01)
  assert codec_metrics.loudness_error(both, 0 * both, RATE) == pytest.approx(70, abs=0.01)
  figures = codec_metrics.reconstruction_metrics(both, both / 10, RATE)
  assert figures['loudness_shift_lu'] == pytest.approx(-20, abs=0.01)


def test_one_analysis_serves_all_measures():
  x, y = music(0.5), music(0.5, seed=1)
  figures = codec_metrics.reconstruction_metrics(x, y, RATE)
  assert figures['mel_distance_db'] == codec_metrics.mel_distance(x, y, RATE)
  assert figures['stft_distance'] == codec_metrics.stft_distance(x, y)
  assert figures['si_sdr_db'] == codec_metrics.si_sdr(x, y)
  assert figures['width_error_db'] == codec_metrics.width_error(x, y)
  assert set(figures) >= set(codec_metrics.MEASURES)


def test_dead_codes_of_known_counts():
  counts = np.zeros([2, 8], int)
  counts[0, :6] = 3
  counts[1, 0] = 18
  use = codec_metrics.codebook_use(counts)
  np.testing.assert_allclose(use['unused_share'], [2 / 8, 7 / 8])
  # 18 draws of 8 equally likely codes miss each with (7/8)^18 = 9 %.
  assert codec_metrics.unseen_by_chance(18, 8) == pytest.approx((7 / 8) ** 18)
  rng = np.random.default_rng(0)
  unseen = [8 - len(np.unique(rng.integers(0, 8, 18))) for _ in range(4000)]
  assert np.mean(unseen) / 8 == pytest.approx(codec_metrics.unseen_by_chance(18, 8), abs=0.005)
