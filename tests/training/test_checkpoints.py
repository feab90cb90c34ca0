"""Checkpoints: what is kept, what is found, what comes back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import optimizers
from training.checkpoints import Checkpoints, find_checkpoint, restore_params, restore_part
from training.state import TrainState


def _state(step):
  params = {'a': {'w': jnp.arange(6.0).reshape(2, 3) + step}, 'b': jnp.full([2], -1.0 * step)}
  optimizer = optimizers.adam(0.1)
  return TrainState(
    step=jnp.int32(step), params=params, opt_state=optimizer.init(params),
    aux={'codebooks': (jnp.full([3], 0.5 * step), {'used': jnp.arange(4) + step})},
  )  # fmt: skip


def test_everything_comes_back(tmp_path):
  with Checkpoints(tmp_path) as store:
    store.save(_state(7), {'next_batch': 9, 'note': 'x'})
    store.wait()
    got, data = store.restore(jax.eval_shape(lambda: _state(0)))
  jax.tree.map(np.testing.assert_array_equal, got, _state(7))
  assert jax.tree.structure(got) == jax.tree.structure(_state(7))
  assert data == {'next_batch': 9, 'note': 'x'}


def test_newest_and_pinned_are_kept(tmp_path):
  with Checkpoints(tmp_path, keep=2) as store:
    for step in (10, 20, 30, 40):
      store.save(_state(step), {})
      store.wait()
      if step == 10:
        (tmp_path / 'checkpoint_10' / 'PINNED').touch()
    assert store.latest_step == 40
  assert sorted(path.name for path in tmp_path.glob('checkpoint_*')) == [
    'checkpoint_10', 'checkpoint_30', 'checkpoint_40',
  ]  # fmt: skip


def test_saving_is_safe_from_what_follows(tmp_path):
  """The next step reuses the memory of the state; the checkpoint must hold the old values."""
  state = _state(1)
  overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 9, s), donate_argnums=0)
  with Checkpoints(tmp_path) as store:
    store.save(state, {})
    jax.block_until_ready(overwrite(state))
  np.testing.assert_array_equal(restore_params(tmp_path)[0]['a']['w'], _state(1).params['a']['w'])


def test_parameters_alone(tmp_path):
  with Checkpoints(tmp_path) as store:
    store.save(_state(3), {})
    store.save(_state(12), {})
  params, step = restore_params(tmp_path)
  assert step == 12 and set(params) == {'a', 'b'}
  assert isinstance(params['b'], np.ndarray)
  np.testing.assert_array_equal(params['b'], [-12.0, -12.0])
  params, step = restore_params(tmp_path / 'checkpoint_3')
  assert step == 3
  np.testing.assert_array_equal(params['b'], [-3.0, -3.0])
  rest, _ = restore_part(tmp_path, 'state')
  np.testing.assert_array_equal(rest['aux']['codebooks/1/used'], np.arange(4) + 12)


def test_missing_checkpoints_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=str(tmp_path)):
    find_checkpoint(tmp_path)
  with Checkpoints(tmp_path) as store:
    assert store.latest_step is None
    store.save(_state(3), {})
    store.wait()
    with pytest.raises(FileNotFoundError, match=r'checkpoint_4; it has steps \[3\]'):
      store.restore(_state(0), step=4)


def test_keep_must_keep_one(tmp_path):
  with pytest.raises(ValueError, match='keep=0'):
    Checkpoints(tmp_path, keep=0)
