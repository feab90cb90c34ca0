"""Models found wherever they lie: a bundle's folder, a training run, one of its checkpoints."""

import shutil

import jax
import numpy as np
import optax
import pytest

from models.bundle import Bundle, save_bundle
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec
from pipelines import export, initial_params
from pipelines.checkpoint_sources import load_source, load_sources, write_model_file
from training.checkpoint_folders import BrokenCheckpointError
from training.checkpoints import Checkpoints
from training.state import create_state

SPEC = LiveMusicSpec(
  codebook_size=8,
  codec_levels=4,
  context_frames=6,
  context_levels=2,
  chunk_frames=4,
  target_levels=3,
  style_rvq_levels=3,
  style_levels=2,
  style_offset=40,
  vocab_size=64,
)
HASHES = {
  'codec_name': 'tiny',
  'codec_hash': 'c0dec',
  'style_name': 'tiny',
  'style_hash': '5719e',
}


def make_model():
  config = DepthformerConfig(
    embed_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1, num_temporal_layers=1,
    num_depth_layers=1,
  )  # fmt: skip
  return DepthformerModel(config, SPEC)


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  """A MODEL_DIR with checkpoints 3 and 5, whose parameters are told apart by a shift."""
  folder = tmp_path_factory.mktemp('runs') / 'pretrained'
  model = make_model()
  write_model_file(folder, model, **HASHES)
  state = create_state(model, optax.sgd(0.1), jax.random.key(0))
  with Checkpoints(folder, keep=5) as checkpoints:
    for step in (3, 5):
      shifted = jax.tree.map(lambda x, step=step: x + step, state.params)
      checkpoints.save(state.replace(step=np.int32(step), params=shifted), {})
      checkpoints.wait()
  return folder, state.params


def test_a_run_gives_its_newest_checkpoint(run_dir):
  folder, params = run_dir
  source = load_source(folder)
  assert (source.name, source.kind, source.step) == ('pretrained step 5', 'checkpoint', 5)
  assert source.bundle.model == make_model()
  assert source.bundle.codec_hash == 'c0dec'
  np.testing.assert_allclose(source.bundle.params['decoder_norm'], params['decoder_norm'] + 5)


def test_a_checkpoint_is_taken_by_its_folder(run_dir):
  folder, params = run_dir
  source = load_source(folder / 'checkpoint_3', 'early')
  assert (source.name, source.step, source.model_dir) == ('early', 3, folder)
  np.testing.assert_allclose(source.bundle.params['decoder_norm'], params['decoder_norm'] + 3)


@pytest.fixture
def copied(run_dir, tmp_path):
  """A copy of the run below a folder whose name Orbax takes for a pattern."""
  return shutil.copytree(run_dir[0], tmp_path / 'album [2024]' / 'run')


@pytest.mark.parametrize('name', ['state/_METADATA', 'dataset/metadata', 'checksums.json'])
def test_a_damaged_newest_checkpoint_is_passed_over(run_dir, copied, capsys, name):
  """Also where a run of train.py must not be taken for one of T5X."""
  (copied / 'checkpoint_5' / name).write_text('{')
  source = load_source(copied)
  assert (source.name, source.step, source.folder) == ('run step 3', 3, copied / 'checkpoint_3')
  np.testing.assert_allclose(source.bundle.params['decoder_norm'], run_dir[1]['decoder_norm'] + 3)
  assert f'{copied}/checkpoint_5 is damaged ({name} ' in capsys.readouterr().err
  with pytest.raises(BrokenCheckpointError, match='Whole in the same folder: checkpoint_3. Name'):
    load_source(copied / 'checkpoint_5')
  with pytest.raises(BrokenCheckpointError, match='is damaged'):
    initial_params.read(str(copied / 'checkpoint_5'))
  assert export.export(copied, copied / 'out') == copied / 'out'
  assert load_source(copied / 'out').bundle.card['step'] == 3


def test_a_damaged_model_file_is_named(copied):
  (copied / 'model.json').write_text('{"spec": 3}')
  with pytest.raises(ValueError, match='model.json is damaged: it does not describe a model'):
    load_source(copied)


def test_relative_paths_and_home(run_dir, copied, monkeypatch):
  save_bundle(copied / 'bundle', Bundle(make_model(), run_dir[1], SPEC, **HASHES))
  monkeypatch.chdir(copied)
  monkeypatch.setenv('HOME', str(copied.parent))
  for path, full, kind in [
    ('.', copied, 'checkpoint'), ('../run/checkpoint_3', copied / 'checkpoint_3', 'checkpoint'),
    ('~/run', copied, 'checkpoint'), ('bundle', copied / 'bundle', 'bundle'),
    ('~/run/../run/bundle', copied / 'bundle', 'bundle'),
  ]:  # fmt: skip
    source = load_source(path)
    assert (source.path, source.kind) == (str(full), kind)


def test_bundles_and_runs_side_by_side_get_names_of_their_own(run_dir, tmp_path):
  folder, params = run_dir
  bundle = Bundle(make_model(), params, SPEC, **HASHES)
  save_bundle(tmp_path / 'tuned' / 'bundle', bundle)
  sources = load_sources((str(tmp_path / 'tuned' / 'bundle'), str(folder), str(folder)))
  assert [source.name for source in sources] == [
    'tuned',
    'pretrained step 5',
    'pretrained step 5 (2)',
  ]
  assert [source.kind for source in sources] == ['bundle', 'checkpoint', 'checkpoint']
  named = load_sources(str(folder), ['mine'])
  assert named[0].name == 'mine'


def test_errors_say_what_is_missing(run_dir, tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere.*model.json'):
    load_source('nowhere')
  write_model_file(tmp_path, make_model(), **HASHES)
  with pytest.raises(FileNotFoundError, match='checkpoint_<step>'):
    load_source(tmp_path)
  with pytest.raises(ValueError, match='do not name 1 models'):
    load_sources(str(run_dir[0]), ['a', 'b'])


def test_parameters_of_another_size_are_refused(run_dir, tmp_path):
  folder, _ = run_dir
  larger = DepthformerModel(
    DepthformerConfig(
      embed_dim=16, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1,
      num_temporal_layers=1, num_depth_layers=1,
    ),
    SPEC,
  )  # fmt: skip
  (tmp_path / 'checkpoint_5').symlink_to(folder / 'checkpoint_5')
  write_model_file(tmp_path, larger, **HASHES)
  with pytest.raises(ValueError, match='shape'):
    load_source(tmp_path)
