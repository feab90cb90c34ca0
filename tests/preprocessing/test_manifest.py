"""The manifest: tags read back from files, groups, splits, and faults told by line."""

import dataclasses
import json
import os
import pickle

import mutagen
import numpy as np
import pytest
from mutagen import id3

from preprocessing import audio, manifest, splits

FACTS = {
  'title': 'Čas ☂', 'artist': 'Trio', 'album': 'Songs', 'genre': 'Jazz',
  'caption': 'Slow jazz in F, 70 bpm', 'licence': 'CC-BY-4.0',
}  # fmt: skip


def _write_tagged(path):
  noise = np.random.default_rng(len(path.name)).normal(size=[4410, 2]) * 0.1
  audio.write_audio(path, noise, 44_100)
  file = mutagen.File(path)
  if file.tags is None:
    file.add_tags()
  if isinstance(file.tags, id3.ID3):
    for frame, name in (
      (id3.TIT2, 'title'), (id3.TPE1, 'artist'), (id3.TALB, 'album'), (id3.TCON, 'genre'),
    ):  # fmt: skip
      file.tags.add(frame(encoding=3, text=FACTS[name]))
    file.tags.add(id3.COMM(encoding=3, lang='eng', desc='', text=FACTS['caption']))
    file.tags.add(id3.TXXX(encoding=3, desc='License', text=FACTS['licence']))
    file.tags.add(id3.TXXX(encoding=3, desc='instruments', text='piano, bass'))
  else:
    names = {'caption': 'DESCRIPTION', 'licence': 'LICENSE'}
    for name, value in FACTS.items():
      file.tags[names.get(name, name)] = value
    file.tags['instruments'] = ['piano', 'bass']
  file.save()


@pytest.mark.parametrize('suffix', ['.wav', '.flac', '.mp3', '.ogg', '.aiff'])
def test_tags_are_read_back(tmp_path, suffix):
  path = tmp_path / 'artist' / 'ünï' / f'03 song{suffix}'
  path.parent.mkdir(parents=True)
  _write_tagged(path)
  (track,), rejects = manifest.build_manifest(tmp_path)
  assert not rejects
  for name, value in FACTS.items():
    assert getattr(track, name) == value, name
  assert track.tags == ('piano', 'bass')
  assert track.work == 'trio: čas'
  assert track.path == str(path)
  assert track.sha256 == manifest.file_sha256(path)
  assert track.duration_secs == pytest.approx(0.1, abs=0.001)
  assert (track.sample_rate, track.channels) == (44_100, 2)


def test_untagged_files_are_named_by_their_file(tmp_path):
  audio.write_audio(tmp_path / '07 - My Song.wav', np.zeros([4410, 1]), 44_100)
  (track,), _ = manifest.build_manifest(tmp_path)
  assert track.title == 'My Song'
  assert track.work == 'my song'
  assert (track.caption, track.genre, track.tags) == ('', '', ())


def test_comments_of_programs_are_no_captions(tmp_path):
  path = tmp_path / 'a.flac'
  audio.write_audio(path, np.zeros([4410, 1]), 44_100)
  file = mutagen.File(path)
  file['comment'] = 'Exact Audio Copy'
  file.save()
  (track,), _ = manifest.build_manifest(tmp_path)
  assert track.caption == ''


def test_bad_and_foreign_files_are_set_aside(tmp_path):
  audio.write_audio(tmp_path / 'good.wav', np.zeros([4410, 1]), 44_100)
  (tmp_path / 'garbage.mp3').write_bytes(b'\x00garbage' * 1000)
  (tmp_path / 'empty.flac').write_bytes(b'')
  (tmp_path / 'song.m4a').write_bytes(b'whatever')
  (tmp_path / 'cover.jpg').write_bytes(b'picture')
  (tmp_path / '.hidden.wav').write_bytes(b'')
  tracks, rejects = manifest.build_manifest(tmp_path)
  assert [track.title for track in tracks] == ['good']
  reasons = {reject.path.rsplit('/', 1)[1]: reject.reason for reject in rejects}
  assert reasons == {
    'garbage.mp3': 'not_audio', 'empty.flac': 'empty_file',
    'song.m4a': 'not_audio',
  }  # fmt: skip


def test_wrong_folders_are_told(tmp_path):
  with pytest.raises(FileNotFoundError, match='nowhere is not a folder'):
    manifest.build_manifest(tmp_path / 'nowhere')
  with pytest.raises(ValueError, match='no audio files'):
    manifest.build_manifest(tmp_path)


@pytest.mark.parametrize(
  'title',
  [
    'My Song (Live in Paris)',
    'My Song - Remastered 2011',
    'my song [demo]',
    'My  Song',
    'MY SONG!',
  ],
)
def test_versions_of_a_work_share_its_name(title):
  assert manifest.work_name('X', title) == manifest.work_name('x', 'My Song')


def test_different_works_do_not():
  assert manifest.work_name('X', 'Song 1') != manifest.work_name('X', 'Song 2')
  assert manifest.work_name('X', 'Take Five') != manifest.work_name('X', 'Five')


def _tracks(number, versions=1):
  return [
    manifest.Track(
      f'{work}-{version}', f'/m/{work}-{version}.wav', f'{work:032x}{version:032x}', 30.0,
      48_000, 2, work=f'work {work}',
    )
    for work in range(number)
    for version in range(versions)
  ]  # fmt: skip


def _splits(tracks, **kwargs):
  return {track.track_id: track.split for track in splits.assign_splits(tracks, **kwargs)}


@pytest.mark.parametrize('number', [5, 40, 400])
def test_splits_never_straddle_groups_and_do_not_depend_on_order(number):
  tracks = _tracks(number, versions=3)
  splits = _splits(tracks)
  for work in range(number):
    assert len({splits[f'{work}-{version}'] for version in range(3)}) == 1
  shuffled = [tracks[i] for i in np.random.default_rng(0).permutation(len(tracks))]
  assert _splits(shuffled) == splits
  assert _splits(tracks, seed=1) != splits


def test_copies_of_one_content_stay_together():
  tracks = [
    dataclasses.replace(track, sha256='f' * 64) if i in (3, 17) else track
    for i, track in enumerate(_tracks(20))
  ]
  for seed in range(20):
    splits = _splits(tracks, seed=seed)
    assert splits['3-0'] == splits['17-0']


@pytest.mark.parametrize(
  'number, validation, test', [(1, 0, 0), (2, 1, 0), (3, 1, 0), (6, 2, 0), (12, 2, 2), (60, 6, 3)]
)
def test_small_catalogs_hold_two_tracks_out_where_they_can(number, validation, test):
  splits = list(_splits(_tracks(number)).values())
  assert (splits.count('validation'), splits.count('test')) == (validation, test)
  assert splits.count('train') == number - validation - test


def test_large_corpora_grow_without_changing_splits():
  small, large = _splits(_tracks(300)), _splits(_tracks(1200))
  assert {name: large[name] for name in small} == small
  share = list(large.values()).count('validation') / 1200
  assert 0.07 < share < 0.13


def test_saved_splits_are_kept_when_a_catalog_grows():
  before = splits.assign_splits(_tracks(12))
  grown = before + _tracks(40)[12:]
  after = {track.track_id: track.split for track in splits.assign_splits(grown)}
  for track in before:
    assert after[track.track_id] == track.split


def test_a_manifest_survives_writing_and_reading(tmp_path):
  tracks = splits.assign_splits(_tracks(4))
  tracks[0] = dataclasses.replace(tracks[0], tags=('a', 'b'), title='line\nbreak “x”')
  manifest.write_manifest(tmp_path / 'manifest.jsonl', tracks)
  assert manifest.read_manifest(tmp_path / 'manifest.jsonl') == tracks


@pytest.mark.parametrize(
  'change, message',
  [
    ({'split': 'dev'}, "line 2, column split: 'dev' is not one of"),
    ({'sha256': ''}, 'line 2, column sha256: is missing'),
    ({'sha256': 'xyz'}, "line 2, column sha256: 'xyz' is not 64 hexadecimal digits"),
    ({'colour': 'red'}, 'line 2, column colour: unknown field; fields are track_id'),
    ({'duration_secs': -1}, 'line 2, column duration_secs: -1 is not a length'),
    ({'sample_rate': 44.1}, 'line 2, column sample_rate: 44.1 is not a whole number'),
    ({'channels': '2'}, "line 2, column channels: '2' is not a number"),
    ({'tags': 'a,b'}, "line 2, column tags: 'a,b' is not a list of words"),
    ({'title': 5}, 'line 2, column title: 5 is not a text'),
    ({'caption': 'a \ud83d'}, r"line 2, column caption: 'a \\ud83d' is not text"),
    ({'path': 'a\ud83d.wav'}, r"line 2, column path: 'a\\ud83d.wav' is not a name that a file"),
    ({'path': 'a\0.wav'}, r"line 2, column path: 'a\\x00.wav' is not a name that a file"),
    ({'path': 'ftp://a'}, 'line 2, column path: ftp://a: ftp:// cannot be read'),
    ({'vocal': 'yes'}, "line 2, column vocal: 'yes' is not one of"),
    ({'track_id': '0-0'}, "line 2, column track_id: '0-0' stands there twice: line 1"),
    (
      {'work': 'work 0', 'split': 'test'},
      "line 2, column split: 'test', but the work 'work 0' lies in 'train' .line 1.",
    ),
  ],
)
def test_faults_of_a_manifest_are_told_by_line(tmp_path, change, message):
  rows = [dataclasses.asdict(track) for track in _tracks(2)]
  rows[0]['split'] = 'train'
  rows[1].update(change)
  path = tmp_path / 'manifest.jsonl'
  path.write_text('\n'.join(json.dumps(row) for row in rows))
  with pytest.raises(manifest.ManifestError, match=message):
    manifest.read_manifest(path)


def test_all_faults_of_a_manifest_are_told_at_once(tmp_path):
  good = json.dumps(dataclasses.asdict(_tracks(1)[0]))
  path = tmp_path / 'manifest.jsonl'
  path.write_bytes(
    b'\n'.join([good.encode(), b'{"track_id": 1,', b'[1]', b'', b'{"title": "\xff"}', b'{}'])
  )
  with pytest.raises(manifest.ManifestError) as raised:
    manifest.read_manifest(path)
  places = [(fault.line, fault.column) for fault in raised.value.faults]
  fields = ['track_id', 'path', 'sha256', 'duration_secs', 'sample_rate', 'channels']
  assert places == [
    (2, 'character 16'), (3, ''), (5, 'byte 12'), *((6, field) for field in fields),
  ]  # fmt: skip
  assert str(raised.value).splitlines()[0] == f'{path}: 9 faults.'
  assert '  line 3: not a JSON object.' in str(raised.value)
  assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def test_names_that_are_no_utf8_survive(tmp_path):
  name = os.fsdecode(b'caf\xe9\n.wav')
  track = dataclasses.replace(_tracks(1)[0], path=os.path.join(tmp_path, name))
  manifest.write_manifest(tmp_path / 'manifest.jsonl', [track])
  assert manifest.read_manifest(tmp_path / 'manifest.jsonl') == [track]
  manifest.write_rejects(tmp_path / 'rejects.jsonl', [manifest.Reject(track.path, 'silent')])
  assert manifest.read_rejects(tmp_path / 'rejects.jsonl')[0].path == track.path


def test_files_without_a_name_of_their_own_share_no_work():
  for title in ('Track 01', '01', 'untitled', 'Audio_3', 'side a'):
    assert manifest.work_name('', title) == ''
    assert manifest.work_name('Band', title) != ''
  assert manifest.work_name('', 'Trackside') == 'trackside'
