"""Log-mel front end: 16 kHz mono audio -> the picture that the audio tower sees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from models.musiccoca.config import MusicCoCaConfig


def hertz_to_mel(hertz: np.ndarray | float) -> np.ndarray:
  """The HTK mel scale, 1127 ln(1 + f / 700)."""
  return 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)


@functools.lru_cache
def mel_matrix(config: MusicCoCaConfig, sample_rate: int) -> np.ndarray:
  """Power spectrum -> mel bands, float32 [fft_length / 2 + 1, mel_bins].

  Triangles over the mel scale with evenly spaced corners from `mel_lower_hz` to `mel_upper_hz`,
  height 1; the DC row is zero.

  Raises:
    ValueError: the upper edge lies above half the sample rate.
  """
  if config.mel_upper_hz > sample_rate / 2:
    raise ValueError(
      f'mel_upper_hz={config.mel_upper_hz} is above {sample_rate / 2} Hz, half the sample rate.'
    )
  low, high = hertz_to_mel(config.mel_lower_hz), hertz_to_mel(config.mel_upper_hz)
  corners = np.linspace(low, high, config.mel_bins + 2)
  bins = hertz_to_mel(np.arange(config.fft_length // 2 + 1) * sample_rate / config.fft_length)
  rising = (bins[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
  falling = (corners[2:] - bins[:, None]) / (corners[2:] - corners[1:-1])
  matrix = np.maximum(0, np.minimum(rising, falling))
  matrix[0] = 0
  return matrix.astype(np.float32)


def log_mel(
  audio: jax.Array, config: MusicCoCaConfig, sample_rate: int, matrix: np.ndarray | None = None
) -> jax.Array:
  """Natural log of the mel power spectrum.

  Pre-emphasis (with silence before the start), periodic Hann frames without padding, |FFT|^2, mel
  matrix, log(mel + log_floor). Frames beyond the last whole patch are left out.

  Args:
    audio: [..., n] float, mono at `sample_rate`.
    config: sizes of the analysis.
    sample_rate: Hz.
    matrix: power spectrum -> mel bands [fft_length / 2 + 1, mel_bins], as a released model has it;
      None for `mel_matrix`.

  Returns:
    float32 [..., config.num_frames(n), mel_bins].
  """
  audio = jnp.asarray(audio, jnp.float32)
  before = jnp.pad(audio, [(0, 0)] * (audio.ndim - 1) + [(1, 0)])[..., :-1]
  emphasized = audio - config.pre_emphasis * before
  num_frames = config.num_frames(audio.shape[-1])
  return log_mel_of_emphasized(emphasized, config, sample_rate, num_frames, matrix)


def log_mel_of_emphasized(
  emphasized: jax.Array,
  config: MusicCoCaConfig,
  sample_rate: int,
  num_frames: int,
  matrix: np.ndarray | None = None,
) -> jax.Array:
  """`log_mel` after the pre-emphasis, of `num_frames` frames; frame i starts at i * hop_length."""
  index = np.arange(num_frames)[:, None] * config.hop_length + np.arange(config.frame_length)
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(config.frame_length) / config.frame_length)
  frames = emphasized[..., index] * window.astype(np.float32)
  spectrum = jnp.fft.rfft(frames, n=config.fft_length)
  power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
  matrix = mel_matrix(config, sample_rate) if matrix is None else matrix
  return jnp.log(power @ matrix + config.log_floor)


def patches(log_mels: jax.Array, config: MusicCoCaConfig) -> jax.Array:
  """[B, frames, bands] -> [B, tokens, patch_size^2]: time-major tokens of (time, mel) squares."""
  batch, frames, bands = log_mels.shape
  size = config.patch_size
  grid = log_mels.reshape(batch, frames // size, size, bands // size, size)
  grid = grid.transpose(0, 1, 3, 2, 4)
  return grid.reshape(batch, (frames // size) * (bands // size), size * size)
