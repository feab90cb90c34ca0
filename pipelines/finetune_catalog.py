"""Facts of a catalog before it is decoded, and reasons why it cannot be tuned on."""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence

from models.bundle import Bundle
from models.record_shards import TokenFolder, find_token_folder
from preprocessing import corpus, manifest, quality, splits
from preprocessing.manifest import Reject, Track

NEEDED_SPLITS = ('train', 'validation')
_NAMED = 3  # Files of a group that a message names.


@dataclasses.dataclass(frozen=True)
class CatalogFacts:
  """Facts of a catalog before it is decoded, or after it was prepared.

  Attributes:
    tracks: number of usable ones.
    train_tracks: number of those that are trained on.
    secs: length of all tracks.
    train_secs: length of those that are trained on.
    rejects: reason -> number of files set aside.
    prepared: whether the tokens exist.
    refusal: why it cannot be tuned on; '' if nothing is known against it.
  """

  tracks: int
  train_tracks: int
  secs: float
  train_secs: float
  rejects: dict[str, int]
  prepared: bool
  refusal: str = ''


def prepare_options(
  catalog: pathlib.Path, output_dir: pathlib.Path, base: Bundle | None = None
) -> corpus.PrepareOptions:
  """Returns the options with which a fine-tuning prepares a catalog of audio.

  Args:
    catalog: folder of audio files.
    output_dir: of the fine-tuning.
    base: whose codec and style model make the tokens; None for the bundled ones.
  """
  models = {} if base is None else {'codec': base.codec_name, 'style': base.style_name}
  return corpus.PrepareOptions(
    audio_dir=str(catalog),
    output_dir=str(output_dir / 'corpus'),
    name='catalog',
    # A small catalog cannot spare a second held-out set.
    test_fraction=0.0,
    **models,
  )


def read_catalog(catalog: pathlib.Path) -> CatalogFacts:
  """Reads facts of a folder of audio (headers) or of one that prepare.py wrote (manifest).

  Raises:
    FileNotFoundError: no such folder.
    ValueError: no audio in it, or a manifest without finished token records.
  """
  path = catalog / manifest.MANIFEST_FILE
  if path.is_file():
    tracks = manifest.read_manifest(path)
    reasons, rejects, prepared = _prepared_rejects(catalog), _listed_rejects(catalog), True
  else:
    options = prepare_options(catalog, catalog)
    tracks, rejects = manifest.build_manifest(catalog)
    tracks, short = _by_header(tracks, options.limits)
    rejects += short
    tracks = splits.assign_splits(
      tracks,
      validation_fraction=options.validation_fraction,
      test_fraction=options.test_fraction,
      min_held_out=options.min_held_out,
      seed=options.seed,
    )
    reasons = dict(collections.Counter(reject.reason for reject in rejects))
    prepared = False
  training = [track for track in tracks if track.split == 'train']
  return CatalogFacts(
    len(tracks), len(training), sum(track.duration_secs for track in tracks),
    sum(track.duration_secs for track in training), reasons, prepared,
    refusal(catalog, tracks, rejects),
  )  # fmt: skip


def refusal(catalog: pathlib.Path, tracks: Sequence[Track], rejects: Sequence[Reject]) -> str:
  """Returns why tracks with their splits cannot be tuned on, and what to add; '' if they can.

  Args:
    catalog: for the message.
    tracks: usable ones.
    rejects: files that were set aside.
  """
  have = {track.split for track in tracks}
  missing = [split for split in NEEDED_SPLITS if split not in have]
  if not missing:
    return ''
  groups = splits.groups_of(tracks)
  few = f'too few for a {missing[0]} set beside the others'
  said = [f'{catalog} gives {len(tracks)} usable tracks: {few}.']
  said += [_together(group) for group in groups if len(group) > 1][:2]
  said.append(_set_aside(rejects))
  said.append(
    f'Add tracks of other works: 2 different ones are the least, {len(groups)} '
    f'{"is" if len(groups) == 1 else "are"} there.'
    if len(groups) < 2
    else 'Prepare the audio again, with a validation split.'
  )
  return ' '.join(filter(None, said))


def _together(group: Sequence[Track]) -> str:
  """Why tracks stay in one split, with the names of some."""
  names = ', '.join(pathlib.PurePath(track.path).name for track in group[:_NAMED])
  more = f' and {len(group) - _NAMED} more' if len(group) > _NAMED else ''
  if len({track.sha256 for track in group}) == 1:
    why = 'copies of one file'
  elif group[0].recording and len({track.recording for track in group}) == 1:
    why = 'copies of one recording'
  elif len({track.work for track in group}) == 1:
    why = f'versions of one work by their tags or names ({group[0].work})'
  else:
    why = 'copies or versions of each other'
  return f'{len(group)} of them are {why} and stay together: {names}{more}.'


def _set_aside(rejects: Sequence[Reject]) -> str:
  if not rejects:
    return ''
  counts = collections.Counter(reject.reason for reject in rejects)
  told = ', '.join(
    f'{count} {reason} ({quality.REASONS.get(reason, reason)})'
    for reason, count in counts.most_common()
  )
  first = rejects[0]
  return f'Set aside: {told}; the first is {first.path}: {first.detail}.'


def _by_header(
  tracks: Sequence[Track], limits: quality.QualityLimits
) -> tuple[list[Track], list[Reject]]:
  """Sets aside what the checks of samples will, as far as headers tell."""
  kept, rejects = [], []
  for track in tracks:
    if track.duration_secs < limits.min_secs:
      detail = f'{track.duration_secs:.2f} s; at least {limits.min_secs:g} s'
      rejects.append(Reject(track.path, 'too_short', detail))
    elif track.sample_rate < limits.min_sample_rate:
      detail = f'{track.sample_rate} Hz; at least {limits.min_sample_rate} Hz'
      rejects.append(Reject(track.path, 'low_sample_rate', detail))
    else:
      kept.append(track)
  return kept, rejects


def _prepared_rejects(catalog: pathlib.Path) -> dict[str, int]:
  return dict(TokenFolder(find_token_folder(catalog)).stats.get('rejects', {}))


def _listed_rejects(catalog: pathlib.Path) -> list[Reject]:
  path = catalog / manifest.REJECTS_FILE
  return manifest.read_rejects(path) if path.is_file() else []
