"""A codec with discriminators resumes exactly; several devices and processes train as one."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from training import checkpoints
from training.state import flat_names

SCRIPT = pathlib.Path(__file__).parent / 'codec_runs.py'
pytestmark = pytest.mark.slow


def _start(arguments, cache, devices=1):
  flags = os.environ.get('XLA_FLAGS', '') + f' --xla_force_host_platform_device_count={devices}'
  environment = {
    **os.environ, 'XLA_FLAGS': flags, 'JAX_COMPILATION_CACHE_DIR': str(cache),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.5', 'JAX_PLATFORMS': 'cpu',
  }  # fmt: skip
  return subprocess.Popen(
    [sys.executable, str(SCRIPT), json.dumps(arguments)], env=environment, text=True,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE,
  )  # fmt: skip


def _result(process):
  out, error = process.communicate(timeout=1800)
  assert process.returncode == 0, error[-4000:]
  return json.loads(out.strip().splitlines()[-1])


@pytest.fixture(name='folder', scope='module')
def _folder(tmp_path_factory):
  return tmp_path_factory.mktemp('codec_runs')


@pytest.fixture(name='whole', scope='module')
def _whole(folder):
  """Six steps on one device."""
  model_dir = str(folder / 'whole')
  job = {'model_dir': model_dir, 'total_steps': 6, 'devices': 1}
  return _result(_start({'jobs': [job]}, folder / 'cache'))[model_dir]


def test_a_resumed_run_is_that_of_one_go(folder, whole):
  halves = [{'model_dir': str(folder / 'halves'), 'total_steps': n, 'devices': 1} for n in (3, 6)]
  for half in halves:
    found = _result(_start({'jobs': [half]}, folder / 'cache'))
  assert found[str(folder / 'halves')]['losses'] == whole['losses']
  assert whole['discriminator'][:2] == [None, None] and all(whole['discriminator'][2:])
  for part in ('target', 'state'):
    one, _ = checkpoints.restore_part(folder / 'whole', part)
    two, step = checkpoints.restore_part(folder / 'halves', part)
    one, two = flat_names(one), flat_names(two)
    assert step == 6 and one.keys() == two.keys()
    for name, leaf in one.items():
      np.testing.assert_array_equal(leaf, two[name], err_msg=name)
  names = ' '.join(one)
  assert 'aux/balance/norms/generator' in names and 'aux/codebooks' in names
  assert 'param_states/discriminators' in names  # Their Adam's moments.


def test_eight_devices_train_as_one(folder, whole):
  jobs = [
    {'model_dir': str(folder / 'data'), 'total_steps': 6},
    {'model_dir': str(folder / 'model'), 'total_steps': 6, 'num_partitions': 2},
  ]
  found = _result(_start({'jobs': jobs}, folder / 'cache', devices=8))
  data, model = (found[job['model_dir']] for job in jobs)
  assert data['mesh'] == [8, 1] and model['mesh'] == [4, 2]
  assert model['kernel_part'] == [4, 4, 2, 2] and data['kernel_part'] == [4, 4, 2, 4]
  np.testing.assert_allclose(data['losses'], whole['losses'], rtol=1e-5)
  np.testing.assert_allclose(model['losses'], whole['losses'], rtol=1e-5)
  np.testing.assert_allclose(
    data['discriminator'][2:], whole['discriminator'][2:], rtol=1e-5
  )


def test_two_processes_train_as_one(folder, whole):
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  model_dir = str(folder / 'processes')
  arguments = {'port': port, 'jobs': [{'model_dir': model_dir, 'total_steps': 6}]}
  processes = [_start({**arguments, 'index': index}, folder / 'cache') for index in range(2)]
  found, _ = [_result(process)[model_dir] for process in processes]
  assert found['mesh'] == [2, 1]
  np.testing.assert_allclose(found['losses'], whole['losses'], rtol=1e-5)
