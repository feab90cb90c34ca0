"""Is it a healthy signal? Level, clipping, silence, spectrum, stereo, seams between chunks.

Each function takes float audio [samples, channels] in -1..1. Figures mean little alone: the report
sets them beside those of the corpus.
"""

import numpy as np
import scipy.signal

from evaluation import spectra
from preprocessing.loudness import k_weighting

CLIP_LEVEL = 0.999
SILENCE_DB = -60.0
FLOOR_DB = -120.0
_SPECTRUM_WINDOW = 2048
_SILENCE_BLOCK_SECS = 0.05
_SEAM_REACH_SECS = 0.05


def peak_db(audio: np.ndarray) -> float:
  """Largest sample in dBFS."""
  return float(spectra.decibels(np.max(np.abs(audio)), FLOOR_DB))


def true_peak_db(audio: np.ndarray) -> float:
  """Largest value between samples, too, in dBTP: oversampled four times (ITU-R BS.1770-4, 2).

  The peak of a cosine at a quarter of the rate that is sampled on its flanks lies 3.01 dB above
  its samples.
  """
  # In blocks, with a margin for the filter: a five-minute stream would fill the memory.
  block, margin = 1 << 18, 64
  largest = 0.0
  for start in range(0, len(audio), block):
    piece = np.asarray(audio[max(0, start - margin) : start + block + margin], np.float64)
    finer = scipy.signal.resample_poly(piece, 4, 1, axis=0, window=('kaiser', 8.0))
    first = 4 * min(start, margin)
    largest = max(largest, float(np.max(np.abs(finer[first : first + 4 * block]), initial=0)))
  return float(spectra.decibels(max(largest, float(np.max(np.abs(audio)))), FLOOR_DB))


def rms_db(audio: np.ndarray) -> float:
  """Root mean square over all channels in dBFS (a full-scale sine has -3.01)."""
  return float(spectra.decibels(np.sqrt(np.mean(np.square(audio, dtype=np.float64))), FLOOR_DB))


def loudness_lufs(audio: np.ndarray, sample_rate: int) -> float:
  """Integrated loudness by ITU-R BS.1770-4 (K weighting, 400 ms blocks, both gates) in LUFS.

  Mono or stereo. Audio that is shorter than one block or below the gate of -70 LUFS gives -inf.
  """
  weighted = scipy.signal.sosfilt(k_weighting(sample_rate), audio, axis=0)
  block, step = round(0.4 * sample_rate), round(0.1 * sample_rate)
  if len(weighted) < block:
    return float('-inf')
  sums = np.concatenate([np.zeros([1, weighted.shape[1]]), np.cumsum(weighted**2, axis=0)])
  starts = np.arange(0, len(weighted) - block + 1, step)
  power = ((sums[starts + block] - sums[starts]) / block).sum(1)
  with np.errstate(divide='ignore'):
    loudness = -0.691 + 10 * np.log10(power)
    kept = power[loudness > -70]
    if not len(kept):
      return float('-inf')
    relative_gate = -0.691 + 10 * np.log10(kept.mean()) - 10
    kept = power[(loudness > -70) & (loudness > relative_gate)]
    return float(-0.691 + 10 * np.log10(kept.mean()))


def clipped_share(audio: np.ndarray) -> float:
  """Share of samples at or beyond 0.999 of full scale."""
  return float(np.mean(np.abs(audio) >= CLIP_LEVEL))


def silence_share(audio: np.ndarray, sample_rate: int) -> float:
  """Share of 50 ms blocks whose RMS lies below -60 dBFS."""
  block = round(_SILENCE_BLOCK_SECS * sample_rate)
  blocks = audio[: len(audio) // block * block].reshape(-1, block * audio.shape[1])
  if not len(blocks):
    return float('nan')
  power = np.mean(np.square(blocks, dtype=np.float64), axis=1)
  return float(np.mean(power < 10 ** (SILENCE_DB / 10)))


def spectral_flatness(audio: np.ndarray) -> float:
  """Geometric over arithmetic mean of the power spectrum, mean over frames that sound.

  Of the mid signal, in windows of 2048. A tone gives about 0; white noise e^-gamma = 0.561, as
  its periodogram is exponentially distributed. NaN if all is silent.
  """
  power = spectra.magnitudes(audio.mean(1), _SPECTRUM_WINDOW, _SPECTRUM_WINDOW // 2)[:, 1:-1] ** 2
  power = power[power.mean(1) > 10 ** (FLOOR_DB / 10)]
  if not len(power):
    return float('nan')
  power = np.maximum(power.astype(np.float64), 1e-20)
  return float(np.mean(np.exp(np.log(power).mean(1)) / power.mean(1)))


def bandwidth_hz(audio: np.ndarray, sample_rate: int, share: float = 0.99) -> float:
  """Frequency below which `share` of the energy lies (mid signal, whole file)."""
  magnitude = spectra.magnitudes(audio.mean(1), _SPECTRUM_WINDOW, _SPECTRUM_WINDOW // 2)
  energy = np.cumsum(np.sum(magnitude.astype(np.float64) ** 2, axis=0))
  if not energy[-1]:
    return float('nan')
  return float(np.searchsorted(energy, share * energy[-1]) * sample_rate / _SPECTRUM_WINDOW)


def dc_offset(audio: np.ndarray) -> float:
  """Largest absolute mean of a channel."""
  return float(np.max(np.abs(audio.mean(0, dtype=np.float64))))


def stereo_correlation(audio: np.ndarray) -> float:
  """Correlation of the first two channels: 1 mono, 0 unrelated, -1 opposite; NaN for silence."""
  left, right = (audio[:, channel] - audio[:, channel].mean() for channel in (0, 1))
  norm = np.linalg.norm(left) * np.linalg.norm(right)
  return float(left @ right / norm) if norm else float('nan')


def seam_jump(audio: np.ndarray, sample_rate: int, chunk_samples: int) -> float:
  """How much larger the sample steps at chunk boundaries are than those around them.

  At each boundary (every `chunk_samples`) the largest |x[n] - x[n-1]| within two samples of it,
  over the largest such step within 50 ms on either side; the median over boundaries and the maximum
  over channels. Below or about 1: no click. NaN without a boundary.
  """
  reach = round(_SEAM_REACH_SECS * sample_rate)
  steps = np.abs(np.diff(np.asarray(audio, np.float64), axis=0))
  ratios = []
  for seam in range(chunk_samples, len(audio) - reach, chunk_samples):
    near = steps[seam - 3 : seam + 2].max(0)
    around = np.concatenate([steps[seam - reach : seam - 3], steps[seam + 2 : seam + reach]]).max(0)
    ratios.append(np.max(near / np.maximum(around, 1e-9)))
  return float(np.median(ratios)) if ratios else float('nan')


def seam_flux(audio: np.ndarray, sample_rate: int, chunk_samples: int) -> float:
  """How much faster the spectrum changes across chunk boundaries than elsewhere.

  Mean absolute change in dB between log-mel frames 40 ms apart, at the boundaries over the mean of
  all other places. About 1: the seams cannot be told from the music. NaN without a boundary.
  """
  window = 1024
  hop = round(0.04 * sample_rate)
  filters = spectra.mel_filters(sample_rate, window, 64)
  levels = spectra.decibels(
    spectra.magnitudes(audio.mean(1), window, hop) @ filters, SILENCE_DB - 20
  )
  change = np.abs(np.diff(levels, axis=0)).mean(1)
  seams = np.arange(chunk_samples // hop, len(change), chunk_samples // hop)
  if not len(seams):
    return float('nan')
  # A frame pair straddles the boundary when the first frame starts before it.
  near = np.unique(np.concatenate([seams - 1, seams]))
  other = np.delete(change, near)
  return float(change[near].mean() / other.mean()) if other.size and other.mean() else float('nan')


def health(audio: np.ndarray, sample_rate: int, chunk_samples: int) -> dict[str, float]:
  """All figures of one recording, by name; `LABELS` explains them."""
  return {
    'peak_db': peak_db(audio),
    'true_peak_db': true_peak_db(audio),
    'rms_db': rms_db(audio),
    'loudness_lufs': loudness_lufs(audio, sample_rate),
    'clipped_share': clipped_share(audio),
    'silence_share': silence_share(audio, sample_rate),
    'spectral_flatness': spectral_flatness(audio),
    'bandwidth_hz': bandwidth_hz(audio, sample_rate),
    'dc_offset': dc_offset(audio),
    'stereo_correlation': stereo_correlation(audio),
    'seam_jump': seam_jump(audio, sample_rate, chunk_samples),
    'seam_flux': seam_flux(audio, sample_rate, chunk_samples),
  }


LABELS = {
  'peak_db': 'Peak (dBFS)',
  'true_peak_db': 'True peak (dBTP, 4 times oversampled)',
  'rms_db': 'RMS (dBFS)',
  'loudness_lufs': 'Loudness (LUFS, BS.1770)',
  'clipped_share': 'Clipped samples (share)',
  'silence_share': 'Silent blocks (share)',
  'spectral_flatness': 'Spectral flatness (noise 0.56)',
  'bandwidth_hz': '99 % bandwidth (Hz)',
  'dc_offset': 'DC offset',
  'stereo_correlation': 'Stereo correlation',
  'seam_jump': 'Step at chunk seams (click above 1)',
  'seam_flux': 'Spectral change at seams (1 = none)',
}
