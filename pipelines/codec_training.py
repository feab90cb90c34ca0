"""What a codec's training run leaves: one weights file that SpectroStream.load reads."""

import pathlib
from typing import Any

import numpy as np

from models.spectrostream import SpectroStream
from training.state import TrainState

WEIGHTS_FILE = 'codec.safetensors'


def save_codec(state: TrainState, trainable: Any, model_dir: str) -> pathlib.Path:
  """Writes MODEL_DIR/codec.safetensors (float16) and returns its path.

  Args:
    state: the last state of the run.
    trainable: a `CodecTrainable`.
    model_dir: of the run.

  Raises:
    ValueError: the run ended before its codebooks were made.
  """
  if not float(state.aux['calibrated']):
    first = min(trainable.calibration_steps, default=None)
    raise ValueError(
      f'The run ended at step {int(state.step)}, before k-means made its codebooks (calibration '
      f'step {first}): there is no codec to save yet. Start it again to go on.'
    )
  codebooks = np.asarray(state.aux['codebooks'])
  codec = SpectroStream(trainable.config, state.params, codebooks, trainable.spec)
  path = codec.save(pathlib.Path(model_dir) / WEIGHTS_FILE, step=int(state.step))
  print(f'{path}: {path.stat().st_size / 1e6:.2f} MB, {codec.content_hash}.', flush=True)
  return path
