"""Speed and memory of the preparation; one line of JSON a case.

    python -m benchmarks.prepare                            # overhead, workers, memory, rates
    python -m benchmarks.prepare --cases memory --hours=4   # peak memory on hours of audio
    python -m benchmarks.prepare --cases rates --sizes real # codec and style model at real size

- overhead: the same tracks through the graph and through a plain loop, a stand-in for the models,
  so that the share of the graph is as large as it can be. Goal: below 0.15.
- workers: the share of the time in which each of the default workers is inside of a track.
- memory: the peak of a process that prepares hours of audio, beyond what it has when it begins, and
  the size of its shards. Once with shards four times as large.
- rates: audio-hours for each core-hour.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np

from benchmarks.measuring import report
from models.spec import MAGENTA_RT_V1 as SPEC
from preprocessing import audio, corpus, features, manifest, parts, quality, shards, units

CASES = ('overhead', 'workers', 'memory', 'rates')
SIZES = ('bundled', 'real')
TRACK_SECS = 240
_MIB = 1 << 20


class QuickCodec:
  """Codes that cost next to nothing: the mean magnitude of a frame."""

  content_hash = 'quick-codec'

  def encode(self, x: np.ndarray) -> np.ndarray:
    frames = x.shape[-2] // SPEC.samples_per_frame
    x = x[..., : frames * SPEC.samples_per_frame, :]
    level = np.abs(x).reshape(*x.shape[:-2], frames, -1).mean(axis=-1)
    codes = (level * SPEC.codebook_size).astype(np.int32)[..., None] + np.arange(SPEC.codec_levels)
    return (codes % SPEC.codebook_size).astype(np.int32)


class QuickStyle:
  """Embeddings that cost next to nothing."""

  content_hash = 'quick-style'

  def embed_windows(self, x: np.ndarray, sample_rate: int) -> np.ndarray:
    windows = -(-len(x) // round(SPEC.style_window_secs * sample_rate))
    return np.zeros([windows, SPEC.style_dim], np.float32)

  def tokenize(self, embeddings: np.ndarray) -> np.ndarray:
    return np.zeros([len(embeddings), SPEC.style_rvq_levels], np.int32)


def load_quick(codec: str, style: str):
  """Stands in for `units.load_models`."""
  return QuickCodec(), QuickStyle()


def write_tracks(
  folder: pathlib.Path, number: int, secs: float, rate: int = SPEC.sample_rate
) -> list[manifest.Track]:
  """Mono WAV files of noise, quickly made, and their manifest."""
  noise = np.random.default_rng(0).normal(0, 0.1, [round(secs * rate), 1]).astype(np.float32)
  tracks = []
  for index in range(number):
    noise[0] = index / number
    path = str(folder / f'{index:04d}.wav')
    audio.write_audio(path, noise, rate)
    tracks.append(
      manifest.Track(
        track_id=f'{index:04d}', path=path, sha256=manifest.file_sha256(path),
        duration_secs=secs, sample_rate=rate, channels=1, title=str(index), work=str(index),
      )  # fmt: skip
    )
  manifest.write_manifest(folder / 'tracks.jsonl', tracks)
  return tracks


def settings_of(models: tuple[Any, Any]) -> parts.TokenSettings:
  codec, style = models
  return parts.TokenSettings(
    codec.content_hash, style.content_hash, features.ClipOptions(), quality.QualityLimits()
  )


def track_work(folder: pathlib.Path, name: str) -> units.TrackWork:
  return units.TrackWork(
    str(folder / name), settings_of(load_quick('', '')), '', '', load_quick
  )


def run_overhead(number: int, secs: float, repeats: int):
  """CPU time of all threads and wall-clock time, medians; the order of the two alternates."""
  from preprocessing import pipeline, work

  ratios: dict[str, list[float]] = {'cpu': [], 'wall': []}
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    tracks = write_tracks(folder, number, secs)
    settings = settings_of(load_quick('', ''))
    todo = [units.TrackUnit(settings.key(t.sha256), t.path, t.sha256) for t in tracks]

    def loop(place: str):
      how = track_work(folder, place)
      for unit in todo:
        how.do(unit)

    def graph(place: str):
      plan = folder / f'{place}.jsonl'
      ranges = work.write_plan(plan, (('', [units.as_line(unit)]) for unit in todo))
      do = pipeline.TokenizeTracks(track_work(folder, place))
      pipeline.run_ranges(ranges, do, beam_args=['--direct_running_mode=in_memory'])

    graph('warm_graph')
    loop('warm_loop')
    for repeat in range(repeats):
      took = {}
      for call in (loop, graph) if repeat % 2 else (graph, loop):
        wall, cpu = time.perf_counter(), time.process_time()
        call(f'{call.__name__}_{repeat}')
        took[call] = time.process_time() - cpu, time.perf_counter() - wall
      ratios['cpu'].append(took[graph][0] / took[loop][0])
      ratios['wall'].append(took[graph][1] / took[loop][1])
  report(
    'overhead', tracks=number, track_secs=secs,
    cpu_overhead=round(float(np.median(ratios['cpu'])) - 1, 3),
    wall_overhead=round(float(np.median(ratios['wall'])) - 1, 3),
    goal=0.15, loop_cpu_secs_a_track=round(took[loop][0] / number, 4),
  )  # fmt: skip


@dataclasses.dataclass
class BusyCodec(QuickCodec):
  """Notes when it is inside of `encode`, which takes a while."""

  secs: float = 0.2

  def encode(self, x: np.ndarray) -> np.ndarray:
    INSIDE.append((threading.get_ident(), time.perf_counter()))
    time.sleep(self.secs)
    INSIDE.append((threading.get_ident(), time.perf_counter()))
    return super().encode(x)


INSIDE: list[tuple[int, float]] = []


def load_busy(codec: str, style: str):
  """Stands in for `units.load_models`."""
  return BusyCodec(), QuickStyle()


def run_workers(number: int, secs: float):
  """Whether all default workers have something to do from the first track to the last."""
  from preprocessing import pipeline, work

  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    tracks = write_tracks(folder, number, secs, rate=16_000)
    how = dataclasses.replace(track_work(folder, 'parts'), loader=load_busy)
    todo = [units.TrackUnit(how.settings.key(t.sha256), t.path, t.sha256) for t in tracks]
    groups = work.deal(todo)
    ranges = work.write_plan(
      folder / 'plan.jsonl', (('', map(units.as_line, group)) for group in groups)
    )
    pipeline.run_ranges(ranges, pipeline.TokenizeTracks(how))
  inside, workers = 0.0, {thread for thread, _ in INSIDE}
  for thread in workers:
    moments = [moment for other, moment in INSIDE if other == thread]
    inside += sum(end - begin for begin, end in zip(moments[::2], moments[1::2], strict=True))
  last = {thread: max(m for t, m in INSIDE if t == thread) for thread in workers}
  first = min(moment for _, moment in INSIDE)
  span = max(last.values()) - first
  report(
    'workers', tracks=number, workers=len(workers), cores=os.cpu_count(),
    inside_encode=round(inside / (span * len(workers)), 3),
    until_last_track=round(min(end - first for end in last.values()) / span, 3),
  )  # fmt: skip


def run_memory(hours: float, shard_mib: int):
  """Prepares hours of audio in a process of its own, with each size of shard."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    number = max(1, round(hours * 3600 / TRACK_SECS))
    write_tracks(folder, number, TRACK_SECS)
    for mib in (shard_mib, 4 * shard_mib):
      command = [sys.executable, '-m', 'benchmarks.prepare', '--inside', name, str(mib)]
      done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
      figures = json.loads(done.stdout.splitlines()[-1])
      report('memory', hours=hours, shard_mib=mib, **figures)


def prepare_inside(folder: pathlib.Path, shard_mib: int):
  """Prepares and prints its own peak; parts are shared by the sizes of shard."""
  from preprocessing import pipeline, records  # noqa: F401  imports count as what it begins with

  begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  sampled = threading.Event()
  stages: list[int] = []

  def sample():
    while not sampled.wait(0.05):
      pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
      stages.append(pages * resource.getpagesize())

  threading.Thread(target=sample, daemon=True).start()
  done = corpus.prepare_corpus(
    corpus.PrepareOptions(
      output_dir=str(folder / 'out'), manifest_path=str(folder / 'tracks.jsonl'),
      version=f'{shard_mib}.0.0', format=shards.RecordFormat(shard_bytes=shard_mib * _MIB),
    ),
    load_quick,
  )  # fmt: skip
  sampled.set()
  sizes = [path.stat().st_size for path in done.dataset_dir.glob('*.tfrecord-*')]
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  figures = {
    'records': sum(split['records'] for split in done.stats['splits'].values()),
    'shards': len(sizes),
    'largest_shard_mib': round(max(sizes) / _MIB, 1),
    'data_set_mib': round(sum(sizes) / _MIB),
    'begin_mib': round(begin / 1024),
    'peak_mib': round(peak / 1024),
    'beyond_begin_mib': round((peak - begin) / 1024),
  }
  print(json.dumps(figures))


def real_models() -> tuple[Any, Any]:
  """Codec and style model at the released sizes, with random weights."""
  import jax

  from benchmarks.codec import random_params
  from models.musiccoca import MusicCoCa
  from models.musiccoca.config import MusicCoCaConfig
  from models.musiccoca.towers import init_audio_tower
  from models.spectrostream import SpectroStream, SpectroStreamConfig

  config = SpectroStreamConfig.real()
  params = random_params(config)
  codec = SpectroStream(config, params, np.asarray(params.pop('quantizer')['embedding']), SPEC)
  small, size = MusicCoCa.load('tiny'), MusicCoCaConfig.real()
  samples = round(SPEC.style_window_secs * SPEC.style_sample_rate)
  tower = init_audio_tower(jax.random.key(0), size, samples, SPEC.style_dim)
  return codec, MusicCoCa(
    size, {**small.params, 'audio': tower}, small.vocabulary, small.quantizer, SPEC
  )


def run_rates(sizes: list[str], secs: float, clip_secs: int):
  """Audio-hours for each core-hour; CPU time, so that other work beside it matters little."""
  from pipelines import plan_corpus

  for size in sizes:
    models = units.load_models('tiny', 'tiny') if size == 'bundled' else real_models()
    speed = plan_corpus.measure(*models, secs, features.ClipOptions(clip_secs=clip_secs))
    report(
      'rates', size=size, device=speed.device,
      audio_hours_per_core_hour=round(1 / speed.core_secs, 2),
      codec=round(speed.codec / speed.codec_cores, 2),
      style=round(speed.style / speed.style_cores, 1),
      decode_and_checks=round(speed.decode, 1),
      cores_busy_in_codec=round(speed.codec_cores, 2),
    )  # fmt: skip


def main():
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
  parser.add_argument('--sizes', nargs='+', choices=SIZES, default=list(SIZES))
  parser.add_argument('--hours', type=float, default=4.0, help='of audio, for memory')
  parser.add_argument('--shard_mib', type=int, default=8, help='for memory')
  parser.add_argument('--tracks', type=int, default=24, help='for overhead and workers')
  parser.add_argument('--track_secs', type=float, default=40.0, help='for overhead and workers')
  parser.add_argument('--repeats', type=int, default=3, help='of overhead')
  parser.add_argument('--secs', type=float, default=60.0, help='of measuring, for each of --sizes')
  parser.add_argument('--clip_secs', type=int, default=30, help='for rates')
  parser.add_argument('--inside', nargs=2, help=argparse.SUPPRESS)
  args = parser.parse_args()
  if args.inside:
    prepare_inside(pathlib.Path(args.inside[0]), int(args.inside[1]))
    return
  if 'overhead' in args.cases:
    run_overhead(args.tracks, args.track_secs, args.repeats)
  if 'workers' in args.cases:
    run_workers(args.tracks, args.track_secs)
  if 'memory' in args.cases:
    run_memory(args.hours, args.shard_mib)
  if 'rates' in args.cases:
    run_rates(args.sizes, args.secs, args.clip_secs)


if __name__ == '__main__':
  # By its name, so that what Beam passes to workers is found there and not copied.
  from benchmarks import prepare

  prepare.main()
