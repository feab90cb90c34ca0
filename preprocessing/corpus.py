"""Preparing a corpus from end to end: manifest, tokens, splits, shards, metadata, statistics.

`prepare_corpus` reads like the story of a run. Every stage leaves files and skips what it finds
done, so that a run that was killed goes on, a second run does nothing, and a corpus that has grown
costs only what is new.
"""

import collections
import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from tqdm import tqdm

from models import folder_lock, notices
from preprocessing import (
  dataset,
  features,
  files,
  licences,
  manifest,
  manifest_build,
  parts,
  quality,
  scan,
  shards,
  splits,
  units,
)

REJECTS_FILE = manifest.REJECTS_FILE


@dataclasses.dataclass(frozen=True)
class PrepareOptions:
  """What to prepare, and how.

  Attributes:
    output_dir: where everything goes.
    audio_dir: folder of audio files, or several.
    manifest_path: a manifest made before. Alone, it is taken as it is; with a folder or a table,
      they change it.
    table, columns, table_root: a table of tracks; see `manifest_build.BuildOptions`.
    name: of the data set: lower-case letters, digits and _.
    version: of the data set.
    codec, style: models, by bundled name or path.
    clips: cutting and levelling.
    limits: quality checks.
    validation_fraction, test_fraction: shares of the tracks.
    min_held_out: tracks in each held-out split of a small catalog.
    seed: of the splits and of the order of the records.
    format: of the records.
    beam_args: options of the Beam runner; () runs in this process, a thread for each core.
    source: what the manifest says where the files are from; '' takes the folder's name.
    licence_policy: which licences are let in.
    duplicates: what happens to copies and near-duplicates: one of `manifest_build.DUPLICATES`.
    near_duplicates: whether they are looked for, by fingerprints.
    num_workers: processes that read files; 0 chooses.
  """

  output_dir: str
  audio_dir: str | tuple[str, ...] | None = None
  manifest_path: str | None = None
  table: str = ''
  columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
  table_root: str = ''
  name: str = 'corpus'
  version: str = '1.0.0'
  codec: str = 'tiny'
  style: str = 'tiny'
  clips: features.ClipOptions = features.ClipOptions()
  limits: quality.QualityLimits = quality.QualityLimits()
  validation_fraction: float = 0.1
  test_fraction: float = 0.05
  min_held_out: int = splits.MIN_HELD_OUT_TRACKS
  seed: int = 0
  format: shards.RecordFormat = shards.RecordFormat()
  beam_args: tuple[str, ...] = ()
  source: str = ''
  licence_policy: licences.LicencePolicy = licences.LicencePolicy()
  duplicates: str = 'keep'
  near_duplicates: bool = True
  num_workers: int = 0

  @property
  def output(self) -> pathlib.Path | epath.Path:
    """`output_dir`, absolute; an epath where it lies in a bucket."""
    place = files.absolute(self.output_dir)
    return epath.Path(place) if files.is_remote(place) else pathlib.Path(place)

  @property
  def dataset_dir(self) -> pathlib.Path | epath.Path:
    """Where the records of this name and version go."""
    return self.output / self.name / self.version

  @property
  def folders(self) -> tuple[str, ...]:
    """The folders of audio."""
    return (self.audio_dir,) if isinstance(self.audio_dir, str) else tuple(self.audio_dir or ())

  def build_options(self) -> manifest_build.BuildOptions:
    """How the manifest is made."""
    return manifest_build.BuildOptions(
      folders=self.folders,
      table=self.table,
      columns=self.columns,
      table_root=self.table_root,
      earlier=self.manifest_path or '',
      source=self.source,
      licence_policy=self.licence_policy,
      limits=self.limits,
      decode=self.near_duplicates,
      duplicates=self.duplicates,
      journal=scan.journal_path(self.output_dir),
      num_workers=self.num_workers,
    )

  def check(self):
    """Raises ValueError or FileNotFoundError for what would fail later."""
    if not (self.folders or self.table or self.manifest_path):
      raise ValueError('Give audio_dir (a folder), a table or a manifest.')
    if not re.fullmatch(r'[a-z][a-z0-9_]*', self.name):
      raise ValueError(
        f'name={self.name!r} is not made of lower-case letters, digits and _ (a letter first).'
      )
    if not re.fullmatch(r'\d+\.\d+\.\d+', self.version):
      raise ValueError(f'version={self.version!r} is not of the form 1.0.0.')
    self.format.check()
    if self.min_held_out < 0:
      raise ValueError(f'min_held_out={self.min_held_out} must be at least 0.')
    splits.check_fractions(self.validation_fraction, self.test_fraction)
    self.build_options().check()
    self.clips.check()
    # TensorFlow and JSON metadata take names that are UTF-8 only.
    if files.as_text(place := str(self.output)) != place:
      raise ValueError(
        f'output_dir={place!r} is not UTF-8, which names of data sets must be; give another folder.'
      )
    if self.output.exists() and not self.output.is_dir():
      raise ValueError(f'output_dir={self.output_dir} is a file.')
    dataset.check_place(self.dataset_dir)


@dataclasses.dataclass(frozen=True)
class Prepared:
  """What a run made.

  Attributes:
    dataset_dir: folder of the shards, to be read by tasks and TFDS.
    stats: content of its stats.json.
    did_work: False where everything was there already.
  """

  dataset_dir: pathlib.Path | epath.Path
  stats: dict[str, Any]
  did_work: bool


def prepare_corpus(options: PrepareOptions, load_models: Callable | None = None) -> Prepared:
  """Turns a folder of audio into token records.

  Args:
    options: what and how.
    load_models: (codec name, style name) -> models; None loads the project's own.

  Returns:
    Where the records are and their statistics.

  Raises:
    ValueError, FileNotFoundError: wrong options, no audio, or nothing usable in it.
  """
  # Check everything that can be checked before the long work.
  options.check()
  output = options.output
  for folder in options.folders:
    manifest.find_audio_files(folder)
  loader = load_models or units.load_models
  codec, style = units.worker_models(loader, options.codec, options.style)
  settings = parts.TokenSettings(
    codec.content_hash, style.content_hash, options.clips, options.limits
  )
  with folder_lock.locked(output, 'prepare'):
    return _prepare(options, settings, loader, output)


def _prepare(
  options: PrepareOptions,
  settings: parts.TokenSettings,
  loader: Callable,
  output: pathlib.Path | epath.Path,
) -> Prepared:
  # Which files there are, and what their tags say.
  tracks, rejects = _read_tracks(options, output)

  # Quality checks and tokens, one work unit a track.
  markers = dataset.tokenize(tracks, settings, options, loader, output)

  # Splits over what is left; then the order of the records.
  good = [
    # The decoded length, by which the records are counted.
    dataclasses.replace(track, duration_secs=marker.duration_secs)
    for track in tracks
    if not (marker := markers[track.track_id]).reason
  ]
  rejects += [
    manifest.Reject(track.path, marker.reason, marker.detail)
    for track in tracks
    if (marker := markers[track.track_id]).reason
  ]
  manifest.write_rejects(output / REJECTS_FILE, rejects)
  if rejects:
    notices.say(f'{len(rejects)} files are set aside: {output / REJECTS_FILE}')
  if not good:
    raise ValueError(_nothing_left(output, rejects))
  good = splits.assign_splits(
    good,
    validation_fraction=options.validation_fraction,
    test_fraction=options.test_fraction,
    min_held_out=options.min_held_out,
    seed=options.seed,
  )
  manifest.write_manifest(output / manifest.MANIFEST_FILE, good)
  clips = dataset.order_clips(good, markers, settings, options)

  # Shards, metadata, statistics; the completion marker comes last.
  stats = _statistics(good, markers, rejects, clips, settings, options)
  did_work = dataset.write_dataset(clips, stats, options, output)
  return Prepared(options.dataset_dir, stats, did_work)


def _read_tracks(options: PrepareOptions, output: pathlib.Path | epath.Path):
  build = options.build_options()
  if not (build.folders or build.table):
    # A manifest alone is taken at its word; the tokenizer looks at the files.
    tracks = manifest.read_manifest(build.earlier)
    refusals = {track.path: build.licence_policy.refusal(track.licence) for track in tracks}
    rejects = [manifest.Reject(path, 'licence', text) for path, text in refusals.items() if text]
    return [track for track in tracks if not refusals[track.path]], rejects
  earlier = output / manifest.MANIFEST_FILE
  known = manifest.read_manifest(earlier) if earlier.exists() else []
  with tqdm(desc='reading files', unit='file') as bar:
    return manifest_build.build(build, known=known, progress=bar.update, begin=bar.reset)


def _statistics(
  tracks: Sequence[manifest.Track],
  markers: dict[str, parts.PartMarker],
  rejects: Sequence[manifest.Reject],
  clips: dict[str, shards.SplitOrder],
  settings: parts.TokenSettings,
  options: PrepareOptions,
) -> dict[str, Any]:
  """What stats.json says; `fingerprint` identifies the records to the last bit."""
  seconds: dict[str, float] = collections.Counter()
  counts = collections.Counter(track.split for track in tracks)
  for track in tracks:
    seconds[track.split] += markers[track.track_id].duration_secs
  hours = sum(seconds.values()) / 3600
  return {
    'name': options.name,
    'version': options.version,
    'about': (
      f'{sum(map(len, clips.values()))} clips of {len(tracks)} tracks, {hours:.3f} hours: '
      'codec and style tokens for live music models.'
    ),
    'hours': hours,
    'splits': {
      split: {'tracks': counts[split], 'records': len(members), 'hours': seconds[split] / 3600}
      for split, members in clips.items()
    },
    'rejects': dict(collections.Counter(reject.reason for reject in rejects)),
    'genres': dict(collections.Counter(track.genre for track in tracks)),
    'licences': dict(collections.Counter(track.licence for track in tracks)),
    'true_mono_tracks': sum(markers[track.track_id].true_mono for track in tracks),
    'codec': options.codec,
    'codec_hash': settings.codec_hash,
    'style': options.style,
    'style_hash': settings.style_hash,
    'clips': dataclasses.asdict(settings.clips),
    'limits': dataclasses.asdict(settings.limits),
    'format': dataclasses.asdict(options.format),
    'seed': options.seed,
    'fingerprint': dataset.fingerprint(clips, options),
  }


def _nothing_left(output: pathlib.Path | epath.Path, rejects: Sequence[manifest.Reject]) -> str:
  reasons = collections.Counter(reject.reason for reject in rejects)
  told = '; '.join(
    f'{count} {reason} ({quality.REASONS[reason]})' for reason, count in reasons.most_common()
  )
  return (
    f'No usable track is left of {len(rejects)} files: {told}. First: {rejects[0].path}: '
    f'{rejects[0].detail}. All are listed in {output / REJECTS_FILE}.'
  )


def summary(prepared: Prepared, elapsed_secs: float) -> str:
  """A few lines for the end of a run."""
  stats = prepared.stats
  lines = [f'{prepared.dataset_dir}: {stats["about"]}']
  for split, facts in stats['splits'].items():
    lines.append(
      f'  {split:<11}{facts["tracks"]:>7} tracks {facts["records"]:>8} clips '
      f'{facts["hours"] * 60:>10.1f} minutes'
    )
  for reason, count in sorted(stats['rejects'].items()):
    lines.append(f'  set aside: {count} {reason} ({quality.REASONS[reason]})')
  done = 'Done' if prepared.did_work else 'Nothing to do'
  lines.append(f'{done} in {elapsed_secs:.1f} s.')
  return '\n'.join(lines)
