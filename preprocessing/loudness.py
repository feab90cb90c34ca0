"""Integrated loudness by ITU-R BS.1770-4, block by block in constant memory."""

import math

import numpy as np
import scipy.signal

# Steps of 100 ms; four of them make a gating block of 400 ms, so blocks overlap by 75 %.
_STEP_SECS = 0.1
_STEPS_PER_BLOCK = 4
_ABSOLUTE_GATE_LUFS = -70.0
_RELATIVE_GATE_LU = -10.0
_OFFSET_DB = -0.691


def k_weighting(sample_rate: int) -> np.ndarray:
  """BS.1770-4's high shelf and high pass as second-order sections [2, 6], at any sample rate.

  The bilinear transform of the analog prototypes whose digital form at 48 kHz the standard tables.
  """
  k = math.tan(math.pi * 1681.974450955533 / sample_rate)
  q, gain = 0.7071752369554196, 10 ** (3.999843853973347 / 20)
  root = gain**0.4996667741545416
  a0 = 1 + k / q + k * k
  shelf = [gain + root * k / q + k * k, 2 * (k * k - gain), gain - root * k / q + k * k]
  shelf = [*(b / a0 for b in shelf), 1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]
  k = math.tan(math.pi * 38.13547087602444 / sample_rate)
  q = 0.5003270373238773
  a0 = 1 + k / q + k * k
  # The standard gives this numerator as 1, -2, 1 with no scaling.
  high_pass = [1.0, -2.0, 1.0, 1.0, 2 * (k * k - 1) / a0, (1 - k / q + k * k) / a0]
  return np.array([shelf, high_pass])


class LoudnessMeter:
  """Takes blocks of a signal in order and gives its integrated loudness.

  One channel counts as two equal ones: mono becomes stereo before it is used.
  """

  def __init__(self, sample_rate: int, channels: int):
    self._sections = k_weighting(sample_rate)
    self._state = np.zeros([len(self._sections), 2, channels])
    self._step = max(1, round(_STEP_SECS * sample_rate))
    self._rest = np.zeros([0])
    self._weight = 2.0 if channels == 1 else 1.0
    self._powers: list[np.ndarray] = []

  def add(self, block: np.ndarray):
    """Adds [n, channels] samples, of any n."""
    weighted, self._state = scipy.signal.sosfilt(self._sections, block, axis=0, zi=self._state)
    power = np.square(weighted[:, 0])
    for channel in weighted.T[1:]:
      power += np.square(channel)
    squares = np.concatenate([self._rest, power])
    whole = len(squares) // self._step * self._step
    self._powers.append(squares[:whole].reshape(-1, self._step).mean(axis=1))
    self._rest = squares[whole:]

  def loudness_lufs(self) -> float:
    """-inf for less than a block of 400 ms, or where all is below the gate of -70 LUFS."""
    steps = np.concatenate(self._powers) if self._powers else np.zeros([0])
    if len(steps) < _STEPS_PER_BLOCK:
      return -math.inf
    kernel = np.full(_STEPS_PER_BLOCK, self._weight / _STEPS_PER_BLOCK)
    power = np.convolve(steps, kernel, mode='valid')
    power = power[power > _power(_ABSOLUTE_GATE_LUFS)]
    if not len(power):
      return -math.inf
    gate = power.mean() * 10 ** (_RELATIVE_GATE_LU / 10)
    return _OFFSET_DB + 10 * math.log10(power[power > gate].mean())


def _power(lufs: float) -> float:
  return 10 ** ((lufs - _OFFSET_DB) / 10)
