"""The manifest: one line for each track of a corpus, with its tags, its group and its split.

This is the file that preparation's two halves meet at: `manifest_build` makes it of folders, tables
and earlier manifests, the tokenizer reads it. A wrong manifest is told with all its faults, each
with its line and column.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from preprocessing import files, listing
from preprocessing.splits import SPLITS, groups_of

MANIFEST_FILE = 'manifest.jsonl'
REJECTS_FILE = 'rejects.jsonl'
VOCAL = ('', 'vocal', 'instrumental')
# A file's name that names no work.
_NO_NAME = re.compile(
  r'(track|audio|untitled|song|take|side|disc|cd|recording|file|sample|clip)?[\s_.\d-]*[a-z]?'
)
_FAULTS_SHOWN = 100


@dataclasses.dataclass(frozen=True)
class Track:
  """One audio file of a corpus.

  Attributes:
    track_id: unique in the manifest, made of the content; stays when a file moves.
    path: of the file, absolute, or a URI.
    sha256: of the file's bytes, in hex.
    duration_secs: seconds that decoding gives.
    sample_rate: Hz.
    channels: number of channels.
    title, artist, album, genre: tags, '' where absent; the title falls back to the file's name.
    work: what the recording is of; versions of one work share it. The group that splits keep whole.
    tags: further words, e.g. instruments.
    vocal: 'vocal', 'instrumental' or ''.
    tradition: musical tradition, '' where unknown (`music_terms`).
    caption: a sentence that describes the music, '' where unknown.
    licence: `licences.licence_name` of what is tagged, '' where unknown.
    attribution: whom the licence asks to be named, and how; '' where unknown.
    source: where the corpus says the file is from.
    split: 'train', 'validation', 'test' or '' before `splits.assign_splits`.
    recording: what near-duplicates share: the start of the least sha256 among them; '' for none.
    decoding: what was done to read it, such as a downmix or a corrected header; '' for nothing.
  """

  track_id: str
  path: str
  sha256: str
  duration_secs: float
  sample_rate: int
  channels: int
  title: str = ''
  artist: str = ''
  album: str = ''
  work: str = ''
  genre: str = ''
  tags: tuple[str, ...] = ()
  vocal: str = ''
  tradition: str = ''
  caption: str = ''
  licence: str = ''
  attribution: str = ''
  source: str = ''
  split: str = ''
  recording: str = ''
  decoding: str = ''


@dataclasses.dataclass(frozen=True)
class Reject:
  """A file that was set aside.

  Attributes:
    path: of the file.
    reason: a code of `preprocessing.quality.REASONS`.
    detail: what was measured, in words.
  """

  path: str
  reason: str
  detail: str = ''


@dataclasses.dataclass(frozen=True)
class Fault:
  """What is wrong at one place of a manifest or table.

  Attributes:
    line: from 1; 0 for the file as a whole.
    column: the field or the table's column, or 'character N'; '' for the whole line.
    message: what, in words.
  """

  line: int
  column: str
  message: str

  def __str__(self) -> str:
    place = [f'line {self.line}'] * bool(self.line) + [f'column {self.column}'] * bool(self.column)
    return f'{", ".join(place)}: {self.message}' if place else self.message


class ManifestError(ValueError):
  """A manifest or a table is wrong; `faults` are all of them, the message lists them by line."""

  def __init__(self, path: str | os.PathLike, faults: Sequence[Fault]):
    self.path, self.faults = os.fspath(path), tuple(faults)
    count = f'{len(faults)} faults' if len(faults) > 1 else '1 fault'
    lines = [f'{self.path}: {count}.', *(f'  {fault}.' for fault in faults[:_FAULTS_SHOWN])]
    if len(faults) > _FAULTS_SHOWN:
      lines.append(f'  ... and {len(faults) - _FAULTS_SHOWN} more.')
    super().__init__('\n'.join(lines))

  def __reduce__(self):
    return (type(self), (self.path, self.faults))


def find_audio_files(folder: str | os.PathLike) -> tuple[list[str], list[Reject]]:
  """Returns the audio files below a folder or bucket, sorted, and refused files with reasons.

  Files that are not audio (see `listing`) are counted in a line on stderr, and so are hidden files
  and folders and links to folders, which are skipped. Folders below it that Woodshed made are
  skipped with a line.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it holds no audio.
  """
  root = files.absolute(folder)
  found = listing.list_folder(root, passed_over=_say_passed_over)
  rejects = [Reject(*refused) for refused in found.refused]
  others = found.others_text()
  if not found.paths:
    unread = f'; {len(rejects)} files cannot be read, e.g. {rejects[0].path}' if rejects else ''
    raise ValueError(
      f'{root} holds no audio files ({", ".join(listing.SOUND_SUFFIXES)}, or films with sound)'
      f'{unread}{f"; it holds {others}" if others else ""}.'
    )
  if others or rejects:
    _say_others(root, len(found.paths), len(rejects), others)
  return found.paths, rejects


@functools.cache  # Once for each folder: a run lists them more than once.
def _say_others(root: str, count: int, num_rejects: int, others: str):
  parts = [f'{count} audio files']
  if num_rejects:
    parts.append(f'{num_rejects} of formats that cannot be read')
  if others:
    parts.append(f'and not audio, passed over: {others}')
  print(f'{root}: {"; ".join(parts)}.', file=sys.stderr)


@functools.cache  # Likewise.
def _say_passed_over(folder: str, kind: str):
  count = sum(
    os.path.splitext(name)[1].lower() in listing.AUDIO_SUFFIXES
    for _, _, names in files.walk_all(folder)
    for name in names
    if not name.startswith('.')
  )
  if count:
    print(
      f'Passed over: {folder} with {count} audio files, which Woodshed wrote ({kind}). To read '
      'them, give that folder itself.',
      file=sys.stderr,
    )


def build_manifest(
  folder: str | os.PathLike,
  *,
  source: str = '',
  known: Iterable[Track] = (),
  num_workers: int = 1,
  progress: Callable[[int], None] = lambda count: None,
) -> tuple[list[Track], list[Reject]]:
  """Makes a manifest of all audio files below a folder by headers and tags; nothing is decoded.

  `manifest_build.build` does more: tables, earlier manifests, quality, near-duplicates, licences.

  Args:
    folder: any nesting of folders.
    source: goes into every line; '' takes the folder's name.
    known: tracks of an earlier manifest; a file with the same content keeps its id and split.
    num_workers: processes.
    progress: is called with 1 after each file.

  Returns:
    Tracks in the order of their paths, without splits, and the files set aside.

  Raises:
    FileNotFoundError: no such folder.
    ValueError: no audio in it.
  """
  from preprocessing import manifest_build

  options = manifest_build.BuildOptions(
    folders=(os.fspath(folder),), source=source, decode=False, num_workers=num_workers
  )
  return manifest_build.build(options, known=known, progress=progress)


def work_name(artist: str, title: str) -> str:
  """A name that versions of one work share: 'X: My Song (Live)' -> 'x: my song'."""
  title = re.sub(r'[\(\[\{].*?[\)\]\}]', ' ', title)
  title = re.sub(
    r'\s[-–]\s.*\b(live|remaster(ed)?|remix|mix|demo|version|edit|take|take \d+)\b.*$',
    ' ',
    title,
    flags=re.IGNORECASE,
  )
  words = [unicodedata.normalize('NFKC', part).casefold() for part in (artist, title)]
  words = [re.sub(r'[\W_]+', ' ', part).strip() for part in words]
  if not words[0] and _NO_NAME.fullmatch(words[1]):
    return ''
  return ': '.join(part for part in words if part)


def file_sha256(path: str | os.PathLike) -> str:
  """SHA-256 of a file's bytes, in hex."""
  with files.local_file(path) as local, open(local, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def write_manifest(path: str | os.PathLike, tracks: Iterable[Track]):
  """Writes one JSON object a line; the file appears whole or not at all."""
  files.write_whole(path, b''.join(map(json_line, tracks)))


def write_rejects(path: str | os.PathLike, rejects: Iterable[Reject]):
  """Writes what was set aside, one JSON object a line, by path."""
  ordered = sorted(rejects, key=lambda reject: (reject.path, reject.reason))
  files.write_whole(path, b''.join(map(json_line, ordered)))


def read_rejects(path: str | os.PathLike) -> list[Reject]:
  """Reads what `write_rejects` wrote.

  Raises:
    ManifestError: lists all faults by line and column.
  """
  rejects, faults = [], []
  for number, line in enumerate(files.read_bytes(path).split(b'\n'), 1):
    if not line.strip():
      continue
    row, wrong = parse_json_line(line, number)
    if not wrong:
      names = [field.name for field in dataclasses.fields(Reject)]
      wrong = [
        Fault(number, name, f'unknown field; fields are {", ".join(names)}')
        for name in row
        if name not in names
      ]
      wrong += [
        Fault(number, name, f'{row.get(name)!r} is not a text')
        for name in names
        if not isinstance(row.get(name, '' if name == 'detail' else None), str)
      ]
    faults += wrong
    if not wrong:
      rejects.append(Reject(**row))
  if faults:
    raise ManifestError(path, faults)
  return rejects


def json_line(row: Any) -> bytes:
  """A dataclass as a line of JSON; names of files that are no UTF-8 come through, too."""
  values = dataclasses.asdict(row)
  try:
    return json.dumps(values, ensure_ascii=False).encode() + b'\n'
  except UnicodeEncodeError:
    return json.dumps(values).encode() + b'\n'


def read_manifest(path: str | os.PathLike) -> list[Track]:
  """Reads and checks a manifest; relative paths are taken from the manifest's folder.

  Raises:
    ManifestError: lists all faults by line and column.
  """
  path = files.place(path)
  folder = path.rpartition('/')[0]
  tracks: list[Track] = []
  faults: list[Fault] = []
  lines: dict[str, int] = {}
  # By newlines alone: other ends of line may stand inside of strings.
  for number, line in enumerate(files.read_bytes(path).split(b'\n'), 1):
    if not line.strip():
      continue
    row, wrong = parse_json_line(line, number)
    if not wrong:
      wrong = row_faults(row, number)
    if wrong:
      faults += wrong
      continue
    try:
      track = _track_from_row(row, folder)
    except files.PathError as error:
      faults.append(Fault(number, 'path', str(error).rstrip('.')))
      continue
    first = lines.setdefault(track.track_id, number)
    if first != number:
      faults.append(
        Fault(number, 'track_id', f'{track.track_id!r} stands there twice: line {first}')
      )
    tracks.append(track)
  faults += _straddling(tracks, lines) if not faults else []
  if faults:
    raise ManifestError(path, faults)
  return tracks


def parse_json_line(line: bytes, number: int) -> tuple[dict[str, Any], list[Fault]]:
  """The object of one line, or what is wrong with it."""
  try:
    row = json.loads(line.decode('utf-8-sig' if number == 1 else 'utf-8'))
  except json.JSONDecodeError as error:
    return {}, [Fault(number, f'character {error.colno}', f'not JSON: {error.msg}')]
  except UnicodeDecodeError as error:
    return {}, [Fault(number, f'byte {error.start + 1}', 'not UTF-8')]
  if not isinstance(row, dict):
    return {}, [Fault(number, '', 'not a JSON object')]
  return row, []


def row_faults(row: dict[str, Any], number: int) -> list[Fault]:
  """All faults of one line of a manifest."""
  fields = {field.name: field for field in dataclasses.fields(Track)}
  faults = [
    Fault(number, name, f'unknown field; fields are {", ".join(fields)}')
    for name in row
    if name not in fields
  ]
  for name, field in fields.items():
    value = row.get(name)
    if value in (None, ''):
      if field.default is dataclasses.MISSING:
        faults.append(Fault(number, name, 'is missing'))
    elif name in ('duration_secs', 'sample_rate', 'channels'):
      faults += _number_faults(number, name, value)
    elif name == 'tags':
      if not (isinstance(value, list) and all(isinstance(w, str) and is_text(w) for w in value)):
        faults.append(Fault(number, name, f'{value!r} is not a list of words'))
    elif not isinstance(value, str):
      faults.append(Fault(number, name, f'{value!r} is not a text'))
    elif name == 'path':
      if not files.is_name(value):
        faults.append(Fault(number, name, f'{value!r} is not a name that a file can have'))
    elif not is_text(value):
      faults.append(Fault(number, name, f'{value!r} is not text: it has half of a character'))
    elif (choices := {'split': SPLITS, 'vocal': VOCAL}.get(name)) and value not in choices:
      faults.append(Fault(number, name, f'{value!r} is not one of {choices}'))
  sha256 = row.get('sha256')
  if isinstance(sha256, str) and sha256 and not re.fullmatch('[0-9a-f]{64}', sha256):
    faults.append(Fault(number, 'sha256', f'{sha256!r} is not 64 hexadecimal digits'))
  return faults


def is_text(value: str) -> bool:
  """Returns whether a string is valid text, without lone surrogates."""
  return not any('\ud800' <= letter <= '\udfff' for letter in value)


def _number_faults(number: int, name: str, value: Any) -> list[Fault]:
  whole = name != 'duration_secs'
  if isinstance(value, bool) or not isinstance(value, (int, float)):
    return [Fault(number, name, f'{value!r} is not a number')]
  if not math.isfinite(value) or value < (1 if whole else 0) or (whole and value != int(value)):
    what = 'a whole number from 1 on' if whole else 'a length in seconds'
    return [Fault(number, name, f'{value!r} is not {what}')]
  return []


def _track_from_row(row: dict[str, Any], folder: str) -> Track:
  values = {name: value for name, value in row.items() if value is not None}
  values |= {
    'tags': tuple(values.get('tags') or ()),
    'duration_secs': float(row['duration_secs']),
    'path': files.absolute(row['path'], folder),
  }
  return Track(**values)


def _straddling(tracks: Sequence[Track], lines: dict[str, int]) -> list[Fault]:
  """Groups that lie in more than one split."""
  faults = []
  for group in groups_of(tracks):
    first = next((track for track in group if track.split), None)
    for track in group:
      if first and track.split and track.split != first.split:
        what, name = 'work', track.work
        if track.recording and track.recording == first.recording:
          what, name = 'recording', track.recording
        if track.sha256 == first.sha256:
          what, name = 'content', track.sha256[:16]
        place = f'{first.split!r} (line {lines[first.track_id]})'
        message = f'{track.split!r}, but the {what} {name!r} lies in {place}; keep each in one'
        faults.append(Fault(lines[track.track_id], 'split', message))
  return faults
