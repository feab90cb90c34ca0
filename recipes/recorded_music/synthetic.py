"""Makes the synthetic music that belongs to the training set, and whose truth is known.

    python -m recipes.recorded_music.synthetic --output_dir=music/synthetic --hours=4

Three kinds: works of the demo's composer by the built-in synthesizer, the same composer's works
by fluidsynth with General MIDI sample sets, and clips of isolated sounds. The sample sets are
taken from Debian packages, the program fluidsynth must be installed. The same command goes on where
a run was stopped.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

from preprocessing import demo_corpus, files, outputs, synthesizer_midi, timbres
from recipes.recorded_music import packages
from recipes.recorded_music.table import PackagedFile

SOUNDFONTS_FOLDER = '.soundfonts'
_SECS_PER_WORK = 60.0
_SECS_PER_CLIP = 20.0
# Seeds that lie apart, so that no work of one part is a work of another.
_SEED_BUILT_IN, _SEED_SAMPLED, _SEED_TIMBRES = 1000, 5000, 0
_SEEDS_BETWEEN = 1000
# Shares of the hours: the built-in synthesizer, all sample sets together, isolated sounds.
_SHARE_BUILT_IN, _SHARE_SAMPLED, _SHARE_TIMBRES = 0.5, 0.4, 0.1


@dataclasses.dataclass(frozen=True)
class SampleSet:
  """A General MIDI set of sampled instruments, in a Debian package.

  Attributes:
    name: of the folder of works that it plays.
    package: that holds it.
    file: the soundfont in the package.
    licence: of the samples.
  """

  name: str
  package: str
  file: PackagedFile
  licence: str


SAMPLE_SETS = (
  SampleSet(
    'fluid', 'fluid-soundfont-gm',
    PackagedFile('usr/share/sounds/sf2/FluidR3_GM.sf2', 'af289497caf8c76d97fdc67ec8409f05'), 'MIT',
  ),
  SampleSet(
    'musescore', 'musescore-general-soundfont',
    PackagedFile('usr/share/sounds/sf3/MuseScore_General_Full.sf3',
                 '3dff921882350953a32fee6af5611668'), 'MIT',
  ),
)  # fmt: skip


def make(
  output_dir: str | os.PathLike,
  hours: float,
  *,
  deb_dir: pathlib.Path | None = None,
  download: Callable[[str, pathlib.Path], pathlib.Path] = packages.download,
) -> dict[str, str]:
  """Makes all parts; what cannot be made is set aside.

  Args:
    output_dir: local folder; made if absent. Each part is a folder in it.
    hours: of all parts together; every part has one work or clip at least.
    deb_dir: folder of .deb files that are looked for first.
    download: as `packages.download`.

  Returns:
    {part: why} for the parts that could not be made.

  Raises:
    ValueError: no positive number of hours, or a folder that holds another corpus.
  """
  if not (math.isfinite(hours) and hours > 0):
    raise ValueError(f'hours={hours} must be positive.')
  output = pathlib.Path(files.absolute(output_dir))
  demo_corpus.write_corpus(
    output / 'built_in',
    num_works=_count(hours * _SHARE_BUILT_IN, _SECS_PER_WORK),
    secs_per_work=_SECS_PER_WORK,
    seed=_SEED_BUILT_IN,
    formats=('flac',),
  )
  timbres.write_timbres(
    output / 'timbres',
    num_clips=_count(hours * _SHARE_TIMBRES, _SECS_PER_CLIP),
    secs_per_clip=_SECS_PER_CLIP,
    seed=_SEED_TIMBRES,
  )
  failed = {}
  for number, sample_set in enumerate(SAMPLE_SETS):
    try:
      path = soundfont(sample_set, output / SOUNDFONTS_FOLDER, deb_dir, download)
      with _used(path):
        demo_corpus.write_corpus(
          output / sample_set.name,
          num_works=_count(hours * _SHARE_SAMPLED / len(SAMPLE_SETS), _SECS_PER_WORK),
          secs_per_work=_SECS_PER_WORK,
          seed=_SEED_SAMPLED + number * _SEEDS_BETWEEN,
          renderer='fluidsynth',
          formats=('flac',),
        )
    except (packages.PackageError, FileNotFoundError) as error:
      failed[sample_set.name] = str(error)
  return failed


def soundfont(
  sample_set: SampleSet,
  folder: pathlib.Path,
  deb_dir: pathlib.Path | None = None,
  download: Callable[[str, pathlib.Path], pathlib.Path] = packages.download,
) -> pathlib.Path:
  """Returns the path of a soundfont, which is taken from its package at first use.

  Raises:
    PackageError: the package cannot be had, or holds another file than the one listed.
    FileNotFoundError: apt-get or dpkg-deb is missing.
  """
  listed = sample_set.file
  path = folder / pathlib.PurePosixPath(listed.path).name
  if path.is_file() and hashlib.md5(path.read_bytes()).hexdigest() == listed.md5:
    return path
  folder.mkdir(parents=True, exist_ok=True)
  for stopped in folder.glob(f'.{path.name}.*'):  # Of a run that was killed while it wrote.
    stopped.unlink()
  given = packages.find(sample_set.package, deb_dir) if deb_dir else None
  deb = given or packages.find(sample_set.package, folder) or download(sample_set.package, folder)
  try:
    for name, content in packages.read_files(deb, [listed.path]):
      if (md5 := hashlib.md5(content).hexdigest()) != listed.md5:
        raise packages.PackageError(
          f'{deb.name}: the MD5 of {name} is {md5}, the recipe has {listed.md5}; use the Debian '
          "release that the recipe's README names."
        )
      files.write_whole(path, content)
      return path
    raise packages.PackageError(f'{deb.name} does not hold {listed.path}.')
  finally:
    if deb != given:
      deb.unlink()


@contextlib.contextmanager
def _used(path: pathlib.Path) -> Iterator[None]:
  """Has fluidsynth play with a soundfont while the block runs."""
  before = os.environ.get(synthesizer_midi.SOUNDFONT_VARIABLE)
  os.environ[synthesizer_midi.SOUNDFONT_VARIABLE] = str(path)
  try:
    yield
  finally:
    del os.environ[synthesizer_midi.SOUNDFONT_VARIABLE]
    if before is not None:
      os.environ[synthesizer_midi.SOUNDFONT_VARIABLE] = before


def _count(hours: float, secs_each: float) -> int:
  return max(1, round(hours * 3600 / secs_each))


def main(argv: Sequence[str] | None = None) -> None:
  """`python -m recipes.recorded_music.synthetic --output_dir=DIR`: makes the synthetic music."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output_dir', required=True, help='folder of the music; made if absent')
  parser.add_argument('--hours', type=float, default=4.0, help='of all parts together; default 4')
  parser.add_argument('--deb_dir', help='folder of .deb files that are used before any download')
  args = parser.parse_args(argv)
  from pipelines import startup

  with startup.plain_errors('synthetic'):
    startup.begin()
    outputs.check_folder(args.output_dir)
    failed = make(args.output_dir, args.hours, deb_dir=packages.given_folder(args.deb_dir))
    for name, why in failed.items():
      print(f'set aside: {name}: {why}')
    if failed:
      raise SystemExit(1)


if __name__ == '__main__':
  from pipelines.startup import run_module

  run_module(main)
