"""Statistics of a manifest: counts by hand, the page, the picture, and prepare.py's commands."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import matplotlib.image
import pytest

from preprocessing import manifest, manifest_commands, manifest_stats, measurement

ROOT = pathlib.Path(__file__).parents[2]


def _track(number, **values):
  facts = {'duration_secs': 1800.0, 'sample_rate': 44_100, 'channels': 2, 'split': 'train'} | values
  return manifest.Track(f't{number}', f'/m/{number}.wav', f'{number:064x}', **facts)


TRACKS = [
  _track(1, genre='Jazz', licence='CC0-1.0', tags=('sax', 'piano'), vocal='vocal'),
  _track(2, genre='Jazz', licence='CC-BY-4.0', tags=('sax',), split='test', caption='x'),
  _track(
    3, genre='$x$ <b>\n' + 'long ' * 20, recording='r', duration_secs=7200.0, split='validation'
  ),
  _track(4, recording='r', channels=1, tradition='Gnawa', split='validation'),
  manifest.Track('t5', '/m/5.wav', f'{1:064x}', 1800.0, 48_000, 2, split='train'),
]
REJECTS = [manifest.Reject('/m/a', 'silent'), manifest.Reject('/m/b', 'silent'),
           manifest.Reject('/m/c', 'licence')]  # fmt: skip


def test_counts():
  stats = manifest_stats.statistics(TRACKS, REJECTS)
  assert (stats['tracks'], stats['hours'], stats['with_caption']) == (5, 4.0, 1)
  assert stats['duplicates'] == {'copies': 1, 'near_duplicates': 1, 'sets': 1}
  assert (stats['groups'], stats['largest_group']) == (3, 2)
  assert stats['by_genre']['Jazz'] == {'tracks': 2, 'hours': 1.0}
  assert stats['by_genre']['(unknown)'] == {'tracks': 2, 'hours': 1.0}
  assert list(stats['by_split']) == ['validation', 'train', 'test']
  assert stats['by_split']['train'] == {'tracks': 2, 'hours': 1.0}
  assert stats['by_tag'] == {
    'sax': {'tracks': 2, 'hours': 1.0}, 'piano': {'tracks': 1, 'hours': 0.5},
  }  # fmt: skip
  assert stats['by_licence']['CC-BY-4.0'] == {'tracks': 1, 'hours': 0.5}
  assert stats['by_tradition']['Gnawa'] == {'tracks': 1, 'hours': 0.5}
  assert stats['by_channels'] == {
    '2': {'tracks': 4, 'hours': 3.5}, '1': {'tracks': 1, 'hours': 0.5},
  }  # fmt: skip
  assert stats['rejects'] == {'silent': 2, 'licence': 1}
  assert manifest_stats.statistics([])['hours'] == 0


def test_the_page_and_the_picture(tmp_path):
  manifest.write_manifest(tmp_path / 'manifest.jsonl', TRACKS)
  manifest.write_rejects(tmp_path / 'rejects.jsonl', REJECTS)
  shown = manifest_commands.stats(str(tmp_path / 'manifest.jsonl'))
  lines = shown.splitlines()
  assert lines[0] == '5 tracks, 4.00 h, 3 groups (largest 2), 1 with a caption.'
  assert lines[1:4] == [
    'Duplicates: 1 copies, 1 near-duplicates in 1 sets.',
    '  Near-duplicates: up to 7 % in tempo and 2 semitones in pitch, excerpts from about 20 s on.',
    '  Not looked for: larger changes, shorter excerpts, other performances without a common work.',
  ]
  assert '        2 tracks       1.00 h  Jazz' in lines
  short = manifest_stats.statistics([dataclasses.replace(TRACKS[0], duration_secs=7.25)])
  assert manifest_stats.report(short).startswith('1 tracks, 7.25 s, 1 groups')
  assert '        2  silent               nothing, or almost nothing, to be heard' in lines
  assert max(map(len, lines[:-1])) < 100
  stats = json.loads((tmp_path / 'manifest_stats.json').read_text())
  assert stats == manifest_stats.statistics(TRACKS, REJECTS)
  picture = matplotlib.image.imread(tmp_path / 'manifest.png')
  # Bars are there: the blue of hours, the red of rejects.
  for red, green, blue in ((0x3B, 0x6E, 0xA5), (0xA5, 0x47, 0x3B)):
    here = (abs(picture[..., :3] * 255 - [red, green, blue]) < 2).all(axis=-1)
    assert here.mean() > 0.005


def test_a_picture_with_what_was_measured(tmp_path):
  found = [
    measurement.Measurement(60, 0.5, -20, 0, 0, 0, True, False, -20.0 - n, -10.0, 16_000.0)
    for n in range(20)
  ]
  stats = manifest_stats.statistics(TRACKS)
  manifest_stats.draw(tmp_path / 'a.png', TRACKS, stats)
  manifest_stats.draw(tmp_path / 'b.png', TRACKS, stats, found)
  small, large = (matplotlib.image.imread(tmp_path / name) for name in ('a.png', 'b.png'))
  assert large.shape[0] > small.shape[0] and large.shape[1] == small.shape[1]


def test_check_lists_faults_and_missing_files(tmp_path):
  manifest.write_manifest(tmp_path / 'm.jsonl', TRACKS)
  shown = manifest_commands.check(str(tmp_path / 'm.jsonl'))
  assert shown.startswith(f'{tmp_path}/m.jsonl: 5 tracks, no fault.')
  assert shown.count('missing: ') == 5
  (tmp_path / 'm.jsonl').write_text('{}\n')
  with pytest.raises(manifest.ManifestError, match='line 1, column track_id: is missing'):
    manifest_commands.check(str(tmp_path / 'm.jsonl'))


def test_the_commands_of_prepare(tmp_path):
  """Faults and wrong words are told in a few lines, without a traceback."""
  (tmp_path / 'm.jsonl').write_text('{"track_id": "a"}\n')

  def run(*words):
    done = subprocess.run(
      [sys.executable, 'prepare.py', *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert 'Traceback' not in done.stderr
    return done.returncode, done.stderr

  code, told = run('manifest', 'check', f'--manifest={tmp_path}/m.jsonl')
  assert code == 1 and 'line 1, column sha256: is missing.' in told
  code, told = run('manifest', 'shake')
  assert code == 1 and 'Say `manifest build`, `manifest check` or `manifest stats`' in told
