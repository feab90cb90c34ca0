"""A tiny language model trained on token records; a script of test_kills.

Every line of the standard input is a job in JSON, made by a process of its own, forked from this
one so that imports are paid for once. On the standard output stands the process id of each, then
`batch <index>` for every batch made, `saving <name>` for every save that is held (see
`hold_saves`), and its exit status on a line of its own.
"""

import json
import os
import pathlib
import sys
import time

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from orbax.checkpoint._src.path import atomicity  # noqa: E402

from models.depthformer import DepthformerConfig, DepthformerModel  # noqa: E402
from models.spec import LiveMusicSpec  # noqa: E402
from preprocessing import records  # noqa: E402
from preprocessing.features import ClipTokens  # noqa: E402
from tasks import registry  # noqa: E402
from training import loop, optimizers  # noqa: E402
from training.feed import TokenFeed  # noqa: E402

SPEC = LiveMusicSpec(
  frame_rate=1, codec_levels=4, codebook_size=16, context_frames=5, context_levels=2,
  chunk_frames=3, target_levels=4, style_rvq_levels=3, style_levels=2, style_offset=66,
  vocab_size=128,
)  # fmt: skip
CONFIG = DepthformerConfig(
  embed_dim=16, num_heads=2, head_dim=8, mlp_dim=32, num_encoder_layers=1, num_temporal_layers=1,
  num_depth_layers=1, dropout_rate=0.1, loss_over='vocabulary',
)  # fmt: skip
NUM_RECORDS, NUM_SHARDS, BATCH_SIZE, CHECKPOINT_PERIOD = 23, 4, 4, 3


def write_records(folder: pathlib.Path) -> dict[str, list[str]]:
  """Clips of random codes, 3 to 25 s long, as `NUM_SHARDS` shards."""
  folder.mkdir()
  rng = np.random.default_rng(0)
  clips = []
  for index in range(NUM_RECORDS):
    codes = rng.integers(0, SPEC.codebook_size, [3 + index, SPEC.codec_levels], np.int32)
    style = rng.integers(0, SPEC.codebook_size, [1 + index // 10, SPEC.style_rvq_levels], np.int32)
    tokens = ClipTokens(0.0, codes, style, np.zeros([len(style), 4], np.float32))
    clips.append(records.encode_record(tokens, records.RecordInfo(index, 'track', 0.0)))
  paths = [
    folder / records.shard_name('toy', 'train', i, NUM_SHARDS) for i in range(NUM_SHARDS)
  ]
  for shard, path in enumerate(paths):
    records.write_shard(path, clips[shard::NUM_SHARDS])
  return {'train': [str(path) for path in paths]}


class Bigrams:
  """A table of next ids with dropout: little to compile, everything to resume."""

  def init(self, rng):
    return {'table': 0.1 * jax.random.normal(rng, [SPEC.vocab_size, SPEC.vocab_size])}

  def loss_fn(self, params, batch, rng):
    inputs, targets = batch['encoder_input_tokens'], batch['decoder_target_tokens']
    rows = params['table'][inputs].mean(1, keepdims=True) + params['table'][targets[:, :-1]]
    rows = rows * jax.random.bernoulli(rng, 0.9, rows.shape)
    scores = jax.nn.log_softmax(rows)
    loss = -jnp.take_along_axis(scores, targets[:, 1:, None], axis=-1).mean()
    return loss, {'index': batch['index'].astype(jnp.float32)}


class Watched:
  """A feed that tells of every batch it makes and takes its time."""

  def __init__(self, feed: TokenFeed, pause_secs: float):
    self.batch_size = feed.batch_size
    self._feed, self._pause_secs = feed, pause_secs

  def batches(self, start):
    for index, batch in enumerate(self._feed.batches(start), start):
      time.sleep(self._pause_secs)
      os.write(1, f'batch {index}\n'.encode())  # In one piece, whenever the process is killed.
      yield batch


def hold_saves(first_step: int, gate: str):
  """Saves from `first_step` on say so and take their final name once the file `gate` is there."""
  finalize = atomicity.AtomicRenameTemporaryPath.finalize

  async def held(self, *args, **kwargs):
    name = self.get_final().name
    if name.startswith('checkpoint_') and int(name.removeprefix('checkpoint_')) >= first_step:
      os.write(1, f'saving {name}\n'.encode())
      while not os.path.exists(gate):
        time.sleep(0.001)
    return await finalize(self, *args, **kwargs)

  atomicity.AtomicRenameTemporaryPath.finalize = held


def train(
  records_dir: str,
  model_dir: str,
  total_steps: int,
  language_model: bool,
  pause_secs: float,
  hold_from: int | None = None,
):
  if hold_from is not None:
    hold_saves(hold_from, f'{model_dir}.gate')
  folder = pathlib.Path(records_dir)
  if folder.exists():
    files = {'train': sorted(str(path) for path in folder.iterdir())}
  else:
    files = write_records(folder)
  feed = TokenFeed(registry.live_music_task(files=files, spec=SPEC), 'train', BATCH_SIZE, seed=5)
  model, stacked = Bigrams(), None
  if language_model:
    model = DepthformerModel(CONFIG, SPEC)
    stacked = model.layer_axes()
  loop.train(
    model, Watched(feed, pause_secs), model_dir=model_dir, total_steps=total_steps,
    optimizer=optimizers.adafactor(0.03, stacked=stacked, min_dim_size_to_factor=16),
    log_period=1, checkpoint_period=CHECKPOINT_PERIOD, keep_checkpoints=2,
    tensorboard=False, progress=False,
  )  # fmt: skip


def child(job: dict):
  """Runs a job and ends the process."""
  status = 1
  try:
    train(**job)
    status = 0
  except BaseException:
    sys.excepthook(*sys.exc_info())
  sys.stdout.flush()
  os._exit(status)


if __name__ == '__main__':
  for line in sys.stdin:
    told, telling = os.pipe()
    process = os.fork()
    if not process:
      os.close(telling)
      os.read(told, 1)  # What it says comes after its id.
      child(json.loads(line))
    os.write(1, (json.dumps({'pid': process}) + '\n').encode())
    os.close(told)
    os.close(telling)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    print('\n' + json.dumps({'status': status}), flush=True)
