"""T5X itself restores what is exported here, and what T5X writes is read here; all values equal.

Skipped where T5X cannot be imported. It is not on PyPI: put checkouts of google-research/t5x,
google/airio and google-research/jestimator on PYTHONPATH, and install grain, portpicker and
cached_property.
"""

import jax
import numpy as np
import pytest

from models import weights
from models.depthformer import DepthformerConfig, to_v1, v1_axes
from models.depthformer.parameters import leaves
from models.spec import LiveMusicSpec
from training import t5x_checkpoints
from training.optimizers import adafactor

checkpoints = pytest.importorskip(
  't5x.checkpoints',
  reason='T5X is not importable: put checkouts of google-research/t5x, google/airio and '
  'google-research/jestimator on PYTHONPATH, and install grain, portpicker and cached_property',
  exc_type=ImportError,
)

SPEC = LiveMusicSpec(
  codebook_size=64, codec_levels=4, context_frames=10, context_levels=2, chunk_frames=8,
  target_levels=4, style_levels=3, style_offset=322, vocab_size=640,
)  # fmt: skip
# Wide enough that Adafactor keeps rows and columns.
CONFIG = DepthformerConfig(
  embed_dim=128, num_heads=4, head_dim=32, mlp_dim=160, num_encoder_layers=2,
  num_temporal_layers=2, num_depth_layers=2,
)  # fmt: skip
STEP = 4321


@pytest.fixture(scope='module')
def own():
  """Random parameters and Adafactor statistics, in the own tree."""
  rng = np.random.default_rng(0)
  params = weights.unflatten({
    name: rng.normal(size=leaf.stacked_shape).astype(np.float32)
    for name, leaf in leaves(CONFIG, SPEC).items()
  })  # fmt: skip
  stacked = weights.unflatten({
    name: leaf.num_layers is not None for name, leaf in leaves(CONFIG, SPEC).items()
  })  # fmt: skip
  shapes = jax.eval_shape(adafactor(1.0, stacked=stacked).init, params)

  def fill(leaf):
    # T5X's unused statistics are zeros of shape [1].
    scale = 0 if leaf.shape[-1:] == (1,) else 1
    return (scale * rng.uniform(size=leaf.shape)).astype(np.float32)

  return params, jax.tree.map(fill, shapes)._replace(count=np.int32(STEP))


def _train_state(values=None):
  """T5X's train state of the model, with T5X's own Adafactor; zeros where no values are given."""
  import flax
  from flax.linen import partitioning as flax_partitioning
  from t5x import adafactor as t5x_adafactor
  from t5x import train_state

  axes = v1_axes(CONFIG, SPEC)
  shapes = {
    leaf.v1_name.format(i): leaf.shape
    for leaf in leaves(CONFIG, SPEC).values()
    for i in range(leaf.num_layers or 1)
  }
  params = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
  params_axes = {f'{n}_axes': flax_partitioning.AxisMetadata(names) for n, names in axes.items()}
  variables = flax.core.freeze({
    'params': weights.unflatten(params if values is None else values),
    'params_axes': weights.unflatten(params_axes),
  })  # fmt: skip
  optimizer = t5x_adafactor.Adafactor(
    logical_factor_rules=t5x_adafactor.standard_logical_factor_rules()
  )
  return train_state.FlaxOptimTrainState.create(optimizer, variables)


def _inference_state():
  """What T5X restores into for decoding, as v1's runtime does."""
  from t5x import train_state

  state = _train_state()
  return train_state.InferenceState(
    step=np.int32(0), params=state.params, params_axes=state.params_axes
  )


def _partitioner():
  from t5x import partitioning

  return partitioning.PjitPartitioner(num_partitions=1)


def _manager(layout, folder, state, **options):
  arguments = dict(train_state=state, partitioner=_partitioner(), **options)
  if layout == 't5x':
    return checkpoints.Checkpointer(checkpoints_dir=str(folder), **arguments)
  return checkpoints.OrbaxCheckpointManagerInterface(directory=str(folder), **arguments)


def _expected(own):
  """All of T5X's state dict by name."""
  params, opt_state = own
  flat = {f'target/{name}': value for name, value in to_v1(params, CONFIG, SPEC).items()}
  for slot in ('v', 'v_row', 'v_col'):
    for name, value in to_v1(getattr(opt_state, slot), CONFIG, SPEC).items():
      flat[f'state/param_states/{name}/{slot}'] = value
      flat[f'state/param_states/{name}/m'] = np.zeros([1], np.float32)
  return flat | {'state/step': np.int32(STEP)}


def _assert_equal(state, expected):
  found = weights.flatten(state.state_dict())
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_array_equal(np.asarray(found[name]), value, err_msg=name)
    assert np.asarray(found[name]).dtype == value.dtype, name


@pytest.mark.parametrize('layout', t5x_checkpoints.LAYOUTS)
@pytest.mark.parametrize('by', ['path', 'step'])
def test_t5x_restores_an_export(own, tmp_path, layout, by):
  folder = t5x_checkpoints.write(
    tmp_path, own[0], CONFIG, SPEC, step=STEP, opt_state=own[1], layout=layout
  )
  manager = _manager(layout, tmp_path, _train_state())
  restored = manager.restore(**({'path': str(folder)} if by == 'path' else {'step': STEP}))
  _assert_equal(restored, _expected(own))


def test_t5x_interactive_model_restores_an_export(own, tmp_path):
  """As T5X's InteractiveModel does, on which v1's runtime stands: one folder, mode 'specific'."""
  from t5x import utils

  folder = t5x_checkpoints.write(tmp_path, own[0], CONFIG, SPEC, step=STEP, opt_state=own[1])
  config = utils.RestoreCheckpointConfig(path=str(folder), mode='specific', dtype='float32')
  chosen, paths = utils.get_first_valid_restore_config_and_paths([config])
  manager = utils.LegacyCheckpointManager(
    save_cfg=utils.SaveCheckpointConfig(dtype='float32', keep=5, save_dataset=False, period=1000),
    restore_cfg=config,
    train_state_shape=_train_state(),
    partitioner=_partitioner(),
    ds_iter=None,
    model_dir=str(tmp_path / 'out'),
  )
  _assert_equal(manager.restore(paths, chosen), _expected(own))


def test_t5x_present_manager_restores_the_older_layout(own, tmp_path):
  folder = t5x_checkpoints.write(tmp_path, own[0], CONFIG, SPEC, step=STEP, opt_state=own[1])
  restored = _manager('t5x-orbax', tmp_path, _train_state()).restore(path=str(folder))
  _assert_equal(restored, _expected(own))


@pytest.mark.parametrize('layout', t5x_checkpoints.LAYOUTS)
@pytest.mark.parametrize('with_optimizer', [True, False])
def test_t5x_restores_an_export_for_inference(own, tmp_path, layout, with_optimizer):
  folder = t5x_checkpoints.write(
    tmp_path, own[0], CONFIG, SPEC, step=STEP, opt_state=own[1] if with_optimizer else None,
    layout=layout,
  )  # fmt: skip
  restored = _manager(layout, tmp_path, _inference_state()).restore(path=str(folder))
  expected = {n: v for n, v in _expected(own).items() if not n.startswith('state/param_states')}
  _assert_equal(restored, expected)


@pytest.mark.parametrize(
  'layout, dtype', [('t5x', 'float32'), ('t5x', 'bfloat16'), ('t5x-orbax', 'float32')]
)
def test_what_t5x_writes_is_read(own, tmp_path, layout, dtype):
  expected = _expected(own)
  state = _train_state().restore_state(weights.unflatten(dict(expected)))
  manager = _manager(layout, tmp_path, state, save_dtype=jax.numpy.dtype(dtype))
  manager.save(state)
  if layout == 't5x-orbax':
    manager.wait_until_finished()
  loaded = t5x_checkpoints.read(tmp_path, spec=SPEC, with_optimizer=True, dtype=None)
  assert (loaded.layout, loaded.step, loaded.config) == (layout, STEP, CONFIG)
  params = jax.tree.map(lambda x: x.astype(dtype), own[0])
  assert jax.tree.structure(params) == jax.tree.structure(loaded.params)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
  jax.tree.map(np.testing.assert_array_equal, loaded.opt_state, own[1])
  assert loaded.params['embedding'].dtype == dtype


def test_what_t5x_writes_in_chunks_is_read(own, tmp_path, monkeypatch):
  monkeypatch.setattr(checkpoints, '_DESIRED_CHUNK_SIZE_BYTES', 64 * 1024)
  state = _train_state().restore_state(weights.unflatten(dict(_expected(own))))
  _manager('t5x', tmp_path, state).save(state)
  folder = tmp_path / f'checkpoint_{STEP}' / 'target.token_embedder.embedding'
  assert len(list(folder.iterdir())) > 2
  loaded = t5x_checkpoints.read(tmp_path, spec=SPEC, with_optimizer=True)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, own[0])
