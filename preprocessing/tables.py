"""Tables of tracks: CSV, TSV or JSON lines, by a mapping of their columns to a manifest's fields.

A table says where the files are, or changes lines of an earlier manifest (by track_id), or both.
What it says goes before what the files' tags say. It is read whole and every fault is told before
anything is done.
"""

import csv
import dataclasses
import difflib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from preprocessing import files, music_terms
from preprocessing.manifest import Fault, ManifestError, is_text, parse_json_line
from preprocessing.splits import SPLITS

# Fields that a table may set, and those that find the track.
FACTS = ('title', 'artist', 'album', 'work', 'genre', 'tags', 'vocal', 'tradition', 'caption',
         'licence', 'attribution', 'source', 'split')  # fmt: skip
KEYS = ('path', 'track_id')
DROP = 'drop'
# In a mapping: a column whose name is near a field's, and that is not meant.
IGNORE = 'ignore'
FIELDS = (*KEYS, *FACTS, DROP)
# Other names under which a field is found without a mapping, as `_plain` writes them.
_ALIASES = {
  alias: field
  for field, aliases in {
    'path': 'file filename filepath file_name file_path audio audio_file audio_filename audio_path '
            'audio_filepath',
    'track_id': 'trackid',
    'caption': 'captions prompt prompts description descriptions text caption_text text_prompt '
               'text_description desc',
    'title': 'song song_name song_title track_name track_title',
    'artist': 'artist_name performer performers band',
    'album': 'album_name album_title',
    'genre': 'genres',
    'tags': 'tag keyword keywords',
    'licence': 'license licences licenses',
  }.items()
  for alias in aliases.split()
}  # fmt: skip
_TRUE, _FALSE = ('1', 'true', 'yes', 'y', 'x'), ('', '0', 'false', 'no', 'n')
_MAX_CELL = 1 << 20
_NAMES_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Row:
  """One line of a table.

  Attributes:
    line: from 1, of the file.
    path: of the audio file, absolute or a URI; '' where track_id names the track.
    track_id: of an earlier manifest; '' where the path names the track.
    facts: fields of `Track` that the line sets; empty cells set nothing.
    drop: whether the track is left out.
  """

  line: int
  path: str
  track_id: str
  facts: Mapping[str, Any]
  drop: bool = False


def parse_columns(words: Sequence[str]) -> dict[str, str]:
  """A mapping of words 'field=column' to {field: column}; 'ignore=column' passes a column over.

  Raises:
    ValueError: an unknown field, or a field twice.
  """
  columns: dict[str, str] = {}
  for word in words:
    field, _, column = word.partition('=')
    if field == IGNORE and column:
      field = f'{IGNORE} {column}'
    elif field not in FIELDS or not column:
      raise ValueError(f'{word!r} is not of the form FIELD=COLUMN; fields are {", ".join(FIELDS)}.')
    if field in columns:
      raise ValueError(f'{field} is mapped twice: to {columns[field]!r} and {column!r}.')
    columns[field] = column
  return columns


def read_table(
  path: str,
  columns: Mapping[str, str] | None = None,
  root: str = '',
  say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
  """Reads a table.

  Args:
    path: .csv, .tsv or .jsonl, local or a URI; the first line of CSV and TSV names the columns.
    columns: {field: column}; a column that bears a field's name, or a usual other name of it,
      needs no mapping.
    root: folder of relative paths; '' takes the table's.
    say: is called with a line about columns that are taken under other names or are not used.

  Raises:
    ManifestError: lists all faults by line and column.
    ValueError: another kind of file.
  """
  kind = path.lower().rpartition('.')[2]
  if kind not in ('csv', 'tsv', 'jsonl', 'json'):
    raise ValueError(f'{path} is not a table: .csv, .tsv or .jsonl.')
  content = files.read_bytes(path)
  faults: list[Fault] = []
  lines = list(
    _json_rows(content, faults)
    if kind.startswith('json')
    else _csv_rows(content, '\t' if kind == 'tsv' else ',', faults)
  )
  names = list(dict.fromkeys(name for _, cells in lines for name in cells))
  mapping = _mapping(names, dict(columns or {}), faults if lines else [])
  if not faults and (told := _columns_told(names, mapping, columns or {})):
    say(f'{path}: {told}.')
  folder = root or files.place(path).rpartition('/')[0]
  rows = [_row(number, cells, mapping, folder, faults) for number, cells in lines]
  seen: dict[tuple[str, str], int] = {}
  for row in rows:
    for name, value in (('path', row.path), ('track_id', row.track_id)):
      first = seen.setdefault((name, value), row.line) if value else row.line
      if first != row.line:
        column = mapping.get(name, name)
        faults.append(Fault(row.line, column, f'{value!r} stands there twice: line {first}'))
  if not lines and not faults:
    faults.append(Fault(0, '', 'the table has no rows'))
  if faults:
    raise ManifestError(path, sorted(faults, key=lambda fault: fault.line))
  return rows


def _csv_rows(
  content: bytes, delimiter: str, faults: list[Fault]
) -> Iterator[tuple[int, dict[str, Any]]]:
  text = _decoded(content, faults)
  if text is None:
    return
  csv.field_size_limit(_MAX_CELL)
  reader = csv.reader(io.StringIO(text, newline=''), delimiter=delimiter, strict=True)
  header: list[str] | None = None
  while True:
    line = reader.line_num + 1
    try:
      cells = next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      faults.append(Fault(line, '', f'not CSV: {error}'))
      return
    if not any(cell.strip() for cell in cells):
      continue
    if header is None:
      header = [cell.strip() for cell in cells]
      faults += [
        Fault(line, f'{place} ({name!r})', 'the name stands there twice')
        for place, name in enumerate(header, 1)
        if name and name in header[: place - 1]
      ]
      continue
    if len(cells) != len(header):
      extra = f'{len(cells)} cells, the first line has {len(header)}'
      faults.append(Fault(line, str(min(len(cells), len(header)) + 1), extra))
      continue
    yield line, dict(zip(header, cells, strict=True))


def _decoded(content: bytes, faults: list[Fault]) -> str | None:
  """UTF-8 with or without a mark at its start, or None with a fault for each line that is not."""
  try:
    return content.decode('utf-8-sig')
  except UnicodeDecodeError:
    for number, line in enumerate(content.split(b'\n'), 1):
      try:
        line.decode()
      except UnicodeDecodeError as error:
        faults.append(Fault(number, f'byte {error.start + 1}', 'not UTF-8; save the table as such'))
  return None


def _json_rows(content: bytes, faults: list[Fault]) -> Iterator[tuple[int, dict[str, Any]]]:
  for number, line in enumerate(content.split(b'\n'), 1):
    if line.strip():
      row, wrong = parse_json_line(line, number)
      faults += wrong
      if not wrong:
        yield number, row


def _mapping(names: list[str], columns: dict[str, str], faults: list[Fault]) -> dict[str, str]:
  """{field: column}, with what is wrong with the columns told as faults of line 1."""
  for field, column in list(columns.items()):
    if column not in names:
      near = difflib.get_close_matches(column, names, 1)
      hint = f'; perhaps {near[0]!r} is meant' if near else f'; columns are {", ".join(names)}'
      faults.append(Fault(1, column, f'is mapped to {field}, and there is no such column{hint}'))
      del columns[field]
  mapped = set(columns.values())
  # A field's own name goes before its other names.
  for own in (True, False):
    for name in names:
      field = _plain(name) if own else _ALIASES.get(_plain(name), '')
      if field in FIELDS and name not in mapped and field not in columns:
        columns[field] = name
        mapped.add(name)
  for name in names:
    known = _plain(name) in (*FIELDS, *_ALIASES)
    near = difflib.get_close_matches(_plain(name), FIELDS, 1, 0.8)
    if name not in mapped and not known and near:
      faults.append(
        Fault(
          1,
          name,
          f'is not a field, {near[0]} is; map it: --column=FIELD={name}, or --column=ignore={name}',
        )
      )
  if not any(key in columns for key in KEYS):
    faults.append(Fault(1, '', f'no column is the path; map one: --column=path=NAME ({names})'))
  return columns


def _plain(name: str) -> str:
  """'File name' -> 'file_name'."""
  return re.sub(r'[\W_]+', '_', name.casefold()).strip('_')


def _columns_told(
  names: Sequence[str], mapping: Mapping[str, str], asked: Mapping[str, str]
) -> str:
  """In words: columns that are taken under another name unasked, and those that are not used."""
  taken = [
    f'column {column!r} is taken as {field}'
    for field, column in mapping.items()
    if field not in asked and _plain(column) != field
  ]
  unused = [name for name in names if name and name not in mapping.values()]
  if unused:
    shown = ', '.join(map(repr, unused[:_NAMES_SHOWN]))
    shown += f' and {len(unused) - _NAMES_SHOWN} more' if len(unused) > _NAMES_SHOWN else ''
    taken.append(f'not used: {shown} (--column=FIELD=COLUMN maps one)')
  return '; '.join(taken)


def _row(
  number: int, cells: dict[str, Any], mapping: dict[str, str], folder: str, faults: list[Fault]
) -> Row:
  values: dict[str, Any] = {}
  told = len(faults)
  for field, column in mapping.items():
    value = cells.get(column)
    if value is None:
      continue
    if field == 'tags' and isinstance(value, list):
      value = ','.join(map(str, value))
    is_right = files.is_name if field == 'path' else is_text
    if isinstance(value, (dict, list)) or '\0' in str(value) or not is_right(str(value)):
      faults.append(Fault(number, column, f'{value!r} is not a text'))
      continue
    values[field] = str(value).strip()
  facts = {field: values[field] for field in FACTS if values.get(field)}
  for field, check in _CHECKS.items():
    if field in facts and (message := check(facts[field])):
      faults.append(Fault(number, mapping[field], message))
      del facts[field]
  if 'tags' in facts:
    words = [word.strip() for word in re.split(r'[,;|]', facts['tags'])]
    facts['tags'] = tuple(dict.fromkeys(word for word in words if word))
  if 'vocal' in facts:
    facts['vocal'] = music_terms.vocal_from(facts['vocal'], ())
  drop = values.get(DROP, '').casefold()
  if drop not in (*_TRUE, *_FALSE):
    faults.append(Fault(number, mapping[DROP], f'{drop!r} is not yes or no'))
  path, track_id = values.get('path', ''), values.get('track_id', '')
  is_told = any(fault.column == mapping.get('path') for fault in faults[told:])
  if not path and not track_id and not is_told and any(key in mapping for key in KEYS):
    column = mapping.get('path') or mapping['track_id']
    faults.append(Fault(number, column, 'is empty'))
  try:
    path = files.absolute(path, folder) if path else ''
  except files.PathError as error:
    faults.append(Fault(number, mapping['path'], str(error).rstrip('.')))
  return Row(number, path, track_id, facts, drop in _TRUE)


def _check_split(value: str) -> str:
  return '' if value in SPLITS else f'{value!r} is not one of {SPLITS}'


def _check_vocal(value: str) -> str:
  known = music_terms.is_vocal_word(value)
  return '' if known else f'{value!r} is not vocal, instrumental, yes, no or unknown'


_CHECKS = {'split': _check_split, 'vocal': _check_vocal}
