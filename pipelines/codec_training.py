"""Trains a codec from a folder of audio; ends in one weights file that SpectroStream.load reads."""

import pathlib
from typing import Any

import jax
import numpy as np

from models.spectrostream import SpectroStream
from models.spectrostream.growing import check_can_grow
from models.spectrostream.recipe import DECODER
from models.spectrostream.training import CodecTrainable, codec_part
from models.spectrostream.widening import check_can_widen
from pipelines import runs
from training.checkpoints import find_checkpoint, restore_params
from training.state import TrainState, check_same_shapes
from training.wrappers import averaged_params

WEIGHTS_FILE = 'codec.safetensors'


def train_codec(
  *,
  trainable: CodecTrainable,
  feed: Any,
  model_dir: str,
  initial_checkpoint_path: str | None = None,
  finish_batches: int = 336,
  finish_feed: Any | None = None,
  **run_options: Any,
) -> TrainState | None:
  """Trains and, once the steps are made or the time is up, writes MODEL_DIR/codec.safetensors.

  Args:
    trainable: the codec with its recipe.
    feed: such as `pipelines.audio_feed.CodecFeed`.
    model_dir: of the run.
    initial_checkpoint_path: see `start_from`; None for initial values.
    finish_batches: batches whose latents the last codebooks are fitted to.
    finish_feed: of these batches; None takes `feed`. Its crops may be longer: the first frames of a
      crop have no past, which codebooks should not be fitted to.
    **run_options: go to `pipelines.runs.train`.

  Raises:
    ValueError: the decoder alone is to be trained, and no codec is given, or not the one that the
      run began with.
  """
  decoder_only = trainable.recipe.train_only == DECODER
  if initial_checkpoint_path and (decoder_only or not _has_begun(model_dir)):
    start_from(trainable, initial_checkpoint_path)
    if _has_begun(model_dir):
      _check_same_tokens(model_dir, initial_checkpoint_path)
  elif decoder_only:
    raise ValueError(
      f'TRAIN_ONLY={DECODER!r} leaves encoder and codebooks as they are: name the codec that has '
      'them by INITIAL_CHECKPOINT_PATH.'
    )
  elif trainable.recipe.refit_from is not None and not _has_begun(model_dir):
    raise ValueError(
      'refit_from says what the channels of a codec carry: name that codec by '
      'INITIAL_CHECKPOINT_PATH.'
    )

  def finish(state: TrainState, trainable: CodecTrainable, model_dir: str):
    save_codec(state, trainable, finish_feed or feed, finish_batches, model_dir)

  return runs.train(
    trainable=trainable, feed=feed, model_dir=model_dir, finish=finish, **run_options
  )


def start_from(trainable: CodecTrainable, path: str):
  """Lets a new run start from a codec.

  Args:
    trainable: of the run.
    path: MODEL_DIR of a run or a checkpoint_<step> in one, of which the parameters are taken,
      discriminators of the same sizes included; or what `SpectroStream.load` takes, such as a
      codec.safetensors or a bundled name, of which the codebooks are taken, too, and whose decoder
      may be narrower (`models.spectrostream.widening`).

  Raises:
    FileNotFoundError: `path` is none of these.
    ValueError: it is a codec of other sizes, rates or levels, or the decoder alone is to be trained
      and a run has no codebooks that its tokens were made with.
  """
  expected = jax.eval_shape(trainable.init, jax.random.key(0))
  try:
    checkpoint = find_checkpoint(path)
  except FileNotFoundError:
    codec = SpectroStream.load(path)
    _check_spec(codec, trainable, path)
    widths = ''
    recipe = trainable.recipe
    if recipe.refit_from is not None:
      old, new = (codec.config, recipe.refit_from), (trainable.config, recipe.linear_start)
      check_can_grow(old, new, trainable.spec)
      widths = ' its carried channels fitted anew,'
    elif codec.config == trainable.config:
      check_same_shapes(codec_part(expected), codec.params)
    else:
      check_can_widen(codec.config, trainable.config)
      widths = f' widened to decoder_widths={trainable.config.decoder_widths},'
    trainable.start_from(codec)
    print(f'The codec starts from {path},{widths} {codec.content_hash}.', flush=True)
    return
  if trainable.recipe.train_only == DECODER:
    raise ValueError(
      f'{path} is a training run, whose latents and codebooks still move. Only the decoder of a '
      f'finished codec can be trained alone: give {path}/{WEIGHTS_FILE}.'
    )
  if trainable.recipe.refit_from is not None:
    raise ValueError(
      f'{path} is a training run. Only a finished codec is refitted: give {path}/{WEIGHTS_FILE}.'
    )
  params, step = restore_params(checkpoint)
  check_same_shapes(codec_part(expected), codec_part(params))
  for name in set(params) - set(codec_part(params)):
    if name not in expected or _shapes(params[name]) != _shapes(expected[name]):
      print(f'{checkpoint}: its {name} are of other sizes and start anew.', flush=True)
      del params[name]
  trainable.start_from(params)
  print(f'The codec starts from {checkpoint}, step {step}.', flush=True)


def save_codec(
  state: TrainState, trainable: CodecTrainable, feed: Any, num_batches: int, model_dir: str
) -> pathlib.Path:
  """Writes `model_dir`/codec.safetensors and returns its path; see `train_codec`.

  Where the optimizer keeps an average of the parameters, it is the average that is written. Files
  are float16, but for a release's, whose tokens need its own digits.
  """
  state = state.replace(params=averaged_params(state))
  codec = trainable.finish(state, feed.batch, num_batches)
  dtype = np.float32 if codec.release else np.float16
  path = codec.save(pathlib.Path(model_dir) / WEIGHTS_FILE, dtype, step=int(state.step))
  print(f'{path}: {path.stat().st_size / 1e6:.2f} MB, {codec.content_hash}.', flush=True)
  return path


def _check_spec(codec: SpectroStream, trainable: CodecTrainable, path: str):
  for name in ('sample_rate', 'num_channels', 'frame_rate', 'codec_levels', 'codebook_size'):
    given, wanted = getattr(codec.spec, name), getattr(trainable.spec, name)
    if given != wanted:
      raise ValueError(f'{path} has {name}={given}, the codec to be trained {wanted}.')


def _check_same_tokens(model_dir: str, path: str):
  """Raises a ValueError if `model_dir` trains the decoder of another codec than that of `path`."""
  params, _ = restore_params(find_checkpoint(model_dir))
  given = SpectroStream.load(path).params['encoder']
  pairs = zip(jax.tree.leaves(params['encoder']), jax.tree.leaves(given), strict=True)
  if not all(np.array_equal(*pair) for pair in pairs):
    raise ValueError(
      f'{model_dir} trains the decoder of another codec than {path}: give the one that it began '
      'with, or another MODEL_DIR.'
    )


def _has_begun(model_dir: str) -> bool:
  """Whether a checkpoint will be gone on from that has made its start already."""
  try:
    return find_checkpoint(model_dir).name != 'checkpoint_0'
  except FileNotFoundError:
    return False


def _shapes(tree: Any) -> Any:
  return jax.tree.map(lambda x: tuple(x.shape), tree)
