"""Measures a file in one pass: length, level, loudness, clipping, bandwidth, stereo.

Of more than two channels the stereo downmix is measured, which is what would be used.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from preprocessing import audio
from preprocessing.loudness import LoudnessMeter

# A sample at this level with such neighbours on both sides was cut off at full scale.
_FULL_SCALE = 0.999
_CLIPPED_RUN = 3
# No sound consists of so few samples: a click of two channels after resampling does.
_SPIKE_SAMPLES = 32
# Squares and spectra of larger samples are taken in 64 bits.
_SQUARES_FIT = 1e6
_SILENCE_WINDOW_SECS = 0.5
_SPECTRUM_SIZE = 4096
# One spectrum of four is enough for a long-term average.
_SPECTRUM_STRIDE = 4
_BANDWIDTH_SMOOTHING_HZ = 100
# What lies this far below the strongest part of the spectrum is not counted as signal.
BANDWIDTH_FLOOR_DB = -80.0


@dataclasses.dataclass(frozen=True)
class Measurement:
  """What one pass over a file finds.

  Full scale is 1. A file of floating-point samples may exceed it and be whole: `over_scale` is the
  factor by which it does, and levels are judged as if it were scaled down to full scale.

  Attributes:
    duration_secs: decoded length; where `finite` is False, the place of the first NaN or infinity.
    peak: largest absolute sample.
    rms_dbfs: level of the whole file, -inf for digital silence.
    dc_offset: largest absolute mean of a channel.
    clipped_share: share of samples in runs at full scale or beyond it.
    silent_share: share of silent windows, after scaling down to full scale.
    finite: whether all samples are numbers.
    true_mono: whether the channels are equal but for the limit, or one of them is silent.
    loudness_lufs: integrated loudness (BS.1770-4) as stereo; -inf for silence.
    side_db: energy of left - right against left + right; -inf for equal channels.
    bandwidth_hz: the highest frequency with signal: the long-term spectrum lies more than 80 dB
      below its maximum from there on.
    robust_peak: largest absolute sample but for the 32 largest ones, which may be a click.
    peak_secs: place of the first sample of magnitude `peak`.
    flat_share: share of samples in runs of equal ones at full scale or beyond it.
  """

  duration_secs: float
  peak: float
  rms_dbfs: float
  dc_offset: float
  clipped_share: float
  silent_share: float
  finite: bool
  true_mono: bool
  loudness_lufs: float = -math.inf
  side_db: float = -math.inf
  bandwidth_hz: float = 0.0
  robust_peak: float = 0.0
  peak_secs: float = 0.0
  flat_share: float = 0.0

  @property
  def over_scale(self) -> float:
    """Returns the factor by which the peak exceeds full scale, at least 1."""
    return max(1.0, self.peak)

  @property
  def spike_db(self) -> float:
    """Returns how far the peak is above all but the 32 largest samples; 0 for silence."""
    if not self.peak > 0:
      return 0.0
    return 20 * math.log10(self.peak / self.robust_peak) if self.robust_peak > 0 else math.inf


def measure(
  path: str,
  sample_rate: int,
  *,
  silence_dbfs: float = -60.0,
  mono_side_db: float = -60.0,
  listener: Callable[[np.ndarray], None] | None = None,
) -> Measurement:
  """Decodes a file block by block in constant memory and measures it.

  Args:
    path: of the file.
    sample_rate: of the file, Hz.
    silence_dbfs: windows of 0.5 s whose RMS lies below are silent.
    mono_side_db: stereo whose side lies below, against the mid, is true mono.
    listener: is given each block [n, 1 or 2] too, so that one decoding serves both.

  Raises:
    audio.AudioError: the decoder fails.
  """
  window = max(1, round(_SILENCE_WINDOW_SECS * sample_rate))
  frames = 0
  side, total, energy = 0.0, np.zeros([1]), np.zeros([1])
  clipped, flat, peaks, windows = 0, 0, _Peaks(), [np.zeros([0])]
  loudness = spectrum = None
  for block in audio.read_blocks(path):
    if (place := first_not_finite(block)) is not None:
      place_secs = (frames + place) / sample_rate
      return Measurement(place_secs, math.nan, math.nan, math.nan, 0.0, 0.0, False, False)
    if loudness is None:
      loudness = LoudnessMeter(sample_rate, block.shape[1])
      spectrum = _LongTermSpectrum(sample_rate)
    # Channels first: NumPy reduces long rows many times faster than narrow ones.
    x = np.ascontiguousarray(block.T)
    magnitude = np.abs(x)
    peaks.add(magnitude, frames)
    clipped += _in_runs(magnitude >= _FULL_SCALE)
    flat += _flat_samples(x, magnitude)
    frames += x.shape[1]
    # Squares of samples far beyond full scale exceed 32 bits.
    wide = x.astype(np.float64) if peaks.peak > _SQUARES_FIT else x
    squares = np.square(wide)
    energy = energy + squares.sum(axis=1, dtype=np.float64)
    total = total + x.sum(axis=1, dtype=np.float64)
    side += float(np.square(wide[0] - wide[-1]).sum(dtype=np.float64))
    mean = (squares[0] + squares[-1]) / 2
    windows.append(np.add.reduceat(mean, np.arange(0, len(mean), window)) / window)
    loudness.add(block)
    spectrum.add((wide[0] + wide[-1]) / 2)
    if listener is not None:
      listener(block)
  count, channels = max(1, frames), len(total)
  power = float(energy.mean()) / count
  side_db, robust_peak = _side_db(side, energy), peaks.robust_peak()
  # A click must not make the music beside it silence.
  silence = 10 ** (silence_dbfs / 10) * max(1.0, robust_peak) ** 2
  levels = np.concatenate(windows)
  return Measurement(
    duration_secs=frames / sample_rate,
    peak=peaks.peak,
    rms_dbfs=_decibels(power),
    dc_offset=float(np.abs(total).max() / count),
    clipped_share=clipped / (count * channels),
    silent_share=float((levels < silence).mean()) if len(levels) else 1.0,
    finite=True,
    true_mono=side_db <= mono_side_db or _decibels(float(energy.min()) / count)
    <= _decibels(float(energy.max()) / count) + mono_side_db,
    loudness_lufs=loudness.loudness_lufs() if loudness else -math.inf,
    side_db=side_db,
    bandwidth_hz=spectrum.bandwidth_hz() if spectrum else 0.0,
    robust_peak=robust_peak,
    peak_secs=peaks.peak_frame / sample_rate,
    flat_share=flat / (count * channels),
  )


def level(path: str, *, with_loudness: bool = True) -> tuple[float, float]:
  """Measures peak and loudness in LUFS of a whole file, equal to those of `measure`.

  Args:
    path: of the file.
    with_loudness: False leaves the loudness at -inf, which is quicker.

  Raises:
    audio.AudioError: the decoder fails.
  """
  peak, loudness = 0.0, None
  with audio.decodable(path) as local:
    sample_rate = audio.read_header(local).sample_rate
    for block in audio.read_blocks(local):
      peak = max(peak, float(np.abs(block).max()))
      if with_loudness:
        loudness = loudness or LoudnessMeter(sample_rate, block.shape[1])
        loudness.add(block)
  return peak, loudness.loudness_lufs() if loudness else -math.inf


def first_not_finite(block: np.ndarray) -> int | None:
  """Returns the index of the first row of [n, channels] with NaN or infinity, or None."""
  finite = np.isfinite(block)
  return None if finite.all() else int(np.argmin(finite.all(axis=1)))


def _side_db(side: float, energy: np.ndarray) -> float:
  """Energy of the difference against that of the sum, by |l + r|^2 = 2 l^2 + 2 r^2 - |l - r|^2."""
  if not side:
    return -math.inf
  middle = 4 * float(energy.mean()) - side
  return _decibels(side / middle) if middle > 0 else math.inf


class _Peaks:
  """The largest magnitudes of a signal, in constant memory."""

  def __init__(self):
    self.peak, self.peak_frame = 0.0, 0
    self._largest = np.zeros([0], np.float32)

  def add(self, magnitude: np.ndarray, first_frame: int):
    """Adds [channels, n], which begins at a frame."""
    peak = float(magnitude.max())
    if peak > self.peak:
      self.peak = peak
      self.peak_frame = first_frame + int(np.argmax(magnitude.max(axis=0)))
    wanted = _SPIKE_SAMPLES + 1
    least = self._largest[0] if len(self._largest) == wanted else np.float32(-1)
    self._largest = np.concatenate([self._largest, magnitude[magnitude > least]])
    if len(self._largest) > wanted:
      self._largest = np.partition(self._largest, -wanted)[-wanted:]

  def robust_peak(self) -> float:
    """The largest but for `_SPIKE_SAMPLES`; of a shorter signal, the smallest."""
    return float(self._largest.min()) if len(self._largest) else 0.0


def _flat_samples(x: np.ndarray, magnitude: np.ndarray) -> int:
  """Of [channels, n], samples that lie inside runs of equal ones at full scale or beyond."""
  if magnitude.max() < _FULL_SCALE:
    return 0
  # Runs of n equal samples are runs of n - 1 equal pairs.
  pairs = (magnitude[:, 1:] >= _FULL_SCALE) & (x[:, 1:] == x[:, :-1])
  return _in_runs(pairs, _CLIPPED_RUN - 1)


def _in_runs(true: np.ndarray, length: int = _CLIPPED_RUN) -> int:
  """Of [channels, n], how many lie inside runs of `length` or more."""
  count = true.shape[1] - length + 1
  if count < 1 or not true.any():
    return 0
  whole = np.logical_and.reduce([true[:, shift : shift + count] for shift in range(length)])
  inside = np.zeros_like(true)
  for shift in range(length):
    inside[:, shift : shift + count] |= whole
  return int(inside.sum())


class _LongTermSpectrum:
  """Average power spectrum of the mid signal, over one window in four."""

  def __init__(self, sample_rate: int):
    self._sample_rate = sample_rate
    self._window = np.hanning(_SPECTRUM_SIZE + 1)[:-1].astype(np.float32)
    self._power = np.zeros([_SPECTRUM_SIZE // 2 + 1])

  def add(self, middle: np.ndarray):
    stride = _SPECTRUM_SIZE * _SPECTRUM_STRIDE
    if len(middle) < _SPECTRUM_SIZE:
      return
    pieces = [middle[at : at + _SPECTRUM_SIZE] for at in range(0, len(middle), stride)]
    pieces = [piece for piece in pieces if len(piece) == _SPECTRUM_SIZE]
    spectra = np.fft.rfft(np.stack(pieces) * self._window, axis=1)
    self._power += np.square(np.abs(spectra)).sum(axis=0, dtype=np.float64)

  def bandwidth_hz(self) -> float:
    bin_hz = self._sample_rate / _SPECTRUM_SIZE
    width = max(1, round(_BANDWIDTH_SMOOTHING_HZ / bin_hz))
    smooth = np.convolve(self._power, np.full(width, 1 / width), mode='same')
    floor = smooth.max() * 10 ** (BANDWIDTH_FLOOR_DB / 10)
    above = np.flatnonzero(smooth > floor)
    return float(above[-1] * bin_hz) if len(above) else 0.0


def _decibels(power: float) -> float:
  return 10 * math.log10(power) if power > 0 else -math.inf
