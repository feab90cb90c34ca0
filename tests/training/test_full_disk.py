"""A disk that fills up: one clear message, and the previous checkpoint as it was."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import checkpoints, disk, loop, metrics, optimizers

ROOT = pathlib.Path(__file__).parents[2]
LIMIT = 1 << 14


class Table:
  """More numbers than `LIMIT` bytes hold, and hard to compress."""

  def init(self, rng):
    return {'table': jax.random.normal(rng, [128, 128])}

  def loss_fn(self, params, batch, rng):
    return jnp.mean(jnp.square(batch['x'] @ params['table'])), {}


class Feed:
  """Noise, slowly, so that a save in the background ends between two others."""

  def batch(self, index):
    time.sleep(0.01)
    return {'x': np.random.default_rng(index).normal(size=[2, 128]).astype(np.float32)}


def train(model_dir, total_steps, checkpoint_period=2, keep_checkpoints=1):
  return loop.train(
    Table(), Feed(), model_dir=model_dir, total_steps=total_steps, optimizer=optimizers.adam(0.01),
    checkpoint_period=checkpoint_period, keep_checkpoints=keep_checkpoints, log_period=1000,
    tensorboard=False, progress=False,
  )  # fmt: skip


def _on_a_full_disk(model_dir, **options):
  """Runs `train` in a process whose files may not grow beyond `LIMIT`, as a root script would."""
  program = textwrap.dedent(f"""
    import json, resource, signal, sys
    sys.path[:0] = [{str(ROOT)!r}, {str(pathlib.Path(__file__).parent)!r}]
    import test_full_disk
    from pipelines import startup
    # A write beyond the limit then fails, in native code too, where the signal would kill.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}))
    with startup.plain_errors('train.py'):
      test_full_disk.train(sys.argv[1], **json.loads(sys.argv[2]))
  """)
  return subprocess.run(
    [sys.executable, '-c', program, str(model_dir), json.dumps(options)], capture_output=True,
    text=True, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, timeout=300,
  )  # fmt: skip


def _contents(folder):
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.rglob('*')
    if path.is_file()
  }


@pytest.mark.parametrize(
  'step, options',
  [
    # The failure shows between two saves, long before the end; or where the last step is saved.
    (4, {'total_steps': 100_000, 'checkpoint_period': 4}),
    (6, {'total_steps': 6, 'checkpoint_period': 1000}),
  ],
)
def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, step, options):
  whole = train(tmp_path / 'whole', 8)
  run = tmp_path / 'run'
  train(run, 3)
  before = _contents(run / 'checkpoint_3')
  result = _on_a_full_disk(run, **options)
  assert result.returncode == 1
  assert result.stderr == (
    f'train.py: checkpoint_{step} could not be written to {run}: File too large. Make room there, '
    'or copy the folder to a larger disk. checkpoint_3 is whole, and the run goes on from it when '
    'started again.\n'
  )
  assert 'finished' not in result.stdout
  assert checkpoints.find_checkpoint(run) == run / 'checkpoint_3'
  assert _contents(run / 'checkpoint_3') == before
  jax.tree.map(np.testing.assert_array_equal, train(run, 8), whole)
  assert [path.name for path in run.glob('checkpoint_*')] == ['checkpoint_8']


def test_without_an_older_checkpoint(tmp_path):
  result = _on_a_full_disk(tmp_path, total_steps=3)
  assert result.returncode == 1
  assert result.stderr.count('\n') == 1 and 'No checkpoint was written before it.' in result.stderr
  with pytest.raises(FileNotFoundError):
    checkpoints.find_checkpoint(tmp_path)


def test_metrics_on_a_full_disk(tmp_path):
  (tmp_path / metrics.FILE_NAME).symlink_to('/dev/full')
  with pytest.raises(disk.DiskError, match=f'metrics.jsonl could not be written to {tmp_path}: No'):
    metrics.Writers(tmp_path, tensorboard=False).write(1, {'loss': 1.0})


def test_another_error_is_told_beside_that_of_the_disk(tmp_path, monkeypatch):
  store = checkpoints.Checkpoints(tmp_path)
  monkeypatch.setattr(store, 'wait', lambda: (_ for _ in ()).throw(disk.DiskError(28, 'full')))
  with pytest.raises(ZeroDivisionError) as raised, store:
    raise ZeroDivisionError
  assert raised.value.__notes__ == ['full']


@pytest.mark.slow
def test_a_model_dir_that_goes_ends_the_process(tmp_path):
  """Threads of the checkpoint library wait for a folder that never comes; the process does not."""
  program = textwrap.dedent(f"""
    import pathlib, shutil, sys
    sys.path[:0] = [{str(ROOT)!r}, {str(pathlib.Path(__file__).parent)!r}]
    import test_full_disk
    from pipelines import startup
    folder = pathlib.Path(sys.argv[1])
    class Spoiling(test_full_disk.Feed):
      def batch(self, index):
        if index == 6:
          shutil.rmtree(folder)
          folder.write_text('a file')
        return super().batch(index)
    test_full_disk.Feed = Spoiling
    def main():
      with startup.plain_errors('train.py'):
        test_full_disk.train(str(folder), 100_000)
    startup.run_module(main)
  """)
  result = subprocess.run(
    [sys.executable, '-c', program, str(tmp_path / 'run')], capture_output=True, text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, timeout=900,
  )  # fmt: skip
  assert result.returncode == 1
  assert result.stderr.startswith('train.py: ') and str(tmp_path / 'run') in result.stderr
  assert 'Traceback' not in result.stderr
