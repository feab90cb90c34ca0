"""What the engine adds to the bare compiled step: loop, prefetch, metrics, the guard against NaN.

    python -m benchmarks.train_step

Rounds of the bare step (a ready batch, nothing in between) and of `training.loop.train` over the
same batch take turns, because a shared machine drifts; one line of JSON compares their medians.
"""

import argparse
import statistics
import tempfile
import time

import jax
import numpy as np

from benchmarks.depthformer import SPEC, random_batch
from benchmarks.measuring import report
from models.depthformer import DepthformerConfig, DepthformerModel
from training import loop, optimizers
from training.metrics import read_metrics
from training.state import create_state
from training.step import make_train_step

_MAX_SKIPPED_STEPS = 10  # That of gin/runs/pretrain.gin.


class ReadyFeed:
  """The same batch for ever, with indices as a real feed has them."""

  def __init__(self, batch_size: int):
    batch = {name: np.asarray(x) for name, x in random_batch(batch_size).items()}
    self.batch_size = batch_size
    self._batch = batch | {'index': np.arange(batch_size, dtype=np.int32)}

  def batch(self, index: int) -> dict[str, np.ndarray]:
    return self._batch


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--batch_size', type=int, default=4)
  parser.add_argument('--steps', type=int, default=10, help='of a round')
  parser.add_argument('--rounds', type=int, default=5)
  args = parser.parse_args()
  if min(args.batch_size, args.steps, args.rounds) < 1:
    parser.error('--batch_size, --steps and --rounds are at least 1.')

  model, feed = DepthformerModel(DepthformerConfig(), SPEC), ReadyFeed(args.batch_size)
  optimizer = optimizers.adafactor(0.01, stacked=model.layer_axes())
  step = make_train_step(model, optimizer)
  state = create_state(model, optimizer, jax.random.key(0))
  batch, key = jax.device_put(feed.batch(0)), jax.random.key(1)
  state, _ = step(state, batch, key)

  bare, engine = [], []
  for _ in range(args.rounds):
    jax.block_until_ready(state)
    began = time.perf_counter()
    for _ in range(args.steps):
      state, _ = step(state, batch, key)
    jax.block_until_ready(state)
    bare.append((time.perf_counter() - began) / args.steps)
    with tempfile.TemporaryDirectory() as model_dir:
      # The first step compiles; the second line of metrics is that of the round.
      loop.train(
        model, feed, model_dir=model_dir, total_steps=2 * args.steps, optimizer=optimizer,
        log_period=args.steps, checkpoint_period=10**9, max_skipped_steps=_MAX_SKIPPED_STEPS,
        progress=False,
      )  # fmt: skip
      lines = read_metrics(model_dir)
    engine.append(1 / lines[1]['timing/steps_per_second'])
  bare_secs, engine_secs = statistics.median(bare), statistics.median(engine)
  report(
    'train_step/engine_over_bare',
    batch_size=args.batch_size,
    bare_secs=round(bare_secs, 4),
    engine_secs=round(engine_secs, 4),
    overhead=round(engine_secs / bare_secs - 1, 4),
    overhead_of_minima=round(min(engine) / min(bare) - 1, 4),
    data_wait_fraction=round(lines[1]['timing/data_wait_fraction'], 5),
  )


if __name__ == '__main__':
  main()
