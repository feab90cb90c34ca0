"""Outputs are tried before the work, and appear whole or not at all."""

import errno
import os

import numpy as np
import pytest

from preprocessing import outputs
from preprocessing.outputs import OutputError, check_file, check_folder, whole_file


def test_what_can_be_written_leaves_no_trace(tmp_path):
  (tmp_path / 'old.wav').write_text('old')
  for name in ('new.wav', 'old.wav', 'a/b/new.wav', f'{"x" * 251}.wav', 'caf\udce9.wav'):
    check_file(tmp_path / name, ('.wav',))
  for name in ('', 'new', 'a/b'):
    check_folder(tmp_path / name)
  check_folder('gs://bucket/somewhere')
  assert os.listdir(tmp_path) == ['old.wav'] and (tmp_path / 'old.wav').read_text() == 'old'


@pytest.mark.parametrize(
  'name, reason',
  [
    ('out.xyz', r'out\.xyz does not end in one of \.wav'),
    ('folder.wav', 'folder.wav is a folder; name a file.$'),
    ('file/a/b.wav', 'b.wav cannot be written: Not a directory; .*file is a file'),
    (f'{"x" * 252}.wav', r'\.\.\. cannot be written: File name too long; choose a shorter name'),
    (f'{"x" * 256}/a.wav', 'choose a shorter name'),
    ('pipe.wav', 'pipe.wav is not a regular file'),
    ('a\0.wav', 'NUL character'),
  ],
)
def test_files_that_cannot_be_written(tmp_path, name, reason):
  (tmp_path / 'folder.wav').mkdir()
  (tmp_path / 'file').write_text('')
  os.mkfifo(tmp_path / 'pipe.wav')
  with pytest.raises(OutputError, match=reason):
    check_file(f'{tmp_path}/{name}', ('.wav',))
  assert sorted(os.listdir(tmp_path)) == ['file', 'folder.wav', 'pipe.wav']


def test_folders_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OutputError, match=f'^{tmp_path}/file is a file; name a folder.$'):
    check_folder(tmp_path / 'file')
  with pytest.raises(OutputError, match='a cannot be written: Not a directory; .*file is a file'):
    check_folder(tmp_path / 'file' / 'a')
  with pytest.raises(OutputError, match='no name'):
    check_folder('')


@pytest.mark.parametrize(
  'number, way_out',
  [(errno.EACCES, 'may write to'), (errno.EROFS, 'not read-only'), (errno.ENOSPC, 'make room')],
)
def test_what_the_system_refuses_is_named(tmp_path, monkeypatch, number, way_out):
  def refuse(*arguments):
    raise OSError(number, os.strerror(number))

  monkeypatch.setattr(outputs, 'open', refuse, raising=False)
  for check in (check_file, check_folder):
    with pytest.raises(OutputError, match=f'a.wav cannot be written: .*{way_out}'):
      check(tmp_path / 'a.wav')


def test_a_read_only_file_is_refused(tmp_path, monkeypatch):
  (tmp_path / 'a.wav').write_text('old')
  monkeypatch.setattr(os, 'access', lambda path, mode: mode != os.W_OK)  # Root may write anything.
  with pytest.raises(OutputError, match=f'^{tmp_path}/a.wav is read-only'):
    check_file(tmp_path / 'a.wav')


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
  path = tmp_path / 'new' / f'{"x" * 251}.wav'
  with whole_file(path) as partial:
    assert partial.suffix == '.wav' and partial.parent == path.parent
    partial.write_text('first')
    assert not path.exists()
  assert path.read_text() == 'first'
  with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
    partial.write_text('half')
    raise KeyboardInterrupt
  with pytest.raises(OutputError, match='cannot be written: No space.*make room'):  # noqa: SIM117
    with whole_file(path) as partial:
      partial.write_text('half')
      raise OSError(errno.ENOSPC, 'No space left on device')
  assert path.read_text() == 'first' and len(os.listdir(path.parent)) == 1


def test_a_link_is_followed(tmp_path):
  (tmp_path / 'there').mkdir()
  (tmp_path / 'link.wav').symlink_to(tmp_path / 'there' / 'real.wav')
  check_file(tmp_path / 'link.wav')
  with whole_file(tmp_path / 'link.wav') as partial:
    partial.write_text('x')
  assert (tmp_path / 'link.wav').is_symlink()
  assert (tmp_path / 'there' / 'real.wav').read_text() == 'x'


@pytest.mark.parametrize('suffix', ['.wav', '.flac', '.ogg'])
def test_sound_is_written_under_names_that_are_no_text(tmp_path, suffix):
  from preprocessing.audio import read_audio, write_audio

  path = tmp_path / f'caf\udce9{suffix}'
  with whole_file(path) as partial:
    write_audio(partial, np.full([4800, 2], 0.5, np.float32))
  assert os.listdir(tmp_path) == [path.name]
  assert read_audio(path).shape == (4800, 2)
