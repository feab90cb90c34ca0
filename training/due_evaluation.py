"""Remembers an evaluation that is due, so that it is made even if the run ended during it.

A checkpoint is written before the evaluation of its step. If that failed, a restarted run would
find all steps made and end.
"""

import json
import pathlib

from training import disk

FILE_NAME = 'evaluating.json'


class DueEvaluation:
  """MODEL_DIR/evaluating.json, which exists while an evaluation is due."""

  def __init__(self, model_dir: str | pathlib.Path, *, writes: bool = True):
    """Of several processes, only the first `writes`."""
    self._path, self._writes = pathlib.Path(model_dir) / FILE_NAME, writes

  def is_owed(self, step: int) -> bool:
    """Returns whether the evaluation of this step was begun and not finished."""
    try:
      return json.loads(self._path.read_text(encoding='utf-8')) == {'step': step}
    except (FileNotFoundError, ValueError):
      return False

  def begin(self, step: int):
    """Records that the evaluation of a step is due; call it before the checkpoint is written."""
    if not self._writes:
      return
    try:
      self._path.write_text(json.dumps({'step': step}), encoding='utf-8')
    except OSError as error:
      way_out = 'Started again, the run goes on from its newest checkpoint.'
      raise disk.disk_error(FILE_NAME, self._path.parent, error.errno, way_out) from error

  def done(self):
    """Records that the evaluation is finished."""
    if self._writes:
      self._path.unlink(missing_ok=True)
