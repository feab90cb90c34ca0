"""Names the channels of a file, and mixes them down to stereo by ITU-R BS.775.

Channels are named as FFmpeg names them (FL, FR, FC, LFE, BL, BR, SL, SR, BC ...), in the order of
the file. BS.775-4, annex 4: the front left and right stay, the centre and the surrounds come in at
-3 dB, a single rear channel at -6 dB on each side, and the LFE is left out. The result is divided
by the sum of a row's factors, so that nothing exceeds full scale that did not before.
"""

import math

import numpy as np

_HALF_POWER = math.sqrt(0.5)
# Factor for its own side. BS.775 has the first two or three; the others are placed likewise.
_PAIRS = {
  ('FL', 'FR'): 1.0,
  ('SL', 'SR'): _HALF_POWER,
  ('BL', 'BR'): _HALF_POWER,
  ('FLC', 'FRC'): 1.0,
  ('WL', 'WR'): _HALF_POWER,
  ('SDL', 'SDR'): _HALF_POWER,
  ('TFL', 'TFR'): _HALF_POWER,
  ('TBL', 'TBR'): _HALF_POWER,
  ('TSL', 'TSR'): _HALF_POWER,
  ('BFL', 'BFR'): _HALF_POWER,
}
# Factor for both sides.
_MIDDLE = {'FC': _HALF_POWER, 'BC': 0.5, 'TC': 0.5, 'TFC': 0.5, 'TBC': 0.5, 'BFC': 0.5}
_LEFT_OUT = ('LFE', 'LFE2')
# The order of WAVE and FLAC where a file does not say which channels it has.
_USUAL = {
  3: 'FL FR FC',
  4: 'FL FR BL BR',
  5: 'FL FR FC BL BR',
  6: 'FL FR FC LFE BL BR',
  7: 'FL FR FC LFE BC SL SR',
  8: 'FL FR FC LFE BL BR SL SR',
}
# Vorbis I, 4.3.9; Opus with mapping family 1 is the same (RFC 7845, 5.1.1.2).
_VORBIS = {
  3: 'FL FC FR',
  4: 'FL FR BL BR',
  5: 'FL FC FR BL BR',
  6: 'FL FC FR BL BR LFE',
  7: 'FL FC FR SL SR BC LFE',
  8: 'FL FC FR SL SR BL BR LFE',
}
ASSUMED = 'assumed '
UNKNOWN = 'unknown'


def layout_text(names: list[str] | None, channels: int) -> str:
  """Returns a layout as text: its names, 'assumed ...' with the usual ones, 'unknown', or ''.

  Args:
    names: of the channels in the order of the file; None or unnamed where the file does not say.
    channels: number of channels; up to two need no layout and give ''.
  """
  if channels <= 2:
    return ''
  if names and len(names) == channels and all(map(_is_known, names)) and _has_front(names):
    return ' '.join(names)
  if names and any(name != 'NONE' for name in names):
    return UNKNOWN
  return ASSUMED + _USUAL[channels] if channels in _USUAL else UNKNOWN


def vorbis_layout(channels: int) -> str:
  """Returns the layout of Vorbis and Opus streams, whose order differs from that of WAVE."""
  return '' if channels <= 2 else _VORBIS.get(channels, UNKNOWN)


def _is_known(name: str) -> bool:
  return name in _MIDDLE or name in _LEFT_OUT or any(name in pair for pair in _PAIRS)


def _has_front(names: list[str]) -> bool:
  return len(set(names)) == len(names) and not set(names) <= set(_LEFT_OUT)


def describe(layout: str) -> str:
  """Says how the channels of a layout are mixed down; '' for a file of one or two."""
  if not layout:
    return ''
  if layout == UNKNOWN:
    return 'unknown channel layout: both sides are the mean of all channels'
  if layout.startswith(ASSUMED):
    order = layout.removeprefix(ASSUMED)
    return f'downmixed to stereo by ITU-R BS.775; the file names no channels, assumed {order}'
  return f'downmixed to stereo by ITU-R BS.775 from {layout}'


def downmix_matrix(layout: str, channels: int) -> np.ndarray:
  """Returns factors [channels, 2] float32 for left and right; columns sum to at most 1.

  Args:
    layout: of `layout_text` or `vorbis_layout`.
    channels: number of channels.
  """
  names = layout.removeprefix(ASSUMED).split()
  if len(names) != channels:
    return np.full([channels, 2], 1 / channels, np.float32)
  matrix = np.zeros([channels, 2])
  for row, name in enumerate(names):
    if name in _MIDDLE:
      matrix[row] = _MIDDLE[name]
    for pair, factor in _PAIRS.items():
      if name in pair:
        matrix[row, pair.index(name)] = factor
  return (matrix / matrix.sum(axis=0).max()).astype(np.float32)
