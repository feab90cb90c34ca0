"""The training stream: global order, fresh crops each epoch, resuming, hosts."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import itertools
import json

import numpy as np
import pytest
import seqio
import tensorflow as tf

from models.spec import LiveMusicSpec
from tasks import crops, preprocessors, registry, source, stream

SPEC = LiveMusicSpec()
NUM_RECORDS = 11
NUM_SHARDS = 4


def _clip(index: int) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(index)
  frames = [750, 375, 100, 50][index % 4]
  codes = rng.integers(0, SPEC.codebook_size, [frames, 64], dtype=np.int32)
  codes[:, 0] = index  # tells in the targets which record an example came from
  style = rng.integers(0, SPEC.codebook_size, [-(-frames // 250), 12], dtype=np.int32)
  return codes, style


def _example(index: int) -> bytes:
  features = {
    name: tf.train.Feature(
      bytes_list=tf.train.BytesList(value=[tf.io.serialize_tensor(value).numpy()])
    )
    for name, value in zip(('acoustic_tokens', 'style_tokens'), _clip(index), strict=True)
  }
  return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp('tokens')
  version = root / 'toy' / '1.0.0'
  version.mkdir(parents=True)
  lengths = []
  for shard in range(NUM_SHARDS):
    mine = range(shard, NUM_RECORDS, NUM_SHARDS)
    name = version / f'toy-train.tfrecord-{shard:05d}-of-{NUM_SHARDS:05d}'
    with tf.io.TFRecordWriter(str(name)) as writer:
      for index in mine:
        writer.write(_example(index))
    lengths.append(str(len(mine)))
  info = {'splits': [{'name': 'train', 'shardLengths': lengths}]}
  (version / 'dataset_info.json').write_text(json.dumps(info))
  (version / source.COMPLETION_MARKER).write_text('')
  return root


@pytest.fixture(scope='module')
def task(folder):
  return registry.live_music_task(folder, spec=SPEC)


def _take(number, *args, **kwargs):
  return list(itertools.islice(stream.token_batches(*args, **kwargs), number))


def _joined(batches, name):
  return np.concatenate([batch[name] for batch in batches])


def _source_records(batches):
  """Record that each example's targets were cut from (their first level)."""
  return _joined(batches, 'decoder_target_tokens')[:, 0] - SPEC.codec_offset


def test_examples_come_in_global_order_through_the_epochs(task):
  batches = _take(11, task, 'train', 4, 0)
  expected = np.arange(44)
  np.testing.assert_array_equal(_joined(batches, 'index'), expected % NUM_RECORDS)
  np.testing.assert_array_equal(_joined(batches, 'epoch'), expected // NUM_RECORDS)
  np.testing.assert_array_equal(_source_records(batches), expected % NUM_RECORDS)
  assert batches[0]['encoder_input_tokens'].shape == (4, 1006)
  assert batches[0]['decoder_target_tokens'].dtype == np.int32


def test_examples_are_cuts_of_their_clip(task):
  codes_of = dict(enumerate(_clip(index) for index in range(NUM_RECORDS)))
  for batch in _take(6, task, 'train', 4, 5):
    for row in range(4):
      codes, style = codes_of[int(batch['index'][row])]
      targets = batch['decoder_target_tokens'][row].reshape(50, 16)
      targets = targets - SPEC.codec_offset - 1024 * np.arange(16)
      starts = [s for s in range(0, len(codes), 25) if _same(codes[s : s + 50, :16], targets)]
      assert len(starts) == 1
      inputs = batch['encoder_input_tokens'][row]
      context = inputs[:1000].reshape(250, 4)
      known = int((context[:, 0] != SPEC.mask_id).sum())
      assert known % 25 == 0
      expected = codes[starts[0] - known : starts[0], :4]
      got = context[250 - known :] - SPEC.codec_offset - 1024 * np.arange(4)
      np.testing.assert_array_equal(got, expected)
      assert (context[: 250 - known] == SPEC.mask_id).all()
      if not (inputs[1000:] == SPEC.mask_id).all():
        window = (starts[0] + 25) // 250
        got = inputs[1000:] - SPEC.style_offset - 1024 * np.arange(6)
        np.testing.assert_array_equal(got, style[window, :6])


def _same(a, b):
  return a.shape == b.shape and (a == b).all()


def test_starting_at_a_step_equals_skipping(task):
  whole = _take(9, task, 'train', 4, 7)
  for start in (1, 4, 7):
    later = _take(2, task, 'train', 4, 7, start_step=start)
    for expected, got in zip(whole[start:], later, strict=False):
      for name, value in expected.items():
        np.testing.assert_array_equal(got[name], value)


@pytest.mark.parametrize('num_hosts', [2, 4])
def test_hosts_share_the_same_global_batches(task, num_hosts):
  whole = _take(9, task, 'train', 4, 7)
  for start in (0, 5):
    parts = [
      _take(9 - start, task, 'train', 4, 7, start_step=start, host=host, num_hosts=num_hosts)
      for host in range(num_hosts)
    ]
    for step, expected in enumerate(whole[start:]):
      for name, value in expected.items():
        for host in range(num_hosts):
          np.testing.assert_array_equal(parts[host][step][name], value[host::num_hosts])


def test_hosts_that_do_not_divide_the_shards_are_refused(task):
  with pytest.raises(ValueError, match='4 shards, which 3 hosts'):
    _take(1, task, 'train', 3, 0, num_hosts=3)
  with pytest.raises(ValueError, match='batch_size=3'):
    _take(1, task, 'train', 3, 0, num_hosts=2)
  with pytest.raises(ValueError, match="no split 'test'"):
    _take(1, task, 'test', 3, 0)


def test_crops_differ_between_epochs_and_follow_the_seed(task):
  batches = _take(4 * NUM_RECORDS, task, 'train', 1, 3)
  again = _take(4 * NUM_RECORDS, task, 'train', 1, 3)
  other = _take(4 * NUM_RECORDS, task, 'train', 1, 4)
  targets = _joined(batches, 'decoder_target_tokens')
  np.testing.assert_array_equal(targets, _joined(again, 'decoder_target_tokens'))
  assert (targets != _joined(other, 'decoder_target_tokens')).any(axis=1).sum() > 20
  clip_0 = targets[::NUM_RECORDS]  # a clip of 30 s in four epochs
  assert len({row.tobytes() for row in clip_0}) >= 3


def test_draws_have_the_promised_distribution():
  """p is 10 in three of four draws, else uniform; starts are uniform; style drops at the rate."""
  codes, style = (tf.constant(x) for x in _clip(0))
  codes = tf.concat([codes[:, :1] * 0 + tf.range(750)[:, None] % 1000, codes[:, 1:]], axis=1)
  options = crops.CropOptions(style_dropout=0.25, context_dropout=0.5)

  @tf.function
  def draw(number):
    key = crops.draw_key(tf.constant([1, 2], tf.int64), tf.constant(0, tf.int64), number)
    example = crops.random_crop(codes, style, key, options, SPEC)
    start = (example['targets'][0] - SPEC.codec_offset) // 25
    return tf.stack([
      start,
      tf.cast(example['inputs'][-1] == SPEC.mask_id, tf.int32),
      tf.cast(tf.reduce_all(example['inputs'][:1000] == SPEC.mask_id), tf.int32),
    ])  # fmt: skip

  drawn = np.stack([draw(tf.constant(n, tf.int64)) for n in range(1500)])
  assert abs(drawn[:, 1].mean() - 0.25) < 0.04
  # An empty prompt (1 of 40 draws) looks like a dropped context.
  assert abs(drawn[:, 2].mean() - (0.5 + 0.5 / 40)) < 0.05
  # Three of four starts lie in 10..28, uniformly: P(start >= 20) is close to 0.75 * 9 / 19 + ...
  shorter = np.mean([np.mean(np.arange(p, 29) >= 20) for p in range(10)])
  expected = 0.75 * 9 / 19 + 0.25 * shorter
  assert abs((drawn[:, 0] >= 20).mean() - expected) < 0.05
  assert set(drawn[:, 0]) >= set(range(10, 29))


def test_standard_seqio_call_crops_anew_each_epoch(task):
  """The registry's task works through SeqIO's own entry point, with epochs counted."""
  dataset = seqio.get_mixture_or_task(task).get_dataset(
    sequence_length=None, split='train', shuffle=False, seed=3, num_epochs=3
  )
  examples = list(dataset.as_numpy_iterator())
  ours = _take(3 * NUM_RECORDS, task, 'train', 1, 3)
  assert len(examples) == 3 * NUM_RECORDS
  for example, batch in zip(examples, ours, strict=True):
    assert example['index'] == batch['index'][0]
    assert example['epoch'] == batch['epoch'][0]
    np.testing.assert_array_equal(example['targets'], batch['decoder_target_tokens'][0])
    np.testing.assert_array_equal(example['inputs'], batch['encoder_input_tokens'][0])


def test_eval_crops_are_fixed_and_the_last_batch_is_filled(folder):
  task = registry.live_music_eval_task(folder, crops_per_clip=3)
  # Clips of 30 and 15 s have three places, those of 4 and 2 s have one.
  places = {0: 3, 1: 3, 2: 1, 3: 1}
  numbers = [3 * i + k for i in range(NUM_RECORDS) for k in range(places[i % 4])]
  assert stream.num_examples(task, 'train') == len(numbers) == 23
  batches = list(stream.token_batches(task, 'train', 8, 0, num_epochs=1))
  assert len(batches) == 3
  index = _joined(batches, 'index')
  np.testing.assert_array_equal(index, [*numbers, -1])
  assert (batches[-1]['decoder_target_tokens'][7:] == SPEC.pad_id).all()
  again = list(stream.token_batches(task, 'train', 8, 99, num_epochs=1))
  np.testing.assert_array_equal(
    _joined(batches, 'encoder_input_tokens'), _joined(again, 'encoder_input_tokens')
  )
  codes, _ = _clip(0)
  for number, start_secs in enumerate((10, 19, 28)):  # the first, middle and last of 19 places
    expected = codes[start_secs * 25 : start_secs * 25 + 50, :16]
    got = batches[0]['decoder_target_tokens'][number].reshape(50, 16)
    np.testing.assert_array_equal(got - 2 - 1024 * np.arange(16), expected)
  known = _joined(batches, 'encoder_input_tokens')[:23]
  assert (known[:, 1000:] != SPEC.mask_id).all()


@pytest.mark.parametrize(
  'secs, starts', [(2, [0]), (4, [2]), (12, [10]), (13, [10, 11]), (14, [10, 11, 12]),
                   (30, [10, 19, 28])],
)  # fmt: skip
def test_no_two_fixed_crops_of_a_clip_are_equal(secs, starts):
  """A tail clip of 4 s has one target with all the context that it has, not the same one thrice."""
  codes = np.arange(25 * secs, dtype=np.int32)[:, None] % 1024 + np.zeros([1, 16], np.int32)
  clip = {
    'acoustic_tokens': codes, 'style_tokens': np.zeros([3, 12], np.int32),
    'index': np.int64(7), 'epoch': np.int64(0),
  }  # fmt: skip
  clips = tf.data.Dataset.from_tensors(clip)
  examples = list(preprocessors.fixed_crops(3, SPEC)(clips).as_numpy_iterator())
  assert [int(example['targets'][0] - 2) // 25 for example in examples] == starts
  assert [int(example['index']) for example in examples] == [21, 22, 23][: len(starts)]
  context = min(10, starts[0]) * 25 * 4
  for example in examples:
    assert (example['inputs'][:1000] != SPEC.mask_id).sum() == context


def test_registering_twice_is_harmless_but_not_with_other_settings(folder):
  first = registry.live_music_task(folder, name='toy_task')
  assert registry.live_music_task(folder, name='toy_task') == first
  with pytest.raises(ValueError, match='other settings'):
    registry.live_music_task(folder, name='toy_task', crops=crops.CropOptions(style_dropout=0.5))


def test_unfinished_or_missing_folders_are_refused(tmp_path):
  with pytest.raises(ValueError, match='No token records'):
    registry.live_music_task(tmp_path)
  (tmp_path / 'dataset_info.json').write_text('{}')
  with pytest.raises(ValueError, match='has not finished'):
    registry.live_music_task(tmp_path)
  with pytest.raises(ValueError, match='style_dropout=1.5'):
    crops.CropOptions(style_dropout=1.5)
