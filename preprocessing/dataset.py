"""From tracks to a data set: tokens of each track, the order of the records, shards and metadata.

Work units go through `preprocessing.pipeline`; what was done is seen from the files, so that a run
that was killed goes on.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import json
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from preprocessing import manifest, parts

if TYPE_CHECKING:
  from preprocessing.corpus import PrepareOptions

PARTS_DIR = 'parts'


def tokenize(
  tracks: Sequence[manifest.Track],
  settings: parts.TokenSettings,
  options: PrepareOptions,
  loader: Callable,
  output: pathlib.Path,
) -> dict[str, parts.PartMarker]:
  """Runs the tokenizer over all tracks; returns the outcome by track_id."""
  from preprocessing import pipeline

  parts_dir = str(output / PARTS_DIR)
  units, secs = {}, {}
  for track in tracks:
    key = settings.key(track.sha256)
    marker = parts.read_marker(parts_dir, key)
    if marker is not None and marker.reason in ('failed', 'unreadable', 'changed'):
      parts.remove_marker(parts_dir, key)
    # The same content twice is one unit of work.
    units[key] = pipeline.TrackUnit(key, track.path, track.sha256)
    secs[key] = track.duration_secs
  is_done = functools.partial(pipeline.track_is_done, parts_dir)
  pending = sum(secs[key] for key, unit in units.items() if not is_done(unit))
  work = pipeline.TokenizeTrack(parts_dir, settings, options.codec, options.style, loader)
  with tqdm(
    total=round(pending), desc='tokenizing', unit='s', disable=None if pending else True
  ) as bar:
    pipeline.run_units(
      list(units.values()),
      work,
      is_done,
      beam_args=options.beam_args or pipeline.DEFAULT_BEAM_ARGS,
      progress=lambda unit: bar.update(round(secs[unit.key], 1)),
    )
  return {
    track.track_id: parts.read_marker(parts_dir, settings.key(track.sha256)) for track in tracks
  }


def order_clips(
  tracks: Sequence[manifest.Track],
  markers: dict[str, parts.PartMarker],
  settings: parts.TokenSettings,
  seed: int,
) -> dict[str, list]:
  """The clips of each split, shuffled by a hash of (seed, track, clip)."""
  from preprocessing import pipeline

  by_split = collections.defaultdict(list)
  for track in tracks:
    for number in range(len(markers[track.track_id].clip_starts)):
      name = f'{seed}/{track.track_id}/{number}'
      rank = hashlib.sha256(name.encode()).hexdigest()
      by_split[track.split].append((rank, number, track))
  ordered = {}
  for split in manifest.SPLITS:
    if by_split[split]:
      ordered[split] = [
        pipeline.ShardClip(
          settings.key(track.sha256), number, index, track.track_id, track.caption, track.licence
        )
        for index, (_, number, track) in enumerate(
          sorted(by_split[split], key=lambda item: item[:2])
        )
      ]
  return ordered


def write_dataset(
  clips: dict[str, list], stats: dict[str, Any], options: PrepareOptions, output: pathlib.Path
) -> bool:
  """Writes shards and metadata beside the final folder, then puts them in place.

  Returns:
    False where the folder holds exactly this data set already.
  """
  from preprocessing import pipeline

  final = options.dataset_dir
  if _completed_fingerprint(final) == stats['fingerprint']:
    return False
  from preprocessing import records

  building = final.with_name(f'.{final.name}.{stats["fingerprint"][:12]}')
  building.mkdir(parents=True, exist_ok=True)
  units, lengths = [], {}
  for split, members in clips.items():
    count = options.num_shards or records.num_shards_for(len(members))
    lengths[split] = [len(members[shard::count]) for shard in range(count)]
    units += [
      pipeline.ShardUnit(
        str(building / records.shard_name(options.name, split, shard, count)),
        tuple(members[shard::count]),
      )
      for shard in range(count)
    ]
  with tqdm(total=len(units), desc='writing records', unit='shard') as bar:
    pipeline.run_units(
      units,
      pipeline.WriteShard(str(output / PARTS_DIR)),
      pipeline.shard_is_done,
      beam_args=options.beam_args or pipeline.DEFAULT_BEAM_ARGS,
      progress=lambda unit: bar.update(1),
    )
  for unit in units:
    found = records.count_records(unit.path)
    if found != len(unit.clips):
      raise RuntimeError(
        f'{unit.path} has {found} records, the manifest gives {len(unit.clips)}. '
        f'Delete {building} and run again.'
      )
  records.write_metadata(building, options.name, options.version, lengths, stats['about'])
  manifest_copy = building / manifest.MANIFEST_FILE
  shutil.copyfile(output / manifest.MANIFEST_FILE, manifest_copy)
  records.write_json(building / records.STATS_FILE, stats)
  records.write_json(building / records.COMPLETION_MARKER, {'fingerprint': stats['fingerprint']})
  _put_in_place(building, final)
  return True


def _put_in_place(building: pathlib.Path, final: pathlib.Path):
  if final.exists():
    old = final.with_name(f'.{final.name}.old')
    shutil.rmtree(old, ignore_errors=True)
    final.rename(old)
  building.rename(final)
  # What was being built from an earlier state of the corpus and never finished.
  for stale in final.parent.glob(f'.{final.name}.*'):
    shutil.rmtree(stale, ignore_errors=True)


def _completed_fingerprint(folder: pathlib.Path) -> str | None:
  try:
    return json.loads((folder / 'COMPLETED').read_text())['fingerprint']
  except (FileNotFoundError, json.JSONDecodeError, KeyError):
    return None
