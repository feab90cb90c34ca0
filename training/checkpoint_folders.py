"""Finds the folders MODEL_DIR/checkpoint_<step>, those that are whole, and the one to read.

A checkpoint is damaged if a file is missing or is not the one that was saved (see
`training.checksums`; older checkpoints have no checksums, and show damage when they are read). From
a MODEL_DIR the newest whole checkpoint is read, with a warning for every newer one that is damaged;
a path to a damaged checkpoint itself is an error.
"""

import json
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from models import notices
from training import checksums

PREFIX = 'checkpoint'
BROKEN_SUFFIX = '.broken'
STATE, DATASET = 'state', 'dataset'
DATA_FILE = f'{DATASET}/metadata'
_NAME = re.compile(PREFIX + r'_(\d+)')
_NEEDED = (f'{STATE}/_METADATA', f'{STATE}/manifest.ocdbt', DATA_FILE)
# T5X's file in its older layout.
_OF_T5X = 'checkpoint'

_told: set[pathlib.Path] = set()


class BrokenCheckpointError(ValueError):
  """A checkpoint is damaged, and no other may take its place; the message names file and reason."""


def step_of(checkpoint: pathlib.Path) -> int | None:
  """Returns the step in a folder's name; None if it is not a checkpoint's."""
  match = _NAME.fullmatch(checkpoint.name)
  return int(match[1]) if match else None


def saved_steps(model_dir: str | pathlib.Path) -> list[int]:
  """Returns the steps of the checkpoints in a MODEL_DIR, damaged ones too, ascending."""
  folder = pathlib.Path(model_dir)
  children = folder.iterdir() if folder.is_dir() else ()
  return sorted(step for child in children if (step := step_of(child)) is not None and _own(child))


def fault(checkpoint: pathlib.Path, part: int = 0, parts: int = 1) -> str | None:
  """Returns what is wrong with a checkpoint, with the file's name; None if it is whole.

  Args:
    checkpoint: its folder.
    part: which share of the files to hash, 0..parts - 1.
    parts: shares, such as processes that hash one each.
  """
  found = checksums.fault(checkpoint, part, parts)
  if found:
    return found
  for name in _NEEDED:
    if not (checkpoint / name).is_file():
      return f'{name} is missing'
  try:
    data = json.loads((checkpoint / DATA_FILE).read_text(encoding='utf-8'))
  except (ValueError, RecursionError) as error:
    return f'{DATA_FILE}, the position in the data, is cut or not JSON ({error})'
  return None if isinstance(data, dict) else f'{DATA_FILE} holds no position in the data'


def find_checkpoint(path: str | pathlib.Path) -> pathlib.Path:
  """Finds the folder `checkpoint_<step>` of a path: itself, or the newest whole one below it.

  Returns:
    A full path.

  Raises:
    FileNotFoundError: neither is the case.
    BrokenCheckpointError: it is damaged, or all below it are.
  """
  return read_checkpoint(path, lambda checkpoint: checkpoint)


def read_checkpoint(path: str | pathlib.Path, read: Callable[[pathlib.Path], Any]) -> Any:
  """Calls `read` with the checkpoint of `find_checkpoint` and returns its result.

  Where a checkpoint without checksums cannot be read, it counts as damaged.
  """
  path = pathlib.Path(path).expanduser().absolute()
  faults: dict[pathlib.Path, str] = {}
  for checkpoint in _meant(path):
    found = fault(checkpoint)
    if found is None:
      try:
        value = read(checkpoint)
      except BrokenCheckpointError:
        raise
      except Exception as error:
        if not shows_damage(checkpoint, error):
          raise
        found = in_words(error)
      else:
        for damaged, reason in faults.items():
          _warn(damaged, f'is damaged ({reason}) and passed over; {checkpoint.name} is read.')
        return value
    faults[checkpoint] = found
  raise broken(path, faults)


def shows_damage(checkpoint: pathlib.Path, error: Exception) -> bool:
  """Returns whether a read error means a damaged checkpoint; only without checksums."""
  # Orbax raises what it likes; these alone speak of the machine.
  of_machine = isinstance(error, MemoryError | jax.errors.JaxRuntimeError)
  return not of_machine and not checksums.listed(checkpoint)


def in_words(error: Exception) -> str:
  """Returns the reason why a checkpoint could not be read."""
  first = (str(error).splitlines() or [''])[0]
  return f'it cannot be read: {type(error).__name__}: {first[:300]}'


def set_aside(checkpoint: pathlib.Path) -> pathlib.Path:
  """Renames a damaged checkpoint to checkpoint_<step>.broken, which nothing reads or removes."""
  number, target = 1, checkpoint.with_name(checkpoint.name + BROKEN_SUFFIX)
  while target.exists():
    number += 1
    target = checkpoint.with_name(f'{checkpoint.name}.{number}{BROKEN_SUFFIX}')
  return checkpoint.rename(target)


def broken(path: pathlib.Path, faults: Mapping[pathlib.Path, str]) -> BrokenCheckpointError:
  """Makes the error for a path without a whole checkpoint.

  Args:
    path: a checkpoint, or the MODEL_DIR of all that are in `faults`.
    faults: what is wrong, by checkpoint.
  """
  if step_of(path) is None or path not in faults:
    reasons = '; '.join(f'{checkpoint.name}: {reason}' for checkpoint, reason in faults.items())
    return BrokenCheckpointError(
      f'No checkpoint in {path} is whole: {reasons}. Copy one again from where it came, or take '
      'another folder.'
    )
  others = [path.with_name(f'{PREFIX}_{step}') for step in reversed(saved_steps(path.parent))]
  whole = [other.name for other in others if other != path and fault(other) is None]
  way_out = (
    f'Whole in the same folder: {", ".join(whole)}. Name one of them, or {path.parent} for the '
    'newest.' if whole else f'No other checkpoint in {path.parent} is whole.'
  )  # fmt: skip
  return BrokenCheckpointError(f'{path} is damaged: {faults[path]}. {way_out}')


def _meant(path: pathlib.Path) -> Iterable[pathlib.Path]:
  """The checkpoints that a path may mean, in the order in which to try them."""
  if step_of(path) is not None and path.is_dir() and _own(path):
    return [path]
  steps = saved_steps(path)
  if not steps:
    beside = saved_steps(path.parent) if step_of(path) is not None else []
    others = f' Beside it lie the steps {", ".join(map(str, beside))}.' if beside else ''
    raise FileNotFoundError(
      f'{path} is neither a {PREFIX}_<step> folder nor a MODEL_DIR that holds one.{others}'
    )
  return [path / f'{PREFIX}_{step}' for step in reversed(steps)]


def _own(checkpoint: pathlib.Path) -> bool:
  """Whether a folder of that name is one of ours, whole or damaged."""
  return checkpoint.is_dir() and not (checkpoint / _OF_T5X).is_file()


def _warn(checkpoint: pathlib.Path, text: str):
  """Says it once."""
  if checkpoint not in _told:
    _told.add(checkpoint)
    notices.say(f'Warning: {checkpoint} {text}')
