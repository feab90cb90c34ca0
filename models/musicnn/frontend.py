"""Log-mel front end of musicnn: 16 kHz mono audio -> patches of 3 s that the network sees.

The sizes are those that the published weights were trained with (Pons and Serra, "musicnn:
pre-trained convolutional neural networks for music audio tagging", 2019).
"""

import functools

import numpy as np
import scipy.fft

SAMPLE_RATE = 16_000
FFT_LENGTH, HOP_LENGTH = 512, 256
NUM_BANDS, PATCH_FRAMES = 96, 187
_COMPRESSION = 10_000.0
# Slaney's mel scale: linear below 1 kHz, 27 steps for a factor of 6.4 above.
_LINEAR_HZ, _BREAK_HZ = 200 / 3, 1000.0
_LOG_STEP = np.log(6.4) / 27


def hertz_to_mel(hertz: np.ndarray | float) -> np.ndarray:
  """Slaney's mel scale: f / (200 / 3) up to 1 kHz, 15 + 27 ln(f / 1000) / ln 6.4 above."""
  hertz = np.asarray(hertz, np.float64)
  above = _BREAK_HZ / _LINEAR_HZ + np.log(np.maximum(hertz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
  return np.where(hertz < _BREAK_HZ, hertz / _LINEAR_HZ, above)


def mel_to_hertz(mel: np.ndarray | float) -> np.ndarray:
  """Inverse of `hertz_to_mel`."""
  mel = np.asarray(mel, np.float64)
  top = _BREAK_HZ / _LINEAR_HZ
  above = _BREAK_HZ * np.exp(_LOG_STEP * (np.maximum(mel, top) - top))
  return np.where(mel < top, mel * _LINEAR_HZ, above)


@functools.lru_cache(maxsize=1)
def mel_matrix() -> np.ndarray:
  """Power spectrum -> mel bands, float32 [257, 96].

  Triangles over Hz with corners evenly spaced in mel from 0 to 8 kHz, each of area 1 (in Hz).
  """
  corners = mel_to_hertz(np.linspace(0, hertz_to_mel(SAMPLE_RATE / 2), NUM_BANDS + 2))
  bins = np.arange(FFT_LENGTH // 2 + 1) * SAMPLE_RATE / FFT_LENGTH
  rising = (bins[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
  falling = (corners[2:] - bins[:, None]) / (corners[2:] - corners[1:-1])
  triangles = np.maximum(0, np.minimum(rising, falling))
  return (triangles * 2 / (corners[2:] - corners[:-2])).astype(np.float32)


def log_mel(audio: np.ndarray) -> np.ndarray:
  """log10(1 + 10000 * mel power), of frames centred on every 256th sample.

  Args:
    audio: [n] float, mono at 16 kHz, full scale 1; silence is assumed before and after.

  Returns:
    float32 [1 + n // 256, 96].
  """
  padded = np.pad(np.asarray(audio, np.float32), FFT_LENGTH // 2)
  frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_LENGTH)[::HOP_LENGTH]
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_LENGTH) / FFT_LENGTH)
  spectrum = scipy.fft.rfft(frames * window.astype(np.float32), axis=-1)
  power = np.square(spectrum.real) + np.square(spectrum.imag)
  return np.log10(1 + _COMPRESSION * (power @ mel_matrix()))


def patches(audio: np.ndarray) -> np.ndarray:
  """Audio [n], mono at 16 kHz -> float32 [patches, 187, 96], patches of 3 s side by side.

  The rest behind the last whole patch is left out. Audio that is shorter than one patch is repeated
  until it fills it, as it was when the network was trained.

  Raises:
    ValueError: there are no samples.
  """
  audio = np.asarray(audio, np.float32)
  if not len(audio):
    raise ValueError('The audio has 0 samples; musicnn needs at least 1.')
  needed = (PATCH_FRAMES - 1) * HOP_LENGTH
  if len(audio) < needed:
    audio = np.resize(audio, needed)
  frames = log_mel(audio)
  number = len(frames) // PATCH_FRAMES
  return frames[: number * PATCH_FRAMES].reshape(number, PATCH_FRAMES, NUM_BANDS)
