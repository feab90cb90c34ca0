"""Finds fingerprints of the same recording, or of recordings that hold parts of one another.

Two recordings share landmarks of equal hashes. Of one recording, at whatever speed and pitch, these
lie on one line: time in the one is a multiple of the time in the other plus an offset, and all
pitches differ by the same. Chance hits, and the loops and chords that works have in common, do not.

All fingerprints are one index, sorted by hash; the pairs that it gives are taken in blocks of a
bounded number, so memory is that of the index and time grows with the number of landmarks.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from preprocessing.fingerprint import Fingerprint

# What two recordings have to share, by how one differs from the other. Works of one style that are
# played by the same instruments share most where their tempi differ and nothing else; a change of
# speed changes tempo and pitch by one factor, which chance seldom does. benchmarks/duplicates.py
# measures both sides, docs/manifest.md has the figures.
MIN_SHARES = {'equal': 0.08, 'speed': 0.05, 'pitch': 0.025, 'tempo': 0.08, 'both': 0.08}
MIN_HITS = 10
# Of a long recording no more landmarks than this (about 4 minutes) have to be in another one.
_MAX_COMPARABLE = 1000
# What is searched: speed or tempo and pitch of the one against the other.
MAX_TEMPO_CHANGE = 0.07
MAX_SEMITONES = 2.6
# A hash that is found more often than this in all recordings (one drum loop) says nothing, neither
# for nor against a pair.
MAX_HOLDERS = 256
# Recordings with fewer landmarks that say something are hard to compare.
_FEW_TELLING = 100
# Changes of tempo and pitch below these are none.
_SAME_TEMPO, _SAME_PITCH = 0.004, 0.12
# Hits on one line differ by less than this: frames, semitones.
_TIME_TOLERANCE = 3.0
_PITCH_TOLERANCE = 0.3
# Lines are drawn through pairs of so many hits, which lie at least so many frames apart.
_LINE_ENDS = 48
_MIN_LINE_FRAMES = 100
# And judged by so many, evenly spread.
_LINE_HITS = 2000
# Pairs of landmarks that are looked at together: some 100 MB.
_BLOCK = 1_000_000


@dataclasses.dataclass(frozen=True)
class _Index:
  """The landmarks that more than one recording may have, by hash and then by recording.

  Attributes:
    owners, times, pitches: of each landmark.
    rest: int64, how many landmarks of the same hash follow.
    by_owner: places in the index, by recording.
    telling: bool, of all landmarks of all recordings in their order: whether they say something.
  """

  owners: np.ndarray
  times: np.ndarray
  pitches: np.ndarray
  rest: np.ndarray
  by_owner: np.ndarray
  telling: np.ndarray


@dataclasses.dataclass(frozen=True)
class Match:
  """The common part of two recordings.

  Attributes:
    share: of the landmarks of the smaller one, or of the common part.
    hits: landmarks.
    tempo: of the second one, as a multiple of the first one's.
    semitones: how much higher the second one is.
    parts: how much of the first one and of the second one the common part is, 0..1.
  """

  share: float
  hits: int
  tempo: float
  semitones: float
  parts: tuple[float, float]

  @property
  def change(self) -> str:
    """Returns how they differ: a key of `MIN_SHARES`."""
    same_tempo = abs(self.tempo - 1) <= _SAME_TEMPO
    if abs(self.semitones) <= _SAME_PITCH and same_tempo:
      return 'equal'
    if abs(12 * np.log2(self.tempo) - self.semitones) <= _SAME_PITCH:
      return 'speed'
    if abs(self.semitones) <= _SAME_PITCH:
      return 'tempo'
    return 'pitch' if same_tempo else 'both'


def same_recordings(prints: Sequence[Fingerprint]) -> list[tuple[int, int, Match]]:
  """Returns (i, j, match), i < j, of recordings that are equal or hold parts of one another."""
  least = min(MIN_SHARES.values())
  found = matches(prints, MIN_HITS, least)
  return sorted(
    ((i, j, match) for i, j, match in found if match.share >= MIN_SHARES[match.change]),
    key=lambda item: item[:2],
  )


def matches(
  prints: Sequence[Fingerprint], min_hits: int, min_share: float
) -> Iterator[tuple[int, int, Match]]:
  """Yields the pairs i < j with at least this much in common, in any order."""
  if len(prints) < 2:
    return
  index = _index(prints)
  ends = np.cumsum([len(found.hashes) for found in prints])
  for first, second in _blocks(index):
    shift = index.pitches[second] - index.pitches[first]
    near = (index.owners[first] != index.owners[second]) & (np.abs(shift) <= MAX_SEMITONES)
    first, second, shift = first[near], second[near], shift[near]
    pair = index.owners[first].astype(np.int64) * len(prints) + index.owners[second]
    order = np.argsort(pair, kind='stable')
    names, begin, counts = np.unique(pair[order], return_index=True, return_counts=True)
    for at in np.flatnonzero(counts >= min_hits):
      i, j = divmod(int(names[at]), len(prints))
      mine = order[begin[at] : begin[at] + counts[at]]
      places = np.stack([first[mine], second[mine]])
      frames = index.times[places]
      limit = min(prints[i].limit, prints[j].limit)
      times = []
      for k in (i, j):
        counted = index.telling[ends[k] - len(prints[k].hashes) : ends[k]]
        times.append(prints[k].times[counted & (prints[k].hashes < limit)])
      match = _match(times, places, frames, shift[mine], min_hits, min_share)
      if match is not None:
        yield i, j, match


def hard_to_compare(prints: Sequence[Fingerprint]) -> tuple[list[int], list[int]]:
  """Returns the recordings whose copies may not be found.

  Returns:
    Those with fewer landmarks than a match needs (silence, single tones), and those of which most
    landmarks are too common in these recordings to count, so that few are left.
  """
  if not prints:
    return [], []
  numbers = np.array([len(found.hashes) for found in prints])
  telling = _telling(prints)
  few = numbers < 2 * MIN_HITS
  crowded = ~few & (2 * telling < numbers) & (telling < _FEW_TELLING)
  return np.flatnonzero(few).tolist(), np.flatnonzero(crowded).tolist()


def telling_share(prints: Sequence[Fingerprint]) -> float:
  """Returns the share of all landmarks that are not too common to count."""
  return float(_telling(prints).sum() / max(1, sum(len(found.hashes) for found in prints)))


def _telling(prints: Sequence[Fingerprint]) -> np.ndarray:
  """How many landmarks of each recording say something."""
  _, hashes, owners = _sorted(prints)
  _, sizes = _groups(hashes)
  return np.bincount(owners[np.repeat(sizes <= MAX_HOLDERS, sizes)], minlength=len(prints))


def _sorted(prints: Sequence[Fingerprint]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The order of all landmarks by hash and recording, their hashes and their recordings."""
  hashes = np.concatenate([found.hashes for found in prints])
  order = np.argsort(hashes, kind='stable')
  numbers = [len(found.hashes) for found in prints]
  return order, hashes[order], np.repeat(np.arange(len(prints), dtype=np.int32), numbers)[order]


def _groups(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Where each of the sorted hashes begins, and how often it is there."""
  starts = np.flatnonzero(np.diff(hashes, prepend=hashes[:1] + np.uint64(1)))
  return starts, np.diff(starts, append=len(hashes))


def _index(prints: Sequence[Fingerprint]) -> _Index:
  order, hashes, owners = _sorted(prints)
  starts, sizes = _groups(hashes)
  telling = np.empty(len(hashes), bool)
  telling[order] = np.repeat(sizes <= MAX_HOLDERS, sizes)
  shared = np.repeat((sizes > 1) & (sizes <= MAX_HOLDERS), sizes)
  rest = (np.repeat(starts + sizes, sizes) - np.arange(len(hashes)) - 1)[shared]
  order, owners = order[shared], owners[shared]
  times = np.concatenate([found.times for found in prints])[order]
  pitches = np.concatenate([found.pitches for found in prints])[order]
  return _Index(owners, times, pitches, rest, np.argsort(owners, kind='stable'), telling)


def _blocks(index: _Index) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Places of landmarks of equal hashes, two by two; all of one recording's are in one block."""
  ends = np.flatnonzero(np.diff(index.owners[index.by_owner], append=-1)) + 1
  number = np.cumsum(index.rest[index.by_owner])[ends - 1] if len(ends) else ends
  begin, done = 0, 0
  while done < len(ends):
    before = number[done - 1] if done else 0
    # At least one recording, whatever its number.
    done = max(done + 1, int(np.searchsorted(number, before + _BLOCK, 'right')))
    end = int(ends[done - 1])
    places = index.by_owner[begin:end]
    rest = index.rest[places]
    first = np.repeat(places, rest)
    behind = np.arange(len(first)) - np.repeat(np.cumsum(rest) - rest, rest) + 1
    yield first, first + behind
    begin = end


def _match(
  times: Sequence[np.ndarray],
  places: np.ndarray,
  hits: np.ndarray,
  shift: np.ndarray,
  min_hits: int,
  min_share: float,
) -> Match | None:
  """What two recordings have in common on the best line; None where that is too little.

  Args:
    times: frames of the landmarks of the two recordings that the other one could have.
    places: int64 [2, n], which landmarks of the two are equal.
    hits: uint32 [2, n], their frames.
    shift: float32 [n], semitones.
    min_hits, min_share: what is enough.
  """
  least = min(*map(len, times), _MAX_COMPARABLE)
  needed = max(min_hits, min_share * least)
  if len(shift) < needed:
    return None
  on_line, tempo = _best_line(hits.astype(np.float64), shift, needed)
  number = min(len(np.unique(places[side, on_line])) for side in (0, 1))
  if number < needed:
    return None
  # The common part: of two discs with one song in common, a small one of both.
  counts, parts = [], []
  for side in (0, 1):
    low, high = np.quantile(hits[side, on_line], [0.01, 0.99])
    counts.append(np.count_nonzero((times[side] >= low) & (times[side] <= high)))
    # n places drawn from a range span (n - 1) / (n + 1) of it.
    parts.append(min(1.0, counts[-1] / len(times[side]) * (number + 1) / (number - 1)))
  share = min(1.0, number / max(least, min(counts)))
  return Match(share, number, 1 / tempo, float(np.median(shift[on_line])), (parts[0], parts[1]))


def _best_line(hits: np.ndarray, shift: np.ndarray, needed: float) -> tuple[np.ndarray, float]:
  """Places of the most hits of one shift in pitch on one line in time, and its slope."""
  order = np.argsort(shift, kind='stable')
  # How many hits have a shift from this one's to a little more.
  crowd = np.searchsorted(shift[order], shift[order] + _PITCH_TOLERANCE, 'right')
  crowd -= np.arange(len(order))
  best, slope = np.zeros([0], np.int64), 1.0
  while True:
    at = int(np.argmax(crowd))
    if crowd[at] < max(needed, len(best) + 1):
      return best, slope
    places = order[at : at + crowd[at]]
    found, its_slope = _line(*hits[:, places])
    if len(found) > len(best):
      best, slope = places[found], its_slope
    crowd[np.abs(shift[order] - shift[order[at]]) <= _PITCH_TOLERANCE] = 0


def _line(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, float]:
  """Which of the hits, frames a and b, lie on the line that most lie on, and its slope."""
  order = np.argsort(a, kind='stable')
  ends = order[np.linspace(0, len(order) - 1, min(len(order), _LINE_ENDS)).astype(int)]
  one, two = (ends[side] for side in np.triu_indices(len(ends), 1))
  far = a[two] - a[one] >= _MIN_LINE_FRAMES
  one, two = one[far], two[far]
  slope = (b[two] - b[one]) / (a[two] - a[one])
  fits = np.abs(slope - 1) <= MAX_TEMPO_CHANGE
  # Lines of the same tempo need one hit only.
  slope = np.r_[np.ones(len(ends)), slope[fits]]
  through = np.r_[ends, one[fits]]
  offset = b[through] - slope * a[through]
  some = order[np.linspace(0, len(order) - 1, min(len(order), _LINE_HITS)).astype(int)]
  near = np.abs(b[some] - slope[:, None] * a[some] - offset[:, None]) <= _TIME_TOLERANCE
  line = np.argmax(near.sum(axis=1))
  slope, offset = slope[line], offset[line]
  best = np.abs(b - slope * a - offset) <= _TIME_TOLERANCE
  # Through all of them the line is more exact than through two.
  centre = a[best].mean()
  spread = np.sum((a[best] - centre) ** 2)
  if spread > 0:
    exact = np.sum((a[best] - centre) * b[best]) / spread
    offset = b[best].mean() - exact * centre
    closer = np.abs(b - exact * a - offset) <= _TIME_TOLERANCE
    if abs(exact - 1) <= MAX_TEMPO_CHANGE and closer.sum() >= best.sum():
      best, slope = closer, exact
  return np.flatnonzero(best), float(slope)
