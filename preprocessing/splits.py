"""Splits: whole groups are held out, so that nothing that is heard in training is tested on.

A group is a work with its versions, its copies and its near-duplicates.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from preprocessing.manifest import Track

SPLITS = ('train', 'validation', 'test')
# From this many groups on, each is held out by its own hash alone: stable as the corpus grows.
LARGE_CORPUS_GROUPS = 200
MIN_HELD_OUT_TRACKS = 2
# Below this many tracks a small catalog has a validation split only.
MIN_TRACKS_FOR_TEST = 10


def groups_of(tracks: Sequence[Track]) -> list[list[Track]]:
  """Tracks that belong together: of one work, of the same content or of the same recording."""
  parent = list(range(len(tracks)))

  def root(i: int) -> int:
    while parent[i] != i:
      parent[i] = parent[parent[i]]
      i = parent[i]
    return i

  first: dict[tuple[str, str], int] = {}
  for number, track in enumerate(tracks):
    keys = (('work', track.work), ('sha256', track.sha256), ('recording', track.recording))
    for key in keys:
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
