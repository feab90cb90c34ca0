"""Token records: Magenta RT v1's TFRecord features and ours, as a folder that TFDS opens too.

Record i of a split lies in shard i mod S at place i // S. The completion marker is written last.
"""

import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from preprocessing import parts
from preprocessing.features import ClipTokens

COMPLETION_MARKER = 'COMPLETED'
STATS_FILE = 'stats.json'
# A shard of this many clips of 30 s has about 50 MB.
RECORDS_PER_SHARD = 256
_MAX_SHARDS_OF_SMALL_CORPORA = 8
_MIN_RECORDS_PER_SHARD = 4

_SERIALIZED = {
  'acoustic_tokens': tf.int32,
  'style_tokens': tf.int32,
  'style_embeddings': tf.float32,
}


@dataclasses.dataclass(frozen=True)
class RecordInfo:
  """What stands beside the tokens of a record.

  Attributes:
    index: place of the record in its split.
    track_id: of the manifest.
    start_secs: where the clip begins in the track.
    caption, licence: of the manifest.
  """

  index: int
  track_id: str
  start_secs: float
  caption: str = ''
  licence: str = ''


def encode_record(tokens: ClipTokens, info: RecordInfo) -> bytes:
  """One serialized tf.train.Example; tensors are serialized TensorProtos, integers int32."""
  features = {
    'acoustic_tokens': _tensor(tokens.acoustic_tokens, np.int32),
    'style_tokens': _tensor(tokens.style_tokens, np.int32),
    'style_embeddings': _tensor(tokens.style_embeddings, np.float32),
    'index': tf.train.Feature(int64_list=tf.train.Int64List(value=[info.index])),
    'track_id': _text(info.track_id),
    'start_secs': tf.train.Feature(float_list=tf.train.FloatList(value=[info.start_secs])),
    'caption': _text(info.caption),
    'licence': _text(info.licence),
  }
  return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
    deterministic=True
  )


def decode_record(record: bytes) -> tuple[ClipTokens, RecordInfo]:
  """The inverse of `encode_record`."""
  features = tf.train.Example.FromString(record).features.feature
  tensors = {
    name: tf.io.parse_tensor(features[name].bytes_list.value[0], dtype).numpy()
    for name, dtype in _SERIALIZED.items()
  }
  start_secs = features['start_secs'].float_list.value[0]
  texts = {
    name: features[name].bytes_list.value[0].decode() for name in ('track_id', 'caption', 'licence')
  }
  info = RecordInfo(index=features['index'].int64_list.value[0], start_secs=start_secs, **texts)
  return ClipTokens(start_secs=start_secs, **tensors), info


def _tensor(values: np.ndarray, dtype: type) -> tf.train.Feature:
  return _bytes(tf.io.serialize_tensor(np.asarray(values, dtype)).numpy())


def _text(value: str) -> tf.train.Feature:
  return _bytes(value.encode())


def _bytes(value: bytes) -> tf.train.Feature:
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def num_shards_for(num_records: int) -> int:
  """A power of two: few for small corpora, about `RECORDS_PER_SHARD` records each in large ones."""
  small = min(_MAX_SHARDS_OF_SMALL_CORPORA, max(1, num_records // _MIN_RECORDS_PER_SHARD))
  small = 2 ** int(math.log2(small))
  large = 2 ** math.ceil(math.log2(max(1, num_records / RECORDS_PER_SHARD)))
  return max(small, large)


def shard_name(name: str, split: str, shard: int, num_shards: int) -> str:
  """`<name>-<split>.tfrecord-xxxxx-of-yyyyy`."""
  return f'{name}-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}'


def write_shard(path: str | os.PathLike, records: Iterable[bytes]):
  """Writes serialized records; the file appears whole and synced, or not at all."""
  path = pathlib.Path(path)
  with parts.atomic_file(path) as file:
    # TensorFlow opens the temporary file by name; the handle syncs it afterwards.
    with tf.io.TFRecordWriter(file.name) as writer:
      for record in records:
        writer.write(record)


def count_records(path: str | os.PathLike) -> int:
  """Counts the records of a shard by their lengths, without parsing them.

  Raises:
    ValueError: the file ends inside a record.
  """
  size = os.path.getsize(path)
  position = count = 0
  with open(path, 'rb') as file:
    while position < size:
      file.seek(position)
      # Length (8 bytes), its checksum (4), the record, its checksum (4).
      position += 16 + int.from_bytes(file.read(8), 'little')
      count += 1
  if position != size:
    raise ValueError(f'{path} ends inside of record {count - 1}.')
  return count


def read_shards(paths: Sequence[str | os.PathLike]) -> Iterator[tuple[ClipTokens, RecordInfo]]:
  """Decodes the records of shards, one shard after the other."""
  for record in tf.data.TFRecordDataset([os.fspath(path) for path in paths]).as_numpy_iterator():
    yield decode_record(record)


def read_split(folder: str | os.PathLike, split: str) -> Iterator[tuple[ClipTokens, RecordInfo]]:
  """Decodes all records of a split, shard by shard; `info.index` tells their place.

  Raises:
    ValueError: the folder has no such split.
  """
  shards = sorted(pathlib.Path(folder).glob(f'*-{split}.tfrecord-*-of-*'))
  if not shards:
    raise ValueError(f'{folder} has no shards of a split {split!r}.')
  yield from read_shards(shards)


def write_metadata(
  folder: pathlib.Path, name: str, version: str, shard_lengths: dict[str, list[int]], about: str
):
  """Makes a folder of shards a TFDS data set.

  Args:
    folder: holds the shards.
    name: of the data set.
    version: e.g. '1.0.0'.
    shard_lengths: records of each shard, by split.
    about: a sentence for the data set's description.
  """
  import tensorflow_datasets as tfds

  template = tfds.core.ShardedFileTemplate(
    data_dir=folder, dataset_name=name, filetype_suffix='tfrecord'
  )
  split_infos = [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=lengths,
      num_bytes=sum(path.stat().st_size for path in folder.glob(f'{name}-{split}.tfrecord-*')),
      filename_template=template.replace(split=split),
    )
    for split, lengths in shard_lengths.items()
  ]
  serialized = tfds.features.Tensor(shape=(), dtype=tf.string)
  features = {
    **dict.fromkeys(_SERIALIZED, serialized),
    'index': tfds.features.Scalar(tf.int64),
    'track_id': tfds.features.Text(),
    'start_secs': tfds.features.Scalar(tf.float32),
    'caption': tfds.features.Text(),
    'licence': tfds.features.Text(),
  }
  tfds.folder_dataset.write_metadata(
    data_dir=folder,
    features=features,
    split_infos=split_infos,
    version=version,
    check_data=False,
    description=about,
  )


def write_json(path: pathlib.Path, values: dict[str, Any]):
  """Writes a JSON file, whole or not at all."""
  with parts.atomic_file(path) as file:
    file.write(json.dumps(values, indent=2, ensure_ascii=False).encode() + b'\n')
