"""Figures in messages: rounded, but never so far that a comparison reads as if it were none."""

import math

_MOST_DIGITS = 12


def apart(value: float, limit: float, digits: int = 0) -> str:
  """`value` with `digits` decimals, or with as many more as make it differ from `limit`.

  3.996 s that miss a limit of 4 s are '3.996', not '4.00'. Equal numbers get `digits` decimals.
  """
  if value == limit or not (math.isfinite(value) and math.isfinite(limit)):
    return f'{value:.{digits}f}'
  for places in range(digits, _MOST_DIGITS):
    if f'{value:.{places}f}' != f'{limit:.{places}f}':
      return f'{value:.{places}f}'
  return f'{value!r}'


def percent_apart(share: float, limit: float, digits: int = 0) -> str:
  """`apart` of two shares, in percent: '10.03%' for 0.1003 against 0.1."""
  return f'{apart(100 * share, 100 * limit, digits)}%'
