"""What prepare.py wrote, as an evaluation reads it: token records, held-out audio, identity."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from evaluation import identity
from evaluation.excerpts import TokenRecord
from evaluation.token_losses import count_codes
from models.record_shards import TokenFolder, find_token_folder
from models.spec import LiveMusicSpec
from preprocessing import features, measurement
from preprocessing.audio import AudioError, read_audio
from preprocessing.manifest import MANIFEST_FILE, Track, read_manifest

TRAIN = 'train'
HELD_OUT_SPLITS = ('test', 'validation')


@dataclasses.dataclass(frozen=True)
class HeldOutAudio:
  """The beginning of a held-out track.

  Attributes:
    track_id: of the manifest.
    title: what the reader sees.
    caption: of the manifest, or ''.
    audio: float32 [samples, channels].
  """

  track_id: str
  title: str
  caption: str
  audio: np.ndarray


class PreparedData:
  """A finished folder of token records with its manifest.

  Attributes:
    folder: of the records.
    split: the held-out split.
    problems: what could not be read, as [{'what', 'why'}].
    training_counts: int64 [levels, codebook_size], once `count_training_codes` has run.
  """

  def __init__(self, folder: pathlib.Path, spec: LiveMusicSpec, split: str):
    self.folder = folder
    self.split = split
    self.problems: list[dict[str, str]] = []
    self.training_counts: np.ndarray | None = None
    self._spec = spec
    self._tokens = TokenFolder(folder)
    self._tracks = read_manifest(folder / MANIFEST_FILE)
    known = {field.name for field in dataclasses.fields(features.ClipOptions)}
    clips = self._tokens.stat('clips', dict).items()
    self._clips = features.ClipOptions(**{name: value for name, value in clips if name in known})
    # Peak and loudness of files that were heard; each is decoded once for them.
    self._levels: dict[str, tuple[float, float]] = {}

  @classmethod
  def open(
    cls, data_dir: str | pathlib.Path, spec: LiveMusicSpec, split: str | None = None
  ) -> 'PreparedData':
    """Finds the records at or below `data_dir` and chooses the held-out split.

    Args:
      data_dir: prepare.py's output, or the folder of the records itself.
      spec: token layout of the models.
      split: None takes the first of 'test' and 'validation' that has records.

    Raises:
      ValueError: there are no finished records, none of that split, or their shards are damaged.
    """
    folder = TokenFolder(find_token_folder(data_dir))
    filled = [name for name in folder.splits if folder.num_records(name)]
    wanted = HELD_OUT_SPLITS if split is None else (split,)
    known = [name for name in wanted if name in filled]
    if not known:
      raise ValueError(f'{folder.path} has no records of {" or ".join(wanted)}; it has {filled}.')
    for name in {known[0], TRAIN} & set(filled):
      folder.shards(name)  # Before hours of work with the models.
    return cls(pathlib.Path(folder.path), spec, known[0])

  def check(self, codec: Any, style: Any):
    """Makes sure that the tokens were made by these models.

    Raises:
      ValueError: they were not; names both hashes.
    """
    for kind, model in (('codec', codec), ('style', style)):
      expected = self._tokens.stat(f'{kind}_hash', str)
      if expected != model.content_hash:
        raise ValueError(
          f'{self.folder} holds tokens of the {kind} model {expected}, the language model speaks '
          f'those of {model.content_hash}. Prepare the audio again with that {kind} model.'
        )

  def count_training_codes(self, max_records: int):
    """Fills `training_counts` from the first `max_records` records, which lie shuffled.

    Raises:
      ValueError: the training split has no records.
    """
    counts = None
    for record in itertools.islice(self._records(TRAIN), max_records):
      counts = count_codes(record.codes, self._spec.codebook_size, counts)
    if counts is None:
      raise ValueError(f'{self.folder} has no training records; the unigram anchor needs some.')
    self.training_counts = counts

  @property
  def levelling(self) -> list[float | None]:
    """Returns the peak in dBFS and the loudness in LUFS that excerpts are levelled to."""
    return [self._clips.peak_dbfs, self._clips.loudness_lufs]

  def held_out_records(self) -> Iterator[TokenRecord]:
    """All records of the held-out split."""
    return self._records(self.split)

  def read_audio(self, number: int, secs: float) -> list[HeldOutAudio]:
    """The first `secs` seconds of up to `number` held-out tracks, different genres first.

    They are levelled as prepare.py levels them, so that they sound as the models heard them. Tracks
    shorter than `secs` are passed over unless nothing else is left; what cannot be read is
    added to `problems`.
    """
    recordings: list[HeldOutAudio] = []
    for track in self._by_genre(secs):
      if len(recordings) == number:
        break
      try:
        audio = read_audio(track.path, sample_rate=self._spec.sample_rate, duration=secs)
        audio *= self._gain(track)
      except (AudioError, OSError) as error:
        self.problems.append({'what': f'Audio of {track.title}', 'why': str(error)})
        continue
      if len(audio) < self._spec.chunk_samples:
        self.problems.append({'what': f'Audio of {track.title}', 'why': 'shorter than a chunk'})
        continue
      title = f'{track.title} ({track.artist})' if track.artist else track.title
      recordings.append(HeldOutAudio(track.track_id, title, track.caption, audio))
    return recordings

  def training_records(self, number: int) -> Iterator[TokenRecord]:
    """The first records of the training split, which lie shuffled."""
    return itertools.islice(self._records(TRAIN), number)

  def tracks(self, split: str | None = None) -> list[Track]:
    """Tracks of a split (None: the held-out one), one of each genre in turn."""
    return self._by_genre(0, split)

  def read_excerpt(self, track: Track, start_secs: float, secs: float) -> np.ndarray:
    """A part of a track, levelled like the prepared clips: float32 [samples, channels].

    Raises:
      AudioError, OSError: it cannot be read.
    """
    rate = self._spec.sample_rate
    audio = read_audio(track.path, sample_rate=rate, start=start_secs, duration=secs)
    return audio * self._gain(track)

  def captions(self, number: int) -> list[str]:
    """Up to `number` different captions of held-out tracks, different genres first."""
    known = dict.fromkeys(track.caption for track in self._by_genre(0) if track.caption)
    return list(known)[:number]

  def describe(self) -> list[list[str]]:
    """[[name, value]] for the report."""
    splits = [
      f'{name}: {facts["tracks"]} tracks, {facts["records"]} records, {60 * facts["hours"]:.1f} min'
      for name, facts in self._tokens.stat('splits', dict).items()
    ]
    return [
      ['Data', str(self.folder)],
      ['Splits', '; '.join(splits)],
      ['Level', _level_text(self._clips)],
      ['Data fingerprint', self._tokens.fingerprint[:16]],
      ['Manifest hash', identity.file_hash(self.folder / MANIFEST_FILE)],
    ]

  def _gain(self, track: Track) -> np.float32:
    """Brings the whole track to the level of the prepared clips, by their own rule."""
    if track.path not in self._levels:
      by_loudness = self._clips.loudness_lufs is not None
      self._levels[track.path] = measurement.level(track.path, with_loudness=by_loudness)
    return np.float32(features.level_gain(*self._levels[track.path], self._clips))

  def _records(self, split: str) -> Iterator[TokenRecord]:
    from preprocessing.records import read_split

    for tokens, info in read_split(self.folder, split):
      yield TokenRecord(info.track_id, tokens.acoustic_tokens, tokens.style_tokens)

  def _by_genre(self, secs: float, split: str | None = None) -> list[Track]:
    """Tracks of a split, one of each genre in turn; those long enough come first."""
    genres: dict[str, list[Track]] = {}
    for track in self._tracks:
      if track.split == (split or self.split):
        genres.setdefault(track.genre, []).append(track)
    turns = itertools.zip_longest(*genres.values())
    ordered = [track for turn in turns for track in turn if track is not None]
    return sorted(ordered, key=lambda track: track.duration_secs < secs)


def _level_text(clips: features.ClipOptions) -> str:
  peak = 'none' if clips.peak_dbfs is None else f'{clips.peak_dbfs:g} dBFS'
  if clips.loudness_lufs is None:
    return f'tracks scaled to a peak of {peak}, as prepared'
  return f'tracks scaled to {clips.loudness_lufs:g} LUFS, peak limit {peak}, as prepared'
