"""Clips of a catalog for measuring a style model, and the facts that are known of them."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from models.spec import LiveMusicSpec
from pipelines.style_feed import StyleTrack, style_tracks
from preprocessing.audio import AudioError, read_audio
from preprocessing.captions import whole_caption
from preprocessing.manifest import MANIFEST_FILE

HELD_OUT_SPLITS = ('test', 'validation')


@dataclasses.dataclass
class Catalog:
  """Tracks whose audio could be read, with three windows of each.

  Attributes:
    tracks: N of them.
    middle: float32 [N, samples] at the style model's rate: the middle window, for retrieval.
    first, last: likewise; they do not overlap where `pairs` is true.
    pairs: bool [N], tracks of at least two windows.
    problems: [{'what', 'why'}] of tracks that are left out.
  """

  tracks: list[StyleTrack]
  middle: np.ndarray
  first: np.ndarray
  last: np.ndarray
  pairs: np.ndarray
  problems: list[dict[str, str]]

  @property
  def works(self) -> list[str]:
    """Names of the works; a track without one is a work of its own."""
    return [track.work or track.path for track in self.tracks]

  @property
  def captions(self) -> list[str]:
    return [whole_caption(track.facts) for track in self.tracks]

  @property
  def genres(self) -> list[str]:
    return [track.facts.styles[0] if track.facts.styles else '' for track in self.tracks]


def find_tracks(data_dir: str, split: str | None = None) -> tuple[list[StyleTrack], str]:
  """The held-out tracks of a manifest, or all of a demo corpus, and which these are.

  Args:
    data_dir: see `style_feed.style_tracks`.
    split: of a manifest; None takes 'test', or 'validation' where no test track is; 'all' takes
      every track.

  Raises:
    FileNotFoundError: there is no manifest and no corpus.
    ValueError: nothing is known of any track of the split.
  """
  if not _has_manifest(data_dir):
    return style_tracks(data_dir), 'all'
  if split is not None:
    return style_tracks(data_dir, None if split == 'all' else split), split
  errors = []
  for name in HELD_OUT_SPLITS:
    try:
      return style_tracks(data_dir, name), name
    except ValueError as error:
      errors.append(str(error))
  raise ValueError(' '.join([*errors, "Name a split, or 'all'."]))


def _has_manifest(data_dir: str) -> bool:
  path = pathlib.Path(data_dir)
  return path.is_file() or (path / MANIFEST_FILE).is_file()


def one_a_work(tracks: Sequence[StyleTrack], number: int | None, seed: int) -> list[StyleTrack]:
  """At most `number` tracks, one of each work, drawn by `seed`, in the order of the catalog."""
  own: dict[str, StyleTrack] = {}
  for track in tracks:
    own.setdefault(track.work or track.path, track)
  chosen = list(own.values())
  if number is None or number >= len(chosen):
    return chosen
  rows = np.sort(np.random.default_rng(seed).permutation(len(chosen))[:number])
  return [chosen[row] for row in rows]


def read_clips(
  tracks: Sequence[StyleTrack], spec: LiveMusicSpec, on_track: Any = lambda: None
) -> Catalog:
  """Reads three windows of each track; what cannot be read is left out and named.

  Raises:
    ValueError: no track can be read.
  """
  secs = spec.style_window_secs
  clips, kept, problems = [], [], []
  for track in tracks:
    on_track()
    room = max(track.duration_secs - secs, 0.0)
    try:
      clips.append([read_window(track.path, place * room, spec) for place in (0.5, 0.0, 1.0)])
    except (AudioError, OSError) as error:
      problems.append({'what': track.path, 'why': str(error)})
      continue
    kept.append(track)
  if not kept:
    raise ValueError(f'None of {len(tracks)} tracks can be read: {problems[0]["why"]}')
  middle, first, last = np.moveaxis(np.array(clips, np.float32), 1, 0)
  pairs = np.array([track.duration_secs >= 2 * secs for track in kept])
  return Catalog(kept, middle, first, last, pairs, problems)


def read_window(path: str, start_secs: float, spec: LiveMusicSpec) -> np.ndarray:
  """One window of a file, mono float32 at the style model's rate, silence behind its end."""
  secs, rate = spec.style_window_secs, spec.style_sample_rate
  audio = read_audio(path, sample_rate=rate, channels=1, start=start_secs, duration=secs)[:, 0]
  window = np.zeros(secs * rate, np.float32)
  window[: min(len(audio), len(window))] = audio[: len(window)]
  return window


def whole_windows(
  tracks: Sequence[StyleTrack], spec: LiveMusicSpec, problems: list[dict[str, str]]
) -> Iterator[tuple[StyleTrack, float, np.ndarray]]:
  """(track, start_secs, window) of every window of every track, in order."""
  secs = spec.style_window_secs
  for track in tracks:
    try:
      for number in range(max(int(np.ceil(track.duration_secs / secs - 1e-6)), 1)):
        yield track, float(number * secs), read_window(track.path, number * secs, spec)
    except (AudioError, OSError) as error:
      problems.append({'what': track.path, 'why': str(error)})
