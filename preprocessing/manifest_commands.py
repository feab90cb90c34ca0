"""What `prepare.py manifest build | check | stats` does."""

import dataclasses
import json
import os

from tqdm import tqdm

from models import folder_lock
from preprocessing import files, manifest, manifest_build, manifest_stats, scan, splits

VERBS = ('build', 'check', 'stats')


@dataclasses.dataclass(frozen=True)
class SplitOptions:
  """How tracks are held out; see `splits.assign_splits`."""

  validation_fraction: float = 0.1
  test_fraction: float = 0.05
  min_held_out: int = splits.MIN_HELD_OUT_TRACKS
  seed: int = 0


def build(options: manifest_build.BuildOptions, held_out: SplitOptions, output_dir: str) -> str:
  """Writes manifest.jsonl, rejects.jsonl and the statistics; returns what to print.

  A manifest that lies there already says what was held out, and stays so.
  """
  splits.check_fractions(held_out.validation_fraction, held_out.test_fraction)
  output = files.absolute(output_dir)
  with folder_lock.locked(output, 'prepare'):
    return _build(options, held_out, output)


def _build(options: manifest_build.BuildOptions, held_out: SplitOptions, output: str) -> str:
  earlier = f'{output}/{manifest.MANIFEST_FILE}'
  known = manifest.read_manifest(earlier) if _exists(earlier) else []
  with tqdm(desc='reading files', unit='file', smoothing=0.05) as bar:
    tracks, rejects = manifest_build.build(
      options, known=known, progress=bar.update, begin=bar.reset
    )
  tracks = splits.assign_splits(tracks, **dataclasses.asdict(held_out))
  manifest.write_rejects(f'{output}/{manifest.REJECTS_FILE}', rejects)
  if not tracks:
    raise ValueError(f'No track is left; why stands in {output}/{manifest.REJECTS_FILE}.')
  manifest.write_manifest(earlier, tracks)
  return f'{earlier}\n{_statistics(output, tracks, rejects, output)}'


def check(path: str) -> str:
  """Reads a manifest; raises ManifestError with all faults, else says what it holds.

  The files are looked for, too: those that are missing are listed.
  """
  tracks = manifest.read_manifest(path)
  missing = [track for track in tracks if not _exists(track.path)]
  lines = [f'{path}: {len(tracks)} tracks, no fault.']
  lines += [f'  missing: {track.path!r}' for track in missing]
  return '\n'.join(lines)


def stats(path: str, output_dir: str = '') -> str:
  """Writes manifest_stats.json and the plots beside the manifest, or elsewhere; returns a page."""
  folder = files.absolute(path).rpartition('/')[0]
  rejects_path = f'{folder}/{manifest.REJECTS_FILE}'
  rejects = manifest.read_rejects(rejects_path) if _exists(rejects_path) else []
  output = files.absolute(output_dir) if output_dir else folder
  return _statistics(folder, manifest.read_manifest(path), rejects, output)


def _statistics(folder: str, tracks, rejects, output: str) -> str:
  found = manifest_stats.statistics(tracks, rejects)
  text = json.dumps(found, ensure_ascii=True, indent=2) + '\n'
  files.write_whole(f'{output}/{manifest_stats.STATS_FILE}', text.encode())
  journal = scan.journal_path(folder)
  measured = scan.measurements(journal) if os.path.isfile(journal) else {}
  some = [measured[track.path] for track in tracks if track.path in measured]
  picture = manifest_stats.draw(f'{output}/{manifest_stats.PLOT_FILE}', tracks, found, some)
  return f'{manifest_stats.report(found)}\nPlots: {picture}'


def _exists(path: str) -> bool:
  try:
    return files.state(path).size >= 0
  except OSError:
    return False
