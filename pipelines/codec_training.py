"""Trains a codec from a folder of audio; ends in one weights file that SpectroStream.load reads."""

import pathlib
from typing import Any

from models.spectrostream.training import CodecTrainable
from pipelines import runs
from training.state import TrainState

WEIGHTS_FILE = 'codec.safetensors'


def train_codec(
  *, trainable: CodecTrainable, feed: Any, finish_batches: int = 336, **run_options: Any
) -> TrainState | None:
  """Trains and, once the steps are made or the time is up, writes MODEL_DIR/codec.safetensors.

  Args:
    trainable: the codec with its recipe.
    feed: such as `pipelines.audio_feed.CodecFeed`.
    finish_batches: batches whose latents the last codebooks are fitted to.
    **run_options: go to `pipelines.runs.train`.
  """

  def finish(state: TrainState, trainable: CodecTrainable, model_dir: str):
    save_codec(state, trainable, feed, finish_batches, model_dir)

  return runs.train(trainable=trainable, feed=feed, finish=finish, **run_options)


def save_codec(
  state: TrainState, trainable: CodecTrainable, feed: Any, num_batches: int, model_dir: str
) -> pathlib.Path:
  """Writes `model_dir`/codec.safetensors (float16) and returns its path; see `train_codec`."""
  codec = trainable.finish(state.params, feed.batch, num_batches)
  path = codec.save(pathlib.Path(model_dir) / WEIGHTS_FILE, step=int(state.step))
  print(f'{path}: {path.stat().st_size / 1e6:.2f} MB, {codec.content_hash}.', flush=True)
  return path
