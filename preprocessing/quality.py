"""Is a file fit to learn from? One pass over its samples, thresholds, and a reason for each no."""

import contextlib
import dataclasses
import math
import os
import typing
from collections.abc import Callable, Sequence

import numpy as np

from models.figures import apart, percent_apart
from preprocessing import audio, measurement
from preprocessing.measurement import Measurement

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
  'band_limited': 'nothing above a frequency, as of an upsampled source',
  'not_stereo': 'one channel where stereo is asked for',
  'true_mono': 'two channels that are one, where stereo is asked for',
  'not_finite': 'NaN or infinite samples',
  'silent': 'nothing, or almost nothing, to be heard',
  'too_quiet': 'a level below the limit',
  'clipped': 'too many samples in a row that were cut off at full scale',
  'spikes': 'a few samples far above all others: a click, or damaged data',
  'dc_offset': 'the wave is far off the zero line',
  'licence': 'a licence outside of the policy',
  'duplicate': 'the same recording is there already',
  'dropped': 'left out by a change to the manifest',
  'failed': 'an error of the program, not of the file; tried again at the next run',
}

# MP3, Vorbis and Opus bring clipped music to at most 1.4 times full scale.
_CODEC_OVERSHOOT = 1.5


@dataclasses.dataclass(frozen=True)
class QualityLimits:
  """What is let in.

  Attributes:
    min_secs: shortest file.
    max_secs: longest file; None for no limit.
    min_sample_rate: Hz.
    min_bandwidth_hz: the long-term spectrum must reach this far.
    require_stereo: whether mono files, and stereo files that are mono in truth, are set aside.
    mono_side_db: the side of a stereo file that is mono in truth lies this far below the mid.
    truncation_secs: a file may lack this much of what its header promises.
    silence_dbfs: windows of 0.5 s whose RMS lies below are silent.
    max_silent_share: of the windows.
    max_clipped_share: of the samples that lie in runs at full scale.
    max_dc_offset: absolute mean of a channel, full scale being 1.
    min_level_dbfs: least RMS of the whole file.
    max_spike_db: the largest sample may lie this far above all but the 32 largest ones.

  Levels are those that are used: a file beyond full scale is judged as if it were scaled down to
  it, as preparation does.
  """

  min_secs: float = 4.0
  max_secs: float | None = None
  min_sample_rate: int = 16_000
  min_bandwidth_hz: float = 4000.0
  require_stereo: bool = False
  mono_side_db: float = -60.0
  truncation_secs: float = 0.25
  silence_dbfs: float = -60.0
  max_silent_share: float = 0.9
  max_clipped_share: float = 0.01
  max_dc_offset: float = 0.1
  min_level_dbfs: float = -50.0
  max_spike_db: float = 20.0

  def check(self):
    """Raises ValueError for limits that no file or every file would meet."""
    for name, least, most in (
      ('min_secs', 0, 3600), ('min_sample_rate', 1, 192_000), ('min_bandwidth_hz', 0, 96_000),
      ('truncation_secs', 0, 3600), ('silence_dbfs', -200, 0), ('max_silent_share', 0, 1),
      ('max_clipped_share', 0, 1), ('max_dc_offset', 0, 1), ('min_level_dbfs', -200, 0),
      ('mono_side_db', -200, 0), ('max_spike_db', 0, 1000),
    ):  # fmt: skip
      value = getattr(self, name)
      if not least <= value <= most:
        raise ValueError(f'The limit {name}={value} is not in {least}..{most}.')
    if self.max_secs is not None and not self.max_secs > self.min_secs:
      raise ValueError(f'The limit max_secs={self.max_secs} is not above min_secs={self.min_secs}.')


DEFAULT_LIMITS = QualityLimits()


def parse_limits(settings: Sequence[str], **values) -> QualityLimits:
  """Limits from words such as 'max_clipped_share=0.02'; 'max_secs=none' takes a limit away.

  Args:
    settings: words of the form name=value.
    **values: limits that hold where no word names them.

  Raises:
    ValueError: an unknown name, or a value that is not of its type or range.
  """
  types = typing.get_type_hints(QualityLimits)
  for setting in settings:
    name, _, text = setting.partition('=')
    if name not in types or not text:
      raise ValueError(f'{setting!r} is not of the form LIMIT=VALUE; limits are {sorted(types)}.')
    if name == 'max_secs' and text.lower() == 'none':
      values[name] = None
      continue
    if types[name] is bool:
      if text.lower() not in ('true', 'false'):
        raise ValueError(f'{setting!r}: {name} is true or false.')
      values[name] = text.lower() == 'true'
      continue
    try:
      values[name] = int(text) if types[name] is int else float(text)
    except ValueError as error:
      raise ValueError(f'{setting!r}: {text!r} is not a number.') from error
  limits = QualityLimits(**values)
  limits.check()
  return limits


def measure(
  path: str,
  sample_rate: int,
  limits: QualityLimits = DEFAULT_LIMITS,
  listener: Callable[[np.ndarray], None] | None = None,
) -> Measurement:
  """`measurement.measure` at the thresholds of the limits."""
  return measurement.measure(
    path,
    sample_rate,
    silence_dbfs=limits.silence_dbfs,
    mono_side_db=limits.mono_side_db,
    listener=listener,
  )


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
      'too_long',
      f'{apart(header.duration_secs, limits.max_secs, 1)} s; at most {limits.max_secs:g} s',
    )
  if not header.complete:
    raise audio.AudioError('truncated', 'the stream has no end mark')


def check_measurement(
  found: Measurement, header: audio.AudioHeader, limits: QualityLimits = DEFAULT_LIMITS
):
  """Raises AudioError with the first reason for which a measured file is set aside."""
  told = 0.0 if header.estimated else header.duration_secs
  promised = max(header.promised_secs or 0.0, told)
  secs = found.duration_secs
  if not found.finite:
    sample = round(secs * header.sample_rate)
    raise audio.AudioError('not_finite', f'NaN or infinity at {secs:.4f} s (sample {sample})')
  if secs < promised - limits.truncation_secs:
    raise audio.AudioError(
      'truncated', f'{apart(secs, promised, 2)} s decoded of {promised:.2f} s promised'
    )
  if secs < limits.min_secs:
    raise audio.AudioError(
      'too_short', f'{apart(secs, limits.min_secs, 2)} s; at least {limits.min_secs:g} s'
    )
  if limits.max_secs is not None and secs > limits.max_secs:
    raise audio.AudioError(
      'too_long', f'{apart(secs, limits.max_secs, 1)} s; at most {limits.max_secs:g} s'
    )
  _check_level(found, header, limits)
  if found.bandwidth_hz < limits.min_bandwidth_hz:
    least = limits.min_bandwidth_hz
    raise audio.AudioError(
      'band_limited',
      f'nothing above {apart(found.bandwidth_hz, least, 0)} Hz; at least {least:g} Hz',
    )
  if limits.require_stereo and found.true_mono:
    raise audio.AudioError(
      'true_mono', f'side {found.side_db:.0f} dB against mid, or one channel is silent'
    )


def _check_level(found: Measurement, header: audio.AudioHeader, limits: QualityLimits):
  """Raises AudioError for a level, clicks, clipping or an offset outside of the limits."""
  scaled = f' after its peak of {found.peak:.4g} is scaled to 1' if found.peak > 1 else ''
  if found.silent_share > limits.max_silent_share:
    share = percent_apart(found.silent_share, limits.max_silent_share)
    raise audio.AudioError(
      'silent',
      f'{share} of the file lies below {limits.silence_dbfs:g} dBFS{scaled}; '
      f'at most {100 * limits.max_silent_share:.4g}%',
    )
  if found.spike_db > limits.max_spike_db:
    raise audio.AudioError(
      'spikes',
      f'a sample of {found.peak:.4g} at {found.peak_secs:.4f} s, '
      f'{apart(found.spike_db, limits.max_spike_db, 0)} dB above all but 32 samples; at most '
      f'{limits.max_spike_db:g} dB. The level follows the largest sample: cut the click out',
    )
  level = found.rms_dbfs - 20 * math.log10(found.over_scale)
  if level < limits.min_level_dbfs:
    least = limits.min_level_dbfs
    raise audio.AudioError(
      'too_quiet', f'RMS {apart(level, least, 1)} dBFS{scaled}; at least {least:g} dBFS'
    )
  if (clipped := clipped_share(found, header)) > limits.max_clipped_share:
    share = percent_apart(clipped, limits.max_clipped_share, 1)
    raise audio.AudioError(
      'clipped', f'{share} of the samples cut off at full scale; at most '
      f'{100 * limits.max_clipped_share:.4g}%',
    )  # fmt: skip
  offset = found.dc_offset / found.over_scale
  if offset > limits.max_dc_offset:
    raise audio.AudioError(
      'dc_offset',
      f'mean {apart(offset, limits.max_dc_offset, 3)}{scaled}; at most {limits.max_dc_offset:g}',
    )


def clipped_share(found: Measurement, header: audio.AudioHeader) -> float:
  """Returns the share of the samples that were cut off at full scale.

  A floating-point file may exceed full scale and be undamaged. There, and in a lossy file
  beyond the overshoot of a clipped signal, only runs of equal samples count.
  """
  floating = header.subtype in ('FLOAT', 'DOUBLE') or header.subtype.startswith('PCM_F')
  if found.peak > 1 and (floating or found.robust_peak > _CODEC_OVERSHOOT):
    return found.flat_share
  return found.clipped_share


@contextlib.contextmanager
def unchanged(path: str):
  """Raises AudioError 'changed' where the file is written to while the block runs."""
  before = _state(path)
  try:
    yield
  finally:
    # A file that changes fails in any way; what is told is that it changed.
    if _state(path) != before:
      raise audio.AudioError('changed', f'{path} changed while it was read')


def _state(path: str):
  try:
    status = os.stat(path)
  except OSError:
    return None
  return status.st_size, status.st_mtime_ns, status.st_ino


def examine(
  path: str,
  limits: QualityLimits = DEFAULT_LIMITS,
  listener: Callable[[np.ndarray], None] | None = None,
) -> tuple[audio.AudioHeader, Measurement]:
  """Header and measurement of a file that passes every check.

  Args:
    path: of the file.
    limits: of quality.
    listener: is given each decoded block [n, 1 or 2].

  Raises:
    audio.AudioError: the reason why it does not.
  """
  with unchanged(path):
    header = audio.read_header(path)
    return header, examine_as(path, header, limits, listener)


def examine_as(
  path: str,
  header: audio.AudioHeader,
  limits: QualityLimits = DEFAULT_LIMITS,
  listener: Callable[[np.ndarray], None] | None = None,
) -> Measurement:
  """`examine` for samples that lie elsewhere than the header: `audio.decodable` made them."""
  check_header(header, limits)
  found = measure(path, header.sample_rate, limits, listener)
  check_measurement(found, header, limits)
  return found
