"""What it takes to prepare a corpus of so many hours: time, storage and money, from a measurement.

Codec and style model are timed on this machine, on noise, at the preparation's own batch; decoding
and resampling are timed apart, since an accelerator does not speed them up. Storage is arithmetic.
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable

import numpy as np

from models.spec import MAGENTA_RT_V1, LiveMusicSpec
from preprocessing import audio, features, quality, shards, units

_SECS_PER_HOUR = 3600.0
_FILE_SECS = 60.0
# Share of the measuring time that each of the three steps gets.
_SHARES = {'codec': 0.6, 'style': 0.2, 'decode': 0.2}
_PARTS_BYTES_PER_TOKEN = 2


@dataclasses.dataclass(frozen=True)
class Throughput:
  """Seconds of audio for each second, on what was measured.

  Attributes:
    codec, style, decode: of each step alone. Decoding counts its two passes over a file (measuring
      and reading), the hash and both resamplings.
    codec_cores, style_cores: cores that the models kept busy meanwhile.
    device: what ran the models: 'cpu', 'gpu' or 'tpu'.
  """

  codec: float
  style: float
  decode: float
  codec_cores: float
  style_cores: float
  device: str

  @property
  def core_secs(self) -> float:
    """Core-seconds for a second of audio, where the models run on cores."""
    return self.codec_cores / self.codec + self.style_cores / self.style + 1 / self.decode

  @property
  def device_secs(self) -> float:
    """Accelerator-seconds for a second of audio, where the models run on one."""
    return 1 / self.codec + 1 / self.style


@dataclasses.dataclass(frozen=True)
class CorpusPlan:
  """What to reckon with.

  Attributes:
    hours: of audio.
    track_secs: mean length of a track.
    clip_secs: of a clip.
    codec_levels: of the records of the table's own row; the others are shown too.
    shard_bytes: most bytes of a shard.
    workers: cores, or accelerators, that work at once; for the days it takes.
    price_core_hour, price_accelerator_hour, price_gib_month: in any currency; None leaves out.
  """

  hours: float
  track_secs: float = 240.0
  clip_secs: int = 30
  codec_levels: int | None = None
  shard_bytes: int = shards.SHARD_BYTES
  workers: int = 1000
  price_core_hour: float | None = None
  price_accelerator_hour: float | None = None
  price_gib_month: float | None = None

  def check(self):
    """Raises ValueError for numbers that mean nothing."""
    for name in ('hours', 'track_secs', 'clip_secs', 'workers'):
      if not getattr(self, name) > 0:
        raise ValueError(f'{name}={getattr(self, name)} must be above 0.')
    for name in ('price_core_hour', 'price_accelerator_hour', 'price_gib_month'):
      if (getattr(self, name) or 0) < 0:
        raise ValueError(f'{name}={getattr(self, name)} must not be negative.')
    shards.RecordFormat(self.codec_levels, shard_bytes=self.shard_bytes).check()


def measure(
  codec: features.Codec,
  style: features.StyleModel,
  secs: float,
  options: features.ClipOptions,
  spec: LiveMusicSpec = MAGENTA_RT_V1,
) -> Throughput:
  """Times the three steps for about `secs` seconds in all, after one call each that compiles."""
  import jax

  rng = np.random.default_rng(0)
  batch = options.clips_per_batch if jax.default_backend() != 'cpu' else 1
  x = rng.normal(0, 0.1, [batch, options.clip_secs * spec.sample_rate, spec.num_channels])
  x = x.astype(np.float32)
  mono = audio.resample(x[0].mean(axis=1), spec.sample_rate, spec.style_sample_rate)
  clip_secs = float(options.clip_secs)
  encode = _rate(lambda: codec.encode(x), batch * clip_secs, secs * _SHARES['codec'])
  embed = _rate(
    lambda: style.tokenize(style.embed_windows(mono, spec.style_sample_rate)),
    clip_secs,
    secs * _SHARES['style'],
  )
  decode = _rate_of_decoding(secs * _SHARES['decode'], options, spec)
  return Throughput(
    encode[0], embed[0], decode, encode[1], embed[1], device=jax.default_backend()
  )


def _rate(call: Callable[[], object], audio_secs: float, secs: float) -> tuple[float, float]:
  """(seconds of audio a second, cores busy) of a call; at least two calls after the first."""
  call()
  began, cpu_began, count = time.perf_counter(), time.process_time(), 0
  while count < 2 or time.perf_counter() - began < secs:
    call()
    count += 1
  wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
  return count * audio_secs / wall, cpu / wall


def _rate_of_decoding(secs: float, options: features.ClipOptions, spec: LiveMusicSpec) -> float:
  """Seconds of audio for each core-second: a FLAC file of 44.1 kHz is hashed, examined and read."""
  from preprocessing import manifest

  rate = 44_100
  noise = np.random.default_rng(1).normal(0, 0.1, [round(_FILE_SECS * rate), 2])
  clips = features.plan_clips(_FILE_SECS, options)
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'noise.flac')
    audio.write_audio(path, noise, rate)

    def read():
      manifest.file_sha256(path)
      quality.examine(path)
      for clip in clips:
        x = features.read_clips(path, [clip], 1.0, spec)
        audio.resample(x.mean(axis=1), spec.sample_rate, spec.style_sample_rate)

    speed, cores = _rate(read, _FILE_SECS, secs)
  return speed / max(cores, 1e-3)


def bytes_per_hour(
  levels: int, clip_secs: int = 30, spec: LiveMusicSpec = MAGENTA_RT_V1
) -> float:
  """Of records of whole clips, uncompressed."""
  frames = clip_secs * spec.frame_rate
  return shards.record_bytes(frames, levels, spec) * _SECS_PER_HOUR / clip_secs


def parts_bytes_per_hour(clip_secs: int = 30, spec: LiveMusicSpec = MAGENTA_RT_V1) -> float:
  """Of the parts, which keep all levels as 16-bit integers until the corpus is finished with."""
  frames = clip_secs * spec.frame_rate
  rows = frames / (spec.frame_rate * spec.style_window_secs)
  tokens = _PARTS_BYTES_PER_TOKEN * (frames * spec.codec_levels + rows * spec.style_rvq_levels)
  return (tokens + 4 * rows * spec.style_dim) * _SECS_PER_HOUR / clip_secs


def describe(
  plan: CorpusPlan, speed: Throughput, gzip_ratio: float, spec: LiveMusicSpec = MAGENTA_RT_V1
) -> str:
  """The plan in words and figures.

  Args:
    plan: of the corpus.
    speed: measured.
    gzip_ratio: compressed size over size, measured on the codec's tokens.
    spec: token layout.
  """
  return '\n'.join([*_work_lines(plan, speed), '', *_storage_lines(plan, gzip_ratio, spec)])


def _work_lines(plan: CorpusPlan, speed: Throughput) -> list[str]:
  tracks = plan.hours * _SECS_PER_HOUR / plan.track_secs
  lines = [
    f'{plan.hours:,.0f} hours, {tracks:,.0f} tracks of {plan.track_secs:g} s, '
    f'{plan.hours * _SECS_PER_HOUR / plan.clip_secs:,.0f} clips of {plan.clip_secs} s',
    f'measured here ({speed.device}): codec {speed.codec:.1f} x real time on '
    f'{speed.codec_cores:.1f} cores, style {speed.style:.0f} x on {speed.style_cores:.1f}, '
    f'decoding and checks {speed.decode:.0f} x a core',
  ]
  if speed.device == 'cpu':
    core_hours = plan.hours * speed.core_secs
    lines.append(f'core-hours          {core_hours:>14,.0f}')
    busy, what, price = core_hours, 'cores', plan.price_core_hour
  else:
    busy = plan.hours * speed.device_secs
    core_hours = plan.hours / speed.decode
    lines.append(f'accelerator-hours   {busy:>14,.0f}')
    lines.append(
      f'core-hours          {core_hours:>14,.0f}   (decoding: {core_hours / busy:.1f} cores keep '
      'an accelerator busy)'
    )
    what, price = 'accelerators', plan.price_accelerator_hour
  lines.append(f'days on {plan.workers:,} {what:<12} {busy / plan.workers / 24:>9,.2f}')
  cost = None if price is None else busy * price
  if speed.device != 'cpu' and plan.price_core_hour is not None:
    cost = (cost or 0.0) + core_hours * plan.price_core_hour
  if cost is not None:
    lines.append(f'cost of the work    {cost:>14,.0f}')
  return lines


def _storage_lines(plan: CorpusPlan, gzip_ratio: float, spec: LiveMusicSpec) -> list[str]:
  kept = {spec.codec_levels, spec.target_levels, plan.codec_levels or spec.codec_levels}
  priced = plan.price_gib_month is not None
  head = f'{"records":<30}{"GiB":>12}{"shards":>9}{"MiB each":>10}'
  lines = [head + (f'{"a month":>12}' if priced else '')]
  clips = plan.hours * _SECS_PER_HOUR / plan.clip_secs
  for levels in sorted(kept, reverse=True):
    size = plan.hours * bytes_per_hour(levels, plan.clip_secs, spec)
    count = shards.num_shards_for(round(clips), round(size), plan.shard_bytes)
    for ratio, kind in ((1.0, ''), (gzip_ratio, ', GZIP')):
      name = f'{levels} levels{kind}'
      if ratio == 1.0 and levels == spec.codec_levels:
        name += ' (v1)'
      lines.append(
        f'{name:<30}{size * ratio / 2**30:>12,.1f}{count:>9,}{size * ratio / count / 2**20:>10.1f}'
        + (f'{size * ratio / 2**30 * plan.price_gib_month:>12,.0f}' if priced else '')
      )
  parts = plan.hours * parts_bytes_per_hour(plan.clip_secs, spec) / 2**30
  lines.append(f'{"parts, until it is finished":<30}{parts:>12,.1f}')
  lines.append(
    f'GZIP is reckoned at {gzip_ratio:.2f} of the size, measured on noise: music is smaller.'
  )
  return lines


def gzip_ratio_of(codes: np.ndarray) -> float:
  """Compressed size over size of codes as records hold them, int32."""
  import zlib

  raw = np.ascontiguousarray(codes, np.int32).tobytes()
  return len(zlib.compress(raw, 6)) / len(raw)


def plan_corpus(
  plan: CorpusPlan,
  codec: str,
  style: str,
  measure_secs: float,
  loader: units.ModelLoader = units.load_models,
) -> str:
  """Loads the models, measures, and describes the plan; see the flags of plan.py.

  Raises:
    ValueError: numbers that mean nothing.
    FileNotFoundError: no such model.
  """
  plan.check()
  if measure_secs <= 0:
    raise ValueError(f'measure_secs={measure_secs} must be above 0.')
  models = loader(codec, style)
  options = features.ClipOptions(clip_secs=plan.clip_secs)
  speed = measure(*models, measure_secs, options)
  noise = np.random.default_rng(2).normal(0, 0.1, [1, 10 * MAGENTA_RT_V1.sample_rate, 2])
  ratio = gzip_ratio_of(models[0].encode(noise.astype(np.float32)))
  return describe(plan, speed, ratio)
