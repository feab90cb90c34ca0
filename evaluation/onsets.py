"""Where notes begin: an onset envelope, for tempo and beats."""

import numpy as np

from evaluation import spectra

ENVELOPE_RATE = 100  # Hz.
_WINDOW_SECS = 0.043
_NUM_MELS = 40
_FLOOR_DB = -80.0
# Slower changes of the envelope than this are swells, not onsets.
_SWELL_SECS = 1.0


def onset_envelope(audio: np.ndarray, sample_rate: int) -> np.ndarray:
  """Audio [samples, channels] -> onset strength at 100 Hz, zero mean, unit deviation; or zeros.

  The positive changes in dB of 40 mel bands, averaged over bands, less their moving average over a
  second (the spectral flux of Bello et al., "A tutorial on onset detection", 2005).
  """
  hop = round(sample_rate / ENVELOPE_RATE)
  window = round(_WINDOW_SECS * sample_rate)
  filters = spectra.mel_filters(sample_rate, window, _NUM_MELS)
  padded = np.pad(audio.mean(1), (window // 2, window // 2))
  levels = spectra.decibels(spectra.magnitudes(padded, window, hop) @ filters, _FLOOR_DB)
  flux = np.maximum(np.diff(levels, axis=0, prepend=levels[:1]), 0).mean(1)
  swell = round(_SWELL_SECS * ENVELOPE_RATE)
  flux = flux - np.convolve(flux, np.ones(swell) / swell, mode='same')
  spread = flux.std()
  # Below a hundredth of a dB there is no onset, only rounding.
  return (flux - flux.mean()) / spread if spread > 0.01 else np.zeros_like(flux)
