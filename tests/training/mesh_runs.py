"""One language model on several meshes of eight simulated devices; a script of test_partitioning.

  python mesh_runs.py '{"one": {"devices": 1}, "4x2": {"num_partitions": 2}}'

prints {"one": {"losses": [...], "ids": [...]}, ...} as its last line.
"""

import json
import os
import pathlib
import sys
import tempfile

os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE)]

import jax  # noqa: E402
import numpy as np  # noqa: E402
import process_runs  # noqa: E402

from models.depthformer import DepthformerConfig, DepthformerModel  # noqa: E402
from models.spec import LiveMusicSpec  # noqa: E402
from training import loop, metrics, optimizers, partitioning, schedules  # noqa: E402
from training.state import create_state  # noqa: E402
from training.step import make_train_step  # noqa: E402

SPEC = LiveMusicSpec(
  codec_levels=4, codebook_size=16, context_frames=5, context_levels=2, chunk_frames=3,
  target_levels=4, style_rvq_levels=3, style_levels=2, style_offset=66, vocab_size=128,
)  # fmt: skip
MODEL = DepthformerModel(
  DepthformerConfig(
    embed_dim=32, num_heads=4, head_dim=8, mlp_dim=64, num_encoder_layers=1, num_temporal_layers=1,
    num_depth_layers=1, dropout_rate=0.1, loss_over='vocabulary',
  ),
  SPEC,
)  # fmt: skip
OPTIMIZER = optimizers.adafactor(
  schedules.factor_schedule('constant * linear_warmup', 0.03, warmup_steps=5),
  stacked=MODEL.layer_axes(),
  min_dim_size_to_factor=16,
)
BATCH_SIZE, NUM_STEPS = 8, 20


def batch(index: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng([3, index])
  offsets = SPEC.codec_offset + SPEC.codebook_size * np.arange(SPEC.target_levels)
  codes = rng.integers(0, 4, [BATCH_SIZE, SPEC.chunk_frames, SPEC.target_levels])
  inputs = rng.integers(SPEC.mask_id, 60, [BATCH_SIZE, SPEC.inputs_length])
  return {
    'encoder_input_tokens': inputs.astype(np.int32),
    'decoder_target_tokens': (codes + offsets).reshape(BATCH_SIZE, -1).astype(np.int32),
  }


def losses(layout: partitioning.Partitioning, state) -> tuple[list[float], list[int]]:
  """Of `NUM_STEPS` steps from `state`; and the shape of the output layer's part on one device."""
  like = layout.state_like(MODEL, OPTIMIZER, jax.random.key(0))
  if layout.trivial:
    state = jax.device_put(state)
  else:
    state = layout.place(state, jax.tree.map(lambda x: x.sharding, like))
  step = make_train_step(MODEL, OPTIMIZER, layout.step_compiler(state, shared=False))
  place, rng = layout.placer(shared=False), layout.replicate(jax.random.key(1))
  found = []
  for index in range(NUM_STEPS):
    state, metrics = step(state, place(batch(index)), rng)
    found.append(float(metrics['loss']))
  return found, list(state.params['logits'].addressable_shards[0].data.shape)


def generated(layout: partitioning.Partitioning, state) -> list:
  """Ids of a sampled, guided chunk."""
  inputs = layout.placer(shared=False)(batch(99))['encoder_input_tokens']
  params = layout.place_params(MODEL, state.params)
  with layout.active():
    return np.asarray(MODEL.generate(params, inputs, rng=jax.random.key(5), top_k=8)).tolist()


def start_state():
  """Drawn by NumPy, which has nothing to compile."""
  like = jax.eval_shape(lambda key: create_state(MODEL, OPTIMIZER, key), jax.random.key(0))
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    size = 1.0 if 'norm' in jax.tree_util.keystr(path) else 0.1
    return (size * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

  return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like).replace(
    params=jax.tree_util.tree_map_with_path(draw, like.params)
  )


class Replicated(process_runs.Layers):
  """What a codec is to the loop: no axis names, arrays beside the parameters, calibration."""

  logical_axes = None
  calibration_steps = (0, 2)

  def init_aux(self, rng):
    return {'scale': jax.numpy.ones([])}

  def calibrate(self, state, get_batch):
    factor = 1 + np.abs(get_batch(9)['x']).mean()
    params = jax.tree.map(lambda p: 0.9 * p, state.params)
    return state.replace(params=params, aux={'scale': jax.numpy.float32(factor)})

  def train_step(self, state, batch, rng, optimizer):
    def loss_fn(params):
      return state.aux['scale'] * self.loss_fn(params, batch, rng)[0]

    loss, gradients = jax.value_and_grad(loss_fn)(state.params)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = jax.tree.map(jax.numpy.add, state.params, updates)
    return state.replace(params=params, opt_state=opt_state), {'loss': loss}


def replicated_losses(layout: partitioning.Partitioning) -> list[float]:
  """Of six steps of the whole loop."""
  with tempfile.TemporaryDirectory() as model_dir:
    loop.train(
      Replicated(), process_runs.Feed(), model_dir=model_dir, total_steps=6,
      optimizer=optimizers.adam(0.05), log_period=1, tensorboard=False, progress=False,
      partitioning=layout,
    )  # fmt: skip
    return [line['loss'] for line in metrics.read_metrics(model_dir)]


def main(jobs: dict[str, dict]):
  start = start_state()
  results = {}
  for name, job in jobs.items():
    rules = partitioning.standard_logical_axis_rules(
      job.get('activation_dims', 1), job.get('parameter_dims', 1)
    )
    devices = jax.devices()[: job.get('devices', 8)]
    partitioner = partitioning.PjitPartitioner(job.get('num_partitions', 1), None, rules)
    layout = partitioner.fit(BATCH_SIZE, devices)
    found, part = losses(layout, start)
    results[name] = {'mesh': layout.mesh.devices.shape, 'losses': found, 'logits_part': part}
    if job.get('replicated'):
      layout = partitioning.PjitPartitioner().fit(process_runs.BATCH_SIZE, devices)
      results[name]['replicated'] = [layout.mesh.size, replicated_losses(layout)]
    if job.get('generate'):
      results[name]['ids'] = generated(layout, start)
  print(json.dumps(results))


if __name__ == '__main__':
  main(json.loads(sys.argv[1]))
