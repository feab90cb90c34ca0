"""The marker of folders that Woodshed made: scans skip them, and no other folders are removed.

A folder is marked when it is made. A folder that already holds something is the user's and is never
marked. Older folders have no marker; those that hold audio are recognized by the files beside them.
"""

import json
import os
import pathlib
from collections.abc import Collection

from etils import epath

MARKER_FILE = '.woodshed.json'
_ABOUT = (
  'Woodshed made this folder. Scans of audio pass it over; remove this file to have it scanned.'
)
# Folder -> the names that lie beside it in what earlier versions wrote, and the kind of output.
_OLDER = {
  'audio': ({'report.html', 'report.json'}, 'report'),
  'cache': ({'measured.jsonl'}, 'report'),
  'samples': ({'config.gin', 'model-info.txt'}, 'run'),
  'demos': ({'progress.json', 'model.gin', 'run'}, 'finetune'),
}
_INFERENCE_AUDIO = '-audio'


def mark(folder: str | os.PathLike, kind: str) -> bool:
  """Makes a folder and marks it if it is new or empty; a folder with content stays as it is.

  Args:
    folder: local or in a bucket.
    kind: what made it, in a word: 'prepare', 'run', 'finetune', 'report', ...

  Returns:
    Whether the folder has a marker now.

  Raises:
    OSError: it cannot be made or written.
  """
  place = _path(folder)
  if (place / MARKER_FILE).exists():
    return True
  place.mkdir(parents=True, exist_ok=True)
  if any(True for _ in place.iterdir()):
    return False
  text = json.dumps({'made_by': 'Woodshed', 'kind': kind, 'about': _ABOUT}, indent=2)
  (place / MARKER_FILE).write_text(text + '\n')
  return True


def kind_of(folder: str | os.PathLike) -> str:
  """Returns what made a folder, by its marker; '' if it has none."""
  marker = _path(folder) / MARKER_FILE
  try:
    text = marker.read_text()
  except (FileNotFoundError, NotADirectoryError):
    return ''
  except (OSError, UnicodeDecodeError):
    return 'unknown'  # It is there.
  try:
    return str(json.loads(text)['kind'])
  except (ValueError, KeyError, TypeError):
    return 'unknown'


def older_kind(name: str, beside: Collection[str]) -> str:
  """Returns what made a folder without a marker, by the names beside it; '' if unknown.

  Only folders of audio with unmistakable neighbours are recognized.
  """
  neighbours, kind = _OLDER.get(name, (None, ''))
  if neighbours is not None and neighbours <= set(beside):
    return kind
  table = f'{name.removesuffix(_INFERENCE_AUDIO)}.jsonl-'
  if name.endswith(_INFERENCE_AUDIO) and any(other.startswith(table) for other in beside):
    return 'infer'
  return ''


def _path(folder: str | os.PathLike) -> pathlib.Path | epath.Path:
  text = os.fspath(folder)
  return epath.Path(text) if '://' in text else pathlib.Path(text)


def remove_empty(folder: str | os.PathLike):
  """Removes a folder that holds a marker and nothing else."""
  path = pathlib.Path(folder)
  if [child.name for child in path.iterdir()] == [MARKER_FILE]:
    (path / MARKER_FILE).unlink()
    path.rmdir()
