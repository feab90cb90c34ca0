"""From tracks to a data set: tokens of each track, the order of the records, shards and metadata.

Work goes through `preprocessing.pipeline` as ranges of plan files. What was done is seen from the
files, and the records are counted against the manifest, whatever a runner says.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etils import epath
from tqdm import tqdm

from models import folder_marker, record_shards, shard_bytes
from preprocessing import features, manifest, parts, shards, units, work

if TYPE_CHECKING:
  from preprocessing.corpus import PrepareOptions

PARTS_DIR = 'parts'
PLANS_DIR = 'plans'
# Outcomes that another run may turn into tokens.
_WORTH_ANOTHER_TRY = ('failed', 'unreadable', 'changed')
_BUILDING = 'BUILDING'
_COMPLETED = 'COMPLETED'
_KIND = 'records'
_HASH_DIGITS = 12
# Files of a data set: ours, and those of its TFDS description.
_OWN_NAME = re.compile(
  r'.+-(train|validation|test)\.tfrecord-\d{5,}-of-\d{5,}'
  rf'|(dataset_info|features|shards|stats)\.json|{re.escape(manifest.MANIFEST_FILE)}'
  rf'|{_COMPLETED}|{_BUILDING}|{re.escape(folder_marker.MARKER_FILE)}'
)


def tokenize(
  tracks: Sequence[manifest.Track],
  settings: parts.TokenSettings,
  options: PrepareOptions,
  loader: units.ModelLoader,
  output: epath.PathLike,
) -> dict[str, parts.PartMarker]:
  """Runs the tokenizer over all tracks; returns the outcome by track_id.

  Raises:
    RuntimeError: the runner ended well and tracks are missing all the same.
  """
  from preprocessing import pipeline

  parts_dir = str(epath.Path(output) / PARTS_DIR)
  parts.remove_stale(parts_dir)
  # The same content twice is one unit of work.
  by_key = {settings.key(track.sha256): track for track in tracks}
  markers = parts.read_markers(parts_dir, by_key.keys() & parts.done_keys(parts_dir))
  for key, marker in markers.items():
    if marker is None or marker.reason in _WORTH_ANOTHER_TRY:
      parts.remove_marker(parts_dir, key)
      markers[key] = None
  pending = {key: track for key, track in by_key.items() if markers.get(key) is None}
  # The longest first, so that all workers end at about the same time.
  longest = sorted(pending.items(), key=lambda item: -item[1].duration_secs)
  groups = work.deal([units.TrackUnit(key, track.path, track.sha256) for key, track in longest])
  with tqdm(
    total=round(sum(track.duration_secs for track in pending.values())),
    desc='tokenizing', unit='s', disable=None if pending else True,
  ) as bar:  # fmt: skip
    seen: set[str] = set()

    def look():
      new = (parts.done_keys(parts_dir) & pending.keys()) - seen
      seen.update(new)
      bar.update(round(sum(pending[key].duration_secs for key in new), 1))

    if pending:
      plan = epath.Path(output) / PLANS_DIR / 'tracks.jsonl'
      ranges = work.write_plan(plan, (('', map(units.as_line, group)) for group in groups))
      how = units.TrackWork(parts_dir, settings, options.codec, options.style, loader)
      pipeline.run_ranges(
        ranges, pipeline.TokenizeTracks(how), beam_args=options.beam_args, look=look
      )
  markers |= parts.read_markers(parts_dir, pending)
  _refuse_missing([pending[key].path for key in pending if markers[key] is None], len(pending))
  return {track.track_id: markers[settings.key(track.sha256)] for track in tracks}


def order_clips(
  tracks: Sequence[manifest.Track],
  markers: dict[str, parts.PartMarker],
  settings: parts.TokenSettings,
  options: PrepareOptions,
) -> dict[str, shards.SplitOrder]:
  """The records of each split in their order, counted against the manifest.

  Raises:
    RuntimeError: the parts of a track have other clips than its length in the manifest asks for.
  """
  by_split = collections.defaultdict(list)
  for track in tracks:
    planned = features.plan_clips(track.duration_secs, settings.clips, track.sha256)
    found = markers[track.track_id].clip_starts
    if tuple(start for start, _ in planned) != tuple(found):
      raise RuntimeError(
        f'{track.path} ({track.duration_secs} s) should have {len(planned)} clips, its part '
        f'{settings.key(track.sha256)} has {len(found)}. Delete that part and run again.'
      )
    if found:
      by_split[track.split].append(track)
  return {
    split: shards.shuffle(
      by_split[split],
      [settings.key(track.sha256) for track in by_split[split]],
      [markers[track.track_id].clip_frames for track in by_split[split]],
      options.seed,
      options.format.codec_levels,
    )
    for split in manifest.SPLITS
    if by_split[split]
  }


def fingerprint(clips: dict[str, shards.SplitOrder], options: PrepareOptions) -> str:
  """Identifies records and shards to the last bit, before they are written."""
  digest = hashlib.sha256()
  identity = [options.name, options.version, options.format.__dict__]
  digest.update(json.dumps(identity, sort_keys=True).encode())
  for split, order in clips.items():
    digest.update(json.dumps([split, len(order)]).encode())
    for clip in order.clips():
      digest.update(json.dumps(list(vars(clip).values())).encode())
  return digest.hexdigest()


def write_dataset(
  clips: dict[str, shards.SplitOrder],
  stats: dict[str, Any],
  options: PrepareOptions,
  output: epath.PathLike,
) -> bool:
  """Writes shards and metadata; the completion marker comes last.

  Locally all is made beside the final folder and then renamed. In a bucket, where nothing can be
  renamed, it is made in place: the folder is whole once it bears the completion marker.

  Returns:
    False where the folder holds exactly this data set already.

  Raises:
    RuntimeError: shards are missing, or do not hold as many records as they should.
  """
  final = epath.Path(options.dataset_dir)
  same = _completed_fingerprint(final) == stats['fingerprint']
  damage = _damage(final) if same else ''
  if same and not damage:
    return False
  from preprocessing import records

  building = _building_folder(final, stats['fingerprint'])
  if damage:
    print(f'{damage} Made again.', flush=True)
    _keep_whole_shards(final, building)
  facts = _write_shards(clips, options, output, building)
  lengths: dict[str, list[int]] = collections.defaultdict(list)
  for (split, _), found in facts.items():
    lengths[split].append(found.num_records)
  records.write_metadata(building, options.name, options.version, lengths, stats['about'])
  _write_facts(building, {name: found for (_, name), found in facts.items()})
  manifest_text = (epath.Path(output) / manifest.MANIFEST_FILE).read_bytes()
  with parts.atomic_file(building / manifest.MANIFEST_FILE) as file:
    file.write(manifest_text)
  records.write_json(building / records.STATS_FILE, stats)
  for path in building.iterdir():
    # Left by writers that were killed.
    if parts.is_temporary(path.name) or path.name == _BUILDING:
      path.unlink()
  records.write_json(building / records.COMPLETION_MARKER, {'fingerprint': stats['fingerprint']})
  _put_in_place(building, final)
  return True


def _write_shards(
  clips: dict[str, shards.SplitOrder],
  options: PrepareOptions,
  output: epath.PathLike,
  building: epath.Path,
) -> dict[tuple[str, str], shard_bytes.ShardFacts]:
  """Writes what is missing of the shards; returns the facts of each by (split, file name)."""
  from preprocessing import pipeline

  layout = [
    (split, order, shard, count)
    for split, order in clips.items()
    for count in [options.format.count_shards(len(order), order.num_bytes)]
    for shard in range(count)
  ]
  plan = work.write_plan(
    epath.Path(output) / PLANS_DIR / 'shards.jsonl',
    (
      (
        str(building / shards.shard_name(options.name, split, shard, count)),
        map(units.as_line, order.clips(shard, count)),
      )
      for split, order, shard, count in layout
    ),
  )
  there = {path.name for path in building.iterdir()}
  missing = [shard for shard in plan if epath.Path(shard.target).name not in there]
  compression = options.format.compression
  how = units.ShardWork(
    str(epath.Path(output) / PARTS_DIR), options.format.codec_levels, compression
  )
  with tqdm(total=len(missing), desc='writing records', unit='shard') as bar:
    names = {epath.Path(shard.target).name for shard in missing}

    def look():
      bar.update(sum(path.name in names for path in building.iterdir()) - bar.n)

    pipeline.run_ranges(missing, pipeline.WriteShards(how), beam_args=options.beam_args, look=look)
  there = {path.name for path in building.iterdir()}
  _refuse_missing([s.target for s in plan if epath.Path(s.target).name not in there], len(missing))
  facts = {}
  for shard, (split, *_) in zip(plan, layout, strict=True):
    found = shard_bytes.shard_facts(shard.target, compression)
    if found.num_records != shard.count:
      raise RuntimeError(
        f'{shard.target} has {found.num_records} records, the manifest gives {shard.count}. '
        f'Delete it and run again.'
      )
    facts[split, epath.Path(shard.target).name] = found
  return facts


def _write_facts(folder: epath.Path, facts: dict[str, shard_bytes.ShardFacts]):
  """Writes down what whole shards look like, for those who read them later."""
  rows = {name: [known.num_bytes, known.num_records, known.ends] for name, known in facts.items()}
  with parts.atomic_file(folder / record_shards.SHARDS_FILE) as file:
    file.write(json.dumps(rows).encode() + b'\n')


def _damage(folder: epath.Path) -> str:
  """What is wrong with a finished data set, in a sentence; '' where it is whole.

  Raises:
    ForeignShardError: a shard of something else lies in it, which must not be removed with it.
  """
  try:
    found = record_shards.TokenFolder(folder)
    names = [name for split in found.splits for name in found.shards(split)]
    if not (folder / record_shards.SHARDS_FILE).exists():  # Made before these were written down.
      facts = {
        epath.Path(name).name: shard_bytes.shard_facts(name, found.compression) for name in names
      }
      _write_facts(folder, facts)
  except record_shards.ForeignShardError:
    raise
  except record_shards.TokenDataError as error:
    return error.problem
  return ''


def _keep_whole_shards(folder: epath.Path, building: epath.Path):
  """Takes the shards of a damaged data set that are whole over into one in the making."""
  if not parts.is_local(folder):
    return
  for name in record_shards.whole_shards(folder):
    with contextlib.suppress(FileExistsError):
      os.link(folder / name, building / name)


def _refuse_missing(missing: Sequence[str], asked: int):
  if missing:
    raise RuntimeError(
      f'{len(missing)} of {asked} work units are missing after the run, e.g. {missing[0]}. '
      'Run again to complete them; if it stays so, this runner loses data.'
    )


def check_place(folder: epath.PathLike):
  """Refuses (ValueError) a place where a folder is that Woodshed did not make."""
  place = epath.Path(folder)
  if not place.exists() or folder_marker.kind_of(place) or (place / _COMPLETED).exists():
    return
  foreign = _foreign_names(place)
  if foreign:
    raise ValueError(
      f'{place} holds {foreign[0]}, which Woodshed did not write, and the data set would take its '
      'place. Move that folder away, or give another --output_dir, --name or --version.'
    )


def _building_folder(final: epath.Path, wanted: str) -> epath.Path:
  """Where the data set of this fingerprint is made; shards of another one are not in it."""
  if parts.is_local(final):
    building = final.with_name(f'.{final.name}.{wanted[:_HASH_DIGITS]}')
    folder_marker.mark(building, _KIND)
    return building
  mark = final / _BUILDING
  if not mark.exists() or mark.read_text() != wanted:
    if final.exists():
      _clear(final)
    folder_marker.mark(final, _KIND)
    mark.write_text(wanted)
  return final


def _put_in_place(building: epath.Path, final: epath.Path):
  """Renames what was built, and removes what it takes the place of.

  Files of a user's own in the earlier data set move into the new one.
  """
  if building == final:
    return
  if final.exists():
    old = final.with_name(f'.{final.name}.old')
    if old.exists():
      _remove(old)
    final.rename(old)
  building.rename(final)
  # What is replaced, or was being built from an earlier state of the corpus and never finished.
  made = re.compile(rf'\.{re.escape(final.name)}\.([0-9a-f]{{{_HASH_DIGITS}}}|old)')
  for path in list(final.parent.iterdir()):
    if made.fullmatch(path.name):
      _remove(path, final if path.name.endswith('.old') else None)


def _remove(folder: epath.Path, heir: epath.Path | None = None):
  """Removes a folder of records; what Woodshed did not write in it goes to `heir`, or stays."""
  for name in _clear(folder):
    if heir is not None and not (heir / name).exists():
      (folder / name).rename(heir / name)
      print(f'{heir / name} is kept: Woodshed did not write it.', file=sys.stderr)
  if {path.name for path in folder.iterdir()} <= {folder_marker.MARKER_FILE}:
    (folder / folder_marker.MARKER_FILE).unlink(missing_ok=True)
    folder.rmdir()
  else:
    print(f'{folder} is left: it holds files that Woodshed did not write.', file=sys.stderr)


def _clear(folder: epath.Path) -> list[str]:
  """Removes the files of a data set; returns the names of what else is there but for the marker."""
  foreign = _foreign_names(folder)
  for path in list(folder.iterdir()):
    if path.name not in (*foreign, folder_marker.MARKER_FILE):
      path.unlink()
  return foreign


def _foreign_names(folder: epath.Path) -> list[str]:
  """What lies in a folder and has no name that a file of a data set has, sorted."""
  if not folder.is_dir():
    return [folder.name]
  return sorted(
    path.name
    for path in folder.iterdir()
    if path.is_dir() or not (_OWN_NAME.fullmatch(path.name) or parts.is_temporary(path.name))
  )


def _completed_fingerprint(folder: epath.Path) -> str | None:
  try:
    return json.loads((folder / _COMPLETED).read_text())['fingerprint']
  except (FileNotFoundError, json.JSONDecodeError, KeyError):
    return None
