"""Speed of the token feed, and what a step waits for it; one line of JSON a case.

    python -m benchmarks.feed                          # on records of random codes
    python -m benchmarks.feed --data_dir=demo/corpus   # on what prepare.py wrote
    python -m benchmarks.feed --cases seqio_cache      # beside SeqIO's offline cache

A core-second is one second of CPU time, over all threads of this process.
"""

import argparse
import contextlib
import itertools
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np

from benchmarks.measuring import report
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec
from training import loop, metrics, optimizers
from training.feed import TokenFeed

SPEC = LiveMusicSpec()
CLIP_SECS = 30
NUM_SHARDS = 8
DEMO_BATCH_SIZE = 4
# gin/models/tiny.gin, the model of `make demo`.
TINY = DepthformerConfig(
  embed_dim=128, num_heads=4, head_dim=32, mlp_dim=256, num_encoder_layers=1,
  num_temporal_layers=2, num_depth_layers=1, dropout_rate=0.1,
)  # fmt: skip
CASES = ('direct', 'wait', 'seqio_cache')


def write_random_records(folder: pathlib.Path, num_records: int) -> dict[str, list[str]]:
  """Clips of `CLIP_SECS` in the format of prepare.py; returns the shards by split."""
  from preprocessing import records
  from preprocessing.features import ClipTokens

  rng = np.random.default_rng(0)
  frames = CLIP_SECS * SPEC.frame_rate
  windows = -(-frames // SPEC.context_frames)

  def clip(index: int) -> bytes:
    codes = rng.integers(0, SPEC.codebook_size, [frames, SPEC.codec_levels], np.int32)
    style = rng.integers(0, SPEC.codebook_size, [windows, SPEC.style_rvq_levels], np.int32)
    embeddings = rng.standard_normal([windows, SPEC.style_dim]).astype(np.float32)
    tokens = ClipTokens(0.0, codes, style, embeddings)
    return records.encode_record(tokens, records.RecordInfo(index, f'track {index}', 0.0))

  paths = []
  for shard in range(NUM_SHARDS):
    paths.append(folder / records.shard_name('random', 'train', shard, NUM_SHARDS))
    records.write_shard(paths[-1], (clip(i) for i in range(shard, num_records, NUM_SHARDS)))
  return {'train': [str(path) for path in paths]}


@contextlib.contextmanager
def corpus(data_dir: str | None, num_records: int) -> Iterator[str]:
  """The task of a prepared corpus, or of one that lasts as long as the block."""
  from tasks import registry

  if data_dir:
    yield registry.live_music_task(data_dir)
    return
  with tempfile.TemporaryDirectory() as folder:
    files = write_random_records(pathlib.Path(folder), num_records)
    yield registry.live_music_task(files=files)


def rate(batches: Iterator[Any], batch_size: int, secs: float) -> dict[str, float]:
  """Takes batches for `secs`, after a few that warm up."""
  for _ in itertools.islice(batches, 3):
    pass
  began, began_cpu, count = time.perf_counter(), time.process_time(), 0
  while time.perf_counter() - began < secs:
    next(batches)
    count += batch_size
  wall, cpu = time.perf_counter() - began, time.process_time() - began_cpu
  return {
    'examples': count,
    'examples_per_sec': round(count / wall),
    'examples_per_core_sec': round(count / cpu),
    'tokens_per_core_sec': round(count * (SPEC.inputs_length + SPEC.targets_length) / cpu),
    'cores_used': round(cpu / wall, 2),
  }


def run_direct(task: str, secs: float):
  """The feed of training alone, as fast as it goes."""
  for batch_size in (DEMO_BATCH_SIZE, 64):
    feed = TokenFeed(task, 'train', batch_size)
    report('direct', batch_size=batch_size, **rate(feed.batches(), batch_size, secs))


def run_wait(task: str, steps: int):
  """The whole loop at the demo's size: the share of its time that steps wait for a batch."""
  model = DepthformerModel(TINY, SPEC)
  with tempfile.TemporaryDirectory() as model_dir:
    loop.train(
      model, TokenFeed(task, 'train', DEMO_BATCH_SIZE), model_dir=model_dir, total_steps=2 * steps,
      optimizer=optimizers.adafactor(0.01, stacked=model.layer_axes()), log_period=steps,
      tensorboard=False, progress=False,
    )  # fmt: skip
    # The first line holds the compilation; the second one is the run as it goes on.
    timing = metrics.read_metrics(model_dir)[-1]
  report(
    'wait', batch_size=DEMO_BATCH_SIZE, steps=steps,
    step_secs=round(1 / timing['timing/steps_per_second'], 4),
    data_wait_fraction=round(timing['timing/data_wait_fraction'], 5),
  )  # fmt: skip


def run_seqio_cache(task_name: str, secs: float):
  """`seqio.Task.get_dataset` over the records, and over an offline cache that SeqIO makes of them.

  The cache holds what stands before the placeholder: the clips, parsed and cut to 16 levels, as
  lists of int64.
  """
  import apache_beam as beam
  import seqio
  from absl import flags
  from seqio.scripts import cache_tasks_main

  flags.FLAGS(sys.argv[:1])
  task = seqio.TaskRegistry.get(task_name)

  def examples(use_cached: bool) -> Iterator[Any]:
    return task.get_dataset(
      sequence_length=None, split='train', shuffle=False, seed=0, num_epochs=None,
      use_cached=use_cached, try_in_mem_cache=False,
    ).batch(64).as_numpy_iterator()  # fmt: skip

  report('seqio_cache/records', batch_size=64, **rate(examples(False), 64, secs))
  with tempfile.TemporaryDirectory() as folder:
    seqio.add_global_cache_dirs([folder])
    began = time.perf_counter()
    with beam.Pipeline() as pipeline:
      cache_tasks_main.run_pipeline(pipeline, [task_name], folder)
    made_in = round(time.perf_counter() - began, 1)
    size = sum(path.stat().st_size for path in pathlib.Path(folder).rglob('*') if path.is_file())
    figures = rate(examples(True), 64, secs)
    report('seqio_cache/cached', batch_size=64, made_in_secs=made_in, mib=size >> 20, **figures)


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES[:2]))
  parser.add_argument('--data_dir', help='what prepare.py wrote; default: random codes')
  parser.add_argument('--num_records', type=int, default=512, help='clips of random codes')
  parser.add_argument('--secs', type=float, default=5.0, help='of each measurement of a rate')
  parser.add_argument('--steps', type=int, default=20, help='of the case `wait`')
  args = parser.parse_args()
  if args.num_records < NUM_SHARDS or args.secs <= 0 or args.steps < 1:
    parser.error(f'--num_records must be at least {NUM_SHARDS}, --secs and --steps above 0.')
  with corpus(args.data_dir, args.num_records) as task:
    if 'direct' in args.cases:
      run_direct(task, args.secs)
    if 'wait' in args.cases:
      run_wait(task, args.steps)
    if 'seqio_cache' in args.cases:
      run_seqio_cache(task, args.secs)


if __name__ == '__main__':
  main()
