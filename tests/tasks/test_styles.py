"""Styles of training examples (jitter, fixed prompt) and the mixture of two feeds."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import itertools
import json

import numpy as np
import pytest
import tensorflow as tf

from models import rvq
from models.spec import LiveMusicSpec
from tasks import registry, source, styles
from tasks.styles import StyleOptions
from training.feed import MixedFeed, TokenFeed

SPEC = LiveMusicSpec()
DIM, LEVELS = 24, 12


def _write(root, number, first_code):
  """Records whose level 0 tells which they are; clips of 100 frames, one style window."""
  version = root / 'toy' / '1.0.0'
  version.mkdir(parents=True)
  rng = np.random.default_rng(first_code)
  embeddings = []
  with tf.io.TFRecordWriter(str(version / 'toy-train.tfrecord-00000-of-00001')) as writer:
    for index in range(number):
      codes = rng.integers(0, SPEC.codebook_size, [100, 64], dtype=np.int32)
      codes[:, 0] = first_code + index
      embedding = rng.standard_normal([1, DIM]).astype(np.float32)
      embedding /= np.linalg.norm(embedding)
      embeddings.append(embedding[0])
      values = {
        'acoustic_tokens': codes,
        'style_tokens': np.full([1, LEVELS], 7, np.int32),
        'style_embeddings': embedding,
      }
      features = {
        name: tf.train.Feature(
          bytes_list=tf.train.BytesList(value=[tf.io.serialize_tensor(value).numpy()])
        )
        for name, value in values.items()
      }
      example = tf.train.Example(features=tf.train.Features(feature=features))
      writer.write(example.SerializeToString())
  info = {'splits': [{'name': 'train', 'shardLengths': [str(number)]}]}
  (version / 'dataset_info.json').write_text(json.dumps(info))
  (version / source.COMPLETION_MARKER).write_text('')
  return np.stack(embeddings)


@pytest.fixture(scope='module')
def catalog(tmp_path_factory):
  root = tmp_path_factory.mktemp('catalog')
  return root, _write(root, 5, 0)


@pytest.fixture(scope='module')
def general(tmp_path_factory):
  root = tmp_path_factory.mktemp('general')
  _write(root, 7, 100)
  return root


def _styles_seen(data_dir, options, number=10, seed=0):
  task = registry.live_music_task(data_dir, spec=SPEC, style=options)
  batches = TokenFeed(task, 'train', 1, seed=seed).batches()
  rows = [next(batches)['encoder_input_tokens'][0, SPEC.context_length :] for _ in range(number)]
  offsets = SPEC.style_offset + SPEC.codebook_size * np.arange(SPEC.style_levels)
  return [row - offsets for row in rows if not (row == SPEC.mask_id).all()]


def test_codes_are_those_of_the_style_models_quantizer():
  rng = np.random.default_rng(0)
  codebooks = rng.standard_normal([4, 32, DIM]).astype(np.float32)
  x = rng.standard_normal([20, DIM]).astype(np.float32)
  got = styles.quantize(tf.constant(x), tf.constant(codebooks))
  np.testing.assert_array_equal(got, rvq.quantize(x, codebooks))


def test_own_style_by_default_and_one_prompt_for_all(catalog):
  root, _ = catalog
  assert all((row == 7).all() for row in _styles_seen(root, StyleOptions()))
  prompt = tuple(range(50, 50 + LEVELS))
  seen = _styles_seen(root, StyleOptions(prompt=prompt))
  assert len(seen) > 5
  assert all(tuple(row) == prompt[: SPEC.style_levels] for row in seen)


def test_jitter_moves_the_embedding_by_its_noise_anew_in_each_epoch(catalog):
  root, embeddings = catalog
  # Level 0's codes are the embeddings themselves, so small noise leaves the first token in place.
  codebooks = np.random.default_rng(1).standard_normal([LEVELS, SPEC.codebook_size, DIM]) * 0.05
  codebooks = codebooks.astype(np.float32)
  codebooks[0, : len(embeddings)] = embeddings
  small = _styles_seen(root, StyleOptions(jitter=0.02, codebooks=codebooks), 15)
  assert all(row[0] < len(embeddings) for row in small)
  assert len({tuple(row) for row in small}) == len(small)
  wild = _styles_seen(root, StyleOptions(jitter=2.0, codebooks=codebooks), 15)
  assert sum(row[0] < len(embeddings) for row in wild) < len(wild) / 2 + 3
  again = _styles_seen(root, StyleOptions(jitter=0.02, codebooks=codebooks), 15)
  np.testing.assert_array_equal(np.stack(small), np.stack(again))


@pytest.mark.parametrize(
  'options, message',
  [({'jitter': -1.0}, 'jitter -1.0'), ({'jitter': 0.1}, 'codebooks'),
   ({'jitter': 0.1, 'prompt': (1,), 'codebooks': np.ones([1, 1, 1])}, 'nothing to jitter')],
)  # fmt: skip
def test_style_options_that_make_no_sense_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    StyleOptions(**options)


def _feeds(catalog, general, batch_size=4):
  tasks = [registry.live_music_task(root, spec=SPEC) for root in (catalog[0], general)]
  return [TokenFeed(task, 'train', batch_size, seed=3) for task in tasks]


def _take(feed, number, start=0):
  return list(itertools.islice(feed.batches(start), number))


@pytest.mark.parametrize('rate', [0.0, 0.1, 0.25, 1.0])
def test_mixture_keeps_its_rate_and_both_orders(catalog, general, rate):
  feeds = _feeds(catalog, general)
  batches = _take(MixedFeed(*feeds, rate), 10)
  first = np.concatenate([batch['decoder_target_tokens'][:, 0] for batch in batches])
  index = np.concatenate([batch['index'] for batch in batches])
  records = first - SPEC.codec_offset
  replayed = records >= 100
  assert replayed.sum() == np.floor(40 * rate + 1e-9)
  np.testing.assert_array_equal(records[~replayed], np.arange((~replayed).sum()) % 5)
  np.testing.assert_array_equal(records[replayed] - 100, np.arange(replayed.sum()) % 7)
  np.testing.assert_array_equal(index, np.where(replayed, records - 100 + 5, records))


def test_mixture_can_be_entered_anywhere_and_dealt_out(catalog, general):
  mixed = MixedFeed(*_feeds(catalog, general), 0.3)
  whole = _take(mixed, 6)
  for want, got in zip(whole[3:], _take(mixed, 3, start=3), strict=True):
    for name in want:
      np.testing.assert_array_equal(got[name], want[name])
  for host in range(2):
    for want, got in zip(whole, _take(mixed.shard(host, 2), 6), strict=True):
      np.testing.assert_array_equal(got['index'], want['index'][host::2])


def test_rates_that_are_no_share_are_refused(catalog, general):
  with pytest.raises(ValueError, match='replay rate 1.5 is not in 0..1'):
    MixedFeed(*_feeds(catalog, general), 1.5)


def _presets(rate, number=3):
  """Presets along the axes, whose tokens say which they are."""
  rows = np.eye(DIM, dtype=np.float32)[:number]
  tokens = np.repeat(100 + np.arange(number)[:, None], LEVELS, axis=1)
  return StyleOptions(preset_rate=rate, presets=5 * rows, preset_tokens=tokens)


def test_a_share_of_the_examples_is_styled_by_presets():
  embeddings = np.zeros([2, DIM], np.float32)
  embeddings[0, [0, 1]], embeddings[1, 2] = (0.9, 0.5), 1.0
  clip = {
    'style_tokens': tf.fill([2, LEVELS], 7), 'style_embeddings': tf.constant(embeddings)
  }  # fmt: skip
  options = _presets(0.4)
  found = np.stack([
    styles.restyle(clip, tf.constant([1, step]), options).numpy()[:, 0] for step in range(600)
  ])  # fmt: skip
  kinds, counts = np.unique(found, axis=0, return_counts=True)
  # Its own, the mean for both windows, or the nearest of the others: never the mean again.
  assert kinds.tolist() == [[7, 7], [100, 100], [101, 102]]
  np.testing.assert_allclose(counts / 600, [0.6, 0.2, 0.2], atol=0.06)
  again = styles.restyle(clip, tf.constant([1, 5]), options).numpy()[:, 0]
  np.testing.assert_array_equal(again, found[5])


def test_a_catalog_with_one_preset_has_no_other():
  clip = {'style_tokens': tf.fill([1, LEVELS], 7), 'style_embeddings': tf.ones([1, DIM])}
  found = {
    int(styles.restyle(clip, tf.constant([1, step]), _presets(1.0, 1)).numpy()[0, 0])
    for step in range(20)
  }
  assert found == {100}


def test_presets_are_a_part_of_what_an_example_hangs_on():
  assert _presets(0.4).identity != _presets(0.5).identity != styles.OWN_STYLE.identity
  assert _presets(0.4).identity != _presets(0.4, 2).identity
  assert _presets(0.4).needs_embeddings


@pytest.mark.parametrize('options, message', [
  ({'preset_rate': 1.5}, 'preset rate 1.5 is not in'),
  ({'preset_rate': 0.5}, 'needs presets and their tokens'),
  ({'preset_rate': 0.5, 'prompt': (1, 2)}, 'leaves no room for presets'),
])  # fmt: skip
def test_preset_options_that_cannot_be(options, message):
  with pytest.raises(ValueError, match=message):
    StyleOptions(**options)
