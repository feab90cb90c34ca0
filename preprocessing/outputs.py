"""Checks output files and folders before long work, and writes files whole or not at all.

An output that cannot be written is refused with one line before models are loaded. The check makes
a temporary file where the output will be, and removes it.
"""

import contextlib
import errno
import os
import pathlib
import uuid
from collections.abc import Iterator, Sequence

from preprocessing import files

_WAYS_OUT = {
  errno.ENOENT: 'choose another folder',
  errno.EACCES: 'choose a folder that you may write to',
  errno.EPERM: 'choose a folder that you may write to',
  errno.EROFS: 'choose a folder on a disk that is not read-only',
  errno.ENAMETOOLONG: 'choose a shorter name (a name has at most 255 bytes)',
  errno.ENOSPC: 'make room there, or choose another disk',
  errno.EDQUOT: 'make room there, or choose another disk',
  errno.EFBIG: 'write less, or choose another disk',
}
_SHOWN_STEM_BYTES = 60


class OutputError(OSError, ValueError):
  """An output cannot be written; the message names it, the reason and the way out."""


def check_file(path: str | os.PathLike, suffixes: Sequence[str] = ()):
  """Refuses a path where no file can be written.

  Args:
    path: of the file; its folders need not exist.
    suffixes: that it may have; none for any.

  Raises:
    OutputError: another suffix, a folder, a file that is read-only or not a regular one, a name
      that is too long, or a folder in which no file can be made.
  """
  if files.is_remote(path):
    return
  path = _as_path(path)
  if suffixes and path.suffix.lower() not in suffixes:
    raise OutputError(f'{path} does not end in one of {", ".join(suffixes)}.')
  with _named(path):
    if path.is_dir():
      raise OutputError(f'{path} is a folder; name a file.')
    if path.exists() and not path.is_file():
      raise OutputError(f'{path} is not a regular file; choose another name.')
    if path.exists() and not os.access(path, os.W_OK):
      raise OutputError(f'{path} is read-only; choose another name, or make it writable.')
  _try_file(pathlib.Path(os.path.realpath(path)), path)


def check_folder(path: str | os.PathLike):
  """Refuses a path where no folder can be made, or no files can be made in it.

  Raises:
    OutputError: it is a file or below one, its name is too long, or nothing can be written there.
  """
  if files.is_remote(path):
    return
  path = _as_path(path)
  with _named(path):
    if path.exists() and not path.is_dir():
      raise OutputError(f'{path} is a file; name a folder.')
  _try_file(path / 'output', path)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a temporary path beside `path`, with its suffix, that becomes `path` in the end.

  Where the block fails, what it wrote is removed and a file that was at `path` stays as it was.
  Folders are made. A link is followed.

  Raises:
    OutputError: the file cannot be written, such as on a full disk.
  """
  path = _as_path(path)
  target = pathlib.Path(os.path.realpath(path))
  with _named(path):
    target.parent.mkdir(parents=True, exist_ok=True)
  partial = _temporary(target)
  try:
    with _named(path):
      yield partial
      with open(partial, 'rb') as file:
        os.fsync(file.fileno())
      partial.replace(target)
  finally:
    with contextlib.suppress(OSError):
      partial.unlink(missing_ok=True)


def _as_path(path: str | os.PathLike) -> pathlib.Path:
  text = os.fspath(path)
  if not text:
    raise OutputError('The output has no name; name a file or folder.')
  if '\0' in text:
    raise OutputError(f'The output {text!a} has a NUL character in its name.')
  return pathlib.Path(text)


def _temporary(target: pathlib.Path) -> pathlib.Path:
  """A hidden name beside `target`, short even where that name has the most bytes."""
  stem = os.fsdecode(os.fsencode(target.stem)[:_SHOWN_STEM_BYTES])
  return target.with_name(f'.{stem}.{uuid.uuid4().hex[:12]}{target.suffix}')


def _try_file(file: pathlib.Path, named: pathlib.Path):
  """Makes `file`'s folders and a temporary file in them, and removes what it made."""
  folder = file.absolute().parent
  missing = [parent for parent in (folder, *folder.parents) if not os.path.lexists(parent)]
  made = []
  try:
    with _named(named):
      for parent in reversed(missing):
        parent.mkdir()
        made.append(parent)
      if len(os.fsencode(file.name)) > os.pathconf(folder, 'PC_NAME_MAX'):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
      partial = _temporary(file)
      with open(partial, 'xb'):
        pass
      partial.unlink()
  finally:
    for parent in reversed(made):
      with contextlib.suppress(OSError):  # Somebody else may have written there meanwhile.
        parent.rmdir()


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
  """Errors of the operating system become an `OutputError` that names the output."""
  try:
    yield
  except OutputError:
    raise
  except OSError as error:
    way_out = _WAYS_OUT.get(error.errno or 0)
    if error.errno == errno.ENOTDIR:
      found = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
      way_out = f'{found} is a file'
    reason = error.strerror or str(error)
    shown = f'{str(path)[:60]}...' if error.errno == errno.ENAMETOOLONG else path
    raise OutputError(
      f'{shown} cannot be written: {reason}' + (f'; {way_out}.' if way_out else '.')
    ) from error
