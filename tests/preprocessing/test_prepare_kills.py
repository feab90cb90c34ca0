"""SIGKILL at random moments, on every runner that runs here: the records of a quiet run."""

import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import prepare_run
import pytest
from fake_token_models import load

from preprocessing import audio, corpus, manifest, records

ROOT = pathlib.Path(__file__).parents[2]
HERE = pathlib.Path(__file__).parent
RATE = 16_000
NUM_TRACKS = 16
RUNNERS = {
  'in_memory': ['--direct_running_mode=in_memory'],
  'multi_threading': ['--direct_running_mode=multi_threading', '--direct_num_workers=2'],
  'multi_processing': ['--direct_running_mode=multi_processing', '--direct_num_workers=2'],
}
ENVIRONMENT = {
  **os.environ, 'PYTHONPATH': os.pathsep.join([str(ROOT), str(HERE)]), 'TF_CPP_MIN_LOG_LEVEL': '3',
}  # fmt: skip


@pytest.fixture(scope='module')
def audio_dir(tmp_path_factory):
  """Sixteen tracks of 8 to 38 s, one of them twice under another name, and two bad files."""
  folder = tmp_path_factory.mktemp('audio')
  for number in range(NUM_TRACKS):
    x = np.random.default_rng(number).normal(0, 0.1, [(8 + 2 * number) * RATE, 2])
    audio.write_audio(folder / f'{number:02d}.wav', x, RATE)
  (folder / 'again.wav').write_bytes((folder / '03.wav').read_bytes())
  (folder / 'empty.flac').write_bytes(b'')
  (folder / 'garbage.mp3').write_bytes(b'\x01\x02garbage' * 999)
  return folder


@pytest.fixture(scope='module')
def quiet(audio_dir, tmp_path_factory):
  """What a run gives that nobody disturbs: {shard: bytes}, stats."""
  result = corpus.prepare_corpus(
    prepare_run.options(audio_dir, tmp_path_factory.mktemp('quiet')), load
  )
  return result.dataset_dir, result.stats


def start(audio_dir, output, beam_args, log):
  return subprocess.Popen(
    [sys.executable, str(HERE / 'prepare_run.py'), str(audio_dir), str(output), *beam_args],
    cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True,
  )  # fmt: skip


def progress(output):
  """(markers, shards) that a run has left."""
  return (
    len(list(output.glob('parts/*/[!.]*.json'))),
    len(list(output.glob('toy/.1.0.0.*/[!.]*tfrecord*'))),
  )


def kill_at_a_random_moment(process, output, before, draw, *, whole_group):
  """SIGKILLs a run some time after its first sign of work; returns the progress found, or None."""
  deadline = time.monotonic() + 240
  while process.poll() is None and progress(output) == before and time.monotonic() < deadline:
    time.sleep(0.02)
  with contextlib.suppress(subprocess.TimeoutExpired):
    process.wait(draw.uniform(0, 1.2))
  if process.poll() is not None:
    assert process.returncode == 0
    return None
  if whole_group:
    os.killpg(process.pid, signal.SIGKILL)
  else:
    os.kill(process.pid, signal.SIGKILL)
  process.wait()
  return progress(output)


def assert_same_records(output, quiet):
  """Every shard is the quiet run's to the last bit, and no record stands there twice."""
  folder, stats = quiet
  made = output / 'toy' / '1.0.0'
  names = sorted(path.name for path in folder.glob('*.tfrecord-*'))
  assert sorted(path.name for path in made.glob('*.tfrecord-*')) == names
  found = [info for _, info in records.read_shards([made / name for name in names])]
  assert len({(info.track_id, info.start_secs) for info in found}) == len(found)
  assert len(found) == sum(facts['records'] for facts in stats['splits'].values())
  for name in names:
    assert (made / name).read_bytes() == (folder / name).read_bytes(), name
  assert not list((output / 'toy').glob('.1.0.0*'))
  tracks = manifest.read_manifest(output / manifest.MANIFEST_FILE)
  assert len({track.sha256 for track in tracks}) == NUM_TRACKS


def assert_nothing_is_left_running(output):
  """Workers of a killed driver end by themselves."""
  deadline = time.monotonic() + 60
  while time.monotonic() < deadline:
    left = [pid for pid in pathlib.Path('/proc').glob('[0-9]*') if str(output) in _command(pid)]
    if not left:
      return
    time.sleep(0.5)
  raise AssertionError(f'{left} still run.')


def _command(pid):
  try:
    return (pid / 'cmdline').read_text().replace('\0', ' ') + (pid / 'cwd').resolve().as_posix()
  except OSError:
    return ''


def run_and_kill(audio_dir, output, beam_args, kills, quiet, seed):
  """Kills `kills` runs, lets the last one end, and compares; returns where each kill fell."""
  draw = random.Random(seed)
  where, before = [], progress(output)
  with open(output.with_suffix('.log'), 'ab') as log:
    while len(where) < kills:
      process = start(audio_dir, output, beam_args, log)
      after = kill_at_a_random_moment(
        process, output, before, draw, whole_group=len(where) % 2 == 0
      )
      if after is None:
        # It ended first: take something away, so that there is work to be killed at.
        _undo_some(output, draw)
        after = progress(output)
      else:
        where.append(after)
      before = after
    process = start(audio_dir, output, beam_args, log)
    assert process.wait(600) == 0, output.with_suffix('.log').read_text()[-3000:]
  assert_same_records(output, quiet)
  assert_nothing_is_left_running(output)
  return where


def _undo_some(output, draw):
  """Removes half of the markers and the finished data set."""
  for path in sorted(output.glob('parts/*/*.json')):
    if draw.random() < 0.5:
      path.unlink()
  for path in (output / 'toy' / '1.0.0').iterdir():
    path.unlink()
  (output / 'toy' / '1.0.0').rmdir()


def test_killed_twice_in_one_process(audio_dir, quiet, tmp_path):
  where = run_and_kill(
    audio_dir, tmp_path / 'out', RUNNERS['in_memory'], 2, quiet, seed=0
  )
  assert len(where) == 2 and where[0][0] < NUM_TRACKS + 2


@pytest.mark.slow
@pytest.mark.parametrize('runner', RUNNERS)
def test_killed_ten_times(runner, audio_dir, quiet, tmp_path):
  where = run_and_kill(audio_dir, tmp_path / 'out', RUNNERS[runner], 10, quiet, seed=runner)
  print(f'\n{runner}: killed at (tracks, shards) {where}: same {quiet[1]["splits"]}')


@contextlib.contextmanager
def dask_cluster(folder):
  """A scheduler and two workers on loopback; yields the address and the workers' processes."""
  pytest.importorskip('distributed')
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  address = f'tcp://127.0.0.1:{port}'
  log = open(folder / 'dask.log', 'wb')  # noqa: SIM115  it outlives this function's body

  def spawn(*arguments):
    return subprocess.Popen(
      [sys.executable, '-m', *arguments, '--no-dashboard'],
      cwd=folder, env=ENVIRONMENT, stdout=log, stderr=log,
    )  # fmt: skip

  def worker():
    return spawn(
      'distributed.cli.dask_worker', address, '--no-nanny', '--nthreads', '1',
      '--host', '127.0.0.1', '--local-directory', str(folder), '--death-timeout', '60',
    )  # fmt: skip

  processes = [
    spawn('distributed.cli.dask_scheduler', '--host', '127.0.0.1', '--port', str(port)),
    worker(),
    worker(),
  ]
  try:
    yield address, processes, worker
  finally:
    for process in processes:
      process.kill()
      process.wait()
    log.close()


def test_dask_with_two_workers(audio_dir, quiet, tmp_path):
  """A whole run on Dask; its own runner is known to lose the results of branches."""
  with dask_cluster(tmp_path) as (address, *_):
    output = tmp_path / 'out'
    run_and_kill(audio_dir, output, _dask_args(address), 0, quiet, seed=0)


@pytest.mark.slow
def test_dask_killed_ten_times(audio_dir, quiet, tmp_path):
  """The driver dies ten times, and a worker with it every third time."""
  output, where = tmp_path / 'out', []
  with dask_cluster(tmp_path) as (address, processes, worker):
    for kill in range(10):
      where += _kill_once(audio_dir, output, _dask_args(address), draw_seed=kill)
      if kill % 3 == 2:
        processes[1].kill()
        processes[1].wait()
        processes[1] = worker()
    where.append('end')
    run_and_kill(audio_dir, output, _dask_args(address), 0, quiet, seed=0)
  print(f'\nDask: killed at (tracks, shards) {where}')


def _kill_once(audio_dir, output, beam_args, draw_seed):
  draw = random.Random(draw_seed)
  with open(output.with_suffix('.log'), 'ab') as log:
    while True:
      before = progress(output)
      process = start(audio_dir, output, beam_args, log)
      after = kill_at_a_random_moment(process, output, before, draw, whole_group=True)
      if after is not None:
        return [after]
      _undo_some(output, draw)


def _dask_args(address):
  return ['--runner=DaskRunner', f'--dask_client_address={address}', '--dask_npartitions=8']


def test_a_lost_record_is_loud(audio_dir, tmp_path, monkeypatch):
  """A runner that says it is done and is not; a shard without a record, a part without a clip."""
  options = prepare_run.options(audio_dir, tmp_path / 'out')
  from preprocessing import parts, pipeline

  run = pipeline.run_ranges
  monkeypatch.setattr(
    pipeline, 'run_ranges', lambda ranges, *rest, **kwargs: run(ranges[:-1], *rest, **kwargs)
  )
  with pytest.raises(RuntimeError, match='1 of 18 work units are missing after the run'):
    corpus.prepare_corpus(options, load)
  monkeypatch.setattr(pipeline, 'run_ranges', run)

  write = records.write_shard
  monkeypatch.setattr(
    records, 'write_shard', lambda path, encoded, kind: write(path, list(encoded)[1:], kind)
  )
  with pytest.raises(RuntimeError, match=r'has \d+ records, the manifest gives'):
    corpus.prepare_corpus(options, load)
  monkeypatch.setattr(records, 'write_shard', write)

  parts_dir = tmp_path / 'out' / 'parts'
  key = next(k for k in sorted(parts.done_keys(parts_dir)) if parts.read_marker(parts_dir, k).peak)
  marker = parts.read_marker(parts_dir, key)
  parts.write_marker(
    parts_dir, key, dataclasses.replace(marker, clip_starts=marker.clip_starts[:-1])
  )
  with pytest.raises(RuntimeError, match=rf'should have .* clips, its part {key} has'):
    corpus.prepare_corpus(options, load)
