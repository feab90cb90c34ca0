"""Where a run's sample audio goes, and when: WAV files by step, and audio for TensorBoard."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from models import folder_marker, notices

FOLDER = 'samples'
_STEP_FOLDER = re.compile(r'step_(\d+)')


class SampleFiles:
  """MODEL_DIR/samples/step_<step>/<stem>.wav, once in a period of steps."""

  def __init__(
    self,
    model_dir: str,
    stream: str,
    *,
    period: int,
    total_steps: int | None = None,
    tensorboard: bool = True,
  ):
    """Writes nothing yet.

    Args:
      model_dir: of the run.
      stream: folder of the events in it, such as 'training_eval/samples'.
      period: steps from one time to the next; 0 for never.
      total_steps: of the run; there samples are due, too.
      tensorboard: also write audio for TensorBoard.
    """
    self._folder = pathlib.Path(model_dir) / FOLDER
    self._event_dir = pathlib.Path(model_dir) / stream
    self._period, self._total_steps = period, total_steps
    self._tensorboard = tensorboard

  def due(self, step: int) -> bool:
    """Whether a period has ended since the samples before; they may be an earlier process's."""
    if not self._period:
      return False
    if step == self._total_steps:
      return True
    found = (_STEP_FOLDER.fullmatch(path.name) for path in self._folder.glob('step_*'))
    before = max((int(m[1]) for m in found if m and int(m[1]) < step), default=0)
    return step // self._period > before // self._period

  def write(self, step: int, samples: Mapping[str, np.ndarray], sample_rate: int):
    """Writes {file stem: float32 [samples, channels]}."""
    from preprocessing.audio import write_audio

    folder = self._folder / f'step_{step}'
    partial = folder.with_name(f'.{folder.name}')
    folder_marker.mark(self._folder, 'run')
    partial.mkdir(parents=True, exist_ok=True)
    for stem, audio in samples.items():
      write_audio(partial / f'{stem}.wav', audio, sample_rate)
    if folder.exists():  # A restarted run makes these steps again.
      for path in partial.iterdir():
        path.replace(folder / path.name)
      partial.rmdir()
    else:
      partial.rename(folder)
    writer = event_writer(self._event_dir) if self._tensorboard else None
    if writer is not None:
      named = {stem: audio[None] for stem, audio in samples.items()}
      writer.write_audios(step, named, sample_rate=sample_rate)
      writer.close()


def event_writer(folder: pathlib.Path) -> Any | None:
  """Writes audio and histograms for TensorBoard, which scalars have their own way to; else None."""
  try:
    from clu import metric_writers
  except ImportError as error:
    notices.say(f'No audio or histograms for TensorBoard: {error}')
    return None
  return metric_writers.SummaryWriter(str(folder))
