"""Checks the paths in macros before any work: inputs exist, outputs can be written."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from preprocessing import files, outputs

INPUTS = ('DATA_DIR', 'HELD_OUT_DIR', 'REPLAY_DATA_DIR')
_FOLDERS = ('REPLAY_DATA_DIR',)  # The others may be a manifest.
OUTPUTS = ('MODEL_DIR', 'EVAL_OUTPUT_DIR', 'INFER_OUTPUT_DIR', 'OUTPUT_DIR')


def check(values: Mapping[str, Any], *, writes: bool):
  """Refuses folders that are not there or cannot be written.

  Args:
    values: of macros; those that are neither text nor several texts are ignored.
    writes: whether the run will write anything.

  Raises:
    FileNotFoundError: an input does not exist.
    ValueError: an output cannot be written, or an input is a file where a folder is needed.
    OSError: a path cannot be looked at.
  """
  for name in INPUTS:
    for value in texts(values.get(name)):
      _check_input(name, value)
  for name in OUTPUTS if writes else ():
    if isinstance(value := values.get(name), str):
      outputs.check_folder(value)


def texts(value: Any) -> Sequence[str]:
  """The texts of a macro that holds one, or several in a tuple or list; () of any other."""
  several = [value] if isinstance(value, str) else value
  if not isinstance(several, list | tuple) or not all(isinstance(one, str) for one in several):
    return ()
  return several


def _check_input(name: str, value: str):
  if files.is_remote(value):
    return
  path = pathlib.Path(value).expanduser()
  if not path.exists():
    raise FileNotFoundError(f'{name} = {value!r} does not exist.')
  if name in _FOLDERS and not path.is_dir():
    raise ValueError(f'{name} = {value!r} is a file; give the folder that prepare.py wrote.')
