"""Files on a local disk, gs:// or s3://, by etils.epath, with a fast path for local ones.

A path is a string; file:/// is a local path, too. Local paths are read with the standard library,
so that odd names, links and times to the nanosecond come through; buckets go by epath.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator

from etils import epath

from models import folder_marker

_COPY_BYTES = 1 << 20
_BUCKETS = ('gs://', 's3://', 'az://')


class PathError(ValueError):
  """A path names a place that is not supported; the message names those that are."""


@dataclasses.dataclass(frozen=True)
class FileState:
  """Size in bytes and time of the last change; a file with the same state is taken as the same."""

  size: int
  mtime_ns: int


def is_remote(path: str | os.PathLike) -> bool:
  """Whether a path is in a bucket, such as gs://bucket/song.wav."""
  return os.fspath(path).startswith(_BUCKETS)


def place(path: str | os.PathLike) -> str:
  """Returns a path without file://: file:///music/a%20b.wav becomes /music/a b.wav.

  Raises:
    PathError: a URI that is neither on this machine nor in a bucket.
  """
  path = os.fspath(path)
  scheme, _, rest = path.partition('://')
  if is_remote(path) or not re.fullmatch('[A-Za-z][A-Za-z0-9+.-]*', scheme) or scheme == path:
    return path
  if scheme.casefold() != 'file':
    raise PathError(
      f'{path}: {scheme}:// cannot be read; local paths, file:///, gs:// and s3:// can. Download '
      'the file first and give its local path.'
    )
  host, slash, inner = rest.partition('/')
  if not slash or host.casefold() not in ('', 'localhost'):
    raise PathError(
      f'{path}: file:// is followed by {host!r}, which is read as the name of a machine. Write '
      'file:///PATH with three slashes, or the local path alone.'
    )
  return '/' + urllib.parse.unquote(inner, errors='surrogateescape')


def is_name(path: str) -> bool:
  """Returns whether the operating system accepts a path; bytes that are not UTF-8 are fine."""
  try:
    os.fsencode(path)
  except UnicodeEncodeError:
    return False
  return '\0' not in path


def as_text(name: str) -> str:
  """Returns a file name as text: bytes that are not UTF-8 become '?'."""
  return name.encode('utf-8', 'replace').decode()


def absolute(path: str | os.PathLike, folder: str | os.PathLike = '') -> str:
  """Returns a full path: buckets' URIs as they are, '~' expanded, relative ones below `folder`.

  Args:
    path: see `place`.
    folder: of relative paths; '' takes the current one.

  Raises:
    PathError: see `place`.
  """
  path, folder = place(path), place(folder)
  if is_remote(path):
    return path
  path = os.path.expanduser(path)
  if folder and not os.path.isabs(path):
    path = f'{folder.rstrip("/")}/{path}' if is_remote(folder) else os.path.join(
      os.path.expanduser(folder), path
    )  # fmt: skip
  return path if is_remote(path) else os.path.abspath(path)


def walk(
  folder: str,
  passed_over: Callable[[str, str], None] = lambda folder, kind: None,
  unlisted: Callable[[str], None] = lambda kind: None,
) -> Iterator[tuple[str, list[str]]]:
  """(folder, names of its files) of a folder and all below it, sorted.

  Hidden files and folders are passed over; links to folders are not followed. So are folders below
  `folder` that Woodshed made (`models.folder_marker`): `passed_over` is called with each and its
  kind. `unlisted` is called with 'hidden files', 'hidden folders' or 'links to folders' for each.

  Raises:
    FileNotFoundError: there is no such folder.
  """
  left_out: list[str] = []
  for directory, subfolders, names in walk_all(folder, unlisted):
    # Of buckets, all is listed at once.
    if any(f'{directory}/'.startswith(f'{other}/') for other in left_out):
      continue
    if folder_marker.MARKER_FILE in names and directory.rstrip('/') != folder.rstrip('/'):
      passed_over(directory, folder_marker.kind_of(directory))
      left_out.append(directory)
      subfolders.clear()
      continue
    for name in list(subfolders):
      if kind := folder_marker.older_kind(name, {*subfolders, *names}):
        below = f'{directory.rstrip("/")}/{name}'
        passed_over(below, kind)
        left_out.append(below)
        subfolders.remove(name)
    for name in names:
      if name.startswith('.') and name != folder_marker.MARKER_FILE:
        unlisted('hidden files')
    yield directory, sorted(name for name in names if not name.startswith('.'))


def walk_all(
  folder: str, unlisted: Callable[[str], None] = lambda kind: None
) -> Iterator[tuple[str, list[str], list[str]]]:
  """(folder, its subfolders, its files) of a folder and all below it but hidden folders, sorted.

  A caller may remove subfolders from the list: of a local folder, they are not walked. `unlisted`
  is called with the kind of what is not walked.

  Raises:
    FileNotFoundError: there is no such folder.
  """
  if is_remote(folder):
    root = epath.Path(folder)
    if not root.is_dir():
      raise FileNotFoundError(f'{folder} is not a folder.')
    for directory, subfolders, names in sorted(root.walk(), key=lambda e: os.fspath(e[0])):
      inner = os.fspath(directory)[len(folder.rstrip('/')) :].split('/')
      if not any(part.startswith('.') for part in inner):
        shown = [name.rstrip('/') for name in subfolders if not name.startswith('.')]
        yield os.fspath(directory).rstrip('/'), shown, list(names)
    return
  if not os.path.isdir(folder):
    raise FileNotFoundError(f'{folder} is not a folder.')
  for directory, subfolders, names in os.walk(folder):
    for name in subfolders:
      if name.startswith('.'):
        unlisted('hidden folders')
      elif os.path.islink(os.path.join(directory, name)):
        unlisted('links to folders')
    subfolders[:] = sorted(name for name in subfolders if not name.startswith('.'))
    yield directory, subfolders, names


def state(path: str) -> FileState:
  """Size and time of a file; OSError where it cannot be had."""
  path = place(path)
  if is_remote(path):
    status = epath.Path(path).stat()
    return FileState(status.length, round(status.mtime * 10**9))
  status = os.stat(path)
  return FileState(status.st_size, status.st_mtime_ns)


def read_bytes(path: str | os.PathLike) -> bytes:
  """The whole content."""
  path = place(path)
  return epath.Path(path).read_bytes() if is_remote(path) else pathlib.Path(path).read_bytes()


def write_whole(path: str | os.PathLike, content: bytes):
  """Writes a file that appears whole or not at all; folders are made."""
  path = place(path)
  if is_remote(path):
    # Object stores show an object when it is complete.
    epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    epath.Path(path).write_bytes(content)
    return
  target = pathlib.Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  partial = target.with_name(f'.{target.name}.{os.getpid()}')
  try:
    with writing(path), open(partial, 'wb') as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    partial.replace(target)
  finally:
    partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: str | os.PathLike) -> Iterator[None]:
  """Adds the name of a file to an OSError that has none, such as that of a full disk."""
  try:
    yield
  except OSError as error:
    if error.errno is None or error.filename is not None:
      raise
    raise type(error)(error.errno, error.strerror, os.fspath(path)) from error


@contextlib.contextmanager
def local_file(path: str | os.PathLike) -> Iterator[str]:
  """A local path with the content of a file: itself, or a copy that lasts as long as the block.

  Raises:
    OSError: the file cannot be read.
  """
  path = place(path)
  if not is_remote(path):
    yield path
    return
  # The suffix stays: decoders and tag readers look at it.
  with tempfile.NamedTemporaryFile(suffix=os.path.splitext(path)[1]) as copy:
    with epath.Path(path).open('rb') as remote:
      shutil.copyfileobj(remote, copy, _COPY_BYTES)
    copy.flush()
    yield copy.name
