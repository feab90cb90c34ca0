"""Finds and reads gin files; searches first beside the file that includes another."""

import contextlib
import difflib
import io
import pathlib
from collections.abc import Iterable, Iterator, Sequence

from gin import config as gin_internals

ROOT = pathlib.Path(__file__).parents[1]
# The folder that holds gin/: the checkout, or what setup.py installs it into.
GIN_HOME = ROOT if (ROOT / 'gin' / 'models').is_dir() else ROOT / 'woodshed_files'


class GinError(ValueError):
  """A gin file, binding, or macro is wrong; the message names it and the way out."""


class GinReader:
  """Parses gin files into gin's configuration, and records which were read.

  gin's own search does not look beside the including file, does not notice a circle of includes,
  and searches every Python package for a missing file.

  Attributes:
    read: paths and texts of all files, included ones before those that include them.
  """

  def __init__(self, folders: Iterable[pathlib.Path]):
    """Looks files up in `folders`, in this order; includes first beside the including file."""
    self._folders = [*folders]
    self._open: list[pathlib.Path] = []
    self.read: list[tuple[pathlib.Path, str]] = []

  def parse(self, name: str) -> pathlib.Path:
    """Parses a file and all that it includes; returns its path.

    Raises:
      GinError: there is no such file, it is not text, or it includes itself.
      OSError: it cannot be read.
      ValueError, AttributeError, ImportError, SyntaxError: gin does not understand it.
    """
    path = find_file(name, self._folders)
    with self._includes():
      self._parse(path)
    return path

  @contextlib.contextmanager
  def _includes(self) -> Iterator[None]:
    """While it holds, gin's parser reads an included file by `_include`."""
    before = gin_internals.parse_config_file
    gin_internals.parse_config_file = self._include
    try:
      yield
    finally:
      gin_internals.parse_config_file = before

  def _include(self, name: str, skip_unknown: bool = False, **_):
    del skip_unknown
    path = find_file(name, [self._open[-1].parent, *self._folders])
    return self._parse(path)

  def _parse(self, path: pathlib.Path):
    place = path.resolve()
    if place in [one.resolve() for one in self._open]:
      circle = ' -> '.join(str(one) for one in [*self._open, path])
      raise GinError(f'gin files include each other in a circle: {circle}.')
    text = read_text(path)
    self._open.append(path)
    try:
      includes, imports = gin_internals.parse_config(_Named(text, str(path)))
    finally:
      self._open.pop()
    self.read.append((path, text))
    return gin_internals.ParsedConfigFileIncludesAndImports(
      filename=str(path), imports=imports, includes=includes
    )


class _Named(io.StringIO):
  """Text with the name that gin tells with a mistake in it."""

  def __init__(self, text: str, name: str):
    super().__init__(text)
    self.name = name


def find_file(name: str, folders: Sequence[pathlib.Path]) -> pathlib.Path:
  """Returns the first file `name` below one of the folders.

  Raises:
    GinError: there is none; names the nearest of gin/.
  """
  if not name:
    raise GinError('A gin file has an empty name. Give its path, such as gin/runs/pretrain.gin.')
  for folder in folders:
    if (folder / name).is_file():
      return folder / name
  if any((folder / name).is_dir() for folder in folders):
    raise GinError(f'{name!r} is a folder, not a gin file.')
  known = sorted(
    path.relative_to(GIN_HOME).as_posix() for path in (GIN_HOME / 'gin').rglob('*.gin')
  )
  raise GinError(f'There is no gin file {name!r}.{nearest(name, known)} Known: {", ".join(known)}')


def read_text(path: pathlib.Path) -> str:
  """Reads the text of a gin file.

  Raises:
    GinError: it is not UTF-8.
    OSError: it cannot be read.
  """
  try:
    return path.read_text(encoding='utf-8')
  except UnicodeDecodeError as error:
    raise GinError(f'{path} is not a gin file: byte {error.start} is not UTF-8 text.') from error


def nearest(name: str, choices: Iterable[str], otherwise: str | None = None) -> str:
  """Returns ' Did you mean X?', or `otherwise` with all choices, or ''."""
  choices = sorted(set(choices))
  near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
  if near:
    return f' Did you mean {near[0]}?'
  return f' {otherwise} {", ".join(choices)}.' if otherwise and choices else ''
