"""Log-mel front end against a reference in float64 NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from models.musiccoca import frontend
from models.musiccoca.config import MusicCoCaConfig

_RATE = 16_000
_CONFIG = MusicCoCaConfig.tiny()


def _reference_mel(num_bins: int, num_bands: int, low: float, high: float) -> np.ndarray:
  """Triangles by plain loops: corners evenly spaced in mel, slopes linear in mel."""
  mel = lambda hertz: 2595.0 * np.log10(1.0 + hertz / 700.0)  # noqa: E731
  corners = [mel(low) + (mel(high) - mel(low)) * i / (num_bands + 1) for i in range(num_bands + 2)]
  matrix = np.zeros([num_bins, num_bands])
  for k in range(1, num_bins):
    at = mel(k * _RATE / 2 / (num_bins - 1))
    for band in range(num_bands):
      left, top, right = corners[band : band + 3]
      if left < at <= top:
        matrix[k, band] = (at - left) / (top - left)
      elif top < at < right:
        matrix[k, band] = (right - at) / (right - top)
  return matrix


def _reference_log_mel(audio: np.ndarray, num_frames: int) -> np.ndarray:
  """Frame by frame, with an explicit DFT matrix."""
  emphasized = np.empty(len(audio))
  emphasized[0] = audio[0]
  emphasized[1:] = audio[1:] - 0.97 * audio[:-1].astype(np.float64)
  n = np.arange(400)
  window = np.sin(np.pi * n / 400) ** 2
  dft = np.exp(-2j * np.pi * np.outer(n, np.arange(1025)) / 2048)
  matrix = _reference_mel(1025, 128, 20.0, 8000.0)
  rows = []
  for i in range(num_frames):
    spectrum = (emphasized[160 * i : 160 * i + 400] * window) @ dft
    rows.append(np.log(np.abs(spectrum) ** 2 @ matrix + 0.001))
  return np.stack(rows)


def test_ten_seconds_make_992_frames_and_496_patches():
  assert _CONFIG.num_frames(160_000) == 992
  assert _CONFIG.num_patches(160_000) == 496
  assert _CONFIG.num_frames(399) == 0


def test_log_mel_equals_a_float64_reference():
  t = np.arange(2 * _RATE) / _RATE
  rng = np.random.default_rng(0)
  audio = 0.3 * np.sin(2 * np.pi * (100 + 900 * t) * t) + 0.05 * rng.standard_normal(len(t))
  audio[_RATE:] *= 1e-3
  audio = audio.astype(np.float32)
  got = np.asarray(frontend.log_mel(jnp.asarray(audio), _CONFIG, _RATE))
  assert got.shape == (192, 128)
  np.testing.assert_allclose(got, _reference_log_mel(audio, 192), atol=2e-3)


def test_silence_is_the_log_of_the_floor():
  got = np.asarray(frontend.log_mel(jnp.zeros(16_000), _CONFIG, _RATE))
  np.testing.assert_allclose(got, np.log(0.001), rtol=1e-6)


def test_mel_matrix_has_no_dc_and_no_empty_band():
  matrix = frontend.mel_matrix(_CONFIG, _RATE)
  assert matrix.shape == (1025, 128)
  assert not matrix[0].any()
  assert (matrix.max(0) > 0.2).all()
  np.testing.assert_allclose(matrix, _reference_mel(1025, 128, 20.0, 8000.0), atol=1e-6)


def test_a_tone_lights_the_band_of_its_frequency():
  tone = np.sin(2 * np.pi * 1000 * np.arange(_RATE) / _RATE).astype(np.float32)
  band = np.asarray(frontend.log_mel(jnp.asarray(tone), _CONFIG, _RATE)).mean(0).argmax()
  low, high = frontend.hertz_to_mel(20.0), frontend.hertz_to_mel(8000.0)
  centers = np.linspace(low, high, 130)[1:-1]
  assert abs(centers[band] - frontend.hertz_to_mel(1000.0)) <= (high - low) / 129


def test_upper_edge_above_half_the_rate_is_refused():
  with pytest.raises(ValueError, match='8000.0 is above 4000.0 Hz'):
    frontend.mel_matrix(_CONFIG, 8_000)


def test_patches_are_time_major_with_vectors_ordered_time_then_mel():
  picture = np.arange(32 * 128).reshape(1, 32, 128)
  got = np.asarray(frontend.patches(jnp.asarray(picture), _CONFIG))
  assert got.shape == (1, 16, 256)
  np.testing.assert_array_equal(got[0, 1], picture[0, :16, 16:32].reshape(-1))
  np.testing.assert_array_equal(got[0, 8], picture[0, 16:, :16].reshape(-1))
