"""Identifies the audio files of a run, for its checkpoints; see `training.data_state`."""

import hashlib
import json
import os
from collections.abc import Iterable

from preprocessing import files


def audio_content(paths: Iterable[str]) -> tuple[dict[str, str], ...]:
  """Describes the data of a feed of audio files: one part with 'fingerprint' and 'about'.

  The fingerprint covers names and sizes of the files, without their folders, so that a catalog may
  move. A file whose samples change but not its size is not noticed.
  """
  names = sorted([files.as_text(os.path.basename(path)), _size(path)] for path in paths)
  fingerprint = hashlib.sha256(json.dumps(names).encode()).hexdigest()
  return ({'fingerprint': fingerprint, 'about': f'{len(names)} audio files'},)


def _size(path: str) -> int:
  """Bytes; -1 for a file that is not there, of which its reader tells."""
  try:
    return files.state(path).size
  except OSError:
    return -1
