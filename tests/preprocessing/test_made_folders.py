"""Folders that Woodshed made are passed over by scans, with a line; a user's never are."""

import json

import numpy as np
import pytest

from models import folder_marker
from pipelines.audio_feed import find_audio
from pipelines.codec_recordings import find_recordings
from preprocessing import audio, files, manifest

NOISE = np.random.default_rng(0).normal(0, 0.1, [800, 2])


def write(*paths):
  for path in paths:
    path.parent.mkdir(parents=True, exist_ok=True)
    audio.write_audio(path, NOISE, 8000)


@pytest.fixture
def music(tmp_path):
  """Two songs, and a folder with two of Woodshed's own below one of them."""
  write(tmp_path / 'music' / 'a.wav', tmp_path / 'music' / 'disc 1' / 'b.wav')
  made = tmp_path / 'music' / 'disc 1' / 'tuned'
  assert folder_marker.mark(made, 'finetune')
  assert folder_marker.mark(made / 'demos', 'finetune')
  write(made / 'demos' / 'catalog.wav', made / 'report' / 'audio' / 'clip.flac')
  return tmp_path / 'music'


def test_every_scan_passes_a_marked_folder_over(music, capsys):
  songs = [str(music / 'a.wav'), str(music / 'disc 1' / 'b.wav')]
  assert manifest.find_audio_files(music) == (songs, [])
  made = music / 'disc 1' / 'tuned'
  said = (
    f'Passed over: {made} with 2 audio files, which Woodshed wrote (finetune). To read them, give '
    'that folder itself.\n'
  )
  assert capsys.readouterr().err == said
  assert list(find_audio(music)) == songs
  assert [recording.path for recording in find_recordings(music, None)[0]] == songs
  assert capsys.readouterr().err == ''  # Once in a run.
  # Given itself, it is read, down to the next marked folder.
  assert manifest.find_audio_files(made)[0] == [str(made / 'report' / 'audio' / 'clip.flac')]
  assert manifest.find_audio_files(made / 'demos')[0] == [str(made / 'demos' / 'catalog.wav')]


def test_a_marked_folder_without_audio_is_not_worth_a_line(tmp_path, capsys):
  write(tmp_path / 'a.wav')
  folder_marker.mark(tmp_path / 'out', 'prepare')
  assert len(manifest.find_audio_files(tmp_path)[0]) == 1
  assert capsys.readouterr().err == ''


def test_in_a_bucket(bucket, capsys):
  write(bucket / 'music' / 'a.wav')
  assert folder_marker.mark('gs://bucket/music/tuned', 'finetune')
  assert json.loads((bucket / 'music' / 'tuned' / '.woodshed.json').read_text())['kind'] == (
    'finetune'
  )
  write(bucket / 'music' / 'tuned' / 'demos' / 'b.wav', bucket / 'music' / 'tuned more' / 'c.wav')
  found = ['gs://bucket/music/a.wav', 'gs://bucket/music/tuned more/c.wav']
  assert manifest.find_audio_files('gs://bucket/music') == (found, [])
  assert 'gs://bucket/music/tuned with 1 audio files' in capsys.readouterr().err


@pytest.mark.parametrize(
  'folder, beside, kind',
  [
    ('demos', ['progress.json', 'model.gin', 'run/config.gin'], 'finetune'),
    ('audio', ['report.html', 'report.json'], 'report'),
    ('samples', ['config.gin', 'model-info.txt'], 'run'),
    ('cache', ['measured.jsonl'], 'report'),
    ('task-predict-audio', ['task-predict.jsonl-00000-of-00001'], 'infer'),
  ],
)
def test_what_earlier_versions_made_is_known_by_its_neighbours(tmp_path, folder, beside, kind):
  out = tmp_path / 'out'
  write(tmp_path / 'song.wav', out / folder / 'made.wav', out / 'own' / 'song.wav')
  both = [str(out / folder / 'made.wav'), str(out / 'own' / 'song.wav'), str(tmp_path / 'song.wav')]
  assert manifest.find_audio_files(tmp_path)[0] == sorted(both)  # One name alone says nothing.
  for name in beside:
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text('{}')
  passed = []
  walked = list(files.walk(str(tmp_path), lambda *found: passed.append(found)))
  assert passed == [(str(out / folder), kind)]
  assert 'made.wav' not in sum((names for _, names in walked), [])
  assert manifest.find_audio_files(tmp_path)[0] == both[1:]


def test_a_folder_of_a_users_own_is_never_marked(tmp_path):
  write(tmp_path / 'album' / 'a.wav')
  assert not folder_marker.mark(tmp_path / 'album', 'prepare')
  assert folder_marker.kind_of(tmp_path / 'album') == ''
  assert len(manifest.find_audio_files(tmp_path)[0]) == 1
  # Empty, it was made for the output.
  (tmp_path / 'out').mkdir()
  assert folder_marker.mark(tmp_path / 'out', 'prepare')
  write(tmp_path / 'out' / 'b.wav')
  assert folder_marker.mark(tmp_path / 'out', 'run')
  assert folder_marker.kind_of(tmp_path / 'out') == 'prepare'
  (tmp_path / 'out' / folder_marker.MARKER_FILE).write_text('{"kind"')
  assert folder_marker.kind_of(tmp_path / 'out') == 'unknown'
  assert len(manifest.find_audio_files(tmp_path)[0]) == 1
