"""Builds a set of recorded music: downloads packages, takes the listed files, writes a manifest.

    python -m recipes.recorded_music.build --output_dir=music --set=train

OUTPUT/<package>/<name> are the tracks, OUTPUT/manifest.jsonl what is known of them, with licence
and attribution, and OUTPUT/credits.md the credits. The same command goes on where a run was
stopped, and changes nothing where all is there.
"""

import argparse
import collections
import csv
import dataclasses
import hashlib
import io
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import soundfile
from tqdm import tqdm

from models import folder_lock
from preprocessing import files, manifest_build, manifest_commands, outputs, quality, scan
from recipes.recorded_music import credits, mixing, packages, table
from recipes.recorded_music.table import Piece

TRACKS_FILE = 'tracks.csv'
CREDITS_FILE = 'credits.md'
PACKAGES_FOLDER = '.packages'
# A mixed track is the one listed if its length differs by less.
_SAME_SECS = 0.1
# The albums are what they are: some were mastered with a DC offset, some hard into clipping.
_LIMITS = dataclasses.replace(quality.DEFAULT_LIMITS, max_dc_offset=0.5, max_clipped_share=0.02)
_COLUMNS = (
  'path', 'title', 'artist', 'album', 'genre', 'licence', 'attribution', 'source', 'split',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What came of a build.

  Attributes:
    present: tracks that are there now.
    made: how many of them were made by this run.
    left_out: 'PATH: why' for each listed file that the package has otherwise or not at all.
    failed: {package: why} for packages that could not be had or read.
  """

  present: tuple[Piece, ...]
  made: int
  left_out: tuple[str, ...]
  failed: Mapping[str, str]

  @property
  def is_complete(self) -> bool:
    """Whether every listed track is there."""
    return not self.left_out and not self.failed

  def __str__(self) -> str:
    hours = sum(piece.secs for piece in self.present) / 3600
    lines = [f'{len(self.present)} tracks, {hours:.2f} hours; {self.made} of them are new.']
    lines += [f'  left out: {what}' for what in self.left_out]
    lines += [f'  package set aside: {name}: {why}' for name, why in self.failed.items()]
    if not self.is_complete:
      lines.append(
        f'{len(self.left_out)} files were left out and {len(self.failed)} packages set aside. Run '
        'the command again for what was not reachable. A file that differs belongs to another '
        "version of its package: use the release that the recipe's README names."
      )
    return '\n'.join(lines)


def fetch(
  pieces: Sequence[Piece],
  output: pathlib.Path,
  *,
  deb_dir: pathlib.Path | None = None,
  keep_packages: bool = False,
  download: Callable[[str, pathlib.Path], pathlib.Path] = packages.download,
) -> Outcome:
  """Downloads packages and writes the tracks that are not there yet.

  Args:
    pieces: the tracks.
    output: where to; made if absent.
    deb_dir: folder of .deb files that are looked for first.
    keep_packages: whether downloaded packages stay in OUTPUT/.packages.
    download: as `packages.download`.

  Raises:
    OSError: the disk is full, or a program is missing.
  """
  missing: dict[str, list[Piece]] = collections.defaultdict(list)
  for piece in pieces:
    if not _is_there(piece, output):
      missing[piece.package].append(piece)
  made = 0
  left_out: list[str] = []
  failed: dict[str, str] = {}
  store = output / PACKAGES_FOLDER
  for package, wanted in tqdm(sorted(missing.items()), desc='packages', disable=not missing):
    try:
      deb = _package(package, deb_dir, store, download)
      written, problems = _unpack(deb, wanted, output)
    except packages.PackageError as error:
      failed[package] = str(error)
      _forget(package, store)
      continue
    made += written
    left_out += problems
    if not keep_packages:
      _forget(package, store)
  if store.is_dir() and not any(store.iterdir()):
    store.rmdir()
  present = tuple(piece for piece in pieces if _is_there(piece, output))
  return Outcome(present, made, tuple(left_out), failed)


def build(output_dir: str | os.PathLike, pieces: Sequence[Piece], **options) -> Outcome:
  """Makes a set of music whole: tracks, table, credits and manifest.

  Args:
    output_dir: local folder; made if absent.
    pieces: the tracks.
    options: of `fetch`.

  Raises:
    ValueError: no track is there.
    FolderInUseError: another run writes there.
    OSError: see `fetch`.
  """
  output = pathlib.Path(files.absolute(output_dir))
  # A folder that holds something is not marked as one that scans of audio pass over.
  (output / PACKAGES_FOLDER).mkdir(parents=True, exist_ok=True)
  with folder_lock.locked(output, 'prepare'):
    outcome = fetch(pieces, output, **options)
    if not outcome.present:
      raise ValueError(f'No track could be made.\n{outcome}')
    write_manifest(outcome.present, output)
  return outcome


def write_manifest(pieces: Sequence[Piece], output: pathlib.Path):
  """Writes tracks.csv, credits.md and the manifest of tracks that lie in a folder.

  Every file is decoded once, for its length and quality; what does not pass is in rejects.jsonl.
  """
  files.write_whole(output / TRACKS_FILE, _table(pieces).encode())
  files.write_whole(output / CREDITS_FILE, credits.page(pieces).encode())
  manifest_commands.build(
    manifest_build.BuildOptions(
      table=str(output / TRACKS_FILE),
      journal=scan.journal_path(str(output)),
      limits=_LIMITS,
    ),
    manifest_commands.SplitOptions(validation_fraction=0, test_fraction=0, min_held_out=0),
    str(output),
  )


def _package(
  package: str,
  deb_dir: pathlib.Path | None,
  store: pathlib.Path,
  download: Callable[[str, pathlib.Path], pathlib.Path],
) -> pathlib.Path:
  """Returns the path of a .deb file: one that is there, or a downloaded one."""
  for folder in filter(None, (deb_dir, store)):
    if found := packages.find(package, folder):
      return found
  store.mkdir(parents=True, exist_ok=True)
  return download(package, store)


def _forget(package: str, store: pathlib.Path):
  """Deletes downloaded files of a package."""
  for path in store.glob(f'{package}_*.deb'):
    path.unlink()


def _unpack(
  deb: pathlib.Path, wanted: Sequence[Piece], output: pathlib.Path
) -> tuple[int, list[str]]:
  """Writes tracks out of a package; returns how many, and what is wrong with the others.

  A track is written as soon as its files are read, so that a run that is stopped keeps it.
  """
  owners = {file.path: (piece, file.md5) for piece in wanted for file in piece.files}
  read: dict[str, dict[str, bytes]] = {piece.path: {} for piece in wanted}
  wrong = dict.fromkeys(owners, 'it is not in the package')
  for path, content in packages.read_files(deb, owners):
    piece, listed = owners[path]
    md5 = hashlib.md5(content).hexdigest()
    if md5 != listed:
      wrong[path] = f'its MD5 is {md5}, the table has {listed}'
      continue
    del wrong[path]
    read[piece.path][path] = content
    if len(read[piece.path]) == len(piece.files):
      files.write_whole(output / piece.path, _content(piece, read.pop(piece.path)))
  for unfinished in read:
    (output / unfinished).unlink(missing_ok=True)
  problems = [f'{deb.name}: {path}: {why}' for path, why in sorted(wrong.items())]
  return len(wanted) - len(read), problems


def _content(piece: Piece, contents: Mapping[str, bytes]) -> bytes:
  """Returns the file of a track: the package's as it is, or its stems added up."""
  ordered = [contents[file.path] for file in piece.files]
  return ordered[0] if len(ordered) == 1 else mixing.mix(ordered)


def _is_there(piece: Piece, output: pathlib.Path) -> bool:
  """Whether a track lies in the folder and is the one listed."""
  path = output / piece.path
  if not path.is_file():
    return False
  if len(piece.files) > 1:  # Encoders differ: a mixed track has no sum to compare with.
    try:
      return abs(soundfile.info(path).duration - piece.secs) < _SAME_SECS
    except soundfile.LibsndfileError:
      return False
  return hashlib.md5(path.read_bytes()).hexdigest() == piece.files[0].md5


def _table(pieces: Iterable[Piece]) -> str:
  """Returns a table that `prepare.py --table` reads, with paths below its folder."""
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(_COLUMNS)
  for piece in pieces:
    writer.writerow(
      f'Debian {piece.package} {piece.version}' if column == 'source' else getattr(piece, column)
      for column in _COLUMNS
    )
  return text.getvalue()


def main(argv: Sequence[str] | None = None) -> None:
  """`python -m recipes.recorded_music.build --output_dir=DIR --set=train`: makes a set."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output_dir', required=True, help='folder of the set; made if absent')
  parser.add_argument('--set', nargs='+', required=True, metavar='SET', help=', '.join(table.SETS))
  parser.add_argument('--table', default=table.TABLE_FILE, help='CSV file; the own one by default')
  parser.add_argument('--deb_dir', help='folder of .deb files that are used before any download')
  parser.add_argument('--keep_packages', action='store_true',
                      help=f'keep downloaded packages in {PACKAGES_FOLDER}')  # fmt: skip
  args = parser.parse_args(argv)
  from pipelines import startup

  with startup.plain_errors('recorded_music'):
    startup.begin()
    outputs.check_folder(args.output_dir)
    outcome = build(
      args.output_dir,
      table.tracks(*args.set, path=pathlib.Path(args.table)),
      deb_dir=packages.given_folder(args.deb_dir),
      keep_packages=args.keep_packages,
    )
    print(f'{args.output_dir}: {outcome}')
    if not outcome.is_complete:
      raise SystemExit(1)


if __name__ == '__main__':
  from pipelines.startup import run_module

  run_module(main)
