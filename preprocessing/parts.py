"""Work units of the tokenizer: one file of tokens for each track, keyed by content and settings.

A part is written under a temporary name, synced and renamed; then its marker is written, which
makes it count. A track that is set aside has a marker only. So a run may be killed at any moment,
and an equal run later finds what is done. Directories are local or, by etils.epath, in a bucket,
where a file appears when it is closed and there is nothing to rename.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from typing import IO

import numpy as np
import safetensors.numpy
from etils import epath

from preprocessing import files
from preprocessing.features import ClipOptions, ClipTokens
from preprocessing.quality import QualityLimits

_FORMAT = 2
_DTYPES = {'U16': '<u2', 'F32': '<f4', 'F64': '<f8'}
_READERS = 32
# What `atomic_file` calls a file until it is whole.
_TEMPORARY = re.compile(r'\..+\.[0-9a-f]{12}')
# A temporary file that nobody has touched for so long was left by a run that was killed.
_STALE_SECS = 3600


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


def part_path(directory: epath.PathLike, key: str) -> epath.Path:
  """Where the tokens of a unit lie; parts are spread over 256 folders."""
  return epath.Path(directory) / key[:2] / f'{key}.safetensors'


def marker_path(directory: epath.PathLike, key: str) -> epath.Path:
  """Where the outcome of a unit lies."""
  return epath.Path(directory) / key[:2] / f'{key}.json'


def done_keys(directory: epath.PathLike) -> set[str]:
  """Keys of all units that have a marker, by listing folders: one look for each 256th of them."""
  root = epath.Path(directory)
  folders = [root / f'{number:02x}' for number in range(256)]

  def listed(folder: epath.Path) -> list[str]:
    try:
      names = os.listdir(folder) if is_local(folder) else [path.name for path in folder.iterdir()]
    except FileNotFoundError:
      return []
    return [name[:-5] for name in names if name.endswith('.json') and not name.startswith('.')]

  if is_local(root):
    return {key for folder in folders for key in listed(folder)}
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    return {key for keys in pool.map(listed, folders) for key in keys}


def read_markers(
  directory: epath.PathLike, keys: Collection[str]
) -> dict[str, PartMarker | None]:
  """The outcomes of many units; from a bucket, many at a time."""
  if is_local(directory):
    return {key: read_marker(directory, key) for key in keys}
  with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
    return dict(zip(keys, pool.map(lambda key: read_marker(directory, key), keys), strict=True))


def read_marker(directory: epath.PathLike, key: str) -> PartMarker | None:
  """The outcome of a unit, or None where it is not done."""
  try:
    values = json.loads(marker_path(directory, key).read_text())
  except (FileNotFoundError, json.JSONDecodeError):
    return None
  for name in ('clip_starts', 'clip_frames'):
    values[name] = tuple(values[name])
  return PartMarker(**values)


def write_marker(directory: epath.PathLike, key: str, marker: PartMarker):
  """Declares a unit done; its tokens must lie there already."""
  with atomic_file(marker_path(directory, key)) as file:
    file.write(json.dumps(dataclasses.asdict(marker)).encode())


def remove_marker(directory: epath.PathLike, key: str):
  """Makes a unit be done again."""
  marker_path(directory, key).unlink(missing_ok=True)


def write_part(directory: epath.PathLike, key: str, clips: Sequence[ClipTokens]):
  """Writes the tokens of a track's clips: a safetensors file."""
  arrays: dict[str, np.ndarray] = {}
  for number, clip in enumerate(clips):
    arrays[f'acoustic_tokens_{number}'] = clip.acoustic_tokens.astype(np.uint16)
    arrays[f'style_tokens_{number}'] = clip.style_tokens.astype(np.uint16)
    arrays[f'style_embeddings_{number}'] = clip.style_embeddings
  arrays['start_secs'] = np.array([clip.start_secs for clip in clips], np.float64)
  with atomic_file(part_path(directory, key)) as file:
    file.write(safetensors.numpy.save(arrays))


def read_clip(directory: epath.PathLike, key: str, number: int) -> ClipTokens:
  """Reads one clip of a part; the others stay on disk."""
  # Not numpy's own format: its header goes through `ast`, which CPython before 3.11.8 and 3.12.1
  # does not let several threads use at once.
  with part_path(directory, key).open('rb') as file:
    header_size = int.from_bytes(file.read(8), 'little')
    header = json.loads(file.read(header_size))

    def array(name: str) -> np.ndarray:
      begin, end = header[name]['data_offsets']
      file.seek(8 + header_size + begin)
      values = np.frombuffer(file.read(end - begin), _DTYPES[header[name]['dtype']])
      return values.reshape(header[name]['shape'])

    return ClipTokens(
      start_secs=float(array('start_secs')[number]),
      acoustic_tokens=array(f'acoustic_tokens_{number}').astype(np.int32),
      style_tokens=array(f'style_tokens_{number}').astype(np.int32),
      style_embeddings=array(f'style_embeddings_{number}'),
    )


def is_local(path: epath.PathLike) -> bool:
  """Whether a path is one of the operating system's, not of a bucket (`gs://`, `s3://`)."""
  return '://' not in os.fspath(path)


@contextlib.contextmanager
def atomic_file(path: epath.PathLike) -> Iterator[IO[bytes]]:
  """Opens a file that appears under its name, whole and synced, only where the block succeeds.

  What is opened is a local file with a name. For a bucket it is copied at the end.
  """
  if not is_local(path):
    yield from _uploaded(epath.Path(path))
    return
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:12]}')
  try:
    with files.writing(path), open(partial, 'wb') as file:
      yield file
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)


def _uploaded(path: epath.Path) -> Iterator[IO[bytes]]:
  with tempfile.NamedTemporaryFile() as file:
    yield file
    file.flush()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      with open(file.name, 'rb') as whole, path.open('wb') as remote:
        shutil.copyfileobj(whole, remote, 1 << 20)
    except BaseException:
      path.unlink(missing_ok=True)
      raise


def remove_stale(directory: epath.PathLike):
  """Removes temporary files of runs that were killed; those of a run beside this one stay."""
  if not is_local(directory):
    return
  newest = time.time() - _STALE_SECS
  for path in pathlib.Path(directory).glob('[0-9a-f][0-9a-f]/.*'):
    with contextlib.suppress(FileNotFoundError):
      if is_temporary(path.name) and path.stat().st_mtime < newest:
        path.unlink()


def is_temporary(name: str) -> bool:
  """Returns whether a file name is one that `atomic_file` uses until the file is whole."""
  return _TEMPORARY.fullmatch(name) is not None
