"""Work units of the tokenizer: one file of tokens for each track, keyed by content and settings.

A part is written under a temporary name, synced and renamed; then its marker is written, which
makes it count. A track that is set aside has a marker only. So a run may be killed at any moment,
and an equal run later finds what is done.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import uuid
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np

from preprocessing.features import ClipOptions, ClipTokens
from preprocessing.quality import QualityLimits

_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class TokenSettings:
  """Everything besides a file's content that its tokens depend on."""

  codec_hash: str
  style_hash: str
  clips: ClipOptions
  limits: QualityLimits

  def key(self, content_sha256: str) -> str:
    """Name of the part of a file with this content."""
    settings = dataclasses.asdict(self)
    settings['clips'].pop('clips_per_batch')
    text = json.dumps([_FORMAT, content_sha256, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclasses.dataclass(frozen=True)
class PartMarker:
  """The outcome of one work unit.

  Attributes:
    reason: '' for tokens, else a code of `quality.REASONS`.
    detail: what was found, in words.
    clip_starts: start in seconds of each clip.
    clip_frames: codec frames of each clip.
    duration_secs: decoded length.
    peak, rms_dbfs: of the samples as decoded.
    true_mono: whether all channels are equal.
  """

  reason: str = ''
  detail: str = ''
  clip_starts: tuple[float, ...] = ()
  clip_frames: tuple[int, ...] = ()
  duration_secs: float = 0.0
  peak: float = 0.0
  rms_dbfs: float = 0.0
  true_mono: bool = False


def part_path(directory: str | os.PathLike, key: str) -> pathlib.Path:
  """Where the tokens of a unit lie; parts are spread over 256 folders."""
  return pathlib.Path(directory) / key[:2] / f'{key}.npz'


def read_marker(directory: str | os.PathLike, key: str) -> PartMarker | None:
  """The outcome of a unit, or None where it is not done."""
  try:
    values = json.loads(part_path(directory, key).with_suffix('.json').read_text())
  except (FileNotFoundError, json.JSONDecodeError):
    return None
  for name in ('clip_starts', 'clip_frames'):
    values[name] = tuple(values[name])
  return PartMarker(**values)


def write_marker(directory: str | os.PathLike, key: str, marker: PartMarker):
  """Declares a unit done; its tokens must lie there already."""
  path = part_path(directory, key).with_suffix('.json')
  with atomic_file(path) as file:
    file.write(json.dumps(dataclasses.asdict(marker)).encode())


def remove_marker(directory: str | os.PathLike, key: str):
  """Makes a unit be done again."""
  part_path(directory, key).with_suffix('.json').unlink(missing_ok=True)


def write_part(directory: str | os.PathLike, key: str, clips: Sequence[ClipTokens]):
  """Writes the tokens of a track's clips."""
  arrays: dict[str, Any] = {}
  for number, clip in enumerate(clips):
    arrays[f'acoustic_tokens_{number}'] = clip.acoustic_tokens.astype(np.uint16)
    arrays[f'style_tokens_{number}'] = clip.style_tokens.astype(np.uint16)
    arrays[f'style_embeddings_{number}'] = clip.style_embeddings
  arrays['start_secs'] = np.array([clip.start_secs for clip in clips], np.float64)
  with atomic_file(part_path(directory, key)) as file:
    np.savez(file, **arrays)


def read_clip(directory: str | os.PathLike, key: str, number: int) -> ClipTokens:
  """Reads one clip of a part; the others stay on disk."""
  with np.load(part_path(directory, key)) as arrays:
    return ClipTokens(
      start_secs=float(arrays['start_secs'][number]),
      acoustic_tokens=arrays[f'acoustic_tokens_{number}'].astype(np.int32),
      style_tokens=arrays[f'style_tokens_{number}'].astype(np.int32),
      style_embeddings=arrays[f'style_embeddings_{number}'],
    )


@contextlib.contextmanager
def atomic_file(path: pathlib.Path) -> Iterator[IO[bytes]]:
  """Opens a file that appears under its name, whole and synced, only where the block succeeds."""
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:12]}')
  try:
    with open(partial, 'wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)
