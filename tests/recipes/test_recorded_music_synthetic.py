"""The synthetic music beside the recorded: parts, soundfonts from packages, what is set aside."""

import hashlib
import os
import pathlib

import pytest

from preprocessing import demo_corpus, synthesizer_midi, timbres
from recipes.recorded_music import packages, synthetic
from recipes.recorded_music.table import PackagedFile

CONTENT = b'a soundfont'


@pytest.fixture
def calls(monkeypatch):
  """What would be made, in place of music, which takes long."""
  made = []

  def write_corpus(folder, **options):
    soundfont = os.environ.get(synthesizer_midi.SOUNDFONT_VARIABLE)
    made.append((folder.name, options, soundfont))

  monkeypatch.setattr(demo_corpus, 'write_corpus', write_corpus)
  monkeypatch.setattr(
    timbres, 'write_timbres', lambda folder, **options: made.append((folder.name, options, None))
  )
  monkeypatch.delenv(synthesizer_midi.SOUNDFONT_VARIABLE, raising=False)
  return made


@pytest.fixture
def small_sets(monkeypatch):
  """Sample sets of a few bytes; packages are read by a stand-in."""
  file = PackagedFile('usr/x.sf2', hashlib.md5(CONTENT).hexdigest())
  sets = tuple(synthetic.SampleSet(name, f'{name}-package', file, 'MIT') for name in ('a', 'b'))
  monkeypatch.setattr(synthetic, 'SAMPLE_SETS', sets)
  monkeypatch.setattr(packages, 'read_files', lambda deb, paths: [(paths[0], deb.read_bytes())])


def _download(package, folder):
  path = folder / f'{package}_1_all.deb'
  path.write_bytes(CONTENT)
  return path


def test_hours_are_shared_and_every_sample_set_plays_with_its_own_soundfont(
  calls, small_sets, tmp_path
):
  assert synthetic.make(tmp_path, 2.0, download=_download) == {}
  names = [name for name, _, _ in calls]
  assert names == ['built_in', 'timbres', 'a', 'b']
  by_name = {name: options for name, options, _ in calls}
  hours = {
    name: options.get('num_works', options.get('num_clips'))
    * options.get('secs_per_work', options.get('secs_per_clip'))
    / 3600
    for name, options in by_name.items()
  }
  assert hours == pytest.approx({'built_in': 1.0, 'timbres': 0.2, 'a': 0.4, 'b': 0.4}, abs=0.01)
  assert [by_name[name].get('renderer') for name in ('built_in', 'a')] == [None, 'fluidsynth']
  assert len({by_name[name]['seed'] for name in ('built_in', 'a', 'b')}) == 3
  assert [font for _, _, font in calls[2:]] == [str(tmp_path / '.soundfonts/x.sf2')] * 2
  assert synthesizer_midi.SOUNDFONT_VARIABLE not in os.environ
  assert [path.name for path in (tmp_path / '.soundfonts').iterdir()] == ['x.sf2']


def test_soundfont_is_taken_once(small_sets, tmp_path):
  (first, _), asked = synthetic.SAMPLE_SETS, []

  def download(package, folder):
    asked.append(package)
    return _download(package, folder)

  paths = {synthetic.soundfont(first, tmp_path, None, download) for _ in range(2)}
  assert paths == {tmp_path / 'x.sf2'} and asked == ['a-package']
  (tmp_path / 'x.sf2').write_bytes(b'damaged')
  (tmp_path / '.x.sf2.123').write_bytes(b'half')
  synthetic.soundfont(first, tmp_path, None, download)
  assert asked == ['a-package'] * 2 and (tmp_path / 'x.sf2').read_bytes() == CONTENT
  assert [path.name for path in tmp_path.iterdir()] == ['x.sf2']


def test_given_package_is_used_and_kept(small_sets, tmp_path):
  given = tmp_path / 'given'
  given.mkdir()
  deb = _download('a-package', given)
  path = synthetic.soundfont(synthetic.SAMPLE_SETS[0], tmp_path / 'fonts', given, None)
  assert path.read_bytes() == CONTENT and deb.exists()


def test_parts_that_cannot_be_made_are_set_aside(calls, small_sets, tmp_path):
  def download(package, folder):
    if package == 'a-package':
      raise packages.PackageError('no such package')
    path = folder / f'{package}_1_all.deb'
    path.write_bytes(b'another version')
    return path

  failed = synthetic.make(tmp_path, 1.0, download=download)
  assert [name for name, _, _ in calls] == ['built_in', 'timbres']
  assert failed['a'] == 'no such package'
  assert failed['b'].startswith('b-package_1_all.deb: the MD5 of usr/x.sf2 is')
  assert list((tmp_path / '.soundfonts').iterdir()) == []


@pytest.mark.parametrize('hours', [0.0, -1.0, float('nan'), float('inf')])
def test_hours_that_make_no_music_are_refused(hours, tmp_path):
  with pytest.raises(ValueError, match='must be positive'):
    synthetic.make(tmp_path / 'music', hours)
  assert not (tmp_path / 'music').exists()


def test_licences_of_the_sample_sets_let_weights_be_published():
  assert {sample_set.licence for sample_set in synthetic.SAMPLE_SETS} == {'MIT'}
  assert all(pathlib.PurePosixPath(s.file.path).suffix in ('.sf2', '.sf3')
             for s in synthetic.SAMPLE_SETS)  # fmt: skip
