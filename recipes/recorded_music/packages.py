"""Debian packages: downloading one, and reading files out of it. Nothing is installed.

`apt-get download` takes a package from the mirrors that the machine is set up for and checks it
against their signed lists; it needs no rights of root. `dpkg-deb` unpacks it.
"""

import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Iterator

from recipes.recorded_music.table import IN_ARCHIVE

_COPY_BYTES = 1 << 20
_SHOWN = 500


class PackageError(Exception):
  """A package cannot be had or read; the message says why, for one line."""


def download(package: str, folder: pathlib.Path) -> pathlib.Path:
  """Downloads a package.

  Args:
    package: its name.
    folder: where to; it is there. A download that was stopped leaves a folder .partial-PACKAGE,
      which the next one clears.

  Returns:
    Path of the .deb file, which is whole.

  Raises:
    PackageError: it cannot be had.
    FileNotFoundError: there is no apt-get.
  """
  partial = folder / f'.partial-{package}'
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir()
  try:
    done = subprocess.run(
      ['apt-get', 'download', '--quiet', package],
      cwd=partial, capture_output=True, text=True, errors='replace', check=False,
    )  # fmt: skip
    found = sorted(partial.glob('*.deb'))
    if done.returncode or len(found) != 1:
      raise PackageError(f'apt-get download {package} failed: {_last_lines(done.stderr)}')
    return found[0].replace(folder / found[0].name)
  except FileNotFoundError as error:
    if error.filename != 'apt-get':
      raise
    raise FileNotFoundError(
      'The program apt-get is not on the PATH. Run this on Debian, or download the packages '
      'elsewhere and name their folder with --deb_dir.'
    ) from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def given_folder(path: str | None) -> pathlib.Path | None:
  """Returns the folder that --deb_dir names, None without one; refuses what is not a folder."""
  if path is None:
    return None
  if not os.path.isdir(path):
    raise FileNotFoundError(f'deb_dir={path!r} is not a folder; give one that holds .deb files.')
  return pathlib.Path(path)


def find(package: str, folder: pathlib.Path) -> pathlib.Path | None:
  """Returns a package's .deb file in a folder (PACKAGE_VERSION_ARCHITECTURE.deb), or None."""
  return next(iter(sorted(folder.glob(f'{package}_*.deb'))), None)


def read_files(deb: pathlib.Path, paths: Collection[str]) -> Iterator[tuple[str, bytes]]:
  """Yields (path, content) of files of a package, in the package's order.

  Paths that are not there are passed over.

  Args:
    deb: path of the .deb file.
    paths: of files in it, or in ZIP archives in it ('usr/share/data.zip!music/a.ogg').

  Raises:
    PackageError: the package, or an archive in it, is damaged.
    FileNotFoundError: there is no dpkg-deb.
  """
  plain = {path for path in paths if IN_ARCHIVE not in path}
  inner: dict[str, set[str]] = {}
  for path in paths:
    archive, is_inner, name = path.partition(IN_ARCHIVE)
    if is_inner:
      inner.setdefault(archive, set()).add(name)
  command = ['dpkg-deb', '--fsys-tarfile', str(deb)]
  with tempfile.TemporaryFile() as errors:
    try:
      process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
    except FileNotFoundError as error:
      raise FileNotFoundError('The program dpkg-deb is not on the PATH; install dpkg.') from error
    try:
      with process, tarfile.open(fileobj=process.stdout, mode='r|') as contents:
        for member in contents:
          path = member.name.removeprefix('./')
          if member.isfile() and path in plain:
            yield path, contents.extractfile(member).read()
          elif member.isfile() and path in inner:
            yield from _read_archive(path, contents.extractfile(member), inner[path])
    except (tarfile.TarError, EOFError, zipfile.BadZipFile) as error:
      errors.seek(0)
      said = errors.read().decode(errors='replace')
      raise PackageError(f'{deb.name} is damaged: {_last_lines(said) or error}') from error
    finally:
      process.kill()
    if process.returncode not in (0, -9):
      errors.seek(0)
      raise PackageError(f'{deb.name} is damaged: {_last_lines(errors.read().decode())}')


def _read_archive(archive: str, content, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
  """Yields files of a ZIP archive that is read from a stream, by way of a temporary file."""
  with tempfile.TemporaryFile() as copy:
    shutil.copyfileobj(content, copy, _COPY_BYTES)
    with zipfile.ZipFile(copy) as opened:
      for name in sorted(set(names) & set(opened.namelist())):
        yield f'{archive}{IN_ARCHIVE}{name}', opened.read(name)


def _last_lines(text: str) -> str:
  """Returns what a program said, in one line, without apt's warning about its sandbox."""
  lines = [line for line in text.splitlines() if line.strip() and 'unsandboxed' not in line]
  return '; '.join(lines)[-_SHOWN:]
