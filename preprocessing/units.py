"""The two kinds of work: a track becomes a part and its marker, a range of a plan becomes a shard.

Nothing here knows of Beam: the graph calls these functions, and so may a plain loop.
"""

import dataclasses
import functools
import os
import threading
import traceback
from collections.abc import Callable
from typing import Any

from absl import logging
from etils import epath

from models.spec import MAGENTA_RT_V1, LiveMusicSpec
from preprocessing import audio, features, files, manifest, parts, quality, work

ModelLoader = Callable[[str, str], tuple[features.Codec, features.StyleModel]]


def load_models(codec: str, style: str) -> tuple[features.Codec, features.StyleModel]:
  """Loads codec and style model by bundled or released name, or by path."""
  from models.musiccoca import MusicCoCa
  from models.spectrostream import SpectroStream

  return SpectroStream.load(codec), MusicCoCa.load(style)


_LOADING = threading.Lock()


@functools.lru_cache(maxsize=1)
def _cached_models(loader: ModelLoader, codec: str, style: str):
  return loader(codec, style)


def worker_models(loader: ModelLoader, codec: str, style: str):
  """The models of this worker process: loaded at the first call, then shared by its threads."""
  with _LOADING:
    return _cached_models(loader, codec, style)


@dataclasses.dataclass(frozen=True)
class TrackUnit:
  """One track to tokenize.

  Attributes:
    key: name of its part and marker.
    path: of the audio.
    sha256: that its content must have.
  """

  key: str
  path: str
  sha256: str


@dataclasses.dataclass(frozen=True)
class ShardClip:
  """One record of a shard: where its tokens lie, and what stands beside them.

  Attributes:
    key, number: part, and clip in it.
    index: of the record in its split.
    track_id, caption, licence: of the manifest.
  """

  key: str
  number: int
  index: int
  track_id: str
  caption: str
  licence: str


@dataclasses.dataclass(frozen=True)
class TrackWork:
  """How tracks are tokenized; small and picklable, the models are loaded by the worker.

  Attributes:
    parts_dir: where parts and markers go.
    settings: what tokens depend on; the models' hashes among them.
    codec, style: names for `loader`.
    loader: (codec, style) -> models.
    spec: token layout.
  """

  parts_dir: str
  settings: parts.TokenSettings
  codec: str
  style: str
  loader: ModelLoader = load_models
  spec: LiveMusicSpec = MAGENTA_RT_V1

  def do(self, unit: TrackUnit) -> bool:
    """Leaves the unit's part and marker behind; False where they lie there already.

    Raises:
      RuntimeError: the models here are not those of the plan.
    """
    if parts.read_marker(self.parts_dir, unit.key) is not None:
      return False
    # Faults of the set-up (no weights, no memory) must stop the run, not reject every file.
    codec, style = self._models()
    try:
      marker = self._tokenize(unit, codec, style)
    except audio.AudioError as error:
      marker = parts.PartMarker(reason=error.reason, detail=str(error))
    except MemoryError:
      raise
    except Exception as error:  # noqa: BLE001  one bad file must not end a long run
      logging.exception('%s failed', unit.path)
      detail = traceback.format_exception_only(error)[-1].strip()
      marker = parts.PartMarker(reason='failed', detail=detail)
    parts.write_marker(self.parts_dir, unit.key, marker)
    return True

  def _models(self):
    codec, style = worker_models(self.loader, self.codec, self.style)
    found = (codec.content_hash, style.content_hash)
    planned = (self.settings.codec_hash, self.settings.style_hash)
    if found != planned:
      raise RuntimeError(
        f'Worker {os.getpid()} loaded the models {found}, the run was planned for {planned}.'
      )
    return codec, style

  def _tokenize(self, unit: TrackUnit, codec, style) -> parts.PartMarker:
    options = self.settings.clips
    try:
      # One copy of a remote file, one decoding of a foreign one; and none that changes meanwhile.
      with files.local_file(unit.path) as local, quality.unchanged(local):
        header = audio.read_header(local)
        if manifest.file_sha256(local) != unit.sha256:
          raise audio.AudioError('changed', f'{unit.path} has changed since the manifest was made')
        with audio.decodable(local) as samples:
          found = quality.examine_as(samples, header, self.settings.limits)
          gain = features.level_gain(found.peak, found.loudness_lufs, options)
          clips = list(
            features.tokenize_track(
              samples, found.duration_secs, gain, codec, style, options, self.spec, unit.sha256
            )
          )
    except OSError as error:
      raise audio.AudioError('unreadable', f'{unit.path}: {error.strerror or error}') from error
    parts.write_part(self.parts_dir, unit.key, clips)
    return parts.PartMarker(
      clip_starts=tuple(clip.start_secs for clip in clips),
      clip_frames=tuple(len(clip.acoustic_tokens) for clip in clips),
      duration_secs=found.duration_secs,
      peak=found.peak,
      rms_dbfs=found.rms_dbfs,
      true_mono=found.true_mono,
    )


@dataclasses.dataclass(frozen=True)
class ShardWork:
  """How shards are put together.

  Attributes:
    parts_dir: where the parts lie.
    codec_levels: levels kept; None for all.
    compression: '' or 'GZIP'.
  """

  parts_dir: str
  codec_levels: int | None = None
  compression: str = ''

  def do(self, shard: work.WorkRange) -> bool:
    """Writes the shard, one record in memory at a time; False where it lies there already."""
    from preprocessing import records

    if epath.Path(shard.target).exists():
      return False
    clips = (ShardClip(**line) for line in work.read_range(shard))
    records.write_shard(shard.target, map(self._record, clips), self.compression)
    return True

  def _record(self, clip: ShardClip) -> bytes:
    from preprocessing import records

    tokens = parts.read_clip(self.parts_dir, clip.key, clip.number)
    info = records.RecordInfo(
      clip.index, clip.track_id, tokens.start_secs, clip.caption, clip.licence
    )
    return records.encode_record(tokens, info, self.codec_levels)


def as_line(unit: Any) -> dict[str, Any]:
  """A unit as a line of a plan file."""
  return dataclasses.asdict(unit)
