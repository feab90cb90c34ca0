"""Every clip meets every text of the batch, on however many devices and processes."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from training import metrics

HERE = pathlib.Path(__file__).parent


def _start(arguments):
  return subprocess.Popen(
    [sys.executable, str(HERE / 'style_mesh_runs.py'), json.dumps(arguments)], text=True,
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )  # fmt: skip


def _finish(process):
  output, errors = process.communicate(timeout=1800)
  assert process.returncode == 0, errors[-3000:]
  return json.loads(output.strip().splitlines()[-1])


def _with_lines(folder, found, *names):
  return {
    name: {'params': found[str(folder / name)], 'lines': metrics.read_metrics(folder / name)}
    for name in names
  }


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('runs')


@pytest.fixture(scope='module')
def runs(folder):
  """Three steps on one device and on eight; where the similarities lie there."""
  jobs = [
    {'model_dir': str(folder / 'one'), 'devices': 1},
    {'model_dir': str(folder / 'eight'), 'devices': 8},
  ]
  found = _finish(_start({'jobs': jobs, 'similarities': [1, 8]}))
  return {**found, **_with_lines(folder, found, 'one', 'eight')}


@pytest.fixture(scope='module')
def further_runs(folder):
  """The same three steps on eight devices in microbatches, and in two processes."""
  parts = {'model_dir': str(folder / 'parts'), 'devices': 8, 'num_microbatches': 2}
  alone = _start({'jobs': [parts]})
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    port = listener.getsockname()[1]
  job = {'model_dir': str(folder / 'two')}
  pair = [_start({'port': port, 'index': i, 'jobs': [job]}) for i in range(2)]
  found = {**_finish(alone), **_finish(pair[0])}
  _finish(pair[1])
  return _with_lines(folder, found, 'parts', 'two')


def test_eight_devices_train_as_one_does(runs):
  _check_same(runs['one'], runs['eight'])


@pytest.mark.slow
@pytest.mark.parametrize('name', ['parts', 'two'])
def test_microbatches_and_processes_train_as_one_device_does(runs, further_runs, name):
  _check_same(runs['one'], further_runs[name])


def _check_same(first, other):
  """Losses of each step, and parameters at the end."""
  assert len(first['lines']) == len(other['lines']) == 3
  for expected, found in zip(first['lines'], other['lines']):
    for key in ('loss', 'contrastive_loss', 'caption_loss', 'weight_gradient_norm'):
      np.testing.assert_allclose(found[key], expected[key], rtol=1e-5, err_msg=key)
  for key, value in first['params'].items():
    if key.endswith('key/bias'):  # Attention does not see it: Adafactor scales up its rounding.
      continue
    np.testing.assert_allclose(other['params'][key], value, rtol=1e-5, atol=1e-4, err_msg=key)


def test_each_device_holds_its_rows_of_the_similarities(runs):
  """[2, 16] of [16, 16] on each of eight devices: own clips against the texts of all."""
  assert runs['8']['gathers'] and not runs['1']['gathers']
  assert 2 in runs['8']['rows'] and 16 not in runs['8']['rows']
  assert 16 in runs['1']['rows']
