"""Manifests of folders, tables and earlier manifests: what is said, left out, and joined."""

import csv
import dataclasses
import json
import pathlib

import mutagen
import numpy as np
import pytest
import soxr

from preprocessing import audio, licences, manifest, manifest_build, manifest_commands, scan, splits

RATE = 22_050


def _melody(seed, secs=6.0):
  """A random melody with overtones: float32 [n, 2]; no two seeds are alike."""
  rng = np.random.default_rng(seed)
  notes = rng.uniform(200, 900, round(4 * secs))
  phase = np.cumsum(np.repeat(notes, RATE // 4)[: round(secs * RATE)]) / RATE
  wave = sum(np.sin(2 * np.pi * k * phase) / k for k in (1, 2, 3, 5, 8))
  fade = np.tile(np.linspace(1, 0.2, RATE // 4), len(notes))[: len(wave)]
  return np.stack([wave * fade, wave[::-1] * fade], axis=1).astype(np.float32) * 0.2


def _write(path, seed, secs=6.0, **facts):
  path.parent.mkdir(parents=True, exist_ok=True)
  audio.write_audio(path, _melody(seed, secs), RATE)
  if facts:
    file = mutagen.File(path)
    file.update(facts)
    file.save()
  return str(path)


def _build(*folders, **options):
  return manifest_build.build(
    manifest_build.BuildOptions(folders=tuple(map(str, folders)), **options)
  )


@pytest.fixture
def album(tmp_path):
  folder = tmp_path / 'album'
  for number, licence in enumerate(('CC BY 4.0', 'https://creativecommons.org/licenses/by-nc/3.0/',
                                    '', 'Public Domain')):  # fmt: skip
    facts = {'licence': licence} if licence else {}
    _write(folder / f'{number}.flac', number, title=f'Piece {number}', artist='Trio', **facts)
  return folder


def test_near_duplicates_share_a_recording_and_a_split(tmp_path):
  for seed in range(8):
    _write(tmp_path / 'a' / f'{seed}.flac', seed, title=f'Piece {seed}', artist='One')
  x = _melody(3)
  (tmp_path / 'b').mkdir()
  audio.write_audio(tmp_path / 'b' / 'softer.mp3', x * 0.3, RATE)
  audio.write_audio(tmp_path / 'b' / 'cut.ogg', soxr.resample(x[RATE // 2 :], RATE, 32_000), 32_000)
  (tmp_path / 'b' / 'same.flac').write_bytes((tmp_path / 'a' / '5.flac').read_bytes())
  tracks, rejects = _build(tmp_path / 'a', tmp_path / 'b')
  assert not rejects and len(tracks) == 11
  names = {pathlib.Path(track.path).name: track for track in tracks}
  assert names['softer.mp3'].recording == names['cut.ogg'].recording == names['3.flac'].recording
  assert (
    names['3.flac'].recording
    == min(names[name].sha256 for name in ('softer.mp3', 'cut.ogg', '3.flac'))[:16]
  )
  assert [track.recording for track in tracks].count('') == 8
  assert {track.track_id for track in tracks} >= {
    names['5.flac'].sha256[:16], names['5.flac'].sha256[:16] + '-2',
  }  # fmt: skip
  for seed in range(20):
    split = {
      pathlib.Path(track.path).name: track.split
      for track in splits.assign_splits(tracks, seed=seed)
    }
    assert split['softer.mp3'] == split['cut.ogg'] == split['3.flac']
    assert split['same.flac'] == split['5.flac']
    assert set(split.values()) == {'train', 'validation', 'test'}


def test_discs_and_their_songs_share_a_split_and_no_song_is_lost(tmp_path):
  """Two discs in one file each, with one song in common, the songs, and one at another speed."""
  songs = [_melody(seed, 16.0) for seed in range(6)]
  made = {
    'first disc.flac': np.concatenate(songs[:3]),
    'second disc.wav': np.concatenate(songs[2:5]),
    **{f'song {number}.wav': x for number, x in enumerate(songs)},
    'song 5 faster.flac': soxr.resample(songs[5], round(RATE * 1.05), RATE),
  }
  (tmp_path / 'music').mkdir()
  for name, x in made.items():
    audio.write_audio(tmp_path / 'music' / name, x, RATE)
  journal = str(tmp_path / 'scan.jsonl')
  tracks, rejects = _build(tmp_path / 'music', journal=journal)
  names = {pathlib.Path(track.path).name: track.recording for track in tracks}
  assert not rejects and len(tracks) == 9
  for name in made:
    one = 'song 5' if name.startswith('song 5') else 'first disc'
    assert names[name] and names[name] == names[one + ('.wav' if one == 'song 5' else '.flac')]
  assert names['song 5.wav'] != names['first disc.flac']
  for seed in range(5):
    split = {track.recording: set() for track in tracks}
    for track in splits.assign_splits(tracks, seed=seed, min_held_out=1):
      split[track.recording].add(track.split)
    assert all(len(found) == 1 for found in split.values())
  # What is left out is in what is left.
  tracks, rejects = _build(tmp_path / 'music', duplicates='drop', journal=journal)
  kept = {pathlib.Path(track.path).name for track in tracks}
  assert kept == {'first disc.flac', 'second disc.wav', 'song 5.wav'}
  told = {pathlib.Path(reject.path).name: reject.detail for reject in rejects}
  assert told['song 0.wav'] == f'of {tmp_path / "music" / "first disc.flac"}'
  assert told['song 4.wav'] == f'of {tmp_path / "music" / "second disc.wav"}'
  assert {reject.reason for reject in rejects} == {'duplicate'} and len(rejects) == 6


def test_tracks_that_cannot_be_compared_are_counted(tmp_path, monkeypatch):
  paths = {_write(tmp_path / f'{seed}.flac', seed) for seed in range(2)}
  said = []
  monkeypatch.setattr(manifest_build.notices, 'say', said.append)
  _build(tmp_path)
  assert said == []
  monkeypatch.setattr(manifest_build.same_recordings, 'hard_to_compare', lambda prints: ([0], [1]))
  _build(tmp_path)
  few, common = (text.rpartition(' ') for text in said)
  assert few[0] == (
    'Near-duplicates: 1 tracks have too few peaks in their spectrum to be compared (silence, '
    'single tones), the first is'
  )
  assert common[0] == (
    'Near-duplicates: 1 tracks sound for more than half like many other tracks, so that their '
    'copies are not found, the first is'
  )
  assert {few[2][:-1], common[2][:-1]} == paths


@pytest.mark.parametrize(
  'duplicates, left', [('keep', 5), ('drop_copies', 4), ('drop', 3)]
)  # fmt: skip
def test_duplicates_may_be_dropped(tmp_path, duplicates, left):
  for seed in range(3):
    _write(tmp_path / f'{seed}.flac', seed)
  (tmp_path / 'z.flac').write_bytes((tmp_path / '0.flac').read_bytes())
  x = soxr.resample(_melody(1), RATE, 48_000)
  audio.write_audio(tmp_path / 'better.flac', x, 48_000)
  tracks, rejects = _build(tmp_path, duplicates=duplicates)
  assert len(tracks) == left and len(rejects) == 5 - left
  assert {reject.reason for reject in rejects} <= {'duplicate'}
  dropped = {pathlib.Path(reject.path).name for reject in rejects}
  assert (
    dropped == {'keep': set(), 'drop_copies': {'z.flac'}, 'drop': {'z.flac', '1.flac'}}[duplicates]
  )  # Of two recordings the one of the higher rate stays.


@pytest.mark.parametrize(
  'allow, required, kept',
  [
    ((), False, [0, 1, 2, 3]),
    ((), True, [0, 1, 3]),
    (('CC-BY', 'public-domain'), False, [0, 2, 3]),
    (('CC-BY', 'public-domain'), True, [0, 3]),
    (('CC-BY-NC-3.0',), True, [1]),
    (('CC-BY-3.0',), True, []),
  ],
)
def test_licence_policy(album, allow, required, kept):
  policy = licences.parse_policy(allow, required)
  tracks, rejects = _build(album, licence_policy=policy, decode=False)
  assert [int(track.title.split()[1]) for track in tracks] == kept
  assert [reject.reason for reject in rejects] == ['licence'] * (4 - len(kept))


def test_a_table_says_it_better_than_the_tags(album, tmp_path):
  table = tmp_path / 'tracks.csv'
  with open(table, 'w', newline='', encoding='utf-8-sig') as file:
    writer = csv.writer(file)
    writer.writerow(['File', 'Name', 'Sung?', 'Keys', 'tradition', 'split', 'note'])
    writer.writerow(['album/0.flac', 'Näme, new', 'yes', 'oud; voice', '', 'test', 'x'])
    writer.writerow(['album/2.flac', '', 'no', '', 'Persian', '', ''])
    writer.writerow(['album/none.flac', '', '', '', '', '', ''])
  columns = {'path': 'File', 'title': 'Name', 'vocal': 'Sung?', 'tags': 'Keys'}
  tracks, rejects = _build(table=str(table), columns=columns)
  assert [(reject.path, reject.reason) for reject in rejects] == [
    (str(tmp_path / 'album' / 'none.flac'), 'unreadable')
  ]
  first, second = tracks
  assert (first.title, first.vocal, first.tags) == ('Näme, new', 'vocal', ('oud', 'voice'))
  assert (first.tradition, first.split, first.source) == ('Arabic', 'test', 'tracks')
  assert (first.artist, first.licence) == ('Trio', 'CC-BY-4.0')  # Of the tags.
  assert (second.title, second.vocal, second.tradition) == ('Piece 2', 'instrumental', 'Persian')
  held = splits.assign_splits(tracks)
  assert held[0].split == 'test'


def test_an_earlier_manifest_with_changes(album, tmp_path):
  tracks, _ = _build(album)
  tracks = [
    dataclasses.replace(
      track, caption=f'by hand {n}', track_id=f'own{n}', split='train', attribution='name me'
    )
    for n, track in enumerate(tracks)
  ]
  manifest.write_manifest(tmp_path / 'old.jsonl', tracks)
  # One file is gone, one moved, one is new; the table changes one and drops one.
  (album / '1.flac').unlink()
  (album / 'moved').mkdir()
  (album / '2.flac').rename(album / 'moved' / 'two.flac')
  _write(album / '9.flac', 9, title='Piece 9')
  changes = tmp_path / 'changes.jsonl'
  changes.write_text(
    '{"track_id": "own0", "genre": "Jazz", "attribution": "X"}\n'
    '{"track_id": "own3", "drop": true}\n'
  )
  tracks, rejects = _build(album, earlier=str(tmp_path / 'old.jsonl'), table=str(changes))
  found = {track.track_id: track for track in tracks}
  assert len(found) == 3
  assert (found['own0'].caption, found['own0'].genre) == ('by hand 0', 'Jazz')
  assert (found['own2'].caption, found['own2'].split) == ('by hand 2', 'train')
  assert [found[name].attribution for name in ('own0', 'own2')] == ['X', 'name me']
  assert found['own2'].path == str(album / 'moved' / 'two.flac')
  new = next(track for track in tracks if track.title == 'Piece 9')
  assert (new.caption, new.split, new.track_id) == ('', '', new.sha256[:16])
  assert {pathlib.Path(reject.path).name: reject.reason for reject in rejects} == {
    '1.flac': 'unreadable', '3.flac': 'dropped',
  }  # fmt: skip


def test_changes_to_unknown_tracks_are_told(album, tmp_path):
  changes = tmp_path / 'changes.csv'
  changes.write_text('track_id,genre\nnobody,Jazz\n')
  with pytest.raises(manifest.ManifestError, match="line 2, column track_id: 'nobody' is no track"):
    _build(album, table=str(changes))


def test_manifests_of_buckets(bucket):
  """The walk, tags, decoding, manifest and rejects by gs:// paths."""
  _write(bucket / 'music' / 'deep' / 'er' / '1.flac', 1, title='One', artist='X')
  _write(bucket / 'music' / '2.wav', 2)
  (bucket / 'music' / 'bad.mp3').write_bytes(b'no audio here' * 99)
  (bucket / 'music' / '.hidden.wav').write_bytes(b'')
  shown = manifest_commands.build(
    manifest_build.BuildOptions(folders=('gs://bucket/music',), num_workers=1),
    manifest_commands.SplitOptions(),
    'gs://bucket/out',
  )
  assert '2 tracks' in shown
  tracks = manifest.read_manifest('gs://bucket/out/manifest.jsonl')
  assert [track.path for track in tracks] == [
    'gs://bucket/music/2.wav', 'gs://bucket/music/deep/er/1.flac',
  ]  # fmt: skip
  assert (tracks[1].title, tracks[1].artist) == ('One', 'X')
  assert tracks[1].sha256 == manifest.file_sha256('gs://bucket/music/deep/er/1.flac')
  (reject,) = manifest.read_rejects('gs://bucket/out/rejects.jsonl')
  assert (reject.path, reject.reason) == ('gs://bucket/music/bad.mp3', 'not_audio')
  assert reject.detail.startswith('gs://bucket/music/bad.mp3 cannot be decoded')
  # Relative paths are below the manifest's folder.
  rows = [
    json.loads(line) for line in (bucket / 'out' / 'manifest.jsonl').read_bytes().splitlines()
  ]
  rows[0]['path'] = '../music/2.wav'
  (bucket / 'out' / 'other.jsonl').write_text('\n'.join(map(json.dumps, rows)))
  again = manifest.read_manifest('gs://bucket/out/other.jsonl')
  assert audio.read_header(again[0].path) == audio.read_header(bucket / 'music' / '2.wav')
  assert manifest_commands.check('gs://bucket/out/other.jsonl').endswith('2 tracks, no fault.')


def test_what_stands_in_the_output_keeps_its_splits(album, tmp_path):
  options = manifest_build.BuildOptions(folders=(str(album),))
  held_out = manifest_commands.SplitOptions(min_held_out=1)
  out = str(tmp_path / 'out')
  manifest_commands.build(options, held_out, out)
  before = {track.sha256: track.split for track in manifest.read_manifest(f'{out}/manifest.jsonl')}
  for seed in range(20, 32):
    _write(album / f'{seed}.flac', seed)
  other = dataclasses.replace(held_out, seed=5)
  manifest_commands.build(options, other, out)
  after = {track.sha256: track.split for track in manifest.read_manifest(f'{out}/manifest.jsonl')}
  assert before.items() <= after.items() and len(after) == 16
  assert set(after.values()) == {'train', 'validation', 'test'}


@pytest.mark.parametrize(
  'options, message',
  [
    ({}, 'Give a folder of audio, a table or an earlier manifest'),
    ({'table': '/none/t.csv'}, '/none/t.csv is not a file'),
    ({'folders': ('/x',), 'duplicates': 'some'}, "duplicates='some' is not one of"),
    ({'folders': ('/x',), 'num_workers': -1}, 'num_workers=-1'),
    ({'folders': ('/nowhere',)}, '/nowhere is not a folder'),
  ],
)
def test_wrong_options_are_told(options, message):
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    manifest_build.build(manifest_build.BuildOptions(**options))


def test_limits_of_now_judge_what_was_measured_before(album, tmp_path, monkeypatch):
  journal = str(tmp_path / 'scan.jsonl')
  assert len(_build(album, journal=journal)[0]) == 4

  def refuse(*unused):
    raise AssertionError('everything was read before')

  monkeypatch.setattr(scan, 'scan_file', refuse)
  limits = manifest_build.quality.QualityLimits(min_level_dbfs=-1)
  tracks, rejects = _build(album, journal=journal, limits=limits)
  assert not tracks and [reject.reason for reject in rejects] == ['too_quiet'] * 4
