"""One run at a time in a folder: who holds it is said, and a holder that is gone does not count."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from models import folder_lock, folder_marker
from models.folder_lock import LOCK_FILE, FolderInUseError, locked

ROOT = pathlib.Path(__file__).parents[2]


def held_by(folder, **changes):
  """Puts the lock of another process there: the first one of this machine, unless changed."""
  folder.mkdir(parents=True, exist_ok=True)
  holder = dataclasses.replace(
    folder_lock._this_process(), **{'pid': 1, 'process_start': folder_lock._process_start(1)}
    | changes,
  )  # fmt: skip
  (folder / LOCK_FILE).write_text(json.dumps(dataclasses.asdict(holder)))
  return holder


def age(path, secs):
  os.utime(path, (time.time() - secs, time.time() - secs))


def test_a_lock_names_its_holder_and_goes_with_it(tmp_path):
  folder = tmp_path / 'a [1]' / 'run'
  with locked(folder, 'run'):
    holder = folder_lock.read(folder / LOCK_FILE)
    assert holder.pid == os.getpid()
    assert holder.process_start == folder_lock._process_start(os.getpid()) != ''
    assert sys.orig_argv[1] in holder.command and holder.since[:2] == '20'
    with locked(folder, 'run'):  # A part of the same run.
      pass
    assert folder_lock.read(folder / LOCK_FILE) == holder
    with locked(folder, 'run', '00001-of-00002'):  # Beside it, by agreement.
      pass
    (folder / 'written').write_text('')
  assert sorted(path.name for path in folder.iterdir()) == [folder_marker.MARKER_FILE, 'written']
  with pytest.raises(ZeroDivisionError), locked(folder, 'run'):
    raise ZeroDivisionError
  assert not (folder / LOCK_FILE).exists()
  with locked(tmp_path / 'nothing', 'run'):
    assert (tmp_path / 'nothing').is_dir()
  assert not (tmp_path / 'nothing').exists()  # Made for a run that has written nothing.


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path, capsys):
  code = (
    'import sys; from models import folder_lock\n'
    'with folder_lock.locked(sys.argv[1], "run"):\n'
    '  print("held", flush=True); sys.stdin.read()\n'
  )
  with subprocess.Popen(
    [sys.executable, '-c', code, str(tmp_path)],
    cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
  ) as process:  # fmt: skip
    assert process.stdout.readline() == 'held\n'
    with pytest.raises(FolderInUseError) as refused, locked(tmp_path, 'run'):
      pass
    said = str(refused.value)
    assert said.startswith(f'{tmp_path} is in use by another run: process {process.pid} on ')
    assert f'stop it with `kill {process.pid}`, or give another folder.' in said
    process.kill()
    # Until it has ended and is a zombie: nobody has asked for its status.
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with locked(tmp_path, 'run'):
      assert folder_lock.read(tmp_path / LOCK_FILE).pid == os.getpid()
  said = capsys.readouterr().err
  assert f'an earlier run has ended without a word: process {process.pid} on ' in said


def test_a_number_that_another_process_has_now_does_not_count(tmp_path, capsys):
  held_by(tmp_path, process_start='17')
  with locked(tmp_path, 'run'):
    pass
  assert 'an earlier run has ended without a word: process 1 on' in capsys.readouterr().err
  held_by(tmp_path)
  with pytest.raises(FolderInUseError, match='process 1 on'), locked(tmp_path, 'run'):
    pass
  # Where the system does not say when a process began, it counts while there is one.
  held_by(tmp_path, process_start='')
  with pytest.raises(FolderInUseError), locked(tmp_path, 'run'):
    pass


def test_on_another_machine_a_sign_of_life_counts(tmp_path, capsys):
  held_by(tmp_path, host='far', machine='far 1')
  age(tmp_path / LOCK_FILE, 60)
  with pytest.raises(FolderInUseError) as refused, locked(tmp_path, 'run'):
    pass
  said = str(refused.value)
  assert 'is in use by a run on another machine: process 1 on far since' in said
  assert f'If it has ended, remove {tmp_path / LOCK_FILE}; after 600 s without a sign' in said
  age(tmp_path / LOCK_FILE, 700)
  with locked(tmp_path, 'run'):
    pass
  assert 'an earlier run has given no sign of life for 70' in capsys.readouterr().err


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
  monkeypatch.setattr(folder_lock, 'HEARTBEAT_SECS', 0.005)
  with locked(tmp_path, 'run'):
    age(tmp_path / LOCK_FILE, 500)
    deadline = time.monotonic() + 60
    while time.time() - (tmp_path / LOCK_FILE).stat().st_mtime > 400:
      assert time.monotonic() < deadline


def test_who_loses_its_lock_says_so(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(folder_lock, 'HEARTBEAT_SECS', 0.005)
  with locked(tmp_path, 'run'):
    held_by(tmp_path, host='far', machine='far 1')
    for thread in threading.enumerate():
      if thread.name == 'folder lock':
        thread.join(60)
  assert 'process 1 on far' in capsys.readouterr().err
  assert (tmp_path / LOCK_FILE).is_file()  # It is the other's.


def test_a_damaged_lock_counts_while_it_may_be_written(tmp_path, monkeypatch, capsys):
  path = tmp_path / LOCK_FILE
  path.write_text('{"host": "ne')
  waits = []

  def wait(secs):
    waits.append(secs)
    if len(waits) == 3:
      age(path, 60)

  monkeypatch.setattr(folder_lock.time, 'sleep', wait)
  with locked(tmp_path, 'run'):
    pass
  assert len(waits) == 3 and 'the lock of an earlier run is damaged' in capsys.readouterr().err


def test_one_of_many_takes_a_stale_lock_over(tmp_path):
  held_by(tmp_path, process_start='17')
  taken, refused = [], []

  def take():
    try:
      taken.append(folder_lock._take(tmp_path / LOCK_FILE))
    except FolderInUseError as error:
      refused.append(error)

  threads = [threading.Thread(target=take) for _ in range(12)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(taken) == 1 and len(refused) == 11
  assert folder_lock.read(tmp_path / LOCK_FILE) == taken[0]
  assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]


def test_two_threads_are_two_runs(tmp_path):
  errors = []

  def run():
    try:
      with locked(tmp_path, 'run'):
        pass
    except FolderInUseError as error:
      errors.append(str(error))

  with locked(tmp_path, 'run'):
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
  assert len(errors) == 1 and errors[0].startswith(f'{tmp_path} is in use by another thread')
  run()
  assert len(errors) == 1


def test_a_disk_without_hard_links(tmp_path, monkeypatch):
  def no_links(*unused):
    raise PermissionError(1, 'Operation not permitted')

  monkeypatch.setattr(os, 'link', no_links)
  with locked(tmp_path, 'run'):
    assert folder_lock.read(tmp_path / LOCK_FILE).pid == os.getpid()
  held_by(tmp_path)
  with pytest.raises(FolderInUseError), locked(tmp_path, 'run'):
    pass


def test_where_no_lock_can_be_written_the_folder_is_named(tmp_path, monkeypatch):
  def full(*unused, **options):
    raise OSError(28, 'No space left on device')

  folder_marker.mark(tmp_path, 'run')
  monkeypatch.setattr(pathlib.Path, 'write_text', full)
  with pytest.raises(OSError, match='No space left .*lock of a run') as raised:
    with locked(tmp_path, 'run'):
      pass
  assert raised.value.filename == str(tmp_path) and raised.value.errno == 28
  monkeypatch.undo()
  with locked(tmp_path, 'run'):
    pass
