"""The table of recorded music: one row for each track, with its package, licence and credit.

A row says which files of which Debian package make the track, what their MD5 sums are, and what is
owed to whom. `tracks.csv` is the table; everything else of this folder follows from it.
"""

import csv
import dataclasses
import os
import pathlib
import re
from collections.abc import Sequence

from preprocessing.manifest import Fault, ManifestError
from preprocessing.splits import SPLITS

TABLE_FILE = pathlib.Path(__file__).with_name('tracks.csv')
# The licences of each set. `train` is what the bundled weights may learn from: nothing is asked but
# credit. What is derived from `share_alike` may have to be shared under the same licence.
LICENCES = {
  'train': ('CC0-1.0', 'public-domain', 'CC-BY-3.0', 'CC-BY-4.0', 'MIT', 'BSD-2-Clause', 'Zlib'),
  'share_alike': ('CC-BY-SA-3.0', 'CC-BY-SA-4.0'),
  'visible_test': ('CC-BY-SA-3.0',),
}
SETS = tuple(LICENCES)
# Whole packages that models are measured on, so that nothing of them is learnt from.
VISIBLE_TEST_PACKAGES = ('flare-game', 'marsshooter-data', 'singularity-music', 'unknown-horizons')
# Packages that are kept for tests by others: no recipe takes anything from them.
_KEPT_FOR_TESTS = re.compile(r'wesnoth.*|hedgewars.*|drascula.*|hyperrogue.*')
# Between the files of one track, which are stems that are added up.
_AND = ' + '
# Between an archive in a package and a file in that archive.
IN_ARCHIVE = '!'
_OPTIONAL = ('album', 'genre', 'source')


@dataclasses.dataclass(frozen=True)
class PackagedFile:
  """A file of a Debian package.

  Attributes:
    path: in the package; 'ARCHIVE!PATH' for one in a ZIP archive that the package holds.
    md5: of its bytes, in hex.
  """

  path: str
  md5: str


@dataclasses.dataclass(frozen=True)
class Piece:
  """One track of the table.

  Attributes:
    set: one of `SETS`.
    split: 'train', 'validation' or 'test', for a manifest.
    package: the Debian package.
    version: the package's version that was looked at.
    files: what the track is made of: one file that is taken as it is, or stems to be added up.
    secs: length in seconds.
    name: of the file that is written, in a folder named as the package.
    title, artist: of the track.
    album: '' where unknown.
    genre: words from tags, titles and the package's texts, not by ear; '' where these say nothing.
    licence: an SPDX name, or 'public-domain'.
    rights_holder: who gives the licence.
    source: address that the package gets it from; '' where unknown.
    stated_in: where the licence of this file stands.
  """

  set: str
  split: str
  package: str
  version: str
  files: tuple[PackagedFile, ...]
  secs: float
  name: str
  title: str
  artist: str
  album: str
  genre: str
  licence: str
  rights_holder: str
  source: str
  stated_in: str

  @property
  def path(self) -> str:
    """Path of the file that is written, below the output folder."""
    return f'{self.package}/{self.name}'

  @property
  def attribution(self) -> str:
    """The credit in one sentence, with title, author, rights holder, licence and source."""
    credit = f'"{self.title}" by {self.artist}'
    if self.rights_holder != self.artist:
      credit += f' (rights: {self.rights_holder})'
    found = f'Debian package {self.package} {self.version}'
    changed = 'stems mixed' * (len(self.files) > 1)
    return ', '.join(filter(None, (credit, self.licence, self.source, found, changed)))


_COLUMNS = (
  'set', 'split', 'package', 'version', 'path', 'md5', 'secs', 'name', 'title', 'artist', 'album',
  'genre', 'licence', 'rights_holder', 'source', 'stated_in',
)  # fmt: skip


def read_table(path: pathlib.Path = TABLE_FILE) -> list[Piece]:
  """Reads and checks a table.

  Args:
    path: a CSV file whose columns are the fields of `Piece`, with `path` and `md5` for `files`.

  Returns:
    The tracks in the order of the rows.

  Raises:
    ManifestError: lists all faults by line and column.
    FileNotFoundError: there is no such file.
  """
  if not os.path.isfile(path):
    raise FileNotFoundError(f'{str(path)!r} is not a file; give a table of tracks.')
  try:
    with open(path, encoding='utf-8', newline='') as file:
      reader = csv.DictReader(file, strict=True)
      if tuple(reader.fieldnames or ()) != _COLUMNS:
        raise ManifestError(path, [Fault(1, '', f'the columns must be {", ".join(_COLUMNS)}')])
      rows = [(reader.line_num, row) for row in reader]
  except (UnicodeDecodeError, csv.Error) as error:
    raise ManifestError(path, [Fault(0, '', f'not CSV in UTF-8: {error}')]) from error
  faults = [fault for line, row in rows for fault in _row_faults(line, row)]
  pieces = [] if faults else [_piece(row) for _, row in rows]
  faults += _twice([line for line, _ in rows], pieces)
  if faults:
    raise ManifestError(path, faults)
  return pieces


def tracks(*sets: str, path: pathlib.Path = TABLE_FILE) -> tuple[Piece, ...]:
  """Returns the tracks of a table, by default the committed one, that are in some sets.

  Raises:
    ManifestError: see `read_table`.
    ValueError: an unknown set.
  """
  for name in sets:
    if name not in SETS:
      raise ValueError(f'set={name!r} is not one of {SETS}.')
  return tuple(piece for piece in read_table(path) if piece.set in sets)


def _row_faults(line: int, row: dict[str, str | None]) -> list[Fault]:
  """Returns what is wrong with one row."""
  if None in row or None in row.values():
    return [Fault(line, '', f'the row does not have {len(_COLUMNS)} cells')]
  faults = [
    Fault(line, column, 'is empty')
    for column, value in row.items()
    if not value and column not in _OPTIONAL
  ]
  faults += [
    Fault(line, column, f'{value!r} begins or ends with a blank')
    for column, value in row.items()
    if value != value.strip()
  ]
  licences = LICENCES.get(row['set'], ())
  paths, sums = row['path'].split(_AND), row['md5'].split(_AND)
  for column, is_right, expected in (
    ('set', row['set'] in SETS, f'one of {SETS}'),
    ('split', row['split'] in SPLITS, f'one of {SPLITS}'),
    ('licence', row['licence'] in licences, f'one of {licences}, the licences of the set'),
    ('md5', all(re.fullmatch('[0-9a-f]{32}', each) for each in sums), '32 hexadecimal digits'),
    ('md5', len(paths) == len(sums), f'{len(paths)} sums, one for each path'),
    ('path', not any(path.startswith('/') for path in paths), 'a path without / at its start'),
    ('secs', re.fullmatch(r'\d+\.\d+', row['secs']), 'a length in seconds'),
    ('name', '/' not in row['name'] and row['name'][0:1] != '.', 'a file name, not hidden'),
    ('package', not _KEPT_FOR_TESTS.fullmatch(row['package']), 'a package not kept for tests'),
    ('set', (row['set'] == 'visible_test') == (row['package'] in VISIBLE_TEST_PACKAGES),
     'visible_test for, and only for, the packages of the visible test'),
    ('split', (row['set'] == 'visible_test') == (row['split'] == 'test'),
     'test for, and only for, the visible test'),
  ):  # fmt: skip
    if not is_right:
      faults.append(Fault(line, column, f'{row[column]!r} is not {expected}'))
  return faults


def _piece(row: dict[str, str]) -> Piece:
  files = zip(row['path'].split(_AND), row['md5'].split(_AND), strict=True)
  values = {column: row[column] for column in _COLUMNS if column not in ('path', 'md5')}
  values |= {'secs': float(row['secs']), 'files': tuple(PackagedFile(*each) for each in files)}
  return Piece(**values)


def _twice(lines: Sequence[int], pieces: Sequence[Piece]) -> list[Fault]:
  """Returns a fault for each content and each written path that stands in two places."""
  first: dict[tuple[str, str], int] = {}
  faults = []
  for line, piece in zip(lines, pieces, strict=False):
    for column, value in (*(('md5', file.md5) for file in piece.files), ('name', piece.path)):
      before = first.setdefault((column, value), line)
      if before != line:
        faults.append(Fault(line, column, f'{value!r} stands there twice: line {before}'))
  return faults
