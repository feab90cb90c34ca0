"""A run with an adapter on simulated devices; a script of test_adapter_runs.

  python adapter_runs.py '[{"model_dir": "a", "devices": 8, "num_partitions": 2, "stops": [3, 6]}]'

prints {"a": {"digest": {...}, "specs": {...}}, ...} as its last line.
"""

import json
import os
import pathlib
import sys

os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import jax  # noqa: E402
import numpy as np  # noqa: E402
from mesh_runs import MODEL, batch  # noqa: E402

from models import weights  # noqa: E402
from models.adapted import AdaptedModel, trained_parameters  # noqa: E402
from models.adapters import AdapterConfig  # noqa: E402
from training import loop, optimizers, partitioning, wrappers  # noqa: E402

PATTERNS = ('attention/', 'mlp/', '^logits$', '^embedding$')


class Feed:
  batch_size = 8

  def batches(self, start: int = 0):
    index = start
    while True:
      yield batch(index)
      index += 1


def run(job: dict) -> dict:
  """Trains to every step of `stops`, each time started again; what the last state is."""
  trainable = AdaptedModel(MODEL, AdapterConfig(job.get('method', 'dora'), 2, 4.0, PATTERNS))
  optimizer = wrappers.wrapped(
    lambda: optimizers.adam(0.01), average_decay=0.5, trained=trained_parameters('dora')
  )
  partitioner = partitioning.PjitPartitioner(num_partitions=job.get('num_partitions', 1))
  layout = partitioner.fit(Feed.batch_size, jax.devices()[: job['devices']])
  start = trainable.start_from(MODEL.init(jax.random.key(7)), jax.random.key(8))
  for stop in job['stops']:
    state = loop.train(
      trainable, Feed(), model_dir=job['model_dir'], total_steps=stop, optimizer=optimizer,
      log_period=1, checkpoint_period=100, tensorboard=False, progress=False,
      initial_params=jax.device_get(start), partitioning=layout,
      num_microbatches=job.get('num_microbatches', 1),
    )  # fmt: skip
  flat = weights.flatten(wrappers.averaged_params(state))
  base = weights.flatten(start['base'])
  return {
    'digest': {
      name: np.asarray(x, np.float64).reshape(-1)[:7].tolist() for name, x in flat.items()
    },
    'base_kept': all((np.asarray(flat[f'base/{name}']) == x).all() for name, x in base.items()),
    'specs': {name: str(getattr(x.sharding, 'spec', '')) for name, x in flat.items()},
    'optimizer_numbers': sum(int(np.size(x)) for x in jax.tree.leaves(state.opt_state)),
  }


def main():
  found = {}
  for job in json.loads(sys.argv[1]):
    found[pathlib.Path(job['model_dir']).name] = run(job)
  print(json.dumps(found))


if __name__ == '__main__':
  main()
