"""A small codec against discriminators, for one process or several; a script of test_codec_runs.

  python codec_runs.py '{"jobs": [{"model_dir": "a", "total_steps": 6, "devices": 1}]}'

runs the jobs one after the other; with "port" and "index" it is one of two processes. Prints
{"a": {"mesh": [1, 1], "losses": [...], "kernel_part": [...]}, ...} as its last line.
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1])]

import jax  # noqa: E402
import numpy as np  # noqa: E402

from models.spec import LiveMusicSpec  # noqa: E402
from models.spectrostream import SpectroStreamConfig  # noqa: E402
from models.spectrostream.discriminators import DiscriminatorConfig  # noqa: E402
from models.spectrostream.recipe import CodecRecipe  # noqa: E402
from models.spectrostream.training import CodecTrainable  # noqa: E402
from training import hosts, loop, metrics, optimizers, wrappers  # noqa: E402
from training.partitioning import PjitPartitioner  # noqa: E402

SPEC = LiveMusicSpec(codec_levels=4, codebook_size=8, target_levels=2, context_levels=1)
CONFIG = SpectroStreamConfig(
  num_features=4, encoder_widths=(4,) * 8, decoder_widths=(4, 8, 4, 4, 4, 4, 4, 4)
)
RECIPE = CodecRecipe(
  windows=(128,), balance=True, adversarial_start=2, calibration_steps=(1,), calibration_batches=2,
  kmeans_iterations=2, revive_until=4, dead_threshold=0.3,
)  # fmt: skip
BATCH_SIZE = 8


class Tones:
  """Crops of two frames, each a function of its number; a share of the batches can be had."""

  batch_size = BATCH_SIZE

  def __init__(self, index=0, count=1):
    self._rows = range(index, BATCH_SIZE, count)

  def shard(self, index, count):
    return Tones(index, count)

  def batch(self, index):
    crops = []
    for row in self._rows:
      rng = np.random.default_rng([index, row])
      time = np.arange(2 * SPEC.samples_per_frame)[:, None] / SPEC.sample_rate
      tone = np.sin(2 * np.pi * rng.uniform(100, 4000, 2) * time)
      crops.append(0.3 * tone + 0.02 * rng.standard_normal(tone.shape))
    return {'audio': np.float32(crops)}


def run(model_dir, total_steps, devices=None, num_partitions=1):
  """Trains; gives the mesh, every step's losses, the shape of a kernel's part on one device."""
  judges = DiscriminatorConfig(windows=(128,), width=2, growth=(1, 1, 1, 1, 1, 2))
  trainable = CodecTrainable(CONFIG, RECIPE, SPEC, discriminator_config=judges)
  optimizer = wrappers.by_part(
    lambda: optimizers.adam(1e-3, max_gradient_norm=1.0),
    {'discriminators': optimizers.adam(3e-4, b1=0.5, max_gradient_norm=1.0)},
  )
  layout = PjitPartitioner(num_partitions).fit(BATCH_SIZE, jax.devices()[:devices])
  state = loop.train(
    trainable, Tones(), model_dir=model_dir, total_steps=total_steps, optimizer=optimizer,
    log_period=1, checkpoint_period=100, tensorboard=False, progress=False, partitioning=layout,
  )  # fmt: skip
  found = metrics.read_metrics(model_dir)
  kernel = state.params['discriminators']['window_128']['block_5']['conv_b']['conv']['kernel']
  return {
    'mesh': list(layout.mesh.devices.shape),
    'losses': [line['loss'] for line in found],
    'discriminator': [line.get('discriminator') for line in found],
    'kernel_part': list(kernel.addressable_shards[0].data.shape),
  }


if __name__ == '__main__':
  arguments = json.loads(sys.argv[1])
  if 'port' in arguments:
    hosts.initialize(f'127.0.0.1:{arguments["port"]}', 2, arguments['index'])
  print(json.dumps({job['model_dir']: run(**job) for job in arguments['jobs']}))
