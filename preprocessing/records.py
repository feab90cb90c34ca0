"""Token records: Magenta RT v1's TFRecord features and ours, as a folder that TFDS opens too.

Record i of a split lies in shard i mod S at place i // S. The completion marker is written last.
Folders are local or, by etils.epath, in a bucket.
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from etils import epath
from google.protobuf.message import DecodeError

from models.record_shards import (
  COMPLETION_MARKER,
  STATS_FILE,
  TokenFolder,
  check_record,
  error_text,
)
from models.shard_bytes import TokenDataError, count_records
from preprocessing import parts
from preprocessing.features import ClipTokens
from preprocessing.shards import shard_name

__all__ = [
  'COMPLETION_MARKER', 'STATS_FILE', 'RecordInfo', 'count_records',
  'decode_record', 'encode_record', 'read_shards', 'read_split', 'shard_name', 'split_shards',
  'write_json', 'write_metadata', 'write_shard',
]  # fmt: skip

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


def encode_record(
  tokens: ClipTokens, info: RecordInfo, codec_levels: int | None = None
) -> bytes:
  """One serialized tf.train.Example; tensors are serialized TensorProtos, integers int32.

  Args:
    tokens: of a clip.
    info: stands beside them.
    codec_levels: the first levels, which are kept; None keeps all.
  """
  features = {
    'acoustic_tokens': _tensor(tokens.acoustic_tokens[:, :codec_levels], np.int32),
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
  """Inverts `encode_record`; in records of other programs, missing texts are ''.

  Raises:
    DecodeError, IndexError, tf.errors.OpError: `record` does not hold tokens.
  """
  features = tf.train.Example.FromString(record).features.feature
  tensors = {
    name: tf.io.parse_tensor(features[name].bytes_list.value[0], dtype).numpy()
    for name, dtype in _SERIALIZED.items()
  }
  start_secs = next(iter(features['start_secs'].float_list.value), 0.0)
  texts = {
    name: b''.join(features[name].bytes_list.value).decode()
    for name in ('track_id', 'caption', 'licence')
  }
  index = next(iter(features['index'].int64_list.value), -1)
  info = RecordInfo(index=index, start_secs=start_secs, **texts)
  return ClipTokens(start_secs=start_secs, **tensors), info


def _tensor(values: np.ndarray, dtype: type) -> tf.train.Feature:
  return _bytes(tf.io.serialize_tensor(np.asarray(values, dtype)).numpy())


def _text(value: str) -> tf.train.Feature:
  return _bytes(value.encode())


def _bytes(value: bytes) -> tf.train.Feature:
  return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def write_shard(path: epath.PathLike, records: Iterable[bytes], compression: str = ''):
  """Writes serialized records; the file appears whole and synced, or not at all."""
  with parts.atomic_file(path) as file:
    # TensorFlow opens the temporary file by name; the handle syncs it afterwards.
    with tf.io.TFRecordWriter(file.name, compression) as writer:
      for record in records:
        writer.write(record)


def read_shards(paths: Sequence[epath.PathLike]) -> Iterator[tuple[ClipTokens, RecordInfo]]:
  """Decodes the records of shards of one folder, one shard after the other.

  Raises:
    TokenDataError: a record is damaged or does not hold tokens; names shard and record.
  """
  if not paths:
    return
  folder = TokenFolder(epath.Path(paths[0]).parent)
  for path in paths:
    yield from _read_shard(path, folder)


def _read_shard(
  path: epath.PathLike, folder: TokenFolder
) -> Iterator[tuple[ClipTokens, RecordInfo]]:
  place = 0
  dataset = tf.data.TFRecordDataset(os.fspath(path), folder.compression)
  try:
    for record in dataset.as_numpy_iterator():
      tokens, info = decode_record(record)
      if fault := check_record(tokens.acoustic_tokens, tokens.style_tokens):
        raise TokenDataError(f'index {info.index}, track {info.track_id!r}: {fault}')
      yield tokens, info
      place += 1
  except (tf.errors.OpError, DecodeError, IndexError, ValueError) as error:
    if isinstance(error, tf.errors.NotFoundError):
      raise FileNotFoundError(f'{path} is not there.') from None
    raise TokenDataError(
      f'{path}: record {place} is damaged ({error_text(error)}). {folder.remake(path)}'
    ) from None


def split_shards(folder: epath.PathLike, split: str) -> list[epath.Path]:
  """Returns the shards of a split, in order, after comparing each with `shards.json`.

  Raises:
    TokenDataError: the folder has none, or one is missing, damaged or of another data set.
  """
  folder = TokenFolder(folder)
  return [epath.Path(path) for path in folder.shards(split)]


def read_split(folder: epath.PathLike, split: str) -> Iterator[tuple[ClipTokens, RecordInfo]]:
  """Decodes all records of a split, shard by shard; `info.index` tells their place.

  Raises:
    TokenDataError: the folder has no such split, or something in it is damaged.
  """
  yield from read_shards(split_shards(folder, split))


def write_metadata(
  folder: epath.Path, name: str, version: str, shard_lengths: dict[str, list[int]], about: str
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
      num_bytes=sum(
        (epath.Path(folder) / shard_name(name, split, shard, len(lengths))).stat().length
        for shard in range(len(lengths))
      ),
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


def write_json(path: epath.PathLike, values: dict[str, Any]):
  """Writes a JSON file, whole or not at all."""
  with parts.atomic_file(path) as file:
    file.write(json.dumps(values, indent=2, ensure_ascii=False).encode() + b'\n')
