"""Measurements kept in a file, so that a run goes on where an earlier one stopped."""

import hashlib
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any


class Measurements:
  """A JSON lines file of values, each under a hash of all that it depends on.

  Attributes:
    path: of the file.
    known: values that were there when it was opened.
    reused: values that `take` did not have to measure.
    measured: values that it had.
  """

  def __init__(self, path: pathlib.Path):
    """Opens or begins the file; a last line that was cut short is dropped."""
    self.path = path
    self.reused = self.measured = 0
    self._values: dict[str, Any] = {}
    lines = path.read_text(encoding='utf-8').splitlines(keepends=True) if path.is_file() else []
    for line in lines:
      try:
        entry = json.loads(line)
        self._values[entry['key']] = entry['value']
      except (ValueError, KeyError, TypeError):
        continue
    self.known = len(self._values)
    if lines and not lines[-1].endswith('\n'):
      with open(path, 'a', encoding='utf-8') as file:
        file.write('\n')

  def take(self, depends_on: Sequence[Any], measure: Callable[[], Any]) -> Any:
    """The value for what it depends on (JSON values), measured now if it was not before.

    Numbers that are not finite are kept; the keys of dictionaries come back as texts.
    """
    text = json.dumps(depends_on, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    if key in self._values:
      self.reused += 1
      return self._values[key]
    line = json.dumps({'key': key, 'value': measure()})
    with open(self.path, 'a', encoding='utf-8') as file:
      file.write(line + '\n')
    self.measured += 1
    self._values[key] = json.loads(line)['value']
    return self._values[key]
