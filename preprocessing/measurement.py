"""What one pass over a file's samples finds: length, level, loudness, clipping, bandwidth, stereo.

Measured is what would be used: files of more than two channels by their first two.
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

  Attributes:
    duration_secs: decoded length.
    peak: largest absolute sample.
    rms_dbfs: level of the whole file, -inf for digital silence.
    dc_offset: largest absolute mean of a channel.
    clipped_share: share of samples in runs at full scale.
    silent_share: share of silent windows.
    finite: whether all samples are numbers.
    true_mono: whether the channels are equal but for the limit, or one of them is silent.
    loudness_lufs: integrated loudness (BS.1770-4) as stereo; -inf for silence.
    side_db: energy of left - right against left + right; -inf for equal channels.
    bandwidth_hz: the highest frequency with signal: the long-term spectrum lies more than 80 dB
      below its maximum from there on.
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
  frames = clipped = silent = windows = 0
  peak, side, total, energy = 0.0, 0.0, np.zeros([1]), np.zeros([1])
  loudness = spectrum = None
  for block in audio.read_blocks(path):
    block = block[:, :2]
    if not np.isfinite(block).all():
      return Measurement(frames / sample_rate, math.nan, math.nan, math.nan, 0.0, 0.0, False, False)
    if loudness is None:
      loudness = LoudnessMeter(sample_rate, block.shape[1])
      spectrum = _LongTermSpectrum(sample_rate)
    # Channels first: NumPy reduces long rows many times faster than narrow ones.
    x = np.ascontiguousarray(block.T)
    frames += x.shape[1]
    magnitude = np.abs(x)
    peak = max(peak, float(magnitude.max()))
    squares = np.square(x)
    energy = energy + squares.sum(axis=1, dtype=np.float64)
    total = total + x.sum(axis=1, dtype=np.float64)
    side += float(np.square(x[0] - x[-1]).sum(dtype=np.float64))
    clipped += _clipped_samples(magnitude)
    mean = (squares[0] + squares[-1]) / 2
    levels = np.add.reduceat(mean, np.arange(0, len(mean), window)) / window
    silent += int((levels < 10 ** (silence_dbfs / 10)).sum())
    windows += len(levels)
    loudness.add(block)
    spectrum.add((x[0] + x[-1]) / 2)
    if listener is not None:
      listener(block)
  count, channels = max(1, frames), len(total)
  power = float(energy.mean()) / count
  side_db = _side_db(side, energy)
  return Measurement(
    duration_secs=frames / sample_rate,
    peak=peak,
    rms_dbfs=_decibels(power),
    dc_offset=float(np.abs(total).max() / count),
    clipped_share=clipped / (count * channels),
    silent_share=silent / windows if windows else 1.0,
    finite=True,
    true_mono=side_db <= mono_side_db or _decibels(float(energy.min()) / count)
    <= _decibels(float(energy.max()) / count) + mono_side_db,
    loudness_lufs=loudness.loudness_lufs() if loudness else -math.inf,
    side_db=side_db,
    bandwidth_hz=spectrum.bandwidth_hz() if spectrum else 0.0,
  )


def _side_db(side: float, energy: np.ndarray) -> float:
  """Energy of the difference against that of the sum, by |l + r|^2 = 2 l^2 + 2 r^2 - |l - r|^2."""
  if not side:
    return -math.inf
  middle = 4 * float(energy.mean()) - side
  return _decibels(side / middle) if middle > 0 else math.inf


def _clipped_samples(magnitude: np.ndarray) -> int:
  """Of [channels, n], samples that lie inside runs of `_CLIPPED_RUN` or more at full scale."""
  full = magnitude >= _FULL_SCALE
  if not full.any() or full.shape[1] < _CLIPPED_RUN:
    return 0
  centre = full[:, :-2] & full[:, 1:-1] & full[:, 2:]
  inside = np.zeros_like(full)
  for shift in range(_CLIPPED_RUN):
    inside[:, shift : full.shape[1] - 2 + shift] |= centre
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
