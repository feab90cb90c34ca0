"""Signal health against known signals and the tables of the standard."""

import numpy as np
import pytest
import scipy.signal

from evaluation import signal_health

RATE = 48_000
T = np.arange(3 * RATE) / RATE
SINE = np.stack([np.sin(2 * np.pi * 997 * T)] * 2, -1)
NOISE = np.random.default_rng(0).standard_normal([3 * RATE, 2]) / 8


def test_levels_of_a_full_scale_sine():
  assert signal_health.peak_db(SINE) == pytest.approx(0, abs=0.01)
  assert signal_health.rms_db(SINE) == pytest.approx(-3.0103, abs=0.01)


def test_loudness_of_the_standards_tone():
  """BS.1770: a 997 Hz sine at 0 dBFS in one front channel reads -3.01 LUFS; in both, 0.00."""
  one = SINE * [1, 0]
  assert signal_health.loudness_lufs(one, RATE) == pytest.approx(-3.01, abs=0.01)
  assert signal_health.loudness_lufs(SINE, RATE) == pytest.approx(0.0, abs=0.01)
  assert signal_health.loudness_lufs(SINE / 10, RATE) == pytest.approx(-20.0, abs=0.01)


def test_loudness_gates_out_silence():
  padded = np.concatenate([SINE / 10, np.zeros_like(SINE)])
  # 27 whole blocks and three with 3/4, 1/2 and 1/4 of the tone pass the gates.
  expected = -20 + 10 * np.log10((27 + 1.5) / 30)
  assert signal_health.loudness_lufs(padded, RATE) == pytest.approx(expected, abs=0.01)
  assert signal_health.loudness_lufs(np.zeros([RATE, 2]), RATE) == -np.inf
  assert signal_health.loudness_lufs(SINE[:100], RATE) == -np.inf


def test_flatness_of_noise_and_tone():
  """The periodogram of white noise is exponential: exp(E ln P) / E P = e^-gamma."""
  mono = np.repeat(NOISE[:, :1], 2, 1)
  assert signal_health.spectral_flatness(mono) == pytest.approx(np.exp(-np.euler_gamma), abs=0.005)
  assert signal_health.spectral_flatness(SINE) < 1e-4
  assert np.isnan(signal_health.spectral_flatness(np.zeros([RATE, 2])))


def test_shares():
  half = np.concatenate([NOISE[:RATE], np.zeros([RATE, 2])])
  assert signal_health.silence_share(half, RATE) == pytest.approx(0.5)
  clipped = np.clip(4 * SINE, -1, 1)
  # |sin| >= 1/4 on 1 - 2 asin(1/4) / pi of the time.
  expected = 1 - 2 * np.arcsin(0.25) / np.pi
  assert signal_health.clipped_share(clipped) == pytest.approx(expected, abs=0.005)
  assert signal_health.clipped_share(SINE * 0.9) == 0


def test_dc_and_stereo():
  assert signal_health.dc_offset(SINE * 0.1 + [0.02, -0.05]) == pytest.approx(0.05, abs=1e-4)
  assert signal_health.stereo_correlation(SINE * [1, -0.3]) == pytest.approx(-1)
  assert signal_health.stereo_correlation(NOISE) == pytest.approx(0, abs=0.01)
  left, right = NOISE[:, 0], 0.6 * NOISE[:, 0] + 0.8 * NOISE[:, 1]
  expected = np.corrcoef(left, right)[0, 1]
  assert signal_health.stereo_correlation(np.stack([left, right], -1)) == pytest.approx(expected)
  assert np.isnan(signal_health.stereo_correlation(SINE * [1, 0]))


def test_bandwidth_of_filtered_noise():
  sos = scipy.signal.butter(12, 5000, fs=RATE, output='sos')
  filtered = scipy.signal.sosfilt(sos, NOISE, axis=0)
  assert signal_health.bandwidth_hz(filtered, RATE) == pytest.approx(5000, rel=0.05)
  assert signal_health.bandwidth_hz(NOISE, RATE) > 23_000


def test_seams_of_music_noise_and_a_click():
  """A smooth signal has no seam; one cut and joined at the wrong phase has a step there."""
  chunk = RATE // 2
  smooth = SINE * 0.5
  assert signal_health.seam_jump(smooth, RATE, chunk) < 1.01
  assert 0.3 < signal_health.seam_jump(NOISE, RATE, chunk) < 1.05
  broken = np.concatenate([smooth[i : i + chunk] * (-1) ** (i // chunk)
                           for i in range(37, len(smooth) - chunk, chunk)])  # fmt: skip
  assert signal_health.seam_jump(broken, RATE, chunk) > 2
  assert np.isnan(signal_health.seam_jump(smooth[:chunk], RATE, chunk))


def test_seam_flux_sees_an_abrupt_change_of_spectrum():
  chunk = 2 * RATE
  rng = np.random.default_rng(1)
  noise = rng.standard_normal([5 * chunk, 1]) * np.ones(2) / 8
  steady = signal_health.seam_flux(noise, RATE, chunk)
  assert steady == pytest.approx(1, abs=0.15)
  low = scipy.signal.sosfilt(scipy.signal.butter(4, 800, fs=RATE, output='sos'), noise, axis=0)
  parts = [(noise, low)[i % 2][i * chunk : (i + 1) * chunk] for i in range(5)]
  assert signal_health.seam_flux(np.concatenate(parts), RATE, chunk) > 2 * steady
  assert np.isnan(signal_health.seam_flux(noise[:chunk], RATE, chunk))


def test_health_has_a_label_for_every_figure():
  figures = signal_health.health(NOISE.astype(np.float32), RATE, RATE)
  assert list(figures) == list(signal_health.LABELS)
  assert all(np.isfinite(value) for value in figures.values())


def test_true_peak_lies_between_samples():
  # Sampled at +-45 degrees around its peaks: every sample is 0.5 * 0.7071 (ITU-R BS.1770-4, 2).
  t = np.arange(4800)
  tone = 0.5 * np.sin(np.pi / 2 * t + np.pi / 4)[:, None] * np.hanning(4800)[:, None]
  assert signal_health.peak_db(tone) == pytest.approx(-9.03, abs=0.02)
  assert signal_health.true_peak_db(tone) == pytest.approx(-6.02, abs=0.05)


def test_true_peak_does_not_depend_on_where_blocks_end():
  rng = np.random.default_rng(0)
  audio = 0.1 * rng.standard_normal([(1 << 18) + 3000, 1])
  audio[(1 << 18) - 2 : (1 << 18) + 2] = [[0.4], [0.6], [0.6], [0.4]]
  around = audio[(1 << 18) - 1000 : (1 << 18) + 1000]
  assert signal_health.true_peak_db(audio) == pytest.approx(signal_health.true_peak_db(around))
  assert signal_health.true_peak_db(np.zeros([10, 2])) == -120
