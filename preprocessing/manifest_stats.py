"""What a manifest holds: hours and tracks by split, genre, tag, licence and more, with plots.

`statistics` counts, `report` says it in words, `draw` draws it.
"""

import collections
import dataclasses
import html
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from models import figures
from preprocessing import files, quality, same_recordings, splits
from preprocessing.manifest import Reject, Track
from preprocessing.measurement import Measurement

PLOT_FILE = 'manifest.png'
STATS_FILE = 'manifest_stats.json'
UNKNOWN = '(unknown)'
_SHOWN = 12
# Room in a picture, so that a single bar is no wall.
_LEAST_ROWS = 6
_SECS_PER_HOUR = 3600
# The page says what near-duplicates are, and which may lie in two splits.
_NOT_FOUND = (
  f'  Near-duplicates: up to {round(100 * same_recordings.MAX_TEMPO_CHANGE)} % in tempo and '
  f'{int(same_recordings.MAX_SEMITONES)} semitones in pitch, excerpts from about 20 s on.',
  '  Not looked for: larger changes, shorter excerpts, other performances without a common work.',
)


@dataclasses.dataclass(frozen=True)
class Share:
  """Part of a corpus: how many tracks and hours."""

  tracks: int
  hours: float


def statistics(tracks: Sequence[Track], rejects: Sequence[Reject] = ()) -> dict[str, Any]:
  """Counts of a manifest, as `manifest_stats.json` holds them.

  Every `by_...` maps a name to its `Share`, the largest first; a track counts once under each of
  its tags. `duplicates`: copies are files beyond the first of a content, near-duplicates are files
  beyond the first of a recording that are no copies.
  """
  contents = {track.sha256 for track in tracks}
  recordings = {track.recording or track.sha256 for track in tracks}
  groups = splits.groups_of(tracks)
  return {
    'tracks': len(tracks),
    'hours': sum(track.duration_secs for track in tracks) / _SECS_PER_HOUR,
    'groups': len(groups),
    'largest_group': max(map(len, groups), default=0),
    'duplicates': {
      'copies': len(tracks) - len(contents),
      'near_duplicates': len(contents) - len(recordings),
      'sets': len({track.recording for track in tracks if track.recording}),
    },
    'by_split': _shares(tracks, lambda track: (track.split or '(none yet)',)),
    'by_licence': _shares(tracks, lambda track: (track.licence,)),
    'by_genre': _shares(tracks, lambda track: (track.genre,)),
    'by_tag': _shares(tracks, lambda track: track.tags),
    'by_vocal': _shares(tracks, lambda track: (track.vocal,)),
    'by_tradition': _shares(tracks, lambda track: (track.tradition,)),
    'by_source': _shares(tracks, lambda track: (track.source,)),
    'by_sample_rate': _shares(tracks, lambda track: (f'{track.sample_rate} Hz',)),
    'by_channels': _shares(tracks, lambda track: (f'{track.channels}',)),
    'with_caption': sum(bool(track.caption) for track in tracks),
    'rejects': dict(collections.Counter(reject.reason for reject in rejects).most_common()),
  }


def _shares(
  tracks: Sequence[Track], names: Callable[[Track], Iterable[str]]
) -> dict[str, dict[str, float]]:
  counts: collections.Counter[str] = collections.Counter()
  secs: collections.Counter[str] = collections.Counter()
  for track in tracks:
    for name in dict.fromkeys(name or UNKNOWN for name in names(track)):
      counts[name] += 1
      secs[name] += track.duration_secs
  return {
    name: dataclasses.asdict(Share(counts[name], total / _SECS_PER_HOUR))
    for name, total in sorted(secs.items(), key=lambda item: (-item[1], item[0]))
  }


def report(stats: Mapping[str, Any]) -> str:
  """The statistics as a page of text."""
  copies = stats['duplicates']
  lines = [
    f'{stats["tracks"]} tracks, {_time(stats["hours"])}, {stats["groups"]} groups '
    f'(largest {stats["largest_group"]}), {stats["with_caption"]} with a caption.',
    f'Duplicates: {copies["copies"]} copies, {copies["near_duplicates"]} near-duplicates '
    f'in {copies["sets"]} sets.',
    *_NOT_FOUND,
  ]
  for name, shares in stats.items():
    if name.startswith('by_') and shares:
      lines.append(f'{name[3:].replace("_", " ").capitalize()}:')
      lines += _table(shares)
  rejected = sum(stats['rejects'].values())
  lines.append(f'Set aside: {rejected} files.')
  lines += [
    f'  {count:>7}  {reason:<20} {quality.REASONS.get(reason, "")}'
    for reason, count in stats['rejects'].items()
  ]
  return '\n'.join(lines)


def _table(shares: Mapping[str, Mapping[str, float]]) -> list[str]:
  rows = list(shares.items())
  lines = [
    f'  {share["tracks"]:>7} tracks {_time(share["hours"]):>12}  {_shown(name)}'
    for name, share in rows[:_SHOWN]
  ]
  if len(rows) > _SHOWN:
    hours = sum(share['hours'] for _, share in rows[_SHOWN:])
    lines.append(f'  {"":>14} {_time(hours):>12}  {len(rows) - _SHOWN} more')
  return lines


def _time(number: float) -> str:
  return figures.hours(number * _SECS_PER_HOUR)


def _shown(name: str) -> str:
  """A name for the terminal and for pictures: short, on one line, printable."""
  name = ' '.join(html.unescape(name).split())
  name = ''.join(letter if letter.isprintable() else '?' for letter in name)
  return name if len(name) <= 40 else f'{name[:39]}…'


def draw(
  path: str | os.PathLike,
  tracks: Sequence[Track],
  stats: Mapping[str, Any],
  measured: Sequence[Measurement] = (),
) -> str:
  """Draws the statistics into one PNG; returns its path.

  Args:
    path: of the picture, local or a URI.
    tracks: of the manifest.
    stats: of `statistics`.
    measured: of the scan, where there is one: adds loudness and bandwidth.
  """
  import io

  from matplotlib import pyplot
  from matplotlib.figure import Figure

  with pyplot.style.context('default'):
    figure = Figure(figsize=(13, 10 if measured else 7.5), layout='constrained')
    axes = figure.subplots(3 if measured else 2, 3).ravel()
    _bars(axes[0], stats['by_split'], 'Split')
    _bars(axes[1], stats['by_genre'], 'Genre')
    _bars(axes[2], stats['by_licence'], 'Licence')
    _bars(axes[3], stats['by_tradition'], 'Tradition')
    _histogram(
      axes[4], [track.duration_secs / 60 for track in tracks], 'Length', 'minutes', 'tracks'
    )
    axes[4].set_xlim(left=0)
    _rejects(axes[5], stats['rejects'])
    if measured:
      loud = [found.loudness_lufs for found in measured if found.loudness_lufs > -70]
      _histogram(axes[6], loud, 'Loudness', 'LUFS', 'files')
      band = [found.bandwidth_hz / 1000 for found in measured]
      _histogram(axes[7], band, 'Bandwidth', 'kHz', 'files')
      peaks = [found.side_db for found in measured if abs(found.side_db) < 100]
      _histogram(axes[8], peaks, 'Side against mid', 'dB', 'files')
    figure.suptitle(f'{stats["tracks"]} tracks, {_time(stats["hours"])}')
    picture = io.BytesIO()
    figure.savefig(picture, format='png', dpi=100)
  files.write_whole(path, picture.getvalue())
  return os.fspath(path)


def _bars(axes, shares: Mapping[str, Mapping[str, float]], title: str):
  """Hours by name, the largest on top."""
  rows = list(shares.items())[:_SHOWN][::-1]
  # Text of a manifest is not markup: a dollar sign would begin a formula.
  names = [_shown(name).replace('$', r'\$') for name, _ in rows]
  axes.barh(range(len(rows)), [share['hours'] for _, share in rows], color='#3b6ea5')
  axes.set_yticks(range(len(rows)), names, fontsize=8)
  axes.set_ylim(min(0, len(rows) - _LEAST_ROWS) - 0.6, len(rows) - 0.4)
  axes.set_title(title)
  axes.set_xlabel('hours')


def _histogram(axes, values: Sequence[float], title: str, unit: str, count: str):
  axes.hist(values, bins=min(30, max(5, len(values) // 5)), color='#3b6ea5', edgecolor='white')
  axes.yaxis.get_major_locator().set_params(integer=True)
  axes.set_title(title)
  axes.set_xlabel(unit)
  axes.set_ylabel(count)


def _rejects(axes, rejects: Mapping[str, int]):
  rows = list(rejects.items())[:_SHOWN][::-1]
  axes.barh(range(len(rows)), [count for _, count in rows], color='#a5473b')
  axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=8)
  axes.set_ylim(min(0, len(rows) - _LEAST_ROWS) - 0.6, len(rows) - 0.4)
  axes.xaxis.get_major_locator().set_params(integer=True)
  axes.set_title('Set aside' if rows else 'Set aside: none')
  axes.set_xlabel('files')
