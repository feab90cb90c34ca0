"""Small finished data sets of token records, as prepare.py leaves them, for tests that damage them.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from models import shard_bytes
from models.spec import MAGENTA_RT_V1 as SPEC

STATS = {
  'codec': 'tiny', 'codec_hash': 'c0de', 'style': 'tiny', 'style_hash': '5717e',
  'fingerprint': 'f1', 'format': {'compression': ''}, 'about': 'a toy',
}  # fmt: skip


def clip(index: int, frames: int = 50, levels: int = 16) -> tuple[np.ndarray, np.ndarray]:
  """Codes int32 [frames, levels], whose first level is `index`, and style tokens [1, 12]."""
  rng = np.random.default_rng(index)
  codes = rng.integers(0, SPEC.codebook_size, [frames, levels], dtype=np.int32)
  codes[:, 0] = index
  return codes, rng.integers(0, SPEC.codebook_size, [1, 12], dtype=np.int32)


def encode(index: int, codes: np.ndarray, style: np.ndarray) -> bytes:
  """A record of these tokens."""

  def tensor(values):
    return tf.train.Feature(
      bytes_list=tf.train.BytesList(value=[tf.io.serialize_tensor(values).numpy()])
    )

  features = {
    'acoustic_tokens': tensor(codes),
    'style_tokens': tensor(style),
    'style_embeddings': tensor(np.zeros([len(style), 4], np.float32)),
    'index': tf.train.Feature(int64_list=tf.train.Int64List(value=[index])),
    'track_id': tf.train.Feature(bytes_list=tf.train.BytesList(value=[b'track-%d' % index])),
  }
  return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString(
    deterministic=True
  )


def shard_path(folder: pathlib.Path, split: str, shard: int, num_shards: int) -> pathlib.Path:
  return folder / f'toy-{split}.tfrecord-{shard:05d}-of-{num_shards:05d}'


def write(
  root: pathlib.Path,
  counts: Mapping[str, int],
  *,
  num_shards: int = 2,
  compression: str = '',
  records: Sequence[bytes] | None = None,
  recorded: bool = True,
) -> pathlib.Path:
  """Writes `root`/toy/1.0.0 and returns it; record i of a split is `clip(i)`.

  Args:
    root: what training takes as DATA_DIR.
    counts: records of each split.
    num_shards: of each split.
    compression: of the shards.
    records: in place of the clips.
    recorded: whether shards.json is written.
  """
  folder = root / 'toy' / '1.0.0'
  folder.mkdir(parents=True)
  splits, facts = [], {}
  for split, count in counts.items():
    lengths = []
    for shard in range(num_shards):
      path = shard_path(folder, split, shard, num_shards)
      mine = range(shard, count, num_shards)
      with tf.io.TFRecordWriter(str(path), compression) as writer:
        for index in mine:
          writer.write(records[index] if records else encode(index, *clip(index)))
      lengths.append(str(len(mine)))
      known = shard_bytes.shard_facts(path, compression)
      facts[path.name] = [known.num_bytes, known.num_records, known.ends]
    splits.append({'name': split, 'shardLengths': lengths})
  (folder / 'dataset_info.json').write_text(json.dumps({'name': 'toy', 'splits': splits}))
  (folder / 'stats.json').write_text(json.dumps(STATS | {'format': {'compression': compression}}))
  if recorded:
    (folder / 'shards.json').write_text(json.dumps(facts))
  (folder / 'COMPLETED').write_text('{"fingerprint": "f1"}')
  return folder
