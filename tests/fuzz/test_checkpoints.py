"""Damaged checkpoints, bundles and adapters: the very arrays, or a refusal or fallback by name."""

import json
import pathlib
import shutil

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies

from models import adapters, weights
from models import bundle as bundles
from models.depthformer import DepthformerConfig, DepthformerModel
from models.depthformer.parameters import leaves
from models.spec import LiveMusicSpec
from tests.fuzz import mutations
from training import checksums, optimizers
from training.checkpoint_folders import BrokenCheckpointError
from training.checkpoints import Checkpoints, restore_params
from training.state import TrainState

SPEC = LiveMusicSpec(
  codebook_size=16, context_frames=6, context_levels=2, chunk_frames=4, target_levels=4,
  style_levels=2, style_offset=82, vocab_size=128, style_dim=8,
)  # fmt: skip
CONFIG = DepthformerConfig(
  embed_dim=8, num_heads=1, head_dim=8, mlp_dim=8, num_encoder_layers=1, num_temporal_layers=1,
  num_depth_layers=1,
)  # fmt: skip


def _state(step):
  params = {'a': {'w': jnp.arange(600.0).reshape(20, 30) + step}, 'b': jnp.full([2], -1.0 * step)}
  return TrainState(
    step=jnp.int32(step), params=params, opt_state=optimizers.adam(0.1).init(params), aux={}
  )


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  folder = tmp_path_factory.mktemp('saved')
  with Checkpoints(folder / 'run') as store:
    for step in (10, 20):
      store.save(_state(step), {'next_batch': step})
  return folder


def _files(folder):
  return sorted(
    path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file()
  )  # fmt: skip


def _damage(data, folder):
  """Changes, deletes, empties or exchanges a file of a folder; says what it did."""
  names = _files(folder)
  name = data.draw(strategies.sampled_from(names), label='file')
  kind = data.draw(strategies.sampled_from(['mutate', 'mutate', 'delete', 'empty', 'swap', 'copy']))
  path, other = folder / name, folder / data.draw(strategies.sampled_from(names))
  content = path.read_bytes()
  if kind == 'mutate':
    mutation = data.draw(mutations.mutations(content))
    path.write_bytes(mutation.data)
    return f'{name}: {mutation.story}'
  if kind == 'delete':
    path.unlink()
  elif kind == 'empty':
    path.write_bytes(b'')
  else:
    path.write_bytes(other.read_bytes())
    if kind == 'swap':
      other.write_bytes(content)
  return f'{name}: {kind} {other.name}'


def _equal(a, b):
  a, b = (dict(weights.flatten(jax.tree.map(np.asarray, tree))) for tree in (a, b))
  return a.keys() == b.keys() and all(
    a[n].dtype == b[n].dtype and np.array_equal(a[n], b[n], equal_nan=True) for n in a
  )


def _fresh_copy(folder):
  copy = folder.with_name('copy')
  shutil.rmtree(copy, ignore_errors=True)
  return shutil.copytree(folder, copy)


@mutations.settings(40)
@hypothesis.given(data=strategies.data())
def test_of_a_damaged_run_the_very_arrays_are_read(saved, capsys, data):
  run = _fresh_copy(saved / 'run')
  story = _damage(data, run / 'checkpoint_20')
  params, step = restore_params(run)
  assert _equal(params, _state(step).params), story
  capsys.readouterr()
  try:
    assert _equal(restore_params(run / 'checkpoint_20')[0], _state(20).params), story
    assert step == 20, story
  except BrokenCheckpointError as error:
    assert step == 10 and f'{run}/checkpoint_20 is damaged: ' in str(error), story
  with Checkpoints(run) as store:
    state, position = store.restore(_state(0))
  assert int(state.step) == step and position == {'next_batch': step}, story
  jax.tree.map(np.testing.assert_array_equal, state, _state(step))
  warned = f'{run}/checkpoint_20 is damaged (' in capsys.readouterr().err
  assert warned == (run / 'checkpoint_20.broken').exists() == (step == 10), story


@mutations.settings(30)
@hypothesis.given(data=strategies.data())
def test_a_damaged_run_without_checksums(saved, data):
  """What older versions wrote has nothing to compare with; but no other kind of error comes."""
  run = _fresh_copy(saved / 'run')
  for step in (10, 20):
    (run / f'checkpoint_{step}' / checksums.FILE_NAME).unlink()
  story = _damage(data, run / 'checkpoint_20')
  params, step = restore_params(run)
  assert step == 20 or _equal(params, _state(10).params), story
  try:
    with Checkpoints(run) as store:
      store.restore(_state(0))
  except ValueError as error:
    assert f'{run}/checkpoint_20 was written by another model or optimizer' in str(error), story


@pytest.fixture(scope='module')
def bundle_folder(tmp_path_factory):
  rng = np.random.default_rng(0)
  shapes = {name: leaf.stacked_shape for name, leaf in leaves(CONFIG, SPEC).items()}
  params = {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
  bundle = bundles.Bundle(
    model=DepthformerModel(CONFIG, SPEC), params=weights.unflatten(params), spec=SPEC,
    codec_name='tiny', codec_hash='c0dec', style_name='tiny', style_hash='5717e',
    presets={'organ': np.arange(8, dtype=np.float32) / 3, 'choir': np.ones(8, np.float32)},
    card={'licence': 'Apache-2.0'},
  )  # fmt: skip
  folder = tmp_path_factory.mktemp('bundles') / 'bundle'
  return bundles.save_bundle(folder, bundle)


def _no_hash(folder):
  path = folder / 'spec.json'
  description = json.loads(path.read_text())
  del description['sha256']
  path.write_text(json.dumps(description))


@pytest.mark.parametrize('old', [False, True])
def test_a_damaged_bundle(bundle_folder, old):
  expected = bundles.load_bundle(bundle_folder)

  @mutations.settings(120)
  @hypothesis.given(data=strategies.data())
  def draw(data):
    folder = _fresh_copy(bundle_folder)
    if old:
      _no_hash(folder)
    story = _damage(data, folder)
    try:
      got = bundles.load_bundle(folder)
    except (ValueError, OSError) as error:
      assert str(folder) in str(error), f'{story}: {error}'
      return
    same = _equal(got.params, expected.params)
    assert same and (not got.presets or _equal(got.presets, expected.presets)), story
    if got.presets == {}:
      assert not (folder / 'presets.safetensors').exists(), story
    if not old:
      assert got.model.config == expected.model.config and got.spec == expected.spec, story
      for name in ('codec_name', 'codec_hash', 'style_name', 'style_hash'):
        assert getattr(got, name) == getattr(expected, name), story

  draw()


@mutations.settings(100)
@hypothesis.given(data=strategies.data())
def test_a_damaged_adapter(tmp_path_factory, data):
  path = _ADAPTER.setdefault('path', tmp_path_factory.mktemp('adapter') / 'adapter.safetensors')
  adapter = {'encoder': {'down': np.linspace(0, 1, 12).reshape(3, 4).astype(np.float32)}}
  config = adapters.AdapterConfig()
  adapters.save_adapter(path, adapter, config, {'path': 'tiny', 'weights_hash': 'abc'})
  mutation = data.draw(mutations.mutations(path.read_bytes(), head=300))
  path.write_bytes(mutation.data)
  try:
    got = adapters.load_adapter(path)
  except (ValueError, OSError) as error:
    assert str(path) in str(error), f'{mutation.story}: {error}'
  else:
    assert _equal(got[0], adapter) and got[1] == config, mutation.story
    assert got[2] == {'path': 'tiny', 'weights_hash': 'abc'}, mutation.story


_ADAPTER: dict[str, pathlib.Path] = {}
