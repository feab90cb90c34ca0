"""Token records: v1's bytes, v1's feature description, TFDS, shards."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from preprocessing import features, records

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def _clip(index):
  rng = np.random.default_rng(index)
  return features.ClipTokens(
    start_secs=30.0 * index,
    acoustic_tokens=rng.integers(0, 1024, [100 + index, 64], dtype=np.int32),
    style_tokens=rng.integers(0, 1024, [1, 12], dtype=np.int32),
    style_embeddings=rng.normal(size=[1, 768]).astype(np.float32),
  )


def _info(index):
  return records.RecordInfo(index, f'track-{index}', 30.0 * index, 'Größe ☂', 'CC0-1.0')


def test_tensors_are_serialized_to_v1s_bytes():
  """The first clip of v1's golden file, encoded anew, gives the same features bit by bit."""
  record = next(iter(tf.data.TFRecordDataset(str(GOLDEN / 'tasks.tfrecord')))).numpy()
  golden = tf.train.Example.FromString(record).features.feature
  tokens = {
    name: tf.io.parse_tensor(golden[name].bytes_list.value[0], tf.int32).numpy()
    for name in ('acoustic_tokens', 'style_tokens')
  }
  clip = features.ClipTokens(0.0, style_embeddings=np.zeros([3, 768], np.float32), **tokens)
  encoded = records.encode_record(clip, _info(0))
  ours = tf.train.Example.FromString(encoded).features.feature
  for name in tokens:
    assert ours[name].bytes_list.value[0] == golden[name].bytes_list.value[0]


def test_v1s_feature_description_reads_our_records():
  clip = _clip(3)
  names = ('acoustic_tokens', 'style_tokens', 'style_embeddings')
  parsed = tf.io.parse_single_example(
    records.encode_record(clip, _info(3)),
    {name: tf.io.FixedLenFeature([], tf.string) for name in names},
  )
  for name, dtype in zip(names, (tf.int32, tf.int32, tf.float32), strict=True):
    value = tf.io.parse_tensor(parsed[name], dtype).numpy()
    np.testing.assert_array_equal(value, getattr(clip, name))


def test_records_decode_to_what_was_encoded():
  tokens, info = records.decode_record(records.encode_record(_clip(5), _info(5)))
  assert info == _info(5)
  for name in ('acoustic_tokens', 'style_tokens', 'style_embeddings'):
    np.testing.assert_array_equal(getattr(tokens, name), getattr(_clip(5), name))


def test_records_of_a_shard_are_counted_and_a_cut_shard_is_noticed(tmp_path):
  path = tmp_path / 'shard'
  records.write_shard(path, [records.encode_record(_clip(i), _info(i)) for i in range(5)])
  assert records.count_records(path) == 5
  assert [info.index for _, info in records.read_shards([path])] == list(range(5))
  path.write_bytes(path.read_bytes()[:-10])
  with pytest.raises(ValueError, match='inside of record 4'):
    records.count_records(path)


def test_a_failing_writer_leaves_no_file(tmp_path):
  def failing():
    yield records.encode_record(_clip(0), _info(0))
    raise OSError('disk full')

  with pytest.raises(OSError, match='disk full'):
    records.write_shard(tmp_path / 'shard', failing())
  assert not list(tmp_path.iterdir())
