"""Making a manifest: of folders, a table, an earlier manifest with changes, or all of these.

In this order: which files there are; what each holds (`scan`); what tags, table and the earlier
manifest say of it; licences; quality; duplicates. What is left out is listed with its reason.
"""

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from models import notices
from preprocessing import (
  audio,
  files,
  licences,
  manifest,
  music_terms,
  quality,
  same_recordings,
  scan,
  tables,
)
from preprocessing.manifest import Fault, ManifestError, Reject, Track

DUPLICATES = ('keep', 'drop_copies', 'drop')
# A recording of which so much lies in another one is held by it: what was measured of copies.
_WHOLE = 0.8


@dataclasses.dataclass(frozen=True)
class BuildOptions:
  """What a manifest is made of, and what is let in.

  Attributes:
    folders: searched for audio files, local or URIs.
    table: CSV, TSV or JSON lines; '' for none.
    columns: {field: column} of the table.
    table_root: folder of the table's relative paths; '' takes the table's own.
    earlier: a manifest whose tracks are taken over; '' for none.
    source: goes into every new line; '' takes the folder's or the table's name.
    licence_policy: which licences are let in.
    limits: of quality.
    decode: whether samples are looked at: quality and near-duplicates need it.
    duplicates: 'keep' all, together in one split; 'drop_copies' leaves one of equal files, 'drop'
      also leaves out what another track that stays holds the whole of.
    journal: local file that keeps what was scanned; '' for none.
    num_workers: processes of the scan; 0 chooses.
  """

  folders: tuple[str, ...] = ()
  table: str = ''
  columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
  table_root: str = ''
  earlier: str = ''
  source: str = ''
  licence_policy: licences.LicencePolicy = licences.LicencePolicy()
  limits: quality.QualityLimits = quality.DEFAULT_LIMITS
  decode: bool = True
  duplicates: str = 'keep'
  journal: str = ''
  num_workers: int = 0

  def check(self):
    """Raises ValueError or FileNotFoundError for what would fail later."""
    if not (self.folders or self.table or self.earlier):
      raise ValueError('Give a folder of audio, a table or an earlier manifest.')
    if '' in self.folders:
      raise ValueError('A folder of audio (audio_dir) is empty; give its path.')
    for path in (self.table, self.earlier):
      local = files.place(path)
      if path and not files.is_remote(local) and not os.path.isfile(local):
        raise FileNotFoundError(f'{path} is not a file.')
    if self.duplicates not in DUPLICATES:
      raise ValueError(f'duplicates={self.duplicates!r} is not one of {DUPLICATES}.')
    if self.num_workers < 0:
      raise ValueError(f'num_workers={self.num_workers} must not be negative.')
    self.licence_policy.check()
    self.limits.check()


def build(
  options: BuildOptions,
  *,
  known: Iterable[Track] = (),
  progress: Callable[[int], None] = lambda count: None,
  begin: Callable[[int], None] = lambda total: None,
) -> tuple[list[Track], list[Reject]]:
  """Makes a manifest; splits are not assigned to new tracks yet.

  Args:
    options: of what and how.
    known: tracks of an earlier run; a file with the same content keeps its split.
    progress: is called with 1 after each file.
    begin: is called with the number of files before the first is read.

  Returns:
    Tracks in the order of their paths, and what was set aside.

  Raises:
    ManifestError: the table or the earlier manifest is wrong.
    ValueError, FileNotFoundError: wrong options, or nothing to begin with.
  """
  options.check()
  earlier = manifest.read_manifest(options.earlier) if options.earlier else []
  rows = _rows(options, earlier)
  sources, rejects = _sources(options, rows, earlier)
  begin(len(sources))
  found = scan.scan(
    list(sources),
    scan.ScanSettings(options.decode, options.limits.silence_dbfs, options.limits.mono_side_db),
    journal=options.journal or None,
    num_workers=options.num_workers,
    progress=progress,
  )
  moved, before = _moved(earlier, found), _by_content(earlier)
  tracks: list[Track] = []
  splits = {track.sha256: track.split for track in known}
  for path in sorted(sources):
    if path in moved:
      continue
    row, scanned = rows.get(path), found[path]
    reject = _reject(scanned, row, options)
    if reject is not None:
      rejects.append(reject)
      continue
    same = before.get((scanned.sha256, path)) or before.get((scanned.sha256, ''))
    track = _track(scanned, sources[path], same, row)
    track = dataclasses.replace(track, split=track.split or splits.get(track.sha256, ''))
    if refusal := options.licence_policy.refusal(track.licence):
      rejects.append(Reject(path, 'licence', refusal))
      continue
    tracks.append(track)
  tracks, holders = _with_recordings(_with_own_ids(tracks), found)
  return _without_duplicates(tracks, options.duplicates, rejects, holders)


def _by_content(earlier: Sequence[Track]) -> dict[tuple[str, str], Track]:
  """The earlier manifest's lines by content and path, and by content alone."""
  lines = {(track.sha256, ''): track for track in reversed(earlier)}
  return lines | {(track.sha256, track.path): track for track in earlier}


def _rows(options: BuildOptions, earlier: Sequence[Track]) -> dict[str, tables.Row]:
  """The table's rows by path; rows that name a track of the earlier manifest get its path."""
  if not options.table:
    return {}
  rows = tables.read_table(options.table, options.columns, options.table_root, say=notices.say)
  paths = {track.track_id: track.path for track in earlier}
  faults = [
    Fault(row.line, options.columns.get('track_id', 'track_id'), _no_track(row, options))
    for row in rows
    if row.track_id and not row.path and row.track_id not in paths
  ]
  if faults:
    raise ManifestError(options.table, faults)
  return {row.path or paths[row.track_id]: row for row in rows}


def _no_track(row: tables.Row, options: BuildOptions) -> str:
  where = f'in {options.earlier}' if options.earlier else 'here: no earlier manifest is given'
  return f'{row.track_id!r} is no track {where}; give a path for a new one'


def _sources(
  options: BuildOptions, rows: Mapping[str, tables.Row], earlier: Sequence[Track]
) -> tuple[dict[str, str], list[Reject]]:
  """Where each path is from; a path that several sources name is read once."""
  sources: dict[str, str] = {}
  rejects: list[Reject] = []
  for folder in options.folders:
    paths, foreign = manifest.find_audio_files(folder)
    rejects += foreign
    name = options.source or os.path.basename(files.absolute(folder).rstrip('/'))
    name = files.as_text(name)
    sources |= dict.fromkeys(paths, name)
  name = files.as_text(options.source or os.path.splitext(os.path.basename(options.table))[0])
  for path in rows:
    sources.setdefault(path, name)
  for track in earlier:
    sources[track.path] = track.source
  return sources, rejects


def _moved(earlier: Sequence[Track], found: Mapping[str, scan.Scanned]) -> set[str]:
  """Paths of the earlier manifest that are gone while their content lies elsewhere."""
  present = {scanned.sha256 for scanned in found.values() if not scanned.reason}
  return {
    track.path
    for track in earlier
    if found[track.path].reason == 'unreadable' and track.sha256 in present
  }


def _reject(scanned: scan.Scanned, row: tables.Row | None, options: BuildOptions) -> Reject | None:
  """Why a file is left out, by what was scanned and the limits of now."""
  if row is not None and row.drop:
    return Reject(scanned.path, 'dropped', f'{options.table}, line {row.line}')
  if scanned.reason:
    return Reject(scanned.path, scanned.reason, scanned.detail)
  if scanned.measured is None:
    return None
  try:
    quality.check_header(scanned.header, options.limits)
    quality.check_measurement(scanned.measured, scanned.header, options.limits)
  except audio.AudioError as error:
    return Reject(scanned.path, error.reason, str(error))
  return None


def _track(
  scanned: scan.Scanned, source: str, before: Track | None, row: tables.Row | None
) -> Track:
  """One line: the table says it best, then the earlier manifest, then the tags."""
  header, facts = scanned.header, scanned.facts
  secs = scanned.measured.duration_secs if scanned.measured else header.duration_secs
  stem = files.as_text(pathlib.PurePath(scanned.path).stem)
  values = {
    'title': facts.title or re.sub(r'^\d{1,3}[ ._-]+', '', stem),
    'artist': facts.artist, 'album': facts.album, 'work': facts.work, 'genre': facts.genre,
    'tags': facts.tags, 'tradition': facts.tradition, 'caption': facts.caption,
    'licence': facts.licence, 'attribution': '', 'source': source, 'split': '',
    'vocal': music_terms.vocal_from(facts.vocal, (), facts.language, bool(facts.lyrics)),
  }  # fmt: skip
  if before is not None:
    values |= {name: getattr(before, name) for name in values}
  values |= dict(row.facts) if row is not None else {}
  words = [values['genre'], *values['tags']]
  in_title = re.findall(r'[\(\[](.*?)[\)\]]', values['title'])
  return Track(
    track_id=before.track_id if before is not None else '',
    path=scanned.path,
    sha256=scanned.sha256,
    duration_secs=round(secs, 6),
    sample_rate=header.sample_rate,
    channels=header.channels,
    decoding=header.notes,
    **values
    | {
      'work': values['work'] or manifest.work_name(values['artist'], values['title']),
      'vocal': values['vocal'] or music_terms.vocal_from('', [*words, *in_title]),
      'tradition': values['tradition'] or music_terms.tradition_from(words),
      'licence': licences.licence_name(values['licence']),
    },
  )


def _with_own_ids(tracks: Sequence[Track]) -> list[Track]:
  """Ids made of the content, or the earlier ones; copies are numbered in the order of paths."""
  taken: set[str] = set()
  numbered = []
  for track in tracks:
    first = track_id = track.track_id or track.sha256[:16]
    number = 1
    while track_id in taken:
      number += 1
      track_id = f'{first}-{number}'
    taken.add(track_id)
    numbered.append(dataclasses.replace(track, track_id=track_id))
  return numbered


def _with_recordings(
  tracks: Sequence[Track], found: Mapping[str, scan.Scanned]
) -> tuple[list[Track], dict[str, set[str]]]:
  """Near-duplicates get one name: the start of the least hash among them.

  Returns:
    The tracks, and the contents (sha256) that hold the whole of each content.
  """
  contents = {
    track.sha256: print_
    for track in tracks
    if (print_ := scan.fingerprint_of(found[track.path])) is not None
  }
  names = sorted(contents)
  least = {name: name for name in names}

  def root(name: str) -> str:
    while least[name] != name:
      least[name] = least[least[name]]
      name = least[name]
    return name

  prints = [contents[name] for name in names]
  holders: dict[str, set[str]] = collections.defaultdict(set)
  for i, j, match in same_recordings.same_recordings(prints):
    low, high = sorted((root(names[i]), root(names[j])))
    least[high] = low
    for one, other, part in ((i, j, match.parts[0]), (j, i, match.parts[1])):
      if part >= _WHOLE:
        holders[names[one]].add(names[other])
  _warn(tracks, names, *same_recordings.hard_to_compare(prints))
  sizes = collections.Counter(map(root, names))
  recordings = {name: root(name)[:16] for name in names if sizes[root(name)] > 1}
  tracks = [
    dataclasses.replace(track, recording=recordings.get(track.sha256, '')) for track in tracks
  ]
  return tracks, holders


def _warn(tracks: Sequence[Track], names: Sequence[str], few: list[int], common: list[int]):
  """Says which tracks' near-duplicates may go unnoticed."""
  paths = {track.sha256: track.path for track in reversed(tracks)}
  for which, why in (
    (few, 'have too few peaks in their spectrum to be compared (silence, single tones)'),
    (common, 'sound for more than half like many other tracks, so that their copies are not found'),
  ):
    if which:
      first = paths[names[which[0]]]
      notices.say(f'Near-duplicates: {len(which)} tracks {why}, the first is {first}.')


def _without_duplicates(
  tracks: list[Track],
  duplicates: str,
  rejects: list[Reject],
  holders: Mapping[str, Collection[str]],
) -> tuple[list[Track], list[Reject]]:
  """Leaves the best of each set: what is held out, then rate, length, and the first path.

  With 'drop' a track goes only if one that stays holds the whole of it: of a disc in one file and
  its songs the disc stays; of two discs with one song in common, both.
  """
  if duplicates == 'keep':
    return tracks, rejects
  stays: dict[str, Track] = {}
  order = sorted(
    tracks,
    key=lambda track: (
      -('', 'train', 'validation', 'test').index(track.split),
      -min(track.channels, 2), -track.sample_rate, -round(track.duration_secs), track.path,
    ),
  )  # fmt: skip
  rank = {track.track_id: number for number, track in enumerate(order)}
  kept = []
  for track in order:
    first = stays.get(track.sha256)
    if first is None and duplicates == 'drop':
      held = [stays[name] for name in holders.get(track.sha256, ()) if name in stays]
      first = min(held, key=lambda other: rank[other.track_id], default=None)
    if first is None:
      kept.append(track)
    else:
      rejects.append(Reject(track.path, 'duplicate', f'of {first.path}'))
    stays.setdefault(track.sha256, first or track)
  return sorted(kept, key=lambda track: track.path), rejects
