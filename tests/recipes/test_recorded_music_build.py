"""Building a set of recorded music from small packages and a stand-in for apt-get."""

import csv
import dataclasses
import hashlib
import io
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import soundfile

from preprocessing import manifest
from recipes.recorded_music import build, mixing, packages
from recipes.recorded_music.table import PackagedFile, Piece

ROOT = pathlib.Path(__file__).parents[2]
RATE = 16_000
pytestmark = pytest.mark.skipif(not shutil.which('dpkg-deb'), reason='dpkg-deb is not installed')

# Takes packages out of $MIRROR and says what was asked for; stops on the way where $HANG names one.
APT_GET = """#!/bin/sh
echo "$3" >> "$MIRROR/asked"
case "$3" in
  "$HANG")
    head -c 300 "$MIRROR/$3_1-1_all.deb" > "$3_1-1_all.deb"
    echo $$ > "$MIRROR/hangs.new"; mv "$MIRROR/hangs.new" "$MIRROR/hangs"
    while true; do sleep 0.05; done;;
esac
if test -f "$MIRROR/$3_1-1_all.deb"; then cp "$MIRROR/$3_1-1_all.deb" .; else
  echo "W: Download is performed unsandboxed as root" >&2
  echo "E: Unable to locate package $3" >&2; exit 100
fi
"""


def _sound(seed, file_format='WAV', channels=2, gain=0.3):
  rng = np.random.default_rng(seed)
  written = io.BytesIO()
  t = np.arange(5 * RATE) / RATE
  x = np.sin(2 * np.pi * rng.uniform(200, 2000, channels) * t[:, None]) * gain
  soundfile.write(written, x + rng.normal(0, 0.01, x.shape), RATE, format=file_format)
  return written.getvalue()


SOUNDS = {
  'plain/usr/share/one.wav': _sound(1),
  'plain/usr/share/two.flac': _sound(2, 'FLAC'),
  'songs/usr/song.wav': _sound(3, gain=0.8),
  'songs/usr/guitar.wav': _sound(4, gain=0.8),
  'zipped/usr/data.zip!music/wow!.wav': _sound(5),
}


def _pack(folder, mirror, package):
  root = folder / package
  (root / 'DEBIAN').mkdir(parents=True)
  (root / 'DEBIAN/control').write_text(
    f'Package: {package}\nVersion: 1-1\nArchitecture: all\nMaintainer: x <x@y.z>\nDescription: x\n'
  )
  archives = {}
  for name, content in SOUNDS.items():
    if not name.startswith(f'{package}/'):
      continue
    path, _, inner = name.removeprefix(f'{package}/').partition('!')
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    if inner:
      archives.setdefault(path, {})[inner] = content
    else:
      (root / path).write_bytes(content)
  for path, contents in archives.items():
    with zipfile.ZipFile(root / path, 'w') as archive:
      for inner, content in contents.items():
        archive.writestr(inner, content)
  command = ['dpkg-deb', '--root-owner-group', '--build', root, mirror / f'{package}_1-1_all.deb']
  subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope='module')
def packed(tmp_path_factory):
  folder = tmp_path_factory.mktemp('packed')
  mirror = folder / 'mirror'
  mirror.mkdir()
  for package in ('plain', 'songs', 'zipped'):
    _pack(folder, mirror, package)
  return mirror


@pytest.fixture
def mirror(packed, tmp_path, monkeypatch):
  """A mirror of three packages, with apt-get on the PATH that takes from it."""
  folder = tmp_path / 'mirror'
  shutil.copytree(packed, folder)
  programs = tmp_path / 'bin'
  programs.mkdir()
  (programs / 'apt-get').write_text(APT_GET)
  (programs / 'apt-get').chmod(stat.S_IRWXU)
  monkeypatch.setenv('PATH', f'{programs}{os.pathsep}{os.environ["PATH"]}')
  monkeypatch.setenv('MIRROR', str(folder))
  return folder


def _piece(package, name, *paths, **changes):
  files = tuple(
    PackagedFile(path, hashlib.md5(SOUNDS[f'{package}/{path}']).hexdigest()) for path in paths
  )
  values = {
    'set': 'train', 'split': 'train', 'package': package, 'version': '1-1', 'files': files,
    'secs': 5.0, 'name': name, 'title': name, 'artist': 'Somebody', 'album': '', 'genre': 'jazz',
    'licence': 'CC-BY-4.0', 'rights_holder': '2020 Somebody', 'source': '',
    'stated_in': 'copyright',
  }  # fmt: skip
  return Piece(**values | changes)


PIECES = (
  _piece('plain', 'one.wav', 'usr/share/one.wav'),
  _piece('plain', 'two.flac', 'usr/share/two.flac', split='validation'),
  _piece('songs', 'song.flac', 'usr/song.wav', 'usr/guitar.wav'),
  _piece('zipped', 'wow!.wav', 'usr/data.zip!music/wow!.wav'),
)


def _asked(mirror):
  path = mirror / 'asked'
  return path.read_text().split() if path.exists() else []


def _names(folder):
  return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def _wrong(piece):
  first = dataclasses.replace(piece.files[0], md5='0' * 32)
  return dataclasses.replace(piece, files=(first, *piece.files[1:]))


def test_set_is_built_with_manifest_and_credits_and_a_second_run_asks_for_nothing(mirror, tmp_path):
  output = tmp_path / 'music'
  outcome = build.build(output, PIECES)
  assert (outcome.is_complete, outcome.made, len(outcome.present)) == (True, 4, 4)
  assert (output / 'plain/one.wav').read_bytes() == SOUNDS['plain/usr/share/one.wav']
  assert (output / 'zipped/wow!.wav').read_bytes() == SOUNDS['zipped/usr/data.zip!music/wow!.wav']
  assert _asked(mirror) == ['plain', 'songs', 'zipped']
  assert not [name for name in _names(output) if name.endswith('.deb') or '.partial' in name]

  tracks = {track.title: track for track in manifest.read_manifest(output / 'manifest.jsonl')}
  assert sorted(tracks) == ['one.wav', 'song.flac', 'two.flac', 'wow!.wav']
  assert [tracks[name].split for name in ('one.wav', 'two.flac')] == ['train', 'validation']
  one = tracks['one.wav']
  assert one.path == str(output / 'plain/one.wav')
  assert (one.licence, one.artist, one.genre) == ('CC-BY-4.0', 'Somebody', 'jazz')
  assert one.attribution == PIECES[0].attribution
  assert one.source == 'Debian plain 1-1'
  assert '| one.wav | Somebody | 2020 Somebody |' in (output / 'credits.md').read_text()

  # A scan of the folder above finds the tracks, as of any folder of music.
  found, _ = manifest.find_audio_files(tmp_path)
  assert {str(output / piece.path) for piece in PIECES} <= set(found)

  before = {name: (output / name).stat().st_mtime_ns for name in _names(output) if '/' in name}
  again = build.build(output, PIECES)
  assert (again.is_complete, again.made) == (True, 0)
  assert _asked(mirror) == ['plain', 'songs', 'zipped']
  assert before == {name: (output / name).stat().st_mtime_ns for name in before}


def test_stems_are_added_up_and_kept_below_full_scale(mirror, tmp_path):
  build.fetch(PIECES[2:3], tmp_path / 'music')
  mixed, rate = soundfile.read(tmp_path / 'music/songs/song.flac')
  stems = [soundfile.read(io.BytesIO(SOUNDS[f'songs/usr/{n}.wav']))[0] for n in ('song', 'guitar')]
  total = stems[0] + stems[1]
  peak = 10 ** (-0.1 / 20)
  assert rate == RATE and np.abs(total).max() > 1
  np.testing.assert_allclose(mixed, total * peak / np.abs(total).max(), atol=1e-4)


def test_quiet_stems_are_added_up_as_they_are():
  sounds = [_sound(seed, gain=0.2) for seed in (1, 2)]
  mixed, _ = soundfile.read(io.BytesIO(mixing.mix(sounds)))
  total = sum(soundfile.read(io.BytesIO(sound))[0] for sound in sounds)
  np.testing.assert_allclose(mixed, total, atol=1e-4)


def test_stems_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match=r'differ in .*\(16000, 80000, 1\), \(16000, 80000, 2\)'):
    mixing.mix([_sound(1), _sound(2, channels=1)])


def test_file_that_differs_is_named_left_out_and_counted_and_no_old_one_stays(mirror, tmp_path):
  output = tmp_path / 'music'
  (output / 'plain').mkdir(parents=True)
  (output / 'plain/one.wav').write_bytes(b'of another version')
  pieces = (_wrong(PIECES[0]), *PIECES[1:2], _wrong(PIECES[2]))
  outcome = build.build(output, pieces)
  assert not outcome.is_complete and outcome.present == PIECES[1:2]
  md5 = PIECES[0].files[0].md5
  assert outcome.left_out == (
    f'plain_1-1_all.deb: usr/share/one.wav: its MD5 is {md5}, the table has {"0" * 32}',
    f'songs_1-1_all.deb: usr/song.wav: its MD5 is {PIECES[2].files[0].md5}, the table has '
    f'{"0" * 32}',
  )
  assert '2 files were left out and 0 packages set aside' in str(outcome)
  assert [name for name in _names(output) if '/' in name] == ['plain/two.flac']
  (track,) = manifest.read_manifest(output / 'manifest.jsonl')
  assert track.title == 'two.flac'


def test_file_that_is_not_in_the_package_is_named(mirror, tmp_path):
  absent = dataclasses.replace(PIECES[0], files=(PackagedFile('usr/three.wav', '0' * 32),))
  outcome = build.fetch((absent,), tmp_path / 'music')
  assert outcome.left_out == ('plain_1-1_all.deb: usr/three.wav: it is not in the package',)


def test_package_that_fails_is_set_aside_and_tried_again(mirror, tmp_path):
  output = tmp_path / 'music'
  (mirror / 'songs_1-1_all.deb').rename(mirror / 'kept')
  outcome = build.fetch(PIECES, output)
  assert dict(outcome.failed) == {
    'songs': 'apt-get download songs failed: E: Unable to locate package songs'
  }
  assert len(outcome.present) == 3
  (mirror / 'kept').rename(mirror / 'songs_1-1_all.deb')
  again = build.fetch(PIECES, output)
  assert (again.is_complete, again.made) == (True, 1)
  assert _asked(mirror) == ['plain', 'songs', 'zipped', 'songs']


@pytest.mark.parametrize('kept', [0.2, 0.9])
def test_damaged_package_is_set_aside_and_not_kept(mirror, tmp_path, kept):
  path = mirror / 'zipped_1-1_all.deb'
  path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
  outcome = build.fetch(PIECES, tmp_path / 'music', keep_packages=True)
  assert list(outcome.failed) == ['zipped'] and 'is damaged' in outcome.failed['zipped']
  assert len(outcome.present) == 3
  kept_packages = [name for name in _names(tmp_path / 'music') if name.endswith('.deb')]
  assert kept_packages == ['.packages/plain_1-1_all.deb', '.packages/songs_1-1_all.deb']


def test_folder_of_packages_is_used_before_any_download(mirror, tmp_path):
  outcome = build.fetch(PIECES, tmp_path / 'music', deb_dir=mirror)
  assert outcome.is_complete and _asked(mirror) == []
  assert len(list(mirror.glob('*.deb'))) == 3


def test_set_of_which_nothing_is_there_is_refused_with_the_reasons(mirror, tmp_path):
  with pytest.raises(ValueError, match='No track could be made.*\n.*\n.*its MD5 is'):
    build.build(tmp_path / 'music', [_wrong(PIECES[0])])


def test_missing_programs_are_named_with_the_way_out(tmp_path, monkeypatch):
  monkeypatch.setenv('PATH', str(tmp_path))
  with pytest.raises(FileNotFoundError, match='apt-get is not on the PATH.*--deb_dir'):
    packages.download('plain', tmp_path)
  with pytest.raises(FileNotFoundError, match='dpkg-deb is not on the PATH'):
    list(packages.read_files(tmp_path / 'a.deb', ['x']))


def _write_table(path, pieces):
  columns = [f.name for f in dataclasses.fields(Piece)]
  place = columns.index('files')
  columns[place : place + 1] = ['path', 'md5']
  with open(path, 'w', encoding='utf-8', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(columns)
    for piece in pieces:
      paths = [' + '.join(getattr(f, name) for f in piece.files) for name in ('path', 'md5')]
      values = dataclasses.asdict(piece) | dict(zip(('path', 'md5'), paths, strict=True))
      writer.writerow(values[column] for column in columns)


def _arguments(tmp_path):
  music, listed = tmp_path / 'music', tmp_path / 'table.csv'
  return [f'--output_dir={music}', '--set=train', f'--table={listed}']


def test_command_that_is_killed_while_it_downloads_goes_on(mirror, tmp_path, monkeypatch, capsys):
  _write_table(tmp_path / 'table.csv', PIECES)
  monkeypatch.setenv('HANG', 'songs')
  process = subprocess.Popen(
    [sys.executable, '-m', 'recipes.recorded_music.build', *_arguments(tmp_path)],
    cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
  )  # fmt: skip
  try:
    while not (mirror / 'hangs').exists():
      assert process.poll() is None
      time.sleep(0.05)
  finally:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
  output = tmp_path / 'music'
  assert (output / 'plain/one.wav').exists() and not (output / 'songs').exists()
  half = output / '.packages/.partial-songs/songs_1-1_all.deb'
  assert half.stat().st_size == 300
  first = (output / 'plain/one.wav').stat().st_mtime_ns

  monkeypatch.delenv('HANG')
  build.main(_arguments(tmp_path))
  assert '4 tracks, 0.01 hours; 2 of them are new.' in capsys.readouterr().out
  assert (output / 'plain/one.wav').stat().st_mtime_ns == first
  assert not (output / '.packages').exists()
  assert _asked(mirror) == ['plain', 'songs', 'songs', 'zipped']
  assert len(manifest.read_manifest(output / 'manifest.jsonl')) == 4


def test_command_says_by_its_status_that_something_was_left_out(mirror, tmp_path, capsys):
  _write_table(tmp_path / 'table.csv', (PIECES[0], _wrong(PIECES[1])))
  with pytest.raises(SystemExit) as stop:
    build.main(_arguments(tmp_path))
  assert stop.value.code == 1
  said = capsys.readouterr().out
  assert '1 tracks' in said
  assert 'left out: plain_1-1_all.deb: usr/share/two.flac: its MD5' in said
