"""The style model's loop on one device, on several, in processes; a script of test_style_meshes.

  python style_mesh_runs.py '{"jobs": [{"model_dir": "a", "devices": 8}]}'
  python style_mesh_runs.py '{"port": 29511, "index": 0, "jobs": [{"model_dir": "b"}]}'

prints {"a": {parameter: sum of its absolute values at the end}} last.
"""

import json
import os
import pathlib
import re
import sys

if 'port' not in sys.argv[1]:
  os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
  )
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import jax  # noqa: E402
import numpy as np  # noqa: E402

from models.musiccoca.captioner import CaptionerConfig  # noqa: E402
from models.musiccoca.config import MusicCoCaConfig, TowerConfig  # noqa: E402
from models.musiccoca.training import StyleRecipe, StyleTrainable, contrastive_loss  # noqa: E402
from models.spec import LiveMusicSpec  # noqa: E402
from training import hosts, loop, optimizers  # noqa: E402
from training.partitioning import PjitPartitioner  # noqa: E402
from training.state import flat_names  # noqa: E402

BATCH_SIZE, NUM_STEPS = 16, 3
_TOWER = TowerConfig(
  num_layers=1, model_dim=16, num_heads=2, head_dim=8, mlp_dim=24, pooler_heads=2, pooler_head_dim=4
)
_CONFIG = MusicCoCaConfig(audio=_TOWER, text=_TOWER, vocab_size=32, max_text_length=6)
_SPEC = LiveMusicSpec(style_window_secs=1, style_dim=24)


class Feed:
  """Random pictures with captions of two to four pieces; a share of the batches can be had."""

  batch_size = BATCH_SIZE

  def __init__(self, index=0, count=1):
    self._index, self._count = index, count

  def shard(self, index, count):
    return Feed(index, count)

  def batch(self, step):
    rows = {'log_mel': [], 'text_ids': [], 'text_paddings': []}
    for place in range(self._index, BATCH_SIZE, self._count):
      rng = np.random.default_rng([step, place])
      length = 2 + place % 3
      ids = np.zeros(6, np.int32)
      ids[:length] = 1, *rng.integers(3, 30, length - 1)
      rows['log_mel'].append(rng.standard_normal([96, 128]).astype(np.float16))
      rows['text_ids'].append(ids)
      rows['text_paddings'].append(np.float32(np.arange(6) >= length))
    return {name: np.stack(values) for name, values in rows.items()}


def trainable(num_microbatches=1):
  recipe = StyleRecipe(
    kept_patches=16, alignment_weight=0.2, captioner=CaptionerConfig(1, 2),
    num_microbatches=num_microbatches,
  )  # fmt: skip
  return StyleTrainable(_CONFIG, recipe, _SPEC)


def optimizer(model):
  return optimizers.adafactor(0.01, stacked=model.layer_axes(), min_dim_size_to_factor=8)


def similarities(devices):
  """How the gradient of the contrastive loss lies on `devices` devices once it is compiled."""
  layout = PjitPartitioner().fit(BATCH_SIZE, jax.devices()[:devices])
  pairs = np.random.default_rng(0).standard_normal([2, BATCH_SIZE, 24]).astype(np.float32)
  batch = layout.placer(shared=False)({'audio': pairs[0], 'text': pairs[1]})

  def loss(audio, text):
    return contrastive_loss(audio, text, 0.1)[0]

  gradient = layout.jit(jax.grad(loss, argnums=(0, 1)))
  text = gradient.lower(batch['audio'], batch['text']).compile().as_text()
  return {
    'gathers': 'all-gather' in text,
    'rows': sorted({int(rows) for rows in re.findall(rf'f32\[(\d+),{BATCH_SIZE}\]', text)}),
  }


def run(model_dir, devices=None, num_microbatches=1):
  model = trainable(num_microbatches)
  layout = PjitPartitioner().fit(BATCH_SIZE, jax.devices()[:devices])
  state = loop.train(
    model, Feed(), model_dir=model_dir, total_steps=NUM_STEPS, optimizer=optimizer(model),
    log_period=1, tensorboard=False, progress=False, partitioning=layout,
  )  # fmt: skip
  return {
    name: float(np.abs(np.asarray(leaf.addressable_data(0), np.float64)).sum())
    for name, leaf in flat_names(state.params).items()
  }


if __name__ == '__main__':
  arguments = json.loads(sys.argv[1])
  if 'port' in arguments:
    hosts.initialize(f'127.0.0.1:{arguments["port"]}', 2, arguments['index'])
  found = {job['model_dir']: run(**job) for job in arguments['jobs']}
  found.update({str(n): similarities(n) for n in arguments.get('similarities', ())})
  print(json.dumps(found))
