"""Inference over held-out examples: scores, tokens, shards, restarts."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from inference import SamplingOptions
from models import tokens as tokens_lib
from models.bundle import Bundle, load_bundle, save_bundle
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec
from pipelines import infer as infer_lib
from pipelines import runs
from pipelines.infer import infer
from preprocessing.records import ClipTokens, RecordInfo, encode_record, shard_name, write_shard

SPEC = LiveMusicSpec(
  frame_rate=1, codec_levels=4, codebook_size=16, context_frames=5, context_levels=2,
  chunk_frames=3, target_levels=4, style_rvq_levels=3, style_levels=2, style_offset=66,
  vocab_size=128,
)  # fmt: skip
MODEL = DepthformerModel(
  DepthformerConfig(
    embed_dim=16, num_heads=2, head_dim=8, mlp_dim=16, num_encoder_layers=1,
    num_temporal_layers=1, num_depth_layers=1, dropout_rate=0.0, loss_over='level',
  ),
  SPEC,
)  # fmt: skip
IDENTITY = {'codec_name': 'c', 'codec_hash': 'c0de', 'style_name': 's', 'style_hash': '5717e'}
GREEDY = SamplingOptions(temperature=0.0, guidance_weight=0.0)
NUMBER = 7


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """(bundle folder, data_dir): a random model and three validation records."""
  root = tmp_path_factory.mktemp('infer')
  bundle = Bundle(
    MODEL, MODEL.init(jax.random.key(1)), SPEC, card={}, presets={}, **IDENTITY
  )
  save_bundle(root / 'bundle', bundle)
  folder = root / 'data' / 'toy' / '1.0.0'
  folder.mkdir(parents=True)
  splits = []
  for split, count in (('train', 1), ('validation', 3)):
    records = []
    for index in range(count):
      rng = np.random.default_rng([index, count])
      codes = rng.integers(0, SPEC.codebook_size, [40, SPEC.codec_levels], dtype=np.int32)
      style = rng.integers(0, SPEC.codebook_size, [4, SPEC.style_rvq_levels], dtype=np.int32)
      clip = ClipTokens(0.0, codes, style, np.zeros([4, SPEC.style_dim], np.float32))
      records.append(encode_record(clip, RecordInfo(index, f'{split}-{index}', 0.0)))
    write_shard(folder / shard_name('toy', split, 0, 1), records)
    splits.append({'name': split, 'shardLengths': [str(count)]})
  (folder / 'dataset_info.json').write_text(json.dumps({'splits': splits}))
  stats = {'codec': 'c', 'codec_hash': 'c0de', 'style': 's', 'style_hash': '5717e'}
  (folder / 'stats.json').write_text(json.dumps(stats))
  (folder / 'COMPLETED').write_text('')
  return str(root / 'bundle'), str(root / 'data')


@pytest.fixture(scope='module')
def examples(place):
  """The first examples, as the run's evaluation reads them."""
  batches = list(runs.held_out_token_feed(place[1], batch_size=4, spec=SPEC).batches(0))
  joined = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
  return {name: x[joined['index'] >= 0][:NUMBER] for name, x in joined.items()}


def _lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_scores_are_the_models_log_probabilities(place, examples, tmp_path):
  path = infer(*place, str(tmp_path), mode='score', batch_size=3, num_examples=NUMBER)
  assert path.name == 'held_out-score.jsonl-00000-of-00001'
  lines, bundle = _lines(path), load_bundle(place[0])
  want = MODEL.token_log_probs(
    bundle.params, jnp.array(examples['encoder_input_tokens']),
    jnp.array(examples['decoder_target_tokens']),
  )  # fmt: skip
  assert [line['number'] for line in lines] == list(range(NUMBER))
  assert [line['index'] for line in lines] == examples['index'].tolist()
  np.testing.assert_allclose([line['score'] for line in lines], want.sum(-1), rtol=1e-5)
  by_level = np.asarray(want).reshape(NUMBER, SPEC.chunk_frames, SPEC.target_levels).mean(1)
  np.testing.assert_allclose([line['score_by_level'] for line in lines], by_level, rtol=1e-5)
  assert {line['num_tokens'] for line in lines} == {SPEC.targets_length}


def test_shards_hold_what_the_whole_holds(place, tmp_path):
  options = dict(mode='score', batch_size=2, num_examples=NUMBER)
  whole = _lines(infer(*place, str(tmp_path / 'whole'), **options))
  parts = []
  for shard in range(3):
    path = infer(*place, str(tmp_path / 'parts'), shard_id=shard, num_shards=3, **options)
    assert path.name == f'held_out-score.jsonl-{shard:05}-of-00003'
    parts += _lines(path)
  parts.sort(key=lambda line: line['number'])
  assert [line['number'] for line in parts] == [line['number'] for line in whole]
  np.testing.assert_allclose(
    [line['score'] for line in parts], [line['score'] for line in whole], rtol=1e-5
  )


def test_predictions_are_the_models_and_a_restart_goes_on(place, examples, tmp_path, monkeypatch):
  sampled = dict(mode='predict', batch_size=3, num_examples=NUMBER, seed=5)
  greedy = _lines(infer(*place, str(tmp_path / 'greedy'), sampling=GREEDY, **sampled))
  params = load_bundle(place[0]).params
  ids = MODEL.generate(
    params, jnp.array(examples['encoder_input_tokens']), temperature=0.0, guidance_weight=0
  )
  want = tokens_lib.codec_codes(np.asarray(ids), SPEC)
  np.testing.assert_array_equal([line['prediction'] for line in greedy], want)
  targets = examples['decoder_target_tokens'].reshape(want.shape)
  np.testing.assert_array_equal(
    [line['targets'] for line in greedy], tokens_lib.codec_codes(targets, SPEC)
  )

  whole = infer(*place, str(tmp_path / 'whole'), **sampled)
  broken = tmp_path / 'broken'
  broken.mkdir()
  partial = broken / f'{whole.name}.partial'
  lines = whole.read_text().splitlines(keepends=True)
  partial.write_text(''.join(lines[:4]) + lines[4][:20])  # One batch, and part of the next.
  made = []
  call = infer_lib.Prediction.__call__
  monkeypatch.setattr(
    infer_lib.Prediction, '__call__', lambda self, n, rows: made.append(n) or call(self, n, rows)
  )
  assert infer(*place, str(broken), **sampled).read_text() == whole.read_text()
  assert made == [1, 2] and not partial.exists()
  infer(*place, str(broken), **sampled)
  assert made == [1, 2]  # What is complete stays.


@pytest.mark.parametrize(
  'options, message',
  [({'mode': 'scor'}, 'predict, score'), ({'shard_id': 2, 'num_shards': 2}, r'0\.\.1'),
   ({'batch_size': 0}, 'batch_size=0'), ({'seed': -1}, 'seed=-1'),
   ({'output_dir': '/dev/null/a'}, '/dev/null is a file')],
)  # fmt: skip
def test_wrong_options_end_before_anything_is_loaded(place, tmp_path, options, message):
  with pytest.raises(ValueError, match=message):
    infer(**{'checkpoint_path': 'none', 'data_dir': place[1], 'output_dir': str(tmp_path),
             **options})  # fmt: skip


def test_tokens_of_another_codec_are_refused(place, tmp_path):
  other = load_bundle(place[0])
  fields = IDENTITY | {'codec_hash': 'another'}
  save_bundle(tmp_path / 'other', Bundle(MODEL, other.params, SPEC, card={}, **fields))
  with pytest.raises(ValueError, match='another'):
    infer(str(tmp_path / 'other'), place[1], str(tmp_path / 'out'))
