"""SIGKILL at random moments, on every runner that runs here: the records of a quiet run."""

import contextlib
import dataclasses
import hashlib
import multiprocessing
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


# Imports happen once: runs are forked from a process that has made them.
FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(['prepare_run'])


@pytest.fixture(scope='module')
def tracks_file(tmp_path_factory):
  """A manifest of sixteen tracks of 4 to 19 s, one of them twice, and two bad files."""
  folder = tmp_path_factory.mktemp('audio')
  for number in range(NUM_TRACKS):
    x = np.random.default_rng(number).normal(0, 0.1, [(4 + number) * RATE, 2])
    audio.write_audio(folder / f'{number:02d}.wav', x, RATE)
  (folder / 'again.wav').write_bytes((folder / '03.wav').read_bytes())
  (folder / 'empty.wav').write_bytes(b'')
  (folder / 'garbage.wav').write_bytes(b'\x01\x02garbage' * 999)
  tracks = [
    manifest.Track(
      track_id=path.stem,
      path=str(path),
      sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
      duration_secs=10.0,
      sample_rate=RATE,
      channels=2,
      work=path.stem,
    )
    for path in sorted(folder.iterdir())
  ]
  manifest.write_manifest(folder / 'tracks.jsonl', tracks)
  return folder / 'tracks.jsonl'


@pytest.fixture(scope='module')
def quiet(tracks_file, tmp_path_factory):
  """What a run gives that nobody disturbs: the folder, and its statistics."""
  result = corpus.prepare_corpus(
    prepare_run.options(tracks_file, tmp_path_factory.mktemp('quiet')), load
  )
  return result.dataset_dir, result.stats


def start(tracks_file, output, beam_args):
  """A run in a process and process group of its own."""
  process = FORKS.Process(
    target=prepare_run.run,
    args=(tracks_file, output, beam_args, output.with_suffix('.log')),
  )
  process.start()
  return process


def progress(output):
  """(markers, shards) that a run has left."""
  return (
    len(list(output.glob('parts/*/[!.]*.json'))),
    len(list(output.glob('toy/.1.0.0.*/[!.]*tfrecord*'))),
  )


def kill_at_a_random_moment(process, output, before, draw, *, whole_group):
  """SIGKILLs a run some time after its first sign of work; returns the progress found, or None."""
  deadline = time.monotonic() + 1200
  while process.is_alive() and time.monotonic() < deadline:
    # On a cluster, workers may still be at what the driver before gave them.
    if _has_its_group(process) and progress(output) != before:
      break
    time.sleep(0.02)
  process.join(draw.uniform(0, 1.2))
  if not process.is_alive():
    assert process.exitcode == 0, output.with_suffix('.log').read_text()[-3000:]
    return None
  with contextlib.suppress(ProcessLookupError):
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGKILL)
  process.join()
  return progress(output) if process.exitcode else None


def _has_its_group(process):
  try:
    return os.getpgid(process.pid) == process.pid
  except ProcessLookupError:
    return False


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
  assert len({track.sha256 for track in tracks}) == NUM_TRACKS and len(tracks) == NUM_TRACKS + 1


def assert_nothing_is_left_running(process):
  """Workers of a killed driver, which stay in its group, end by themselves."""
  deadline = time.monotonic() + 600
  while time.monotonic() < deadline:
    try:
      os.killpg(process.pid, 0)
    except ProcessLookupError:
      return
    time.sleep(0.5)
  raise AssertionError(f'Workers of {process.pid} still run.')


def run_and_kill(tracks_file, output, beam_args, kills, quiet, seed, between=lambda kill: None):
  """Kills `kills` runs, lets the last one end, and compares; returns where each kill fell."""
  draw = random.Random(seed)
  where, before = [], progress(output)
  while len(where) < kills:
    process = start(tracks_file, output, beam_args)
    # Driver and workers at once, or the driver alone.
    both = len(where) % 2 == 0
    after = kill_at_a_random_moment(process, output, before, draw, whole_group=both)
    if after is None:
      # It ended first: take something away, so that there is work to be killed at.
      _undo_some(output, draw)
      after = progress(output)
    else:
      where.append(after)
      between(len(where))
      assert_nothing_is_left_running(process)
    before = after
  process = start(tracks_file, output, beam_args)
  process.join(600)
  assert process.exitcode == 0, output.with_suffix('.log').read_text()[-3000:]
  assert_same_records(output, quiet)
  return where


def _undo_some(output, draw):
  """Removes half of the markers and the finished data set."""
  for path in sorted(output.glob('parts/*/*.json')):
    if draw.random() < 0.5:
      path.unlink()
  for path in (output / 'toy' / '1.0.0').iterdir():
    path.unlink()
  (output / 'toy' / '1.0.0').rmdir()


def test_killed_in_one_process(tracks_file, quiet, tmp_path):
  where = run_and_kill(tracks_file, tmp_path / 'out', RUNNERS['in_memory'], 1, quiet, seed=0)
  assert where[0][0] < NUM_TRACKS + 2


@pytest.mark.slow
@pytest.mark.parametrize('runner', RUNNERS)
def test_killed_ten_times(runner, tracks_file, quiet, tmp_path):
  where = run_and_kill(tracks_file, tmp_path / 'out', RUNNERS[runner], 10, quiet, seed=runner)
  print(f'\n{runner}: killed at (tracks, shards) {where}')


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
      '--host', '127.0.0.1', '--local-directory', str(folder), '--death-timeout', '600',
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


@pytest.mark.slow
def test_dask_with_two_workers(tracks_file, quiet, tmp_path):
  """A whole run on Dask; its own runner is known to lose the results of branches."""
  with dask_cluster(tmp_path) as (address, *_):
    run_and_kill(tracks_file, tmp_path / 'out', _dask_args(address), 0, quiet, seed=0)


@pytest.mark.slow
def test_dask_killed_ten_times(tracks_file, quiet, tmp_path):
  """The driver dies ten times, and a worker with it every third time."""
  with dask_cluster(tmp_path) as (address, processes, worker):

    def kill_a_worker(kill):
      if kill % 3 == 0:
        processes[1].kill()
        processes[1].wait()
        processes[1] = worker()

    where = run_and_kill(
      tracks_file, tmp_path / 'out', _dask_args(address), 10, quiet, seed=0, between=kill_a_worker
    )
  print(f'\nDask: killed at (tracks, shards) {where}')


def _dask_args(address):
  return ['--runner=DaskRunner', f'--dask_client_address={address}', '--dask_npartitions=8']


def test_a_lost_record_is_loud(tracks_file, tmp_path, monkeypatch):
  """A runner that says it is done and is not; a shard without a record, a part without a clip."""
  options = prepare_run.options(tracks_file, tmp_path / 'out')
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
