"""Writes and compares checksums of the files in a folder, kept in a file beside them.

    checksums.json   {format, files: {'state/d/4105...': {bytes, sha256}}, sha256 of `files`}

Files that it does not list are ignored, and a folder without it is accepted.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
from collections.abc import Collection, Iterator
from typing import Any

FILE_NAME = 'checksums.json'
_FORMAT = 1
_KEYS = {'format', 'files', 'sha256'}
# hashlib lets other threads run; more than these wait for the disk.
_THREADS = 4
# Folders that were looked at and found whole, with the state of their files then.
_whole: dict[pathlib.Path, tuple[Any, ...]] = {}


def write(folder: pathlib.Path, leave_out: Collection[str] = ()) -> pathlib.Path:
  """Reads every file below `folder` and writes their sizes and hashes to its checksums.json.

  Args:
    folder: complete, but for the files named in `leave_out`.
    leave_out: names, in whatever folder, of files that still change.

  Raises:
    OSError: a file cannot be read, or the list not be written.
  """
  names = [
    name for name in _names(folder)
    if name != FILE_NAME and name.rpartition('/')[2] not in leave_out
  ]  # fmt: skip
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    entries = list(pool.map(lambda name: _entry(folder / name), names))
  files = dict(zip(names, entries, strict=True))
  value = {'format': _FORMAT, 'files': files, 'sha256': _of_files(files)}
  with open(folder / FILE_NAME, 'w', encoding='utf-8') as file:
    file.write(json.dumps(value, indent=1) + '\n')
    file.flush()
    os.fsync(file.fileno())
  return folder / FILE_NAME


def fault(folder: pathlib.Path, part: int = 0, parts: int = 1) -> str | None:
  """Returns what is wrong with a folder, with the file's name; None if all is as it was saved.

  Args:
    folder: see `write`. One without checksums has no fault.
    part: which share of the files to look at, 0..parts - 1.
    parts: shares, such as processes that look at one each.

  A folder that was found whole is read again where a file has another size or time since.
  """
  seen = (part, parts, _state_of_files(folder))
  if _whole.get(folder) == seen:
    return None
  try:
    files = _read(folder)
  except ValueError as error:
    return str(error)
  names = sorted(files)[part::parts]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    found = pool.map(lambda name: _fault_of_file(folder, name, files[name]), names)
    first = next((fault for fault in found if fault), None)
  if first is None:
    _whole[folder] = seen
  return first


def listed(folder: pathlib.Path) -> bool:
  """Returns whether a folder has checksums."""
  return (folder / FILE_NAME).is_file()


def _read(folder: pathlib.Path) -> dict[str, dict]:
  """The entries of checksums.json by file; {} without it.

  Raises:
    ValueError: it is damaged.
  """
  try:
    value = json.loads((folder / FILE_NAME).read_text(encoding='utf-8'))
  except FileNotFoundError:
    return {}
  except OSError as error:
    raise ValueError(f'{FILE_NAME} cannot be read: {error.strerror}') from error
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{FILE_NAME} is cut or not JSON ({error})') from error
  if not isinstance(value, dict) or set(value) != _KEYS or not isinstance(value['files'], dict):
    raise ValueError(f'{FILE_NAME} is not the list of files that was saved')
  if value['format'] != _FORMAT:
    raise ValueError(f'{FILE_NAME} has format {value["format"]!r}, this version reads {_FORMAT}')
  if _of_files(value['files']) != value['sha256']:
    raise ValueError(f'{FILE_NAME} is not the list of files that was saved (its hash differs)')
  return value['files']


def _fault_of_file(folder: pathlib.Path, name: str, saved: dict) -> str | None:
  path = folder / name
  try:
    size = path.stat().st_size
    if size != saved['bytes']:
      return f'{name} has {size:,} bytes; {saved["bytes"]:,} were saved'
    if _entry(path) != saved:
      return f'{name} has its {size:,} bytes, but not those that were saved (SHA-256 differs)'
  except FileNotFoundError:
    return f'{name} is missing'
  except OSError as error:
    return f'{name} cannot be read: {error.strerror}'
  return None


def _entry(path: pathlib.Path) -> dict[str, int | str]:
  with open(path, 'rb') as file:
    digest = hashlib.file_digest(file, 'sha256')
    return {'bytes': file.tell(), 'sha256': digest.hexdigest()}


def _state_of_files(folder: pathlib.Path) -> tuple[tuple[str, int, int], ...]:
  """Names, sizes and times of all files."""
  entries = []
  for path in sorted(folder.rglob('*')):
    status = path.lstat()
    entries.append((str(path), status.st_size, status.st_mtime_ns))
  return tuple(entries)


def _of_files(files: dict[str, dict]) -> str:
  return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _names(folder: pathlib.Path) -> Iterator[str]:
  """Files below a folder, as paths relative to it, sorted."""
  for directory, folders, names in os.walk(folder):
    folders.sort()
    inner = pathlib.Path(directory).relative_to(folder)
    for name in sorted(names):
      yield (inner / name).as_posix()
