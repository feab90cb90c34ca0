"""Spectra that the metrics share: framing, STFT magnitudes, mel filters. NumPy only."""

import functools

import numpy as np
import scipy.fft


def frames_of(signal: np.ndarray, window: int, hop: int) -> np.ndarray:
  """Signal [n] -> view [1 + (n - window) // hop, window]; shorter ones are zero-padded."""
  signal = np.asarray(signal, np.float32)
  if len(signal) < window:
    signal = np.pad(signal, (0, window - len(signal)))
  return np.lib.stride_tricks.sliding_window_view(signal, window)[::hop]


@functools.lru_cache(maxsize=16)
def hann(window: int) -> np.ndarray:
  """Periodic Hann window scaled so that a full-scale sine on a bin has the magnitude 1."""
  values = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
  return (2 * values / values.sum()).astype(np.float32)


def magnitudes(signal: np.ndarray, window: int, hop: int) -> np.ndarray:
  """Signal [n] -> STFT magnitudes [frames, window // 2 + 1] float32; full-scale sine = 1."""
  return np.abs(scipy.fft.rfft(frames_of(signal, window, hop) * hann(window), axis=-1))


@functools.lru_cache(maxsize=32)
def mel_filters(sample_rate: int, window: int, num_mels: int) -> np.ndarray:
  """Triangular mel filters [window // 2 + 1, <= num_mels], each summing to 1.

  Mel = 2595 log10(1 + f / 700), from 0 to half the sample rate. Filters so narrow that no bin
  falls into them are left out.
  """
  top = 2595 * np.log10(1 + sample_rate / 2 / 700)
  edges = 700 * (10 ** (np.linspace(0, top, num_mels + 2) / 2595) - 1)
  frequencies = np.arange(window // 2 + 1) * sample_rate / window
  low, centre, high = edges[:-2], edges[1:-1], edges[2:]
  rising = (frequencies[:, None] - low) / (centre - low)
  falling = (high - frequencies[:, None]) / (high - centre)
  filters = np.maximum(0, np.minimum(rising, falling))
  total = filters.sum(0)
  return (filters[:, total > 0] / total[total > 0]).astype(np.float32)


def decibels(amplitude: np.ndarray | float, floor_db: float) -> np.ndarray:
  """20 log10 of an amplitude, not below `floor_db`."""
  return 20 * np.log10(np.maximum(amplitude, 10 ** (floor_db / 20)))
