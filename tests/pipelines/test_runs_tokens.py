"""Token records as a training run sees them: batches, order, identity, held-out examples."""

import functools
import itertools
import json
import os
import shutil

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np
import pytest

from models.depthformer import DepthformerConfig, DepthformerModel
from models.record_shards import TokenDataError, TokenFolder
from models.spec import LiveMusicSpec
from pipelines import runs
from preprocessing.features import ClipTokens
from preprocessing.records import RecordInfo, encode_record, shard_name, write_shard

SPEC = LiveMusicSpec()
COUNTS = {'train': 6, 'validation': 2}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Clips of 15 s; the first level of every frame names the record."""
  root = tmp_path_factory.mktemp('prepared')
  folder = root / 'toy' / '1.0.0'
  folder.mkdir(parents=True)
  splits = []
  for split, count in COUNTS.items():
    records = []
    for index in range(count):
      rng = np.random.default_rng([index, count])
      codes = rng.integers(0, SPEC.codebook_size, [375, SPEC.codec_levels], dtype=np.int32)
      codes[:, 0] = 100 * count + index
      style = np.full([2, SPEC.style_rvq_levels], index, np.int32)
      tokens = ClipTokens(0.0, codes, style, np.zeros([2, SPEC.style_dim], np.float32))
      records.append(encode_record(tokens, RecordInfo(index, f'{split}-{index}', 0.0)))
    write_shard(folder / shard_name('toy', split, 0, 1), records)
    splits.append({'name': split, 'shardLengths': [str(count)]})
  (folder / 'dataset_info.json').write_text(json.dumps({'splits': splits}))
  stats = {'codec': 'tiny', 'codec_hash': 'c0de', 'style': 'tiny', 'style_hash': '5717e'}
  (folder / 'stats.json').write_text(json.dumps(stats))
  (folder / 'COMPLETED').write_text('')
  return str(root)


def _records_of(batch):
  """The record that each row's targets come from."""
  first_ids = batch['decoder_target_tokens'][:, :: SPEC.target_levels] - SPEC.codec_offset
  assert (first_ids == first_ids[:, :1]).all()
  return (first_ids[:, 0] % 100).tolist()


def _targets(batches):
  return np.concatenate([batch['decoder_target_tokens'] for batch in batches])


@pytest.mark.parametrize('batch_size', [0, -2, 'x'])
def test_a_batch_of_no_examples_is_refused_at_once(data_dir, batch_size):
  with pytest.raises(ValueError, match=f'batch_size={batch_size!r} is not a whole number'):
    runs.token_feed(data_dir, batch_size=batch_size)


def test_batches_in_order_and_from_any_start(data_dir):
  feed = runs.token_feed(data_dir, batch_size=4, seed=7)
  batches = list(itertools.islice(feed.batches(0), 4))
  for batch in batches:
    assert batch['encoder_input_tokens'].shape == (4, SPEC.inputs_length)
    assert batch['index'].dtype == np.int32
    assert _records_of(batch) == batch['index'].tolist()
  seen = [index for batch in batches for index in batch['index'].tolist()]
  assert sorted(seen[:6]) == sorted(seen[6:12]) == list(range(6))  # Each epoch, each record once.
  for name, x in next(feed.batches(3)).items():
    np.testing.assert_array_equal(x, batches[3][name])
  other = next(runs.token_feed(data_dir, batch_size=4, seed=8).batches(0))
  assert not np.array_equal(other['encoder_input_tokens'], batches[0]['encoder_input_tokens'])


def test_identity_comes_with_the_data(data_dir):
  feed = runs.token_feed(data_dir, batch_size=2, mixture_or_task_name='toy_live_music')
  assert feed.batch_size == 2
  assert feed.identity == {
    'codec_name': 'tiny', 'codec_hash': 'c0de', 'style_name': 'tiny', 'style_hash': '5717e',
  }  # fmt: skip


def test_held_out_feed_ends_and_counts_every_example_once(data_dir):
  feed = runs.held_out_token_feed(data_dir, batch_size=4)
  batches = list(feed.batches(0))
  assert [len(batch['index']) for batch in batches] == [4, 4]
  indices = [index for batch in batches for index in batch['index'].tolist()]
  assert sorted(indices) == [-1, -1, *range(6)]  # 2 clips, 3 crops each, then padding.
  records = _records_of({'decoder_target_tokens': _targets(batches)[np.array(indices) >= 0]})
  assert records == [0, 0, 0, 1, 1, 1]
  padding = batches[1]['decoder_target_tokens'][batches[1]['index'] == -1]
  assert (padding == SPEC.pad_id).all()


def test_first_example_of_real_records_is_decoded(data_dir):
  batch = next(runs.token_feed(data_dir, batch_size=1, seed=1).batches(0))
  text = runs.describe_batch(batch)
  assert f'codes by level: [{600 + batch["index"][0]}, ' in text


def test_checkpoints_will_know_the_data(data_dir):
  (content,) = runs.token_feed(data_dir, batch_size=2).content
  assert content['about'] == f'{data_dir}/toy/1.0.0 (6 train, 2 validation)'
  assert content['fingerprint'] == TokenFolder(f'{data_dir}/toy/1.0.0').fingerprint


def test_a_run_of_another_engine_does_not_go_on_with_other_data(data_dir, tmp_path, capsys):
  """Its checkpoints do not know the data; model.json does."""
  model = DepthformerModel(DepthformerConfig(), SPEC)
  describe = functools.partial(runs.describe_model, str(tmp_path), model=model)
  path = describe(data_dir=data_dir)
  described = json.loads(path.read_text())
  assert described['data'] == list(runs.token_feed(data_dir, batch_size=2).content)
  other = shutil.copytree(data_dir, tmp_path / 'other')
  stats = other / 'toy' / '1.0.0' / 'stats.json'
  stats.write_text(json.dumps(json.loads(stats.read_text()) | {'fingerprint': 'f2'}))
  describe(data_dir=str(other))  # Nothing was trained yet.
  describe(data_dir=data_dir)
  (tmp_path / 'checkpoint_10').mkdir()
  describe(data_dir=data_dir)
  with pytest.raises(ValueError, match=r'was trained on .*toy/1.0.0 \(6 train.*; now it is given'):
    describe(data_dir=str(other))
  assert json.loads(path.read_text())['data'] == described['data']
  describe(data_dir=str(other), allow_other_data=True)
  assert 'ALLOW_OTHER_DATA is set: it goes on.' in capsys.readouterr().out
  path.write_text(json.dumps({name: described[name] for name in described if name != 'data'}))
  describe(data_dir=data_dir)
  assert 'does not say which data it was trained on' in capsys.readouterr().out


def _train(data_dir, tmp_path, **options):
  """A run whose model is never made: it is stopped by what is looked at before."""
  feed = runs.token_feed(data_dir, batch_size=2)
  held_out = runs.HeldOutLoss(None, runs.held_out_token_feed(data_dir, batch_size=2))
  return runs.train(
    model_dir=str(tmp_path / 'run'), trainable=None, feed=feed, optimizer=None, total_steps=1000,
    evaluators=[held_out], **options,
  )  # fmt: skip


@pytest.fixture
def no_validation(data_dir, tmp_path):
  """The same data set without its held-out split."""
  shutil.copytree(data_dir, tmp_path / 'data')
  folder = tmp_path / 'data' / 'toy' / '1.0.0'
  (folder / shard_name('toy', 'validation', 0, 1)).unlink()
  info = json.loads((folder / 'dataset_info.json').read_text())
  info['splits'] = [split for split in info['splits'] if split['name'] == 'train']
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  return str(tmp_path / 'data')


def test_a_missing_held_out_split_is_known_before_the_first_step(no_validation, tmp_path):
  message = (
    r"training_eval/held_out cannot be evaluated: There is no split 'validation' .* has \['train'\]"
    r'.*train without evaluation: --gin.EVAL_PERIOD=0'
  )
  with pytest.raises(ValueError, match=message):
    _train(no_validation, tmp_path, eval_period=1000)
  assert not (tmp_path / 'run').exists()
  with pytest.raises(ValueError, match=message):
    _train(no_validation, tmp_path, eval_period=1000, dry_run=True)
  with pytest.raises(AttributeError):  # Without evaluation it goes on, to a model that is not one.
    _train(no_validation, tmp_path, eval_period=0)


@pytest.mark.parametrize('split', ['train', 'validation'])
def test_damaged_shards_are_known_before_the_first_step(data_dir, tmp_path, split):
  shutil.copytree(data_dir, tmp_path / 'data')
  path = tmp_path / 'data' / 'toy' / '1.0.0' / shard_name('toy', split, 0, 1)
  path.write_bytes(path.read_bytes()[:-7])
  with pytest.raises(TokenDataError, match=f'{path} ends inside of record'):
    _train(str(tmp_path / 'data'), tmp_path, eval_period=1000)
  assert not (tmp_path / 'run').exists()
