"""How near decoded audio is to its original: spectra, waveform, loudness, width.

All take float arrays [samples, channels] of equal shape. The distances are 0 for identical audio
and grow with the difference; they compare magnitudes, so a codec may change phases at no cost.
SI-SDR compares waveforms; it is shown, not ranked by.
"""

import dataclasses

import numpy as np
import scipy.special

from evaluation import signal_health, spectra

MEL_WINDOWS = (64, 128, 256, 512, 1024, 2048)
STFT_WINDOWS = (512, 1024, 2048)
MEL_FLOOR_DB = -80.0
# BS.1770's absolute gate: what is softer has no loudness.
SILENCE_LUFS = -70.0
# Wider ratios of side to middle than these are heard as mono and as opposite channels.
WIDTH_RANGE_DB = 30.0
_BINS_PER_MEL = 16


@dataclasses.dataclass(frozen=True)
class Measure:
  """How a measure is shown and read.

  Attributes:
    label: its name.
    unit: '' for none.
    lower_is_better: which way is nearer to the original.
    noise_is_worst: whether noise of the same level must do worse than any codec.
  """

  label: str
  unit: str
  lower_is_better: bool = True
  noise_is_worst: bool = True


MEASURES = {
  'mel_distance_db': Measure('Mel distance', 'dB'),
  'stft_distance': Measure('STFT distance', ''),
  'si_sdr_db': Measure('SI-SDR', 'dB', lower_is_better=False),
  'loudness_error_lu': Measure('Loudness error', 'LU', noise_is_worst=False),
  'width_error_db': Measure('Stereo width error', 'dB', noise_is_worst=False),
}


class Reference:
  """An original, analysed once, that reconstructions are compared with."""

  def __init__(self, audio: np.ndarray, sample_rate: int):
    """Keeps the audio [samples, channels] and its spectra."""
    self.audio, self.sample_rate = audio, sample_rate
    self._levels = _mel_levels(audio, sample_rate)
    self._magnitudes = _magnitudes(audio)

  def compare(self, estimate: np.ndarray) -> dict[str, float]:
    """All of `MEASURES` by name, and the signed differences that two of them are the size of.

    'loudness_shift_lu' and 'width_shift_db' are above 0 where the estimate is louder and wider.
    """
    _check_pair(self.audio, estimate)
    louder = _loudness(estimate, self.sample_rate) - _loudness(self.audio, self.sample_rate)
    wider = width_db(estimate) - width_db(self.audio)
    return {
      'mel_distance_db': _level_distance(self._levels, _mel_levels(estimate, self.sample_rate)),
      'stft_distance': _spectral_distance(self._magnitudes, _magnitudes(estimate)),
      'si_sdr_db': si_sdr(self.audio, estimate),
      'loudness_error_lu': abs(louder),
      'width_error_db': abs(wider),
      'loudness_shift_lu': louder,
      'width_shift_db': wider,
    }


def reconstruction_metrics(
  reference: np.ndarray, estimate: np.ndarray, sample_rate: int
) -> dict[str, float]:
  """`Reference.compare` of one pair."""
  return Reference(reference, sample_rate).compare(estimate)


def mel_distance(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
  """Multi-scale mel distance in dB.

  For each window w of 64..2048 samples (hop w/4, Hann, w/16 mel bands from 0 to half the sample
  rate): the mean over frames, bands and channels of |level - level'|, a level being 20 log10 of the
  band's mean magnitude, with a full-scale sine at 0 dB and a floor at -80 dB. The result is the
  mean over windows. The scales are those of the codec literature's multi-scale mel losses
  (arXiv 2306.06546); the unit makes it readable: 3 dB is a clearly audible change of every band.
  """
  _check_pair(reference, estimate)
  return _level_distance(_mel_levels(reference, sample_rate), _mel_levels(estimate, sample_rate))


def stft_distance(reference: np.ndarray, estimate: np.ndarray) -> float:
  """Multi-scale STFT distance: mean over windows of spectral convergence + log magnitude L1.

  Spectral convergence is ||S - S'|| / ||S|| (Frobenius); the log term is the mean of
  |ln S - ln S'| with a floor at -80 dB (the two terms of arXiv 1910.11480). Windows of 512, 1024
  and 2048 samples, hop w/4.
  """
  _check_pair(reference, estimate)
  return _spectral_distance(_magnitudes(reference), _magnitudes(estimate))


def loudness_error(reference: np.ndarray, estimate: np.ndarray, sample_rate: int) -> float:
  """|integrated loudness - integrated loudness'| in LU (ITU-R BS.1770-4, both gates).

  Audio below the absolute gate of -70 LUFS, or shorter than a block of 0.4 s, counts as -70.
  """
  return abs(_loudness(estimate, sample_rate) - _loudness(reference, sample_rate))


def width_db(audio: np.ndarray) -> float:
  """Stereo width: energy of the side over that of the middle in dB, kept within -30..30.

  10 log10(sum (l - r)^2 / sum (l + r)^2): -30 is mono (or nearer to it than can be heard), 0 two
  unrelated channels of equal energy or one channel alone, 30 opposite channels. Silence is -30.
  """
  x = np.asarray(audio, np.float64)
  left, right = x[:, 0], x[:, -1]
  side, middle = np.sum((left - right) ** 2), np.sum((left + right) ** 2)
  if not side:
    return -WIDTH_RANGE_DB
  with np.errstate(divide='ignore'):
    ratio = 10 * np.log10(np.divide(side, middle))
  return float(np.clip(ratio, -WIDTH_RANGE_DB, WIDTH_RANGE_DB))


def width_error(reference: np.ndarray, estimate: np.ndarray) -> float:
  """|width_db - width_db'|: 0 where a codec keeps the balance of side and middle."""
  return abs(width_db(estimate) - width_db(reference))


def si_sdr(reference: np.ndarray, estimate: np.ndarray) -> float:
  """Scale-invariant signal-to-distortion ratio in dB, over all channels jointly.

  10 log10(|a s|^2 / |a s - s'|^2) with a = <s', s> / <s, s> (arXiv 1811.02508), no mean removed.
  Identical audio gives inf, a silent reference NaN.
  """
  _check_pair(reference, estimate)
  s = np.asarray(reference, np.float64).ravel()
  t = np.asarray(estimate, np.float64).ravel()
  energy = s @ s
  if not energy:
    return float('nan')
  target = (t @ s) / energy * s
  error = np.sum((target - t) ** 2)
  if not error:
    return float('inf')
  with np.errstate(divide='ignore'):
    return float(10 * np.log10(np.sum(target**2) / error))


def codebook_use(counts: np.ndarray) -> dict[str, np.ndarray]:
  """How evenly each level's codebook is used, from code counts [levels, codebook_size].

  Returns:
    'entropy_bits' [levels]: of the code histogram; 'perplexity' [levels] = 2 ** entropy;
    'used_share' [levels]: codes seen at least once; 'unused_share' [levels] = 1 - used_share, the
    dead codes. A short recording cannot use every code: with N frames no share used exceeds
    N / codebook_size; see `unseen_by_chance`.
  """
  p = counts / counts.sum(1, keepdims=True)
  entropy = scipy.special.entr(p).sum(1) / np.log(2)
  used = np.count_nonzero(counts, axis=1) / counts.shape[1]
  return {
    'entropy_bits': entropy,
    'perplexity': 2**entropy,
    'used_share': used,
    'unused_share': 1 - used,
  }


def unseen_by_chance(num_frames: int, codebook_size: int) -> float:
  """Share of codes that N frames miss although all are equally likely: (1 - 1 / size) ** N."""
  return (1 - 1 / codebook_size) ** num_frames


def _mel_levels(audio: np.ndarray, sample_rate: int) -> list[np.ndarray]:
  """dB [frames, bands] of every window and channel."""
  levels = []
  for window in MEL_WINDOWS:
    filters = spectra.mel_filters(sample_rate, window, window // _BINS_PER_MEL)
    levels += [
      spectra.decibels(
        spectra.magnitudes(channel, window, window // 4) @ filters, MEL_FLOOR_DB
      ).astype(np.float32)
      for channel in audio.T
    ]
  return levels


def _magnitudes(audio: np.ndarray) -> list[np.ndarray]:
  """[frames, bins] of every window and channel."""
  return [
    spectra.magnitudes(channel, window, window // 4)
    for window in STFT_WINDOWS
    for channel in audio.T
  ]


def _level_distance(reference: list[np.ndarray], estimate: list[np.ndarray]) -> float:
  return float(np.mean([np.mean(np.abs(s - t)) for s, t in zip(reference, estimate)]))


def _spectral_distance(reference: list[np.ndarray], estimate: list[np.ndarray]) -> float:
  floor = np.float32(10 ** (MEL_FLOOR_DB / 20))
  distances = []
  for s, t in zip(reference, estimate):
    convergence = np.linalg.norm(s - t) / max(np.linalg.norm(s), floor)
    log_term = np.mean(np.abs(np.log(np.maximum(s, floor) / np.maximum(t, floor))))
    distances.append(convergence + log_term)
  return float(np.mean(distances))


def _loudness(audio: np.ndarray, sample_rate: int) -> float:
  return max(signal_health.loudness_lufs(audio, sample_rate), SILENCE_LUFS)


def _check_pair(reference: np.ndarray, estimate: np.ndarray):
  if reference.shape != estimate.shape or reference.ndim != 2:
    raise ValueError(
      f'Audio of shapes {reference.shape} and {estimate.shape} cannot be compared; both are '
      '[samples, channels] of one shape.'
    )
