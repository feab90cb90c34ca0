"""Whether a macro's new value is of the kind of the value that a run or model file gives it.

gin binds anything to anything: text in place of a number would end a run deep inside a library,
after minutes of reading.
"""

from collections.abc import Mapping
from typing import Any

# The unit of such macros is divisible, however their value in a file is written.
_SECONDS = '_SECS'


def mistake(name: str, value: Any, before: Any) -> str | None:
  """What is wrong with `value` in place of `before`; None where nothing is known to be.

  None switches things off and on, and references (@..., %...) may give anything: neither is judged.

  Args:
    name: of the macro.
    value: the new one.
    before: what the run or model file sets.
  """
  expected = _kind(name, before)
  if value is None or expected is None or _fits(value, expected):
    return None
  hint = ''
  if expected == 'a list' and _kind(name, value) is not None:
    hint = f' ({value!r} alone is ({value!r},))'
  return f'{name} = {value!r} must be {expected}, such as {before!r}{hint}.'


def _kind(name: str, value: Any) -> str | None:
  if isinstance(value, bool):
    return 'True or False'
  if isinstance(value, int) and not name.endswith(_SECONDS):
    return 'a whole number'
  if isinstance(value, int | float):
    return 'a number'
  if isinstance(value, str):
    return 'text in quotes'
  if isinstance(value, list | tuple):
    return 'a list'
  return 'a dict' if isinstance(value, Mapping) else None


def _fits(value: Any, expected: str) -> bool:
  given = _kind('', value)
  if given is None:
    return True
  if expected == 'a number':
    return given in ('a whole number', 'a number')
  if expected == 'text in quotes':  # Several names are often as good as one.
    return given in (expected, 'a list')
  return given == expected
