"""Scanning: read once, told right, stopped at any moment and gone on."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from preprocessing import audio, files, quality, scan

ROOT = pathlib.Path(__file__).parents[2]
RATE = 22_050
SETTINGS = scan.ScanSettings()


def _write(path, seed, secs=5.0):
  path.parent.mkdir(parents=True, exist_ok=True)
  noise = np.random.default_rng(seed).normal(size=[round(secs * RATE), 2]) * 0.1
  audio.write_audio(path, noise, RATE)
  return str(path)


@pytest.fixture
def counted(monkeypatch):
  """Paths that were decoded, in order."""
  decoded, measure = [], scan.measurement.measure

  def counting(path, *args, **kwargs):
    decoded.append(path)
    return measure(path, *args, **kwargs)

  monkeypatch.setattr(scan.measurement, 'measure', counting)
  return decoded


def test_a_scan_finds_what_the_checks_find(tmp_path):
  path = _write(tmp_path / 'a.wav', 0)
  found = scan.scan([path], SETTINGS)[path]
  header, measured = quality.examine(path)
  assert (found.header, found.measured, found.reason) == (header, measured, '')
  assert found.state == files.FileState(os.path.getsize(path), os.stat(path).st_mtime_ns)


def test_what_was_read_is_not_read_again(tmp_path, counted):
  paths = [_write(tmp_path / f'{seed}.wav', seed) for seed in range(4)]
  (tmp_path / 'junk.mp3').write_bytes(b'\x01junk' * 500)
  paths.append(str(tmp_path / 'junk.mp3'))
  journal = str(tmp_path / 'j' / 'scan.jsonl')
  first = scan.scan(paths, SETTINGS, journal=journal)
  assert counted == paths[:4] and first[paths[4]].reason == 'not_audio'
  counted.clear()
  assert scan.scan(paths, SETTINGS, journal=journal) == first
  assert counted == []
  # A changed file and a new one are read; a moved one and a copy are not decoded.
  _write(tmp_path / '1.wav', 11)
  os.rename(paths[2], tmp_path / 'moved.wav')
  (tmp_path / 'copy.wav').write_bytes((tmp_path / '3.wav').read_bytes())
  new = _write(tmp_path / 'new.wav', 5)
  then = [paths[0], paths[1], *(str(tmp_path / name) for name in ('moved.wav', 'copy.wav')), new]
  second = scan.scan(then, SETTINGS, journal=journal)
  assert counted == [paths[1], new]
  assert second[then[2]].measured == first[paths[2]].measured
  assert second[then[3]].fingerprint == first[paths[3]].fingerprint
  # Other settings measure anew; headers and tags alone decode nothing.
  counted.clear()
  scan.scan(then, scan.ScanSettings(silence_dbfs=-50.0), journal=journal)
  assert len(counted) == len({found.sha256 for found in second.values()})
  counted.clear()
  plain = scan.scan(then, scan.ScanSettings(decode=False))
  assert counted == [] and plain[new].measured is None and plain[new].sha256


def test_a_journal_that_was_cut_short_counts_up_to_there(tmp_path, counted):
  paths = [_write(tmp_path / f'{seed}.wav', seed) for seed in range(3)]
  journal = tmp_path / 'scan.jsonl'
  first = scan.scan(paths, SETTINGS, journal=str(journal))
  content = journal.read_bytes()
  journal.write_bytes(content[: len(content) - 700])
  counted.clear()
  assert scan.scan(paths, SETTINGS, journal=str(journal)) == first
  assert counted == paths[2:]
  counted.clear()
  assert scan.scan(paths, SETTINGS, journal=str(journal)) == first
  assert counted == []


@pytest.mark.parametrize('name, before', [('fingerprint', 1), ('fingerprint', None), ('format', 1)])
def test_a_journal_of_another_version_is_not_mixed_with_this_one(
  tmp_path, counted, capsys, name, before
):
  paths = [_write(tmp_path / f'{seed}.wav', seed) for seed in range(3)]
  journal = tmp_path / 'scan.jsonl'
  first = scan.scan(paths, SETTINGS, journal=str(journal))
  lines = [json.loads(line) for line in journal.read_text().splitlines()]
  for line in lines[:2]:
    line['settings'][name] = before
    if before is None:
      del line['settings'][name]  # What was written before fingerprints had a version.
  journal.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  counted.clear()
  assert scan.scan(paths, SETTINGS, journal=str(journal)) == first
  assert counted == paths[:2]
  now = scan.fingerprint.VERSION if name == 'fingerprint' else scan._FORMAT
  assert capsys.readouterr().err == (
    f'{journal}: 2 files were scanned by another version of the program '
    f'({"fingerprint version" if name == "fingerprint" else "journal format"} 1, now {now}); '
    'they are read again.\n'
  )
  # Only once: what was read again counts.
  counted.clear()
  assert scan.scan(paths, SETTINGS, journal=str(journal)) == first
  assert counted == [] and capsys.readouterr().err == ''


def test_a_damaged_fingerprint_in_the_journal_is_made_again(tmp_path, counted):
  paths = [_write(tmp_path / f'{seed}.wav', seed) for seed in range(2)]
  journal = tmp_path / 'scan.jsonl'
  first = scan.scan(paths, SETTINGS, journal=str(journal))
  text = first[paths[1]].fingerprint
  journal.write_text(journal.read_text().replace(text, text[:-8]))
  counted.clear()
  assert scan.scan(paths, SETTINGS, journal=str(journal)) == first
  assert counted == paths[1:]


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
  path = _write(tmp_path / 'a.wav', 0)
  digest = scan.hashlib.file_digest

  def writing(file, name):
    with open(path, 'ab') as other:
      other.write(b'more')
    return digest(file, name)

  monkeypatch.setattr(scan.hashlib, 'file_digest', writing)
  assert scan.scan([path], SETTINGS)[path].reason == 'changed'


def test_an_error_of_the_program_costs_one_file(tmp_path, monkeypatch):
  paths = [_write(tmp_path / f'{seed}.wav', seed) for seed in range(2)]

  def failing(path):
    if path == paths[0]:
      raise ZeroDivisionError('a fault of ours')
    return scan.tags.Tags()

  monkeypatch.setattr(scan.tags, 'read_tags', failing)
  found = scan.scan(paths, SETTINGS)
  assert (found[paths[0]].reason, found[paths[1]].reason) == ('failed', '')
  assert 'a fault of ours' in found[paths[0]].detail


# After each file it waits for a line: the test says how far it gets.
SCRIPT = textwrap.dedent("""
  import os, sys
  from preprocessing import scan
  if __name__ == '__main__':
    paths = sorted(p.path for p in os.scandir(sys.argv[1]) if p.name.endswith('.wav'))
    done = scan.scan(paths, scan.ScanSettings(), journal=sys.argv[2], num_workers=2,
                     progress=lambda count: (print('+', flush=True), sys.stdin.readline()))
    print(sum(not found.reason for found in done.values()), 'good')
""")


def _start(tmp_path, folder):
  script = tmp_path / 'scanning.py'
  script.write_text(SCRIPT)
  return subprocess.Popen(
    [sys.executable, str(script), str(folder), str(tmp_path / 'scan.jsonl')],
    env={**os.environ, 'PYTHONPATH': str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    stderr=subprocess.PIPE, text=True, start_new_session=True,
  )  # fmt: skip


def _children(parent):
  """Ids of the processes that a process has started."""
  found = pathlib.Path(f'/proc/{parent}/task').glob('*/children')
  return [int(child) for path in found for child in path.read_text().split()]


def _wait_for_end_of(processes, secs=300):
  end = time.monotonic() + secs
  while running := [pid for pid in processes if os.path.exists(f'/proc/{pid}')]:
    assert time.monotonic() < end, f'{running} outlive their parent'
    time.sleep(0.1)


@pytest.mark.skipif(not os.path.isdir('/proc/self/task'), reason='no /proc here')
def test_two_processes_stopped_on_the_way(tmp_path):
  """Ctrl-C goes to the whole group; SIGKILL to the parent alone, and its processes go with it."""
  folder, journal = tmp_path / 'audio', tmp_path / 'scan.jsonl'
  for seed in range(12):
    _write(folder / f'{seed:02d}.wav', seed, secs=1)
  known = 0
  for stop in (signal.SIGINT, signal.SIGKILL):
    process = _start(tmp_path, folder)
    for number in range(known + 2):
      if number:
        process.stdin.write('on\n')
        process.stdin.flush()
      assert process.stdout.readline() == '+\n'
    workers = _children(process.pid)
    assert len(workers) >= 2
    if stop == signal.SIGINT:
      os.killpg(process.pid, stop)
    else:
      process.kill()
    _, told = process.communicate(timeout=600)
    assert process.returncode != 0
    assert stop == signal.SIGKILL or told.rstrip().endswith('KeyboardInterrupt')
    _wait_for_end_of(workers)
    known += 2
    assert len(_journal_paths(journal)) == known
  out, _ = _start(tmp_path, folder).communicate('on\n' * 12, timeout=600)
  assert out.splitlines()[-1] == '12 good'
  assert sorted(_journal_paths(journal)) == sorted(map(str, folder.iterdir()))  # None twice.


def _journal_paths(journal):
  lines = journal.read_bytes().splitlines()
  return [json.loads(line)['path'] for line in lines if line.endswith(b'}')]


def test_a_decoder_that_kills_its_process_costs_one_file(tmp_path):
  """The process that opens one file dies; the others are read all the same."""
  folder = tmp_path / 'audio'
  for seed in range(6):
    _write(folder / f'{seed}.wav', seed)
  script = tmp_path / 'dying.py'
  script.write_text(
    textwrap.dedent("""
      import os, sys
      from preprocessing import audio, scan
      header = audio.read_header
      def dying(path):
        if str(path).endswith('3.wav'):
          os._exit(11)
        return header(path)
      audio.read_header = dying
      if __name__ == '__main__':
        paths = sorted(p.path for p in os.scandir(sys.argv[1]))
        done = scan.scan(paths, scan.ScanSettings(decode=False), num_workers=2)
        print([found.reason for found in done.values()], done[paths[3]].detail)
    """)
  )
  done = subprocess.run(
    [sys.executable, str(script), str(folder)], env={**os.environ, 'PYTHONPATH': str(ROOT)},
    capture_output=True, text=True, check=True, timeout=600,
  )  # fmt: skip
  assert done.stdout == (
    f"['', '', '', 'decode_error', '', ''] {folder / '3.wav'} crashes the decoder\n"
  )


def test_progress_counts_every_file(tmp_path):
  paths = [_write(tmp_path / f'{seed}.wav', seed) for seed in range(3)]
  journal, counts = str(tmp_path / 'scan.jsonl'), []
  scan.scan(paths[:2], SETTINGS, journal=journal)
  scan.scan([*paths, paths[0]], SETTINGS, journal=journal, progress=counts.append)
  assert counts == [1, 1, 1]
