"""T5X checkpoints and released names where a model is asked for, and models exported for T5X."""

import json
import shutil
import tarfile

import jax
import numpy as np
import optax
import pytest

from models import assets
from models.bundle import save_bundle
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec
from pipelines import export, initial_params
from pipelines.checkpoint_sources import load_source, write_model_file
from pipelines.finetune_options import write_model_file as write_gin_model_file
from training import t5x_checkpoints
from training.checkpoints import Checkpoints
from training.optimizers import adafactor
from training.state import TrainState, create_state

RELEASED = 'llm_large_x3047_c1860k'
# v1's token layout; narrow, so that it is quick.
MODEL = DepthformerModel(
  DepthformerConfig(
    embed_dim=4, num_heads=2, head_dim=2, mlp_dim=8, num_encoder_layers=2, num_temporal_layers=1,
    num_depth_layers=1,
  ),
  LiveMusicSpec(),
)  # fmt: skip
OPTIMIZER = adafactor(0.1, stacked=MODEL.layer_axes())
HASHES = {
  'codec_name': 'tiny', 'codec_hash': 'c0dec', 'style_name': 'tiny', 'style_hash': '5719e',
}  # fmt: skip


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  """A MODEL_DIR with checkpoint_9, of Adafactor with statistics that are not zero."""
  folder = tmp_path_factory.mktemp('runs') / 'pretrained'
  write_model_file(folder, MODEL, **HASHES)
  rng = np.random.default_rng(0)

  def fill(shapes):
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)

  params = fill(jax.eval_shape(MODEL.init, jax.random.key(0)))
  opt_state = fill(jax.eval_shape(OPTIMIZER.init, params))._replace(count=np.int32(9))
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(TrainState(np.int32(9), params, opt_state, {}), {})
  return folder, params, opt_state


@pytest.fixture
def asset_dir(run_dir, tmp_path, monkeypatch):
  """A directory with a stand-in for the large model."""
  folder = t5x_checkpoints.write(tmp_path, run_dir[1], MODEL.config, MODEL.spec, step=1_860_000)
  (tmp_path / 'assets' / 'checkpoints').mkdir(parents=True)
  with tarfile.open(tmp_path / 'assets' / 'checkpoints' / f'{RELEASED}.tar', 'w') as tar:
    for path in folder.iterdir():
      tar.add(path, path.name)
  shutil.rmtree(folder)
  monkeypatch.setenv(assets.VARIABLE, str(tmp_path / 'assets'))
  return tmp_path / 'assets'


def _assert_equal(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_released_name_is_a_source(run_dir, asset_dir):
  source = load_source(RELEASED)
  assert (source.kind, source.step, source.path) == ('t5x', 1_860_000, RELEASED)
  assert source.name == f'{RELEASED} step 1860000'
  assert source.bundle.model == MODEL
  assert (source.bundle.codec_name, source.bundle.style_hash) == (assets.CODEC, assets.STYLE_MODEL)
  _assert_equal(source.bundle.params, run_dir[1])
  # Its folder and its archive are the same model.
  folder = asset_dir / 'checkpoints' / RELEASED
  _assert_equal(load_source(folder).bundle.params, run_dir[1])
  _assert_equal(load_source(f'{folder}.tar').bundle.params, run_dir[1])


def test_training_starts_from_it_on_tokens_of_its_own_codec_alone(run_dir, asset_dir):
  released = dict(codec_hash=assets.CODEC, style_hash=assets.STYLE_MODEL)
  _assert_equal(initial_params.read(RELEASED, released), run_dir[1])
  with pytest.raises(ValueError, match='model ssv2_48k_stereo, the data holds tokens of c0dec'):
    initial_params.read(RELEASED, HASHES)


def test_a_released_model_that_is_not_there(asset_dir):
  with pytest.raises(FileNotFoundError, match='Put checkpoints/llm_large_holly_finetune.tar, as'):
    load_source('llm_large_holly_finetune')
  with pytest.raises(FileNotFoundError, match='not a released one .llm_base_x4286_c1860k'):
    load_source('llm_lerge')


def test_finetuning_takes_its_sizes(asset_dir, tmp_path):
  lines = write_gin_model_file(tmp_path, load_source(RELEASED).bundle).read_text().splitlines()
  assert 'depthformer.DepthformerConfig.embed_dim = 4' in lines
  assert 'depthformer.DepthformerConfig.num_encoder_layers = 2' in lines


@pytest.mark.parametrize('layout', t5x_checkpoints.LAYOUTS)
def test_a_run_is_exported_with_its_optimizer_and_read_again(run_dir, tmp_path, layout):
  folder, params, opt_state = run_dir
  written, notes = export.export_t5x(folder, tmp_path / 'out', layout)
  assert written == tmp_path / 'out' / 'checkpoint_9'
  assert len(notes) == 1 and 'other levels' in notes[0]
  loaded = t5x_checkpoints.read(written, with_optimizer=True)
  assert (loaded.step, loaded.layout) == (9, layout)
  _assert_equal(loaded.params, params)
  _assert_equal(loaded.opt_state, opt_state)
  # With the model.json beside it, it is a source that knows whose tokens it speaks.
  for path in (written, tmp_path / 'out'):
    source = load_source(path)
    assert (source.kind, source.bundle.codec_hash, source.name) == ('t5x', 'c0dec', 'out step 9')
    assert source.bundle.model == MODEL
  again, _ = export.export_t5x(written, tmp_path / 'again', layout)
  _assert_equal(t5x_checkpoints.read(again, with_optimizer=True).opt_state, opt_state)


def test_without_adafactor_its_first_statistics_are_written(run_dir, tmp_path):
  write_model_file(tmp_path / 'run', MODEL, **HASHES)
  params = run_dir[1]
  with Checkpoints(tmp_path / 'run') as checkpoints:
    checkpoints.save(TrainState(np.int32(0), params, optax.sgd(0.1).init(params), {}), {})
  written, notes = export.export_t5x(tmp_path / 'run', tmp_path / 'out')
  assert 'before the first update' in notes[0]
  opt_state = t5x_checkpoints.read(written, with_optimizer=True).opt_state
  shapes = jax.eval_shape(OPTIMIZER.init, params)
  _assert_equal(opt_state, jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))


def test_a_t5x_checkpoint_becomes_a_run_that_goes_on(run_dir, tmp_path):
  _, params, opt_state = run_dir
  t5x_checkpoints.write(
    tmp_path / 't5x', params, MODEL.config, MODEL.spec, step=9, opt_state=opt_state
  )
  folder, notes = export.export_run(tmp_path / 't5x', tmp_path / 'run')
  assert folder == tmp_path / 'run' / 'checkpoint_9' and not notes
  like = jax.eval_shape(lambda key: create_state(MODEL, OPTIMIZER, key), jax.random.key(0))
  with Checkpoints(tmp_path / 'run') as checkpoints:
    state, data = checkpoints.restore(like)
  assert int(state.step) == 9 and data['next_batch'] == 0
  _assert_equal(state.params, params)
  _assert_equal(state.opt_state, opt_state)
  assert load_source(tmp_path / 'run').kind == 'checkpoint'


def test_a_bundle_is_exported_at_the_step_in_its_card(run_dir, tmp_path):
  source = load_source(run_dir[0])
  save_bundle(tmp_path / 'bundle', source.bundle)
  written, _ = export.export_t5x(tmp_path / 'bundle', tmp_path / 'out')
  assert written.name == 'checkpoint_9' and t5x_checkpoints.read(written).step == 9


def test_one_folder_holds_one_model(run_dir, tmp_path):
  export.export_t5x(run_dir[0], tmp_path)
  with pytest.raises(FileExistsError, match='checkpoint_9 exists'):
    export.export_t5x(run_dir[0], tmp_path)
  described = json.loads((tmp_path / 'model.json').read_text())
  described['codec']['hash'] = 'another'
  (tmp_path / 'model.json').write_text(json.dumps(described))
  with pytest.raises(FileExistsError, match='describes another model'):
    export.export_t5x(run_dir[0], tmp_path, 't5x-orbax')


def test_the_command_writes_every_format(run_dir, tmp_path, capsys):
  for form in export.FORMATS:
    out = tmp_path / form
    if form == 'bundle':
      (run_dir[0] / 'metrics.jsonl').write_text('')
    export.main([f'--checkpoint={run_dir[0]}', f'--output_dir={out}', f'--format={form}'])
    assert str(out) in capsys.readouterr().out
    assert load_source(out).bundle.codec_hash == 'c0dec'
  with pytest.raises(SystemExit, match='nowhere'):
    export.main(['--checkpoint=nowhere', f'--output_dir={tmp_path}/none', '--format=t5x'])
