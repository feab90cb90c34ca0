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


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  """Three steps: on one device, on eight, on eight in microbatches, in two processes."""
  folder = tmp_path_factory.mktemp('runs')
  jobs = [
    {'model_dir': str(folder / 'one'), 'devices': 1},
    {'model_dir': str(folder / 'eight'), 'devices': 8},
    {'model_dir': str(folder / 'parts'), 'devices': 8, 'num_microbatches': 2},
  ]
  alone = _start({'jobs': jobs, 'similarities': [1, 8]})
  with socket.socket() as listener:
    listener.bind(('127.0.0.1', 0))
    port = listener.getsockname()[1]
  job = {'model_dir': str(folder / 'two')}
  pair = [_start({'port': port, 'index': i, 'jobs': [job]}) for i in range(2)]
  found = {**_finish(alone), **_finish(pair[0])}
  _finish(pair[1])
  for name in ('one', 'eight', 'parts', 'two'):
    lines = metrics.read_metrics(folder / name)
    found[name] = {'params': found.pop(str(folder / name)), 'lines': lines}
  return found


@pytest.mark.parametrize('name', ['eight', 'parts', 'two'])
def test_losses_and_parameters_are_those_of_one_device(runs, name):
  first, other = runs['one'], runs[name]
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
