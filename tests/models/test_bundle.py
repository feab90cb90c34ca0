"""Bundles: what is saved is what is loaded, and what does not fit is refused by name."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from models import bundle as bundles
from models import weights
from models.depthformer import DepthformerConfig, DepthformerModel
from models.depthformer.parameters import leaves
from models.spec import LiveMusicSpec

SPEC = LiveMusicSpec(
  codebook_size=16, context_frames=6, context_levels=2, chunk_frames=4, target_levels=4,
  style_levels=2, style_offset=82, vocab_size=128, style_dim=8,
)  # fmt: skip
CONFIG = DepthformerConfig(
  embed_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1, num_temporal_layers=1,
  num_depth_layers=1,
)  # fmt: skip


class Model:
  def __init__(self, content_hash: str):
    self.content_hash = content_hash


def _random_params(seed: int):
  rng = np.random.default_rng(seed)
  flat = {
    name: rng.normal(size=leaf.stacked_shape).astype(np.float32)
    for name, leaf in leaves(CONFIG, SPEC).items()
  }
  return weights.unflatten(flat)


@pytest.fixture(scope='module')
def bundle() -> bundles.Bundle:
  model = DepthformerModel(CONFIG, SPEC)
  return bundles.Bundle(
    model=model,
    params=_random_params(0),
    spec=SPEC,
    codec_name='tiny',
    codec_hash='c0dec',
    style_name='tiny',
    style_hash='5717e',
    presets={'church organ': np.arange(8, dtype=np.float32) / 3},
    card={'licence': 'Apache-2.0', 'steps': 3},
  )


def test_round_trip_keeps_used_rows_as_float16_and_zeroes_the_rest(bundle, tmp_path):
  loaded = bundles.load_bundle(bundles.save_bundle(tmp_path / 'b', bundle))
  read, predicted = bundles.used_ids(SPEC)
  np.testing.assert_array_equal(read, [*range(66), *range(82, 114)])
  np.testing.assert_array_equal(predicted, np.arange(2, 66))
  before = jax.tree.map(lambda x: np.asarray(x).astype(np.float16), bundle.params)
  after = jax.tree.map(np.asarray, loaded.params)
  np.testing.assert_array_equal(after['embedding'][read], before['embedding'][read])
  np.testing.assert_array_equal(after['logits'][:, predicted], before['logits'][:, predicted])
  assert not np.delete(after['embedding'], read, axis=0).any()
  assert not np.delete(after['logits'], predicted, axis=1).any()
  for name in ('encoder', 'temporal', 'depth', 'decoder_norm'):
    jax.tree.map(np.testing.assert_array_equal, after[name], before[name])
  assert loaded.model == bundle.model and loaded.card == bundle.card
  assert (loaded.codec_hash, loaded.style_hash) == ('c0dec', '5717e')
  np.testing.assert_array_equal(loaded.presets['church organ'], bundle.presets['church organ'])


def test_saving_again_what_was_loaded_changes_no_byte(bundle, tmp_path):
  first = bundles.save_bundle(tmp_path / 'a', bundle)
  second = bundles.save_bundle(tmp_path / 'b', bundles.load_bundle(first))
  for file in ('weights.safetensors', 'spec.json', 'card.json', 'presets.safetensors'):
    assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_unused_ids_do_not_change_what_the_model_computes(bundle, tmp_path):
  used = bundles.load_bundle(bundles.save_bundle(tmp_path / 'used', bundle))
  full = bundles.load_bundle(bundles.save_bundle(tmp_path / 'full', bundle, only_used_ids=False))
  assert np.asarray(full.params['embedding']).all()
  inputs = np.tile(np.r_[1, 1, np.arange(2, 12), 90, 110].astype(np.int32), (2, 1))
  targets = 2 + np.arange(32, dtype=np.int32).reshape(2, 16) % 4 * 16
  targets += np.tile(np.arange(4, dtype=np.int32) * 16, 4) - targets // 16 * 16
  score = jax.jit(bundle.model.token_log_probs)
  np.testing.assert_array_equal(
    score(used.params, inputs, targets), score(full.params, inputs, targets)
  )
  size = [(tmp_path / name / 'weights.safetensors').stat().st_size for name in ('used', 'full')]
  assert size[1] - size[0] == pytest.approx(2 * 16 * (128 - 98 + 128 - 64), abs=64)


def test_missing_bundle_lists_the_bundled_names(tmp_path):
  with pytest.raises(FileNotFoundError, match="'no_such'.*bundled"):
    bundles.load_bundle('no_such')
  for name in bundles.bundled_names():
    with pytest.raises(FileNotFoundError, match=name):
      bundles.load_bundle(tmp_path)


@pytest.mark.parametrize('file', ['weights.safetensors', 'spec.json', 'presets.safetensors'])
def test_truncated_files_are_named(bundle, tmp_path, file):
  path = bundles.save_bundle(tmp_path, bundle) / file
  path.write_bytes(path.read_bytes()[:-40])
  with pytest.raises(ValueError, match=f'{file}.* truncated'):
    bundles.load_bundle(tmp_path)


def test_weights_of_another_bundle_are_refused(bundle, tmp_path):
  mine = bundles.save_bundle(tmp_path / 'mine', bundle)
  other = dataclasses.replace(bundle, params=_random_params(1))
  theirs = bundles.save_bundle(tmp_path / 'theirs', other)
  (mine / 'weights.safetensors').write_bytes((theirs / 'weights.safetensors').read_bytes())
  with pytest.raises(ValueError, match='is not the file that spec.json describes'):
    bundles.load_bundle(mine)


def test_sizes_that_do_not_fit_the_weights_name_the_array(bundle, tmp_path):
  bundles.save_bundle(tmp_path, bundle)
  description = json.loads((tmp_path / 'spec.json').read_text())
  del description['sha256']  # As older versions wrote it.
  description['config']['mlp_dim'] = 48
  (tmp_path / 'spec.json').write_text(json.dumps(description))
  with pytest.raises(ValueError, match=r'depth/layers/mlp/gate is \(1, 16, 32\).*\(1, 16, 48\)'):
    bundles.load_bundle(tmp_path)


@pytest.mark.parametrize('name', ['weights.safetensors', 'presets.safetensors', 'spec.json'])
def test_a_flipped_bit_is_found(bundle, tmp_path, name):
  bundles.save_bundle(tmp_path, bundle)
  content = bytearray((tmp_path / name).read_bytes())
  content[-20] ^= 1
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=f'{tmp_path}/{name} is damaged'):
    bundles.load_bundle(tmp_path)


def test_a_bundle_of_an_older_version_is_read(bundle, tmp_path):
  """Without any hash but that of the weights' values."""
  bundles.save_bundle(tmp_path, bundle)
  for name in ('weights', 'presets'):
    path = tmp_path / f'{name}.safetensors'
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), path)
  description = json.loads((tmp_path / 'spec.json').read_text())
  del description['sha256']
  (tmp_path / 'spec.json').write_text(json.dumps(description))
  loaded = bundles.load_bundle(tmp_path)
  np.testing.assert_array_equal(loaded.presets['church organ'], bundle.presets['church organ'])


def test_tokens_of_another_codec_or_style_model_are_refused(bundle):
  bundles.check_tokens(bundle, Model('c0dec'), Model('5717e'))
  with pytest.raises(ValueError, match='codec.*c0dec.*other'):
    bundles.check_tokens(bundle, Model('other'), Model('5717e'))
  with pytest.raises(ValueError, match='style model.*5717e.*other'):
    bundles.check_tokens(bundle, Model('c0dec'), Model('other'))
