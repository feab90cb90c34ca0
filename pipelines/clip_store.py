"""Clips of a report on disk, so that memory stays small and a run goes on where one stopped.

A clip is a FLAC file and an .npz with its codes and facts, both named by a hash of all that it
depends on. Only one clip's audio is in memory at a time.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import soundfile

from models import folder_marker

_HEADROOM = 0.25  # 12 dB, as a power of two: overloads are kept, nothing is rounded but 2 bits.
_BLOCK = 65_536


@dataclasses.dataclass(frozen=True)
class Made:
  """What a clip consists of when it is made.

  Attributes:
    audio: float32 [samples, channels].
    codes: int [frames, levels] of it, where they are known.
    facts: JSON values.
  """

  audio: np.ndarray
  codes: np.ndarray | None = None
  facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Sample:
  """A clip of a report, whose audio lies on disk.

  Attributes:
    key: names it and its file in the report; letters, digits and '_'.
    column: model or anchor that it belongs to.
    kind: 'model' or 'anchor'.
    source: 'recording', 'prompt', 'continuation', 'transition' or 'stream'.
    track_id: that it goes back to.
    title: of that track, or the prompt.
    digest: hash of all that it depends on.
    path: of its audio.
    codes: int [frames, levels], or None.
    facts: JSON values: seconds given, wall times, seed, ...
  """

  key: str
  column: str
  kind: str
  source: str
  track_id: str
  title: str
  digest: str
  path: pathlib.Path
  codes: np.ndarray | None
  facts: dict[str, Any]

  def audio(self) -> np.ndarray:
    """float32 [samples, channels], read from disk."""
    samples, _ = soundfile.read(self.path, dtype='float32', always_2d=True)
    return samples / np.float32(_HEADROOM)

  @property
  def given_samples(self) -> int:
    """Samples at its start that the model was given."""
    return int(self.facts.get('given_samples', 0))

  def new_audio(self) -> np.ndarray:
    """Without what was given."""
    return self.audio()[self.given_samples :]


class ClipStore:
  """Makes clips or finds them made.

  Attributes:
    folder: of the files.
    reused: clips that did not have to be made.
    made: clips that had.
  """

  def __init__(self, folder: pathlib.Path, sample_rate: int):
    folder_marker.mark(folder, 'report')
    self.folder, self.sample_rate = folder, sample_rate
    self.reused = self.made = 0

  def take(
    self, depends_on: Sequence[Any], make: Callable[[], Made], **described: Any
  ) -> Sample:
    """The clip for what it depends on (JSON values), made now if it is not there.

    Args:
      depends_on: content: hashes of weights and audio, seeds, options.
      make: makes it.
      described: key, column, kind, source, track_id and title of the `Sample`.
    """
    text = json.dumps(depends_on, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:24]
    path, notes = self.folder / f'{digest}.flac', self.folder / f'{digest}.npz'
    if notes.is_file() and path.is_file():
      self.reused += 1
    else:
      self._write(make(), path, notes)
      self.made += 1
    with np.load(notes) as file:
      codes = file.get('codes')
      facts = json.loads(str(file['facts']))
    return Sample(digest=digest, path=path, codes=codes, facts=facts, **described)

  def _write(self, made: Made, path: pathlib.Path, notes: pathlib.Path):
    audio = np.asarray(made.audio, np.float32) * np.float32(_HEADROOM)
    partial = path.with_suffix('.partial')
    with soundfile.SoundFile(
      partial, 'w', self.sample_rate, audio.shape[1], format='FLAC', subtype='PCM_24'
    ) as file:
      for start in range(0, len(audio), _BLOCK):
        file.write(np.clip(audio[start : start + _BLOCK], -1, 1))
    os.replace(partial, path)
    arrays = {'facts': np.array(json.dumps(made.facts))}
    if made.codes is not None:
      arrays['codes'] = np.asarray(made.codes, np.int32)
    # The notes last: they say that the audio is whole.
    with open(partial, 'wb') as file:
      np.savez(file, **arrays)
    os.replace(partial, notes)
