"""An evaluation that is due is made, even if the run ended in the middle of it.

A checkpoint is written before the evaluation of its step. Should that fail, a run that is started
again would find all steps made and call itself finished.
"""

import json
import pathlib

from training import disk

FILE_NAME = 'evaluating.json'


class DueEvaluation:
  """MODEL_DIR/evaluating.json, which is there from when an evaluation is due until it is made."""

  def __init__(self, model_dir: str | pathlib.Path, *, writes: bool = True):
    """Of several processes, only the first `writes`."""
    self._path, self._writes = pathlib.Path(model_dir) / FILE_NAME, writes

  def is_owed(self, step: int) -> bool:
    """Whether the evaluation of this step was begun and not made."""
    try:
      return json.loads(self._path.read_text(encoding='utf-8')) == {'step': step}
    except (FileNotFoundError, ValueError):
      return False

  def begin(self, step: int):
    """Says that the evaluation of a step is due; to be called before its checkpoint is written."""
    if not self._writes:
      return
    try:
      self._path.write_text(json.dumps({'step': step}), encoding='utf-8')
    except OSError as error:
      way_out = 'Started again, the run goes on from its newest checkpoint.'
      raise disk.disk_error(FILE_NAME, self._path.parent, error.errno, way_out) from error

  def done(self):
    """Says that it is made."""
    if self._writes:
      self._path.unlink(missing_ok=True)
