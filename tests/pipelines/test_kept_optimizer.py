"""An optimizer that is kept over the start of a tuning: its statistics and its count of updates."""

import jax
import numpy as np
import optax
import pytest

from models.bundle import Bundle, save_bundle
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec
from pipelines import export, initial_params
from pipelines.checkpoint_sources import write_model_file
from pipelines.runs import _start_of_schedule
from training import wrappers
from training.checkpoints import Checkpoints
from training.optimizers import adafactor
from training.schedules import factor_schedule
from training.state import TrainState, create_state, flat_names

MODEL = DepthformerModel(
  DepthformerConfig(
    embed_dim=4, num_heads=2, head_dim=2, mlp_dim=8, num_encoder_layers=2, num_temporal_layers=1,
    num_depth_layers=1,
  ),
  LiveMusicSpec(),
)  # fmt: skip
RATE = factor_schedule('constant * linear_warmup * rsqrt_decay', 0.5, warmup_steps=1000)
OPTIMIZER = adafactor(RATE, stacked=MODEL.layer_axes())
HASHES = {
  'codec_name': 'tiny', 'codec_hash': 'c0dec', 'style_name': 'tiny', 'style_hash': '5719e',
}  # fmt: skip
UPDATES = 1_860_000


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory):
  """A MODEL_DIR whose Adafactor has made as many updates as Magenta RT v1's."""
  folder = tmp_path_factory.mktemp('runs') / 'pretrained'
  write_model_file(folder, MODEL, **HASHES)
  rng = np.random.default_rng(0)

  def fill(shapes):
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)

  params = fill(jax.eval_shape(MODEL.init, jax.random.key(0)))
  opt_state = fill(jax.eval_shape(OPTIMIZER.init, params))._replace(count=np.int32(UPDATES))
  state = TrainState(step=np.int32(UPDATES), params=params, opt_state=opt_state, aux={})
  with Checkpoints(folder) as checkpoints:
    checkpoints.save(state, {'next_batch': 0})
  return folder, opt_state


def _same(kept, stored):
  for (name, value), want in zip(
    flat_names(kept).items(), flat_names(stored).values(), strict=True
  ):
    np.testing.assert_allclose(value, want, rtol=1e-6, err_msg=name)


def test_statistics_and_count_of_a_run_are_kept(run_dir):
  folder, stored = run_dir
  like = create_state(MODEL, OPTIMIZER, jax.random.key(1)).opt_state
  _same(initial_params.optimizer_state(str(folder), MODEL, like), stored)
  assert initial_params.num_updates(str(folder)) == UPDATES


def test_statistics_of_a_t5x_checkpoint_are_kept(run_dir, tmp_path):
  folder, stored = run_dir
  exported, _ = export.export_t5x(folder, tmp_path / 't5x')
  like = create_state(MODEL, OPTIMIZER, jax.random.key(1)).opt_state
  kept = initial_params.optimizer_state(str(exported), MODEL, like)
  assert int(kept.count) == UPDATES
  for name in ('v', 'v_row', 'v_col'):
    want = getattr(stored, name)['encoder']['layers']['mlp']['gate']
    got = getattr(kept, name)['encoder']['layers']['mlp']['gate']
    if want.size > 2:  # Statistics that an array does not use are not written.
      np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_new_average_begins_around_kept_statistics(run_dir):
  folder, stored = run_dir
  averaged = wrappers.averaging(OPTIMIZER, 0.9)
  state = create_state(MODEL, averaged, jax.random.key(1))
  kept = initial_params.optimizer_state(str(folder), MODEL, state.opt_state)
  _same(kept.inner, stored)
  _same(kept.average, state.params)


def test_other_optimizers_and_bundles_have_none_to_keep(run_dir, tmp_path):
  folder, _ = run_dir
  like = create_state(MODEL, optax.adam(0.1), jax.random.key(1)).opt_state
  with pytest.raises(ValueError, match='Set RESTORE_OPTIMIZER = False'):
    initial_params.optimizer_state(str(folder), MODEL, like)
  params = MODEL.init(jax.random.key(0))
  bundle = save_bundle(tmp_path / 'bundle', Bundle(MODEL, params, MODEL.spec, **HASHES))
  with pytest.raises(ValueError, match="no optimizer's statistics to keep"):
    initial_params.num_updates(str(bundle))


def test_the_schedule_says_where_it_goes_on(run_dir):
  """v1's inherited step makes its rate 3.67e-4; from scratch the same schedule peaks at 0.0158."""
  folder, _ = run_dir
  kept = _start_of_schedule(OPTIMIZER, str(folder), True)
  assert 'kept with its 1,860,000 updates; learning rate 0.000367, 0.000367, 0.000367' in kept
  new = _start_of_schedule(OPTIMIZER, str(folder), False)
  assert 'optimizer new; learning rate 1e-08, 0.00157, 0.0158 at updates 1, 100, 1000' in new
