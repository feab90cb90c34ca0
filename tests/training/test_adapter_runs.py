"""Runs with an adapter: the base stays, on any mesh, over restarts, in microbatches."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import adapters, weights
from models.adapted import ADAPTER, DEPTH
from training import metrics, optimizers, partial, wrappers
from training.checkpoints import restore_averaged_params
from training.state import create_state
from training.step import gradient_step

HERE = pathlib.Path(__file__).parent


def _run(folder, jobs):
  """What adapter_runs.py prints; jobs by the name of their MODEL_DIR."""
  named = [{'model_dir': str(folder / name), **job} for name, job in jobs.items()]
  done = subprocess.run(
    [sys.executable, str(HERE / 'adapter_runs.py'), json.dumps(named)], text=True,
    capture_output=True, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, check=False, timeout=3600,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def runs(folder):
  """Six steps: at once, and in two goes."""
  return _run(folder, {
    'one': {'devices': 1, 'stops': [6]}, 'again': {'devices': 1, 'stops': [3, 6]}
  })  # fmt: skip


@pytest.fixture(scope='module')
def meshes(folder):
  """The same on 4 x 2 devices: at once, and in two goes."""
  job = {'devices': 8, 'num_partitions': 2}
  return _run(folder, {'mesh': {**job, 'stops': [6]}, 'mesh_again': {**job, 'stops': [2, 6]}})


def _losses(folder, name):
  return [line['loss'] for line in metrics.read_metrics(folder / name)]


def test_a_restart_changes_no_bit(runs, folder):
  assert runs['again']['digest'] == runs['one']['digest']
  assert _losses(folder, 'again') == _losses(folder, 'one')
  assert len(_losses(folder, 'one')) == 6


def test_the_base_stays_and_the_adapter_moves(runs, folder):
  params, step = restore_averaged_params(folder / 'one')
  assert step == 6
  flat = weights.flatten(params)
  moved = [name for name in flat if name.startswith(f'{ADAPTER}/') and name.endswith('/b')]
  assert moved and all(np.abs(flat[name]).max() > 1e-3 for name in moved)
  # Adam's two moments and the average, of the adapter alone, and counts.
  own = adapters.num_numbers(params[ADAPTER])
  assert 3 * own <= runs['one']['optimizer_numbers'] <= 3 * own + 4
  assert all(run['base_kept'] for run in runs.values())


@pytest.mark.slow
def test_a_mesh_changes_next_to_nothing(runs, meshes, folder):
  assert meshes['mesh_again']['digest'] == meshes['mesh']['digest']
  np.testing.assert_allclose(_losses(folder, 'mesh'), _losses(folder, 'one'), rtol=1e-5)
  for name, values in runs['one']['digest'].items():
    np.testing.assert_allclose(meshes['mesh']['digest'][name], values, atol=2e-4, err_msg=name)
  assert all(run['base_kept'] for run in meshes.values())


@pytest.mark.slow
def test_adapters_lie_on_the_mesh_as_their_matrices_do(meshes):
  specs = meshes['mesh']['specs']
  assert "'model'" in specs['base/logits'] and "'model'" in specs['adapter/logits/b']
  assert "'model'" not in specs['adapter/logits/a']
  assert "'model'" in specs['adapter/encoder/layers/mlp/gate/m']
  assert "'model'" in specs['adapter/encoder/layers/mlp/out/a']


class _Model:
  """Two parts; the loss has gradients for both."""

  def init(self, rng):
    return {'first': {'w': jnp.ones([2])}, 'depth': {'w': jnp.ones([3])}, 'logits': jnp.ones([3])}

  def loss_fn(self, params, batch, rng):
    loss = (batch * params['first']['w'].sum() * params['depth']['w'] * params['logits']).sum()
    return loss, {}


def test_a_part_is_trained_as_if_the_rest_were_constants():
  trained = wrappers.wrapped(
    lambda: optimizers.adam(0.1), trained=DEPTH[:1] + ('^logits$',), average_decay=0.5
  )
  whole = wrappers.wrapped(lambda: optimizers.adam(0.1), average_decay=0.5)
  states = [create_state(_Model(), optimizer, jax.random.key(0)) for optimizer in (trained, whole)]
  batch = jnp.arange(1.0, 4.0)
  part, full = (
    gradient_step(_Model(), state, batch, jax.random.key(0), optimizer)[0]
    for state, optimizer in zip(states, (trained, whole), strict=True)
  )
  np.testing.assert_array_equal(part.params['first']['w'], np.ones(2))
  for name in ('depth', 'logits'):
    jax.tree.map(np.testing.assert_array_equal, part.params[name], full.params[name])
  assert set(part.opt_state.average) == {'depth', 'logits'}
  averaged = wrappers.averaged_params(part)
  assert set(averaged) == {'first', 'depth', 'logits'}
  np.testing.assert_allclose(averaged['logits'], 0.5 * (1 + part.params['logits']))


def test_patterns_that_name_nothing_are_refused():
  optimizer = wrappers.wrapped(lambda: optimizers.adam(0.1), trained=('^deep/',))
  with pytest.raises(ValueError, match="'\\^deep/' matches no parameter to train"):
    create_state(_Model(), optimizer, jax.random.key(0))
  tree = {'a': {'b': 1, 'c': 2}, 'd': 3}
  assert partial.part_of(tree, ('c$', '^d')) == {'a': {'c': 2}, 'd': 3}
  assert partial.with_part(tree, {'a': {'c': 9}}) == {'a': {'b': 1, 'c': 9}, 'd': 3}
