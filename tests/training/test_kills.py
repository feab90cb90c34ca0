"""Runs that are killed at random moments, also inside a save, end as if nothing had happened."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from training import checkpoints, metrics

SCRIPT = pathlib.Path(__file__).parent / 'kill_runs.py'
LIMIT_SECS = 300


class Runs:
  """Runs of kill_runs.py, one at a time; `pid` is that of the one under way."""

  def __init__(self, folder):
    self._job = {'records_dir': str(folder / 'records')}
    self._errors = open(folder / 'stderr', 'a+')  # noqa: SIM115
    self._process = subprocess.Popen(
      [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
      stderr=self._errors, text=True, bufsize=1, env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    )  # fmt: skip
    self.pid = None

  def __enter__(self):
    return self

  def __exit__(self, *unused):
    self._process.stdin.close()
    self._process.stdout.read()
    self._process.wait(LIMIT_SECS)
    self._errors.close()

  def begin(self, **job):
    self._process.stdin.write(json.dumps(self._job | job) + '\n')
    line = self._process.stdout.readline()
    assert line, self.errors()
    self.pid = json.loads(line)['pid']

  def wait_for(self, said):
    """Returns once the run has said something that begins so."""
    for line in self._process.stdout:
      assert 'status' not in line, f'{line}: it ended before {said!r}. {self.errors()}'
      if line.startswith(said):
        return

  def end(self):
    """Waits for the run; its exit status and what it said."""
    said = []
    for line in self._process.stdout:
      if line.startswith('{"status"'):
        self.pid = None
        return json.loads(line)['status'], ''.join(said)
      said.append(line)
    raise AssertionError(self.errors())

  def errors(self):
    """What all runs wrote to the standard error."""
    self._errors.seek(0)
    return self._errors.read()


def _steps(model_dir):
  names = [path.name.removeprefix('checkpoint_') for path in model_dir.glob('checkpoint_*')]
  return [int(name) for name in names if name.isdigit()]


def _unfinished(model_dir):
  return list(model_dir.glob('*orbax-checkpoint-tmp*'))


def _kill(runs, moment, model_dir, rng, job):
  """Begins a run and sends SIGKILL at one of three kinds of moments; says which."""
  step = max(_steps(model_dir), default=0)
  batch = step + rng.randint(4, 16)
  # Its saves from here on wait for a file that nobody makes, so that it cannot end before the kill.
  runs.begin(model_dir=str(model_dir), hold_from=batch + (moment == 'running'), **job)
  if moment == 'saving':
    runs.wait_for('saving ')
    where = 'in a save'
    assert _unfinished(model_dir)
  elif moment == 'running':
    # Up to three batches are made ahead of a step.
    runs.wait_for(f'batch {batch}\n')
    where = f'after batch {batch} was made'
  else:
    restored = rng.random() < 0.5
    if restored:
      runs.wait_for(f'{model_dir}: from ')
    where = f'after {"restoring" if restored else "its start"}'
  delay = rng.uniform(0, {'starting': 0.3, 'running': 0.01, 'saving': 0.02}[moment])
  time.sleep(delay)  # Any moment will do.
  os.kill(runs.pid, signal.SIGKILL)
  status, _ = runs.end()
  assert status == -signal.SIGKILL
  left = [path.name for path in _unfinished(model_dir)]
  assert left or moment != 'saving'
  where = f'{1000 * delay:.1f} ms {where}'
  return f'from step {step}, {where}; left behind: {left or "nothing half-written"}'


def _stop(runs, model_dir, job):
  """SIGTERM inside a save; says how long the run took to end."""
  gate = model_dir.with_name(f'{model_dir.name}.gate')
  runs.begin(model_dir=str(model_dir), hold_from=max(_steps(model_dir)) + 5, **job)
  runs.wait_for('saving ')
  began = time.monotonic()
  os.kill(runs.pid, signal.SIGTERM)
  gate.touch()
  status, said = runs.end()
  gate.unlink()
  secs = time.monotonic() - began
  step = max(_steps(model_dir))
  assert status == 0 and not _unfinished(model_dir)
  assert f'SIGTERM was received; {step} steps are saved in checkpoint_{step}.' in said
  return f'SIGTERM inside a save: step {step} saved and exit status 0 after {secs:.1f} s'


def _final(model_dir):
  """Everything that a run leaves, as bytes and numbers: arrays, data position, metrics."""
  newest = checkpoints.find_checkpoint(model_dir)
  arrays = {}
  for part in ('target', 'state'):
    tree, _ = checkpoints.restore_part(newest, part)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      array = np.asarray(leaf)
      arrays[part + jax.tree_util.keystr(path)] = (array.dtype.name, array.shape, array.tobytes())
  lines = [
    {name: value for name, value in line.items() if not name.startswith('timing/')}
    for line in metrics.read_metrics(model_dir)
  ]
  return newest.name, arrays, json.loads((newest / 'dataset' / 'metadata').read_text()), lines


def _killed_and_whole(folder, moments, *, fresh, language_model, pause_secs=0.003):
  """A run killed once at each of `moments`, then stopped, and one left alone agree in every bit.

  Args:
    folder: for everything.
    moments: 'running' | 'saving' | 'starting'.
    fresh: whether each restart imports everything anew.
    language_model: train a Depthformer.
    pause_secs: what a batch takes at least.
  """
  rng = random.Random(0)
  steps = 20 * len(moments) + 20
  job = {'total_steps': steps, 'language_model': language_model, 'pause_secs': pause_secs}
  runs = Runs(folder)
  runs.begin(model_dir=str(folder / 'whole'), **job)
  assert runs.end()[0] == 0, runs.errors()
  for number, moment in enumerate(moments, 1):
    if fresh:
      runs.__exit__()
      runs = Runs(folder)
    print(f'kill {number}: {_kill(runs, moment, folder / "killed", rng, job)}', flush=True)
  print(_stop(runs, folder / 'killed', job))
  runs.begin(model_dir=str(folder / 'killed'), **job)
  status, said = runs.end()
  runs.__exit__()
  assert status == 0
  print(f'then: {said.strip().splitlines()[-1]}')
  name, arrays, position, lines = _final(folder / 'whole')
  assert name == f'checkpoint_{steps}'
  assert position['next_batch'] == steps
  assert [line['step'] for line in lines] == list(range(1, steps + 1))
  got = _final(folder / 'killed')
  assert got[0] == name and got[2] == position
  assert got[3] == lines
  assert got[1].keys() == arrays.keys()
  assert not [key for key in arrays if got[1][key] != arrays[key]]
  assert not _unfinished(folder / 'killed')
  print(f'{len(arrays)} arrays, {len(lines)} lines of metrics: equal in every bit')


def test_two_kills(tmp_path):
  moments = ['running', 'saving']
  _killed_and_whole(tmp_path, moments, fresh=False, language_model=False)


@pytest.mark.slow
def test_twenty_kills(tmp_path):
  moments = (['running', 'saving', 'starting'] * 7)[:20]
  _killed_and_whole(tmp_path, moments, fresh=True, language_model=True)
