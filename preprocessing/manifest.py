"""The manifest: one line for each track of a corpus, with its tags, its group and its split.

A manifest is made from a folder (tags are read from the files), or read from a file that was made
before or by hand. `assign_splits` holds whole works out, so that no work straddles two splits.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from preprocessing import audio, tags

SPLITS = ('train', 'validation', 'test')
MANIFEST_FILE = 'manifest.jsonl'
# Known audio that soundfile does not decode: such a file is set aside with its reason.
UNSUPPORTED_SUFFIXES = ('.m4a', '.mp4', '.aac', '.wma', '.ape', '.wv', '.mpc', '.ra', '.alac')
# From this many groups on, each is held out by its own hash alone: stable as the corpus grows.
LARGE_CORPUS_GROUPS = 200
MIN_HELD_OUT_TRACKS = 2
# Below this many tracks a small catalog has a validation split only.
MIN_TRACKS_FOR_TEST = 10


@dataclasses.dataclass(frozen=True)
class Track:
  """One audio file of a corpus.

  Attributes:
    track_id: unique in the manifest, made of the content; stays when a file moves.
    path: of the file, absolute.
    sha256: of the file's bytes, in hex.
    duration_secs: seconds, by the file's header.
    sample_rate: Hz.
    channels: number of channels.
    title, artist, album, genre: tags, '' where absent; the title falls back to the file's name.
    work: what the recording is of; versions of one work share it. The group that splits keep whole.
    tags: further words, e.g. instruments.
    vocal: 'vocal', 'instrumental' or ''.
    tradition: musical tradition, '' where unknown.
    caption: a sentence that describes the music, '' where unknown.
    licence: as tagged, '' where unknown.
    source: where the corpus says the file is from.
    split: 'train', 'validation', 'test' or '' before `assign_splits`.
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
  source: str = ''
  split: str = ''


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


class ManifestError(ValueError):
  """A manifest is wrong; the message names the file and the line."""


def find_audio_files(folder: str | os.PathLike) -> tuple[list[str], list[Reject]]:
  """All audio files below a folder, sorted, and those of formats that cannot be decoded.

  Hidden files and folders are passed over; links to folders are not followed.

  Raises:
    FileNotFoundError: there is no such folder.
    ValueError: it holds no audio.
  """
  root = pathlib.Path(folder).expanduser().absolute()
  if not root.is_dir():
    raise FileNotFoundError(f'{root} is not a folder.')
  found, rejects = [], []
  for directory, subdirectories, names in os.walk(root):
    subdirectories[:] = sorted(name for name in subdirectories if not name.startswith('.'))
    for name in sorted(names):
      path = os.path.join(directory, name)
      suffix = os.path.splitext(name)[1].lower()
      if name.startswith('.'):
        continue
      if suffix in audio.AUDIO_SUFFIXES:
        found.append(path)
      elif suffix in UNSUPPORTED_SUFFIXES:
        detail = f'{suffix} is not decoded; convert it to FLAC or WAV'
        rejects.append(Reject(path, 'unsupported_format', detail))
  if not found:
    raise ValueError(
      f'{root} holds no audio files ({", ".join(audio.AUDIO_SUFFIXES)}); '
      f'{len(rejects)} files are of other audio formats.'
    )
  return found, rejects


def build_manifest(
  folder: str | os.PathLike,
  *,
  source: str = '',
  known: Iterable[Track] = (),
  num_threads: int = 4,
  progress: Callable[[int], None] = lambda count: None,
) -> tuple[list[Track], list[Reject]]:
  """Makes a manifest of all audio files below a folder; splits are not assigned yet.

  Args:
    folder: any nesting of folders.
    source: goes into every line; '' takes the folder's name.
    known: tracks of an earlier manifest; a file with the same content keeps its id and split.
    num_threads: files read at the same time.
    progress: is called with 1 after each file.

  Returns:
    Tracks in the order of their paths, and the files set aside.

  Raises:
    FileNotFoundError: no such folder.
    ValueError: no audio in it.
  """
  paths, rejects = find_audio_files(folder)
  source = source or pathlib.Path(folder).expanduser().absolute().name
  tracks: list[Track] = []
  seen: dict[str, int] = {}
  earlier = {track.sha256: track for track in known}
  with concurrent.futures.ThreadPoolExecutor(num_threads) as pool:
    for examined in pool.map(lambda path: _examine(path, source), paths):
      progress(1)
      if isinstance(examined, Reject):
        rejects.append(examined)
        continue
      copies = seen[examined.sha256] = seen.get(examined.sha256, 0) + 1
      suffix = f'-{copies}' if copies > 1 else ''
      before = earlier.get(examined.sha256)
      track_id = examined.sha256[:16] + suffix
      tracks.append(
        dataclasses.replace(examined, track_id=track_id, split=before.split if before else '')
      )
  return tracks, rejects


def _examine(path: str, source: str) -> Track | Reject:
  """Header, hash and tags of one file."""
  try:
    header = audio.read_header(path)
    digest = file_sha256(path)
  except audio.AudioError as error:
    return Reject(path, error.reason, str(error))
  except OSError as error:
    return Reject(path, 'unreadable', f'{error.strerror}')
  facts = tags.read_tags(path)
  stem = pathlib.Path(path).stem
  title = facts.title or re.sub(r'^\d{1,3}[ ._-]+', '', stem)
  return Track(
    track_id=digest[:16],
    path=path,
    sha256=digest,
    duration_secs=round(header.duration_secs, 6),
    sample_rate=header.sample_rate,
    channels=header.channels,
    title=title,
    artist=facts.artist,
    album=facts.album,
    work=facts.work or work_name(facts.artist, title),
    genre=facts.genre,
    tags=facts.tags,
    vocal=facts.vocal,
    tradition=facts.tradition,
    caption=facts.caption,
    licence=facts.licence,
    source=source,
  )


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
  return ': '.join(part for part in words if part)


def file_sha256(path: str | os.PathLike) -> str:
  """SHA-256 of a file's bytes, in hex."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def groups_of(tracks: Sequence[Track]) -> list[list[Track]]:
  """Tracks that belong together: of one work, or of the same content."""
  parent = list(range(len(tracks)))

  def root(i: int) -> int:
    while parent[i] != i:
      parent[i] = parent[parent[i]]
      i = parent[i]
    return i

  first: dict[tuple[str, str], int] = {}
  for number, track in enumerate(tracks):
    for key in (('work', track.work), ('sha256', track.sha256)):
      if key[1]:
        parent[root(number)] = root(first.setdefault(key, number))
  groups: dict[int, list[Track]] = {}
  for number, track in enumerate(tracks):
    groups.setdefault(root(number), []).append(track)
  return list(groups.values())


def check_fractions(validation_fraction: float, test_fraction: float):
  """Raises ValueError for shares of held-out tracks that leave nothing to train on."""
  least, held_out = min(validation_fraction, test_fraction), validation_fraction + test_fraction
  if not (least >= 0 and held_out < 1):
    raise ValueError(
      f'validation_fraction={validation_fraction} and test_fraction={test_fraction} must be at '
      'least 0 and leave something to train on.'
    )


def assign_splits(
  tracks: Sequence[Track],
  *,
  validation_fraction: float = 0.1,
  test_fraction: float = 0.05,
  min_held_out: int = MIN_HELD_OUT_TRACKS,
  seed: int = 0,
) -> list[Track]:
  """Gives every track a split; whole groups go together.

  A group with a split from an earlier manifest keeps it. Large corpora hold a group out by its own
  hash, so that growth changes nothing. Small catalogs rank the groups by hash and hold out the
  first, with at least `min_held_out` tracks in validation (and in test, from
  `MIN_TRACKS_FOR_TEST` tracks on); one group at least stays for training.

  Args:
    tracks: of a manifest.
    validation_fraction: share of the tracks, about.
    test_fraction: share of the tracks, about.
    min_held_out: tracks in each held-out split of a small catalog.
    seed: of the hash.

  Returns:
    The tracks in the same order, with their split.

  Raises:
    ValueError: fractions that leave nothing to train on.
  """
  check_fractions(validation_fraction, test_fraction)
  groups = sorted(groups_of(tracks), key=lambda group: _group_hash(group, seed))
  chosen: dict[str, str] = {}
  undecided = []
  for group in groups:
    before = {track.split for track in group if track.split}
    if before:
      # What was ever held out stays so.
      split = max(before, key=SPLITS.index)
      chosen.update((track.track_id, split) for track in group)
    else:
      undecided.append(group)
  if len(groups) >= LARGE_CORPUS_GROUPS:
    for group in undecided:
      share = int(_group_hash(group, seed)[:13], 16) / 16**13
      validation = share < validation_fraction
      split = 'validation' if validation else 'test'
      if share >= validation_fraction + test_fraction:
        split = 'train'
      chosen.update((track.track_id, split) for track in group)
  else:
    wanted = {'validation': max(min_held_out, round(validation_fraction * len(tracks)))}
    if test_fraction and len(tracks) >= MIN_TRACKS_FOR_TEST:
      wanted['test'] = max(min_held_out, round(test_fraction * len(tracks)))
    _hold_out_first(undecided, wanted, chosen, len(tracks))
  return [dataclasses.replace(track, split=chosen.get(track.track_id, 'train')) for track in tracks]


def _hold_out_first(
  groups: Sequence[Sequence[Track]],
  wanted: dict[str, int],
  chosen: dict[str, str],
  num_tracks: int,
):
  """Holds out groups in order until each split has its number; at most half of all tracks."""
  queue = list(groups)
  trains = any(split == 'train' for split in chosen.values())
  for split, number in wanted.items():
    have = sum(name == split for name in chosen.values())
    while have < number and len(queue) > (0 if trains else 1):
      held_out = sum(name != 'train' for name in chosen.values())
      # A group that is too large to be held out waits at the end, for training.
      room = num_tracks // 2 - held_out
      fitting = next((group for group in queue if len(group) <= max(room, have == 0)), None)
      if fitting is None:
        break
      queue.remove(fitting)
      chosen.update((track.track_id, split) for track in fitting)
      have += len(fitting)


def _group_hash(group: Sequence[Track], seed: int) -> str:
  name = min(track.work or track.sha256 for track in group)
  return hashlib.sha256(f'{seed}/{name}'.encode()).hexdigest()


def write_manifest(path: str | os.PathLike, tracks: Iterable[Track]):
  """Writes one JSON object a line; the file appears whole or not at all."""
  path = pathlib.Path(path)
  partial = path.with_name(f'.{path.name}.{os.getpid()}')
  with open(partial, 'w', encoding='utf-8') as file:
    for track in tracks:
      file.write(json.dumps(dataclasses.asdict(track), ensure_ascii=False) + '\n')
    file.flush()
    os.fsync(file.fileno())
  partial.replace(path)


def read_manifest(path: str | os.PathLike) -> list[Track]:
  """Reads and checks a manifest; relative paths are taken from the manifest's folder.

  Raises:
    ManifestError: names the first faulty line.
  """
  path = pathlib.Path(path)
  tracks: list[Track] = []
  seen: set[str] = set()
  for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
    if not line.strip():
      continue
    try:
      track = _track_from_row(json.loads(line), path.parent)
      if track.track_id in seen:
        raise ValueError(f'track_id {track.track_id!r} stands there twice')
    except (ValueError, TypeError) as error:
      raise ManifestError(f'{path}, line {number}: {error}.') from error
    seen.add(track.track_id)
    tracks.append(track)
  _check_groups(path, tracks)
  return tracks


def _track_from_row(row: dict, folder: pathlib.Path) -> Track:
  if not isinstance(row, dict):
    raise ValueError('not a JSON object')
  fields = {field.name: field for field in dataclasses.fields(Track)}
  unknown = sorted(set(row) - set(fields))
  if unknown:
    raise ValueError(f'unknown field {unknown[0]!r}; fields are {sorted(fields)}')
  required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
  missing = [name for name in required if row.get(name) in (None, '')]
  if missing:
    raise ValueError(f'{missing[0]!r} is missing')
  if row.get('split', '') not in ('', *SPLITS):
    raise ValueError(f'split {row["split"]!r} is not one of {SPLITS}')
  duration = float(row['duration_secs'])
  if not (math.isfinite(duration) and duration >= 0):
    raise ValueError(f'duration_secs={row["duration_secs"]} is not a length')
  values = {**row, 'tags': tuple(row.get('tags') or ()), 'duration_secs': duration}
  return Track(**{**values, 'path': str(folder / os.path.expanduser(row['path']))})


def _check_groups(path: pathlib.Path, tracks: Sequence[Track]):
  for group in groups_of(tracks):
    splits = {track.split for track in group if track.split}
    if len(splits) > 1:
      raise ManifestError(
        f'{path}: the work {group[0].work!r} lies in the splits {sorted(splits)}; '
        'keep each work in one.'
      )
