"""Files that could not be written, a full disk above all: what went wrong, and the way out."""

import dataclasses
import errno
import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

# TensorStore, which writes arrays in native code, puts the number into its message.
_NATIVE_ERRNO = re.compile(r"os_error_code='(\d+)'")


class DiskError(OSError):
  """A file of a run could not be written; the message names it, the reason and the way out."""

  def __str__(self) -> str:
    return self.strerror


def error_number(error: BaseException) -> int | None:
  """The errno of an error of Python or TensorStore about a file, None for any other error."""
  if isinstance(error, OSError):
    return error.errno
  found = _NATIVE_ERRNO.search(str(error))
  return int(found[1]) if found else None


def disk_error(what: str, folder: pathlib.Path, number: int, way_out: str) -> DiskError:
  """A `DiskError`.

  Args:
    what: could not be written.
    folder: where to.
    number: errno.
    way_out: what to do, in sentences; on a full disk 'Make room there' comes before it.
  """
  reason = f'{what} could not be written to {folder}: {os.strerror(number)}'
  if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
    way_out = f'Make room there, or copy the folder to a larger disk. {way_out}'
  return DiskError(number, f'{reason}. {way_out}')


def say_once():
  """Leaves a disk error to the main thread, which raises it: others neither log nor print it.

  Orbax logs it in each of its threads. TensorStore, whose other writes end later, prints that
  nobody waits for them any more.
  """
  logger = logging.getLogger('absl')
  if _not_orbax_on_disk not in logger.filters:
    logger.addFilter(_not_orbax_on_disk)
  if not isinstance(sys.unraisablehook, _WithoutLateWrites):
    sys.unraisablehook = _WithoutLateWrites(sys.unraisablehook)


def _not_orbax_on_disk(entry: logging.LogRecord) -> bool:
  error = entry.exc_info[1] if entry.exc_info else None
  return error is None or 'orbax' not in entry.pathname or error_number(error) is None


@dataclasses.dataclass(frozen=True)
class _WithoutLateWrites:
  """An unraisablehook, which Python calls for errors in callbacks of native code."""

  previous: Callable[[Any], None]

  def __call__(self, unraisable: Any):
    if str(unraisable.exc_value) != 'Event loop is closed':
      self.previous(unraisable)
