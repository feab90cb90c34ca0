"""The Beam graph: a list of work units, spread over workers, each unit done whole or not at all.

The graph is linear (some runners lose branches) and carries descriptions of work only: paths,
ranges, keys. Results are files; what was done is seen from the files, not from what the graph
returns. Both stages of preparation run through here: a unit is a track to tokenize, or a shard to
put together.
"""

import dataclasses
import functools
import os
import pathlib
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import apache_beam as beam
from absl import logging
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from models.spec import MAGENTA_RT_V1, LiveMusicSpec
from preprocessing import audio, features, manifest, parts, quality

DEFAULT_BEAM_ARGS = ('--runner=DirectRunner', '--direct_running_mode=in_memory')
# Beam's own DirectRunner first tries to download the Prism binary. This is the runner that it falls
# back to; it knows the same modes and touches no network.
_LOCAL_RUNNER = 'apache_beam.runners.portability.fn_api_runner.FnApiRunner'
_POLL_SECS = 0.5

ModelLoader = Callable[[str, str], tuple[features.Codec, features.StyleModel]]


def load_models(codec: str, style: str) -> tuple[features.Codec, features.StyleModel]:
  """Loads codec and style model by bundled name or path."""
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
  """One track to tokenize."""

  key: str
  path: str
  sha256: str


@dataclasses.dataclass(frozen=True)
class ShardClip:
  """One record of a shard: where its tokens lie, and what stands beside them."""

  key: str
  number: int
  index: int
  track_id: str
  caption: str
  licence: str


@dataclasses.dataclass(frozen=True)
class ShardUnit:
  """One shard to put together."""

  path: str
  clips: tuple[ShardClip, ...]


class TokenizeTrack(beam.DoFn):
  """Track units -> parts and markers. Gives the key of each unit that it did."""

  def __init__(
    self,
    parts_dir: str,
    settings: parts.TokenSettings,
    codec: str,
    style: str,
    loader: ModelLoader = load_models,
    spec: LiveMusicSpec = MAGENTA_RT_V1,
  ):
    self._parts_dir, self._settings, self._spec = parts_dir, settings, spec
    self._codec_name, self._style_name, self._loader = codec, style, loader

  def process(self, unit: TrackUnit):
    if parts.read_marker(self._parts_dir, unit.key) is not None:
      return
    # Faults of the set-up (no weights, no memory) must stop the run, not reject every file.
    codec, style = worker_models(self._loader, self._codec_name, self._style_name)
    if (codec.content_hash, style.content_hash) != (
      self._settings.codec_hash,
      self._settings.style_hash,
    ):
      raise RuntimeError(f'Worker {os.getpid()} loaded other models than the run was planned for.')
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
    parts.write_marker(self._parts_dir, unit.key, marker)
    yield unit.key

  def _tokenize(self, unit: TrackUnit, codec, style) -> parts.PartMarker:
    options = self._settings.clips
    try:
      unchanged = manifest.file_sha256(unit.path) == unit.sha256
    except OSError as error:
      raise audio.AudioError('unreadable', f'{unit.path}: {error.strerror}') from error
    if not unchanged:
      raise audio.AudioError('changed', f'{unit.path} has changed since the manifest was made')
    _, found = quality.examine(unit.path, self._settings.limits)
    gain = features.peak_gain(found.peak, options.peak_dbfs)
    clips = list(
      features.tokenize_track(
        unit.path, found.duration_secs, gain, codec, style, options, self._spec, unit.sha256
      )
    )
    parts.write_part(self._parts_dir, unit.key, clips)
    return parts.PartMarker(
      clip_starts=tuple(clip.start_secs for clip in clips),
      clip_frames=tuple(len(clip.acoustic_tokens) for clip in clips),
      duration_secs=found.duration_secs,
      peak=found.peak,
      rms_dbfs=found.rms_dbfs,
      true_mono=found.true_mono,
    )


class WriteShard(beam.DoFn):
  """Shard units -> TFRecord files, each under its name only when whole. Gives the paths."""

  def __init__(self, parts_dir: str):
    self._parts_dir = parts_dir

  def process(self, unit: ShardUnit):
    from preprocessing import records

    if os.path.exists(unit.path):
      return
    records.write_shard(unit.path, (self._record(clip) for clip in unit.clips))
    yield unit.path

  def _record(self, clip: ShardClip) -> bytes:
    from preprocessing import records

    tokens = parts.read_clip(self._parts_dir, clip.key, clip.number)
    info = records.RecordInfo(
      clip.index, clip.track_id, tokens.start_secs, clip.caption, clip.licence
    )
    return records.encode_record(tokens, info)


def pipeline_options(beam_args: Sequence[str]) -> PipelineOptions:
  """Beam's options; a DirectRunner becomes the local runner that downloads nothing."""
  options = PipelineOptions(list(beam_args))
  standard = options.view_as(StandardOptions)
  if standard.runner is None or standard.runner.lower() in ('directrunner', 'direct'):
    standard.runner = _LOCAL_RUNNER
  return options


def run_units(
  units: Sequence[Any],
  work: beam.DoFn,
  is_done: Callable[[Any], bool],
  *,
  beam_args: Sequence[str] = DEFAULT_BEAM_ARGS,
  progress: Callable[[Any], None] = lambda unit: None,
):
  """Does the units that are not done yet, on any Beam runner.

  Args:
    units: descriptions of work, small and picklable.
    work: does one unit; leaves files behind.
    is_done: tells from the files whether a unit is done.
    beam_args: options of the runner.
    progress: is called in this process with each unit that has been done.

  Raises:
    RuntimeError: the runner ended well and units are missing all the same.
  """
  pending = [unit for unit in units if not is_done(unit)]
  if not pending:
    return
  finished = threading.Event()
  watcher = threading.Thread(
    target=_watch, args=(list(pending), is_done, progress, finished), daemon=True
  )
  watcher.start()
  try:
    with beam.Pipeline(options=pipeline_options(beam_args)) as pipeline:
      _ = (
        pipeline
        | 'Units' >> beam.Create(pending)
        | 'Spread' >> beam.Reshuffle()
        | 'Work' >> beam.ParDo(work)
      )
  finally:
    finished.set()
    watcher.join()
  missing = [unit for unit in pending if not is_done(unit)]
  if missing:
    raise RuntimeError(
      f'{len(missing)} of {len(pending)} work units are missing after the run, e.g. {missing[0]}. '
      'Run again to complete them; if it stays so, this runner loses data.'
    )


def _watch(pending: list, is_done, progress, finished: threading.Event):
  while pending:
    last_look = finished.is_set()
    done = [unit for unit in pending if is_done(unit)]
    for unit in done:
      progress(unit)
    gone = set(map(id, done))
    pending = [unit for unit in pending if id(unit) not in gone]
    if last_look:
      return
    finished.wait(_POLL_SECS)


def track_is_done(parts_dir: str | pathlib.Path, unit: TrackUnit) -> bool:
  """Whether a track has its marker."""
  return parts.part_path(parts_dir, unit.key).with_suffix('.json').exists()


def shard_is_done(unit: ShardUnit) -> bool:
  """Whether a shard lies under its name; it is renamed to it only when whole."""
  return os.path.exists(unit.path)
