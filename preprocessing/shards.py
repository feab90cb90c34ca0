"""Shards of a data set: how records are stored, how many shards there are, their names and order.

Record i of a split lies in shard i mod S; the order of the records is shuffled once, when they are
numbered.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Sequence

import numpy as np

from models.spec import MAGENTA_RT_V1, LiveMusicSpec
from preprocessing import units
from preprocessing.manifest import Track

COMPRESSIONS = ('', 'GZIP')
# A shard has at most about this many bytes, before compression.
SHARD_BYTES = 128 << 20
_LEAST_SHARD_BYTES = 1 << 16
_MAX_SHARDS_OF_SMALL_CORPORA = 8
_MIN_RECORDS_PER_SHARD = 4
# Names, numbers and words of a record, about.
_BYTES_BESIDE_TOKENS = 300


@dataclasses.dataclass(frozen=True)
class RecordFormat:
  """How records are stored. The defaults are Magenta RT v1's.

  Attributes:
    codec_levels: levels kept of each frame; None keeps all.
    compression: '' or 'GZIP', of whole shards. TFDS and v1's task do not read compressed ones.
    shard_bytes: a shard has at most about so many bytes, before compression.
    num_shards: of each split; None goes by `shard_bytes`.
  """

  codec_levels: int | None = None
  compression: str = ''
  shard_bytes: int = SHARD_BYTES
  num_shards: int | None = None

  def check(self, spec: LiveMusicSpec = MAGENTA_RT_V1):
    """Raises ValueError for what cannot be written or trained on."""
    levels = self.codec_levels
    if levels is not None and not spec.target_levels <= levels <= spec.codec_levels:
      raise ValueError(
        f'codec_levels={levels} is not in {spec.target_levels}..{spec.codec_levels} (the levels '
        'that a language model predicts, and those that the codec has).'
      )
    if self.compression not in COMPRESSIONS:
      raise ValueError(f"compression={self.compression!r} is neither '' nor 'GZIP'.")
    if self.shard_bytes < _LEAST_SHARD_BYTES:
      raise ValueError(f'shard_bytes={self.shard_bytes} must be at least {_LEAST_SHARD_BYTES}.')
    if self.num_shards is not None and self.num_shards < 1:
      raise ValueError(f'num_shards={self.num_shards} must be at least 1.')

  def count_shards(self, num_records: int, num_bytes: int) -> int:
    """Shards of a split with so many records and bytes."""
    return self.num_shards or num_shards_for(num_records, num_bytes, self.shard_bytes)


def record_bytes(
  frames: int, codec_levels: int | None = None, spec: LiveMusicSpec = MAGENTA_RT_V1
) -> int:
  """About the size of the record of a clip with so many frames, uncompressed."""
  rows = math.ceil(frames / (spec.frame_rate * spec.style_window_secs))
  tokens = frames * (codec_levels or spec.codec_levels)
  return 4 * (tokens + rows * (spec.style_rvq_levels + spec.style_dim)) + _BYTES_BESIDE_TOKENS


def num_shards_for(num_records: int, num_bytes: int, shard_bytes: int = SHARD_BYTES) -> int:
  """A power of two: few for small corpora, of up to `shard_bytes` each in large ones."""
  small = min(_MAX_SHARDS_OF_SMALL_CORPORA, max(1, num_records // _MIN_RECORDS_PER_SHARD))
  small = 2 ** int(math.log2(small))
  large = 2 ** math.ceil(math.log2(max(1, num_bytes / shard_bytes)))
  return max(small, large)


def shard_name(name: str, split: str, shard: int, num_shards: int) -> str:
  """`<name>-<split>.tfrecord-xxxxx-of-yyyyy`."""
  return f'{name}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}'


@dataclasses.dataclass(frozen=True)
class SplitOrder:
  """The records of a split in their order; a few bytes a record, however many there are.

  Attributes:
    tracks: of the split.
    keys: of the tracks' parts.
    track: int32 [records], place of each record's track in `tracks`.
    clip: int32 [records], its clip in the track.
    num_bytes: of all records in v1's format, about.
  """

  tracks: Sequence[Track]
  keys: Sequence[str]
  track: np.ndarray
  clip: np.ndarray
  num_bytes: int

  def __len__(self) -> int:
    return len(self.track)

  def clips(self, first: int = 0, step: int = 1) -> Iterator[units.ShardClip]:
    """Records first, first + step, ..., such as those of a shard."""
    for index in range(first, len(self), step):
      track = self.tracks[self.track[index]]
      yield units.ShardClip(
        key=self.keys[self.track[index]],
        number=int(self.clip[index]),
        index=index,
        track_id=track.track_id,
        caption=track.caption,
        licence=track.licence,
      )


def shuffle(
  tracks: Sequence[Track],
  keys: Sequence[str],
  clip_frames: Sequence[Sequence[int]],
  seed: int,
  codec_levels: int | None = None,
) -> SplitOrder:
  """Orders the clips of a split by a hash of (seed, track, clip).

  Args:
    tracks: of the split.
    keys: of their parts.
    clip_frames: of each track, the frames of each clip.
    seed: of the order.
    codec_levels: kept; for the size.
  """
  counts = [len(frames) for frames in clip_frames]
  track = np.repeat(np.arange(len(tracks), dtype=np.int32), counts)
  clip = np.concatenate([np.arange(count, dtype=np.int32) for count in counts] or [track])
  ranks = np.zeros([2, len(track)], np.uint64)
  for place in range(len(track)):
    name = f'{seed}/{tracks[track[place]].track_id}/{clip[place]}'
    digest = hashlib.sha256(name.encode()).digest()
    ranks[:, place] = np.frombuffer(digest[:16], '>u8')
  order = np.lexsort(ranks[::-1])
  num_bytes = sum(record_bytes(count, codec_levels) for frames in clip_frames for count in frames)
  return SplitOrder(tracks, keys, track[order], clip[order], num_bytes)
