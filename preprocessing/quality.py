"""Is a file fit to learn from? One pass over its samples, thresholds, and a reason for each no."""

import dataclasses
import math

import numpy as np

from preprocessing import audio

REASONS = {
  'unreadable': 'the file cannot be opened',
  'empty_file': 'the file has no bytes',
  'not_audio': 'no decoder takes the file',
  'unsupported_format': 'an audio format that is not decoded here',
  'decode_error': 'the decoder fails on the way',
  'truncated': 'the file ends before its header says',
  'changed': 'the content is no longer what the manifest says',
  'too_short': 'shorter than the shortest clip',
  'too_long': 'longer than the limit',
  'low_sample_rate': 'a sample rate below the limit',
  'not_stereo': 'mono where stereo is asked for',
  'not_finite': 'NaN or infinite samples',
  'silent': 'nothing, or almost nothing, to be heard',
  'clipped': 'too many samples at full scale in a row',
  'dc_offset': 'the wave is far off the zero line',
  'failed': 'an error of the program, not of the file; tried again at the next run',
}

# A sample at this level with such neighbours on both sides was cut off at full scale.
_FULL_SCALE = 0.999
_CLIPPED_RUN = 3
_SILENCE_WINDOW_SECS = 0.5


@dataclasses.dataclass(frozen=True)
class QualityLimits:
  """What is let in.

  Attributes:
    min_secs: shortest file.
    max_secs: longest file; None for no limit.
    min_sample_rate: Hz.
    require_stereo: whether mono files are set aside.
    truncation_secs: a file may lack this much of what its header promises.
    silence_dbfs: windows of 0.5 s whose RMS lies below are silent.
    max_silent_share: of the windows.
    max_clipped_share: of the samples that lie in runs at full scale.
    max_dc_offset: absolute mean of a channel, full scale being 1.
  """

  min_secs: float = 4.0
  max_secs: float | None = None
  min_sample_rate: int = 16_000
  require_stereo: bool = False
  truncation_secs: float = 0.25
  silence_dbfs: float = -60.0
  max_silent_share: float = 0.9
  max_clipped_share: float = 0.01
  max_dc_offset: float = 0.1


DEFAULT_LIMITS = QualityLimits()


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
    true_mono: whether all channels are equal.
  """

  duration_secs: float
  peak: float
  rms_dbfs: float
  dc_offset: float
  clipped_share: float
  silent_share: float
  finite: bool
  true_mono: bool


def measure(path: str, sample_rate: int, limits: QualityLimits = DEFAULT_LIMITS) -> Measurement:
  """Decodes a file block by block in constant memory and measures it.

  Raises:
    audio.AudioError: the decoder fails.
  """
  window = max(1, round(_SILENCE_WINDOW_SECS * sample_rate))
  frames = clipped = silent = windows = 0
  peak, energy, total, mono = 0.0, 0.0, 0.0, True
  for block in audio.read_blocks(path):
    if not np.isfinite(block).all():
      return Measurement(frames / sample_rate, math.nan, math.nan, math.nan, 0.0, 0.0, False, mono)
    frames += len(block)
    magnitude = np.abs(block)
    peak = max(peak, float(magnitude.max()))
    squares = np.square(block, dtype=np.float32).mean(axis=1)
    energy += float(squares.sum(dtype=np.float64))
    total = total + block.sum(axis=0, dtype=np.float64)
    clipped += _clipped_samples(magnitude)
    levels = np.add.reduceat(squares, np.arange(0, len(squares), window)) / window
    silent += int((levels < 10 ** (limits.silence_dbfs / 10)).sum())
    windows += len(levels)
    mono = mono and bool((block == block[:, :1]).all())
  count = max(1, frames)
  channels = np.size(total)
  return Measurement(
    duration_secs=frames / sample_rate,
    peak=peak,
    rms_dbfs=10 * math.log10(energy / count) if energy else -math.inf,
    dc_offset=float(np.abs(total).max() / count),
    clipped_share=clipped / (count * channels),
    silent_share=silent / windows if windows else 1.0,
    finite=True,
    true_mono=mono,
  )


def _clipped_samples(magnitude: np.ndarray) -> int:
  """Samples that lie inside runs of `_CLIPPED_RUN` or more at full scale."""
  full = magnitude >= _FULL_SCALE
  if not full.any() or len(full) < _CLIPPED_RUN:
    return 0
  centre = full[:-2] & full[1:-1] & full[2:]
  inside = np.zeros_like(full)
  for shift in range(_CLIPPED_RUN):
    inside[shift : len(full) - 2 + shift] |= centre
  return int(inside.sum())


def check_header(header: audio.AudioHeader, limits: QualityLimits = DEFAULT_LIMITS):
  """Raises AudioError for what a header alone rules out."""
  if header.sample_rate < limits.min_sample_rate:
    raise audio.AudioError(
      'low_sample_rate', f'{header.sample_rate} Hz; at least {limits.min_sample_rate} Hz'
    )
  if limits.require_stereo and header.channels < 2:
    raise audio.AudioError('not_stereo', f'{header.channels} channel')
  if limits.max_secs is not None and header.duration_secs > limits.max_secs:
    raise audio.AudioError(
      'too_long', f'{header.duration_secs:.1f} s; at most {limits.max_secs:g} s'
    )
  if not header.complete:
    raise audio.AudioError('truncated', 'the stream has no end mark')


def check_measurement(
  found: Measurement, header: audio.AudioHeader, limits: QualityLimits = DEFAULT_LIMITS
):
  """Raises AudioError with the first reason for which a measured file is set aside."""
  promised = max(header.promised_secs or 0.0, header.duration_secs)
  if not found.finite:
    raise audio.AudioError('not_finite', f'NaN or infinity after {found.duration_secs:.1f} s')
  if found.duration_secs < promised - limits.truncation_secs:
    raise audio.AudioError(
      'truncated', f'{found.duration_secs:.2f} s decoded of {promised:.2f} s promised'
    )
  if found.duration_secs < limits.min_secs:
    raise audio.AudioError(
      'too_short', f'{found.duration_secs:.2f} s; at least {limits.min_secs:g} s'
    )
  if found.silent_share > limits.max_silent_share:
    raise audio.AudioError(
      'silent', f'{found.silent_share:.0%} of the file lies below {limits.silence_dbfs:g} dBFS'
    )
  if found.dc_offset > limits.max_dc_offset:
    raise audio.AudioError(
      'dc_offset', f'mean {found.dc_offset:.3f}; at most {limits.max_dc_offset:g}'
    )
  if found.clipped_share > limits.max_clipped_share:
    raise audio.AudioError(
      'clipped',
      f'{found.clipped_share:.1%} of the samples at full scale; '
      f'at most {limits.max_clipped_share:.1%}',
    )


def examine(
  path: str, limits: QualityLimits = DEFAULT_LIMITS
) -> tuple[audio.AudioHeader, Measurement]:
  """Header and measurement of a file that passes every check.

  Raises:
    audio.AudioError: the reason why it does not.
  """
  header = audio.read_header(path)
  check_header(header, limits)
  found = measure(path, header.sample_rate, limits)
  check_measurement(found, header, limits)
  return header, found
