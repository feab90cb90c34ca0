"""Rounds figures for messages, never so far that two that differ look equal."""

import math

_MOST_DIGITS = 12


def apart(value: float, limit: float, digits: int = 0) -> str:
  """Formats `value` with `digits` decimals, or with more if it would look equal to `limit`.

  3.996 s that miss a limit of 4 s are '3.996', not '4.00'. Equal numbers get `digits` decimals.
  """
  if value == limit or not (math.isfinite(value) and math.isfinite(limit)):
    return f'{value:.{digits}f}'
  for places in range(digits, _MOST_DIGITS):
    if f'{value:.{places}f}' != f'{limit:.{places}f}':
      return f'{value:.{places}f}'
  return f'{value!r}'


def percent_apart(share: float, limit: float, digits: int = 0) -> str:
  """Formats two shares as `apart` does, in percent: '10.03%' for 0.1003 against 0.1."""
  return f'{apart(100 * share, 100 * limit, digits)}%'


def exact(value: float) -> str:
  """Formats a number with as many digits as identify it: '1.0000001', '2', '1e+22'."""
  return repr(float(value)).removesuffix('.0')


def hours(secs: float) -> str:
  """Formats a length of time in a unit in which it is not 0: '3 s', '12.5 min', '1.25 h'."""
  if secs < 60:
    return f'{secs:.3g} s'
  return f'{secs / 60:.3g} min' if secs < 3600 else f'{secs / 3600:,.2f} h'


def times(count: float) -> str:
  """Formats how often something happens: '0.04', '7.5', '1,200' times."""
  return f'{count:.2g}' if count < 1 else f'{count:.1f}' if count < 100 else f'{count:,.0f}'


def at_least(value: float, digits: int = 2) -> str:
  """Formats a positive number rounded up to `digits` significant digits: '0.13'."""
  if not 0 < value < math.inf:
    return exact(value)
  step = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
  # A number that has few digits already must not be raised by the last bit of a division.
  return f'{math.ceil(value / step - 1e-9) * step:.{digits}g}'
