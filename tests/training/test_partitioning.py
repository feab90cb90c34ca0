"""Meshes, logical axis rules, shares of batches; several devices and processes train as one."""

import importlib.util
import itertools
import json
import os
import pathlib
import socket
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from models import logical_axes
from models.depthformer import DepthformerConfig, DepthformerModel
from training import checkpoints, hosts, metrics, optimizers, partitioning
from training.partitioning import Partitioning, PjitPartitioner, standard_logical_axis_rules
from training.state import create_state, flat_names

HERE = pathlib.Path(__file__).parent


def _load(name):
  spec = importlib.util.spec_from_file_location(name, HERE / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


process_runs = _load('process_runs')


# Rules.


@pytest.mark.parametrize(
  'dims, names, expected',
  [
    # (activation, parameter) dimensions; what T5X's rules give for these arrays.
    ((1, 1), ('embed', 'mlp'), (None, 'model')),
    ((1, 1), ('batch', 'length', 'embed'), ('data', None, None)),
    ((1, 1), ('layers', 'joined_kv', 'embed'), (None, 'model', None)),
    ((2, 1), ('batch', 'length', 'embed'), ('data', None, 'model')),
    ((2, 1), ('embed', 'mlp'), (None, 'model')),
    ((2, 1), ('embed',), ('model',)),
    ((1, 2), ('vocab', 'embed'), ('model', 'data')),
    ((1, 2), ('batch', 'length', 'embed'), ('data', None, None)),
    ((1, 2), ('embed',), ('data',)),
    ((2, 2), ('embed', 'mlp'), ('data', 'model')),
    ((2, 2), ('batch', 'length', 'embed'), ('data', None, 'model')),
    ((2, 2), ('batch', 'length', 'mlp'), ('data', None, 'model')),
    ((2, 2), ('embed',), ('model',)),
    ((2, 2), ('heads', 'relpos_buckets'), ('model', None)),
    ((1, 1), ('batch', 'length', 'heads', 'kv'), ('data', None, 'model', None)),
  ],
)
def test_standard_rules(dims, names, expected):
  assert logical_axes.mesh_axes(names, standard_logical_axis_rules(*dims)) == expected


def test_rules_are_checked():
  with pytest.raises(ValueError, match='activation_partitioning_dims=3 is neither 1 nor 2'):
    standard_logical_axis_rules(3)
  with pytest.raises(ValueError, match="No rule maps the axis name 'hed'"):
    logical_axes.mesh_axes(('embed', 'hed'), standard_logical_axis_rules())
  rules = standard_logical_axis_rules(additional_rules=[('hed', 'model')])
  assert logical_axes.mesh_axes(('embed', 'hed'), rules) == (None, 'model')
  with pytest.raises(ValueError, match='exclude each other'):
    PjitPartitioner(2, (1, 1, 1, 2))


def _abstract(data, model, *dims):
  mesh = AbstractMesh((data, model), ('data', 'model'))
  return Partitioning(logical_axes.Layout(mesh, standard_logical_axis_rules(*dims)))


def test_every_parameter_and_statistic_of_the_language_model_is_laid_out():
  """Two-dimensional parameters on 4 x 2: a device holds an eighth of the large arrays."""
  model = DepthformerModel(DepthformerConfig(embed_dim=256, num_heads=8))
  optimizer = optimizers.adafactor(0.1, stacked=model.layer_axes())
  shapes = jax.eval_shape(lambda k: create_state(model, optimizer, k), jax.random.key(0))
  found = _abstract(4, 2, 1, 2).state_shardings(model, shapes)
  specs = {name: tuple(s.spec) for name, s in flat_names(found).items()}
  assert specs['step'] == ()
  assert specs['params/encoder/layers/mlp/gate'] == (None, 'data', 'model')
  assert specs['params/embedding'] == ('model', 'data')
  assert specs['params/encoder/layers/mlp_norm'] == (None, 'data')
  # [1, 256, 256]: the row averages over the last axis and keeps 'embed', the column keeps 'mlp'.
  assert specs['opt_state/v_row/encoder/layers/mlp/gate'] == (None, 'data')
  assert specs['opt_state/v_col/encoder/layers/mlp/gate'] == (None, 'model')
  # [29824, 256]: the row averages over the vocabulary.
  assert specs['opt_state/v_row/embedding'] == ('data',)
  assert specs['opt_state/v_col/embedding'] == ('model',)
  assert specs['opt_state/v/decoder_norm'] == ('data',)
  assert specs['opt_state/v/embedding'] == ()
  total = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
  shards = jax.tree.map(
    lambda x, s: np.prod(s.shard_shape(x.shape)), shapes.params, found.params
  )
  assert sum(jax.tree.leaves(shards)) < total / 8 * 1.01


def test_moments_of_adam_lie_as_the_parameters():
  params = {'layer': {'w': jax.ShapeDtypeStruct([8, 6], np.float32)}}
  specs = {'layer': {'w': PartitionSpec(None, 'model')}}
  state = jax.eval_shape(optimizers.adamw(0.1, max_gradient_norm=1.0).init, params)
  found = flat_names(partitioning.optimizer_specs(state, params, specs))
  moments = {name: spec for name, spec in found.items() if name.endswith('layer/w')}
  assert len(moments) == 2 and set(moments.values()) == {PartitionSpec(None, 'model')}
  assert {s for n, s in found.items() if n not in moments} == {PartitionSpec()}


def test_an_axis_that_does_not_divide_stays_whole_and_no_axes_means_replicated():
  layout = _abstract(2, 4)
  assert layout.layout.spec(('heads', 'kv'), (6, 64)) == PartitionSpec(None, None)
  assert layout.layout.spec(('heads', 'kv'), (8, 64)) == PartitionSpec('model', None)
  with pytest.raises(ValueError, match='do not fit an array of shape'):
    layout.layout.spec(('heads',), (8, 64))
  plain = types.SimpleNamespace()
  specs = layout.param_specs(plain, {'w': jax.ShapeDtypeStruct([8, 8], np.float32)})
  assert specs == {'w': PartitionSpec()}


# Devices.


def _devices(num, *, per_process=1, slices=1, platform='cpu'):
  return [
    types.SimpleNamespace(
      id=i, process_index=i // per_process, slice_index=i * slices // num, platform=platform,
      device_kind=platform,
    )
    for i in range(num)
  ]  # fmt: skip


def test_slices_follow_each_other_along_data():
  devices = _devices(16, slices=2)
  # In whatever order they come, slice 0 has the upper half.
  mixed = [d for pair in zip(devices[:8], devices[8:], strict=True) for d in pair]
  grid = partitioning.device_grid(mixed, 4)
  assert [[d.id for d in row] for row in grid] == np.arange(16).reshape(4, 4).tolist()
  with pytest.raises(ValueError, match='Slice 0 has 8 devices.*cannot span slices'):
    partitioning.device_grid(_devices(16, slices=2, platform='tpu'), 16)
  # Hosts with GPUs count as slices, which one copy of the model may span.
  hosts_of_gpus = _devices(16, per_process=8, slices=2, platform='gpu')
  assert partitioning.device_grid(hosts_of_gpus, 16).shape == (1, 16)


def test_submesh_is_a_block_of_the_torus():
  devices = [
    types.SimpleNamespace(
      id=4 * y + x, coords=(x, y, 0), core_on_chip=0, slice_index=0, platform='tpu'
    )
    for y, x in itertools.product(range(4), range(4))
  ]
  grid = partitioning.device_grid(devices, 4, (2, 2, 1, 1))
  assert grid.shape == (4, 4)
  for row in grid:
    xs, ys = {d.coords[0] for d in row}, {d.coords[1] for d in row}
    assert len(xs) == len(ys) == 2 and max(xs) - min(xs) == 1 and min(xs) % 2 == 0
  with pytest.raises(ValueError, match=r'\(3, 1, 1, 1\) does not tile the slice.*\(4, 4, 1, 1\)'):
    partitioning.device_grid(devices, 1, (3, 1, 1, 1))
  with pytest.raises(ValueError, match='which these devices lack'):
    partitioning.device_grid(_devices(4), 4, (2, 2, 1, 1))


def test_devices_must_divide():
  with pytest.raises(ValueError, match='1 devices do not divide into groups of 2'):
    PjitPartitioner(2).fit(4)


@pytest.mark.parametrize(
  'per_process, model, groups',
  [
    (4, 2, [[0, 1], [2, 3]]),  # Two processes of four devices: two mesh rows each.
    (2, 2, [[0], [1], [2], [3]]),
    (2, 4, [[0], [1]]),  # A row spans two processes, which read the same examples.
    (8, 2, [[0, 1, 2, 3]]),
  ],
)
def test_processes_that_share_a_copy_of_the_model_read_the_same_rows(per_process, model, groups):
  grid = np.array(_devices(8, per_process=per_process)).reshape(-1, model)
  mesh = types.SimpleNamespace(devices=grid, shape={'data': len(grid), 'model': model})
  layout = Partitioning(logical_axes.Layout(mesh, ()))
  assert layout._groups == groups
  assert layout.data_shard.count == len(groups)


def test_process_flags_belong_together():
  with pytest.raises(ValueError, match='--process_count, --process_index must be given, too'):
    hosts.initialize('localhost:1234')
  with pytest.raises(ValueError, match=r'--process_index=2 is not in 0\.\.1'):
    hosts.initialize('localhost:1234', 2, 2)
  hosts.initialize()  # Not on a TPU: alone.
  assert jax.process_count() == 1


# Eight devices and one.


def _on_meshes(jobs):
  result = subprocess.run(
    [sys.executable, str(HERE / 'mesh_runs.py'), json.dumps(jobs)], capture_output=True, text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, timeout=900,
  )  # fmt: skip
  assert result.returncode == 0, result.stderr[-3000:]
  return json.loads(result.stdout.splitlines()[-1])


def test_eight_devices_train_to_the_losses_of_one():
  """The language model in two dimensions, and a trainable without axis names, as codecs are."""
  two_dims = {'num_partitions': 2, 'activation_dims': 2, 'parameter_dims': 2}
  found = _on_meshes({
    'one': {'devices': 1, 'replicated': True}, '4x2': {**two_dims, 'replicated': True},
  })  # fmt: skip
  assert found['4x2']['mesh'] == [4, 2]
  assert found['4x2']['logits_part'] == [32 // 4, 128 // 2]
  losses = found['one']['losses']
  assert losses[-1] < 0.8 * losses[0], 'the test needs a model that learns'
  np.testing.assert_allclose(found['4x2']['losses'], losses, rtol=1e-5)
  # Four examples keep four of the eight devices busy.
  assert [found[name]['replicated'][0] for name in ('one', '4x2')] == [1, 4]
  one, four = (found[name]['replicated'][1] for name in ('one', '4x2'))
  assert len(one) == 6
  np.testing.assert_allclose(four, one, rtol=1e-5)


@pytest.mark.slow
def test_every_mesh_trains_and_decodes_as_one_device():
  meshes = {'8x1': [8, 1], '4x2': [4, 2], '2x4': [2, 4]}
  jobs = {'one': {'devices': 1, 'generate': True}}
  for name, (_, model) in meshes.items():
    jobs[name] = {'num_partitions': model, 'generate': True}
  for dims in ((1, 2), (2, 1), (2, 2)):
    jobs[f'2x4, {dims}'] = {
      'num_partitions': 4, 'activation_dims': dims[0], 'parameter_dims': dims[1], 'generate': True,
    }  # fmt: skip
  found = _on_meshes(jobs)
  one = found.pop('one')
  for name, result in found.items():
    assert result['mesh'] == meshes[name.split(',')[0]]
    np.testing.assert_allclose(result['losses'], one['losses'], rtol=1e-5, err_msg=name)
    assert result['ids'] == one['ids'], name


# Two processes and one.


def _free_port():
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    return listener.getsockname()[1]


def _in_two_processes(jobs):
  port = _free_port()
  processes = [
    subprocess.Popen(
      [sys.executable, str(HERE / 'process_runs.py'),
       json.dumps({'port': port, 'index': index, 'jobs': jobs})],
      stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
      env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )
    for index in range(2)
  ]  # fmt: skip
  outputs = [process.communicate(timeout=300) for process in processes]
  for process, (_, errors) in zip(processes, outputs, strict=True):
    assert process.returncode == 0, errors[-3000:]
  return [output for output, _ in outputs]


def _seen(model_dir):
  """Loss of each step, and the examples of each in the order of the batch."""
  lines = metrics.read_metrics(model_dir)
  assert [line['step'] for line in lines] == list(range(1, len(lines) + 1))
  examples = [[line[f'example/{i:02d}'] for i in range(4)] for line in lines]
  return [line['loss'] for line in lines], examples


def test_two_processes_are_one_run(tmp_path):
  """Same global batches, same losses; each continues what the other has begun."""
  process_runs.run(tmp_path / 'one', 6)
  process_runs.run(tmp_path / 'one_then_two', 3)
  # Damage that only the second process sees, whose share of the files is every other one.
  damaged = tmp_path / 'one_then_two' / 'checkpoint_3'
  listed = sorted(json.loads((damaged / 'checksums.json').read_text())['files'])
  (damaged / listed[1]).unlink()
  outputs = _in_two_processes([
    {'model_dir': str(tmp_path / 'two'), 'total_steps': 6},
    {'model_dir': str(tmp_path / 'one_then_two'), 'total_steps': 6, 'num_partitions': 2},
    {'model_dir': str(tmp_path / 'two_then_one'), 'total_steps': 100_000, 'sigterm_at': 3},
  ])  # fmt: skip
  # One process was asked to stop: both did, after the same step, and saved it.
  stopped_at = int(checkpoints.find_checkpoint(tmp_path / 'two_then_one').name.split('_')[-1])
  assert stopped_at < 30
  assert 'another process was asked to stop' in outputs[0] and 'steps' not in outputs[1]
  total = max(stopped_at, 6) + 3
  process_runs.run(tmp_path / 'two_then_one', total)
  process_runs.run(tmp_path / 'one', total)

  left = sorted(path.name for path in (tmp_path / 'one_then_two').glob('checkpoint_*'))
  assert left == ['checkpoint_2', 'checkpoint_3.broken', 'checkpoint_4', 'checkpoint_6']
  losses, examples = _seen(tmp_path / 'one')
  assert examples == np.arange(4 * total).reshape(-1, 4).tolist()
  for name in ('two', 'one_then_two', 'two_then_one'):
    own_losses, own_examples = _seen(tmp_path / name)
    assert len(own_losses) == (6 if name != 'two_then_one' else total)
    assert own_examples == examples[: len(own_examples)], name
    np.testing.assert_allclose(own_losses, losses[: len(own_losses)], rtol=1e-5, err_msg=name)


def test_no_partition_is_refused():
  with pytest.raises(ValueError, match='num_partitions=0 must be at least 1'):
    PjitPartitioner(num_partitions=0)
