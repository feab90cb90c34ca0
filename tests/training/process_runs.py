"""A small run for one process or several; a module and a script of test_partitioning.

  python process_runs.py '{"port": 29511, "index": 0, "jobs": [{"model_dir": "a", ...}]}'

is one of two processes, which run all jobs one after the other.
"""

import json
import os
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from training import hosts, loop, optimizers  # noqa: E402
from training.partitioning import PjitPartitioner  # noqa: E402

BATCH_SIZE, WIDTH = 4, 8


class Layers:
  """A product of two matrices with dropout per row: rows in another order give another loss."""

  def init(self, rng):
    first, second = jax.random.split(rng)
    return {
      'up': 0.3 * jax.random.normal(first, [WIDTH, 2 * WIDTH]),
      'down': 0.3 * jax.random.normal(second, [2 * WIDTH, WIDTH]),
    }

  def logical_axes(self):
    return {'up': ('embed', 'mlp'), 'down': ('mlp', 'embed')}

  def loss_fn(self, params, batch, rng):
    hidden = batch['x'] @ params['up']
    hidden = hidden * jax.random.bernoulli(rng, 0.5, hidden.shape)
    loss = jnp.mean(jnp.square(hidden @ params['down'] - batch['x'][:, ::-1]))
    return loss, {'example': batch['index'].astype(jnp.float32)}


class Feed:
  """Example n is a function of n; a share of the batches can be had."""

  batch_size = BATCH_SIZE

  def __init__(self, index=0, count=1, sigterm_at=None):
    self._index, self._count, self._sigterm_at = index, count, sigterm_at

  def shard(self, index, count):
    return Feed(index, count, self._sigterm_at)

  def batch(self, step):
    if step == self._sigterm_at:
      os.kill(os.getpid(), signal.SIGTERM)
    examples = step * BATCH_SIZE + np.arange(self._index, BATCH_SIZE, self._count)
    rows = [np.random.default_rng([7, n]).normal(size=WIDTH) for n in examples]
    return {'x': np.float32(rows), 'index': examples.astype(np.int32)}


def run(model_dir, total_steps, *, num_partitions=1, sigterm_at=None, **options):
  return loop.train(
    Layers(), Feed(sigterm_at=sigterm_at), model_dir=model_dir, total_steps=total_steps,
    optimizer=optimizers.adafactor(0.1, min_dim_size_to_factor=4), log_period=1,
    checkpoint_period=2, tensorboard=False, progress=False,
    partitioning=PjitPartitioner(num_partitions).fit(BATCH_SIZE), **options,
  )  # fmt: skip


if __name__ == '__main__':
  arguments = json.loads(sys.argv[1])
  hosts.initialize(f'127.0.0.1:{arguments["port"]}', 2, arguments['index'])
  for job in arguments['jobs']:
    if arguments['index'] == 0:
      job.pop('sigterm_at', None)  # One process alone is asked to stop.
    run(**job)
