"""Turns what the MP3 decoder writes to the terminal into lines that name the file.

libmpg123, inside libsndfile, writes notes on damaged streams to file descriptor 2; no option turns
this off. During a call the descriptor is a temporary file; what other code writes there meanwhile
is passed on after the call.
"""

import collections
import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator

from models import notices

# '[src/libmpg123/layer3.c:INT123_do_layer3():1788] error: ...', 'Note: ...', 'Warning: Xing ...'.
_MPG123 = re.compile(
  rb'\s*(\[[^\]]*(libmpg123|\.c:)[^\]]*\]|(Note|Warning|warning|Error|error): |'
  rb'(mpg123|Trying to resync|Hit end of|Skipped|Found new|This was|Giving up|Cannot read))'
)
_SHOWN = 200


class _Redirection:
  """File descriptor 2 while at least one thread decodes."""

  def __init__(self):
    self._lock = threading.Lock()
    self._names: collections.Counter = collections.Counter()
    self._told: set[str] = set()
    self._terminal = self._kept = -1
    self._done = 0

  def begin(self, name: str):
    with self._lock:
      if not self._names:
        self._kept, path = tempfile.mkstemp()
        os.unlink(path)
        self._done = 0
        self._terminal = os.dup(2)
        os.dup2(self._kept, 2)
      self._names[name] += 1

  def end(self, name: str) -> str:
    """Ends one use; returns a line, '' for none."""
    with self._lock:
      lines = self._read()
      names = ' or '.join(sorted(self._names))
      self._names[name] -= 1
      self._names += collections.Counter()
      if not self._names:
        os.dup2(self._terminal, 2)
        lines += self._read()
        os.close(self._terminal)
        os.close(self._kept)
      if not lines or names in self._told:
        return ''
      self._told.add(names)
      more = f' (and {len(lines) - 1} more)' if len(lines) > 1 else ''
      return f'{names}: the MP3 decoder says: {lines[0][:_SHOWN]}{more}'

  def _read(self) -> list[str]:
    """The decoder's new lines; the rest goes to the terminal."""
    new = os.pread(self._kept, os.fstat(self._kept).st_size - self._done, self._done)
    self._done += len(new)
    lines = new.splitlines(keepends=True)
    others = b''.join(line for line in lines if line.strip() and not _MPG123.match(line))
    if others:
      os.write(self._terminal, others)
    return [line.strip().decode('utf-8', 'replace') for line in lines if _MPG123.match(line)]


_REDIRECTION = _Redirection()


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
  """Prints what libmpg123 writes while the block runs, once for each file, with its name."""
  _REDIRECTION.begin(name)
  try:
    yield
  finally:
    line = _REDIRECTION.end(name)
    if line:
      notices.say(line)
