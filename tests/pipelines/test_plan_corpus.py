"""The plan of a corpus: figures by hand, measuring with models whose speed is known."""


import numpy as np
import pytest

from models.spec import MAGENTA_RT_V1 as SPEC
from pipelines import plan_corpus
from preprocessing import features

SPEED = plan_corpus.Throughput(
  codec=20.0, style=400.0, decode=100.0, codec_cores=2.0, style_cores=1.0, device='cpu'
)


def test_core_hours_and_cost_of_cores():
  # 2 cores at 20 x, 1 core at 400 x, 100 x a core: 0.1 + 0.0025 + 0.01 core-seconds a second.
  assert SPEED.core_secs == pytest.approx(0.1125)
  plan = plan_corpus.CorpusPlan(hours=1000, workers=10, price_core_hour=0.5)
  told = plan_corpus.describe(plan, SPEED, gzip_ratio=0.5).split('\n')
  assert told[0] == '1,000 hours, 15,000 tracks of 240 s, 120,000 clips of 30 s'
  figures = {line[:20].strip(): line[20:].split()[0] for line in told[2:5]}
  assert figures == {'core-hours': '112', 'days on 10 cores': '0.47', 'cost of the work': '56'}


def test_accelerators_need_cores_beside_them():
  speed = plan_corpus.Throughput(1000.0, 4000.0, 100.0, 1.0, 1.0, 'gpu')
  plan = plan_corpus.CorpusPlan(
    hours=8000, workers=4, price_accelerator_hour=3.0, price_core_hour=0.1
  )
  told = plan_corpus.describe(plan, speed, 0.5)
  # 8000 h / 1000 + 8000 h / 4000 on the accelerator, 8000 h / 100 on cores.
  assert 'accelerator-hours               10\n' in told
  assert 'core-hours                      80   (decoding: 8.0 cores keep' in told
  assert 'cost of the work                38' in told


def test_storage_by_levels_and_compression():
  plan = plan_corpus.CorpusPlan(hours=1000, price_gib_month=2.0)
  table = {
    line[:30].strip(): line[30:].split()
    for line in plan_corpus.describe(plan, SPEED, 0.5).split('\n')
    if 'levels' in line
  }
  record = 4 * (750 * 64 + 3 * (12 + 768)) + 300
  gib = 120_000 * record / 2**30
  assert float(table['64 levels (v1)'][0]) == pytest.approx(gib, abs=0.06)
  assert float(table['64 levels, GZIP'][0]) == pytest.approx(gib / 2, abs=0.06)
  # 22.5 GiB in shards of at most 128 MiB.
  assert table['64 levels (v1)'][1] == '256'
  assert float(table['16 levels'][0]) == pytest.approx(gib * (record - 144_000) / record, abs=0.06)
  assert float(table['64 levels (v1)'][3]) == pytest.approx(2 * gib, abs=0.6)


class Clock:
  """Stands in for `time`: it goes on by what a call is said to take, on one core."""

  def __init__(self):
    self.now = 0.0

  def perf_counter(self):
    self.now += 1e-6  # So that what is not said to take time ends, too.
    return self.now

  process_time = perf_counter


class SlowCodec:
  content_hash = 'c'

  def __init__(self, clock):
    self._clock = clock

  def encode(self, x):
    self._clock.now += 0.05
    return np.zeros([*x.shape[:-2], x.shape[-2] // SPEC.samples_per_frame, 64], np.int32)


class SlowStyle:
  content_hash = 's'

  def __init__(self, clock):
    self._clock = clock

  def embed_windows(self, x, sample_rate):
    self._clock.now += 0.01
    return np.zeros([1, 768], np.float32)

  def tokenize(self, embeddings):
    return np.zeros([len(embeddings), 12], np.int32)


def test_measuring_finds_the_speed_of_the_models(monkeypatch):
  options = features.ClipOptions(clip_secs=10)
  clock = Clock()
  examine = plan_corpus.quality.examine

  def examine_in_a_second(path):
    clock.now += 1.0
    return examine(path)

  monkeypatch.setattr(plan_corpus, 'time', clock)
  monkeypatch.setattr(plan_corpus.quality, 'examine', examine_in_a_second)
  speed = plan_corpus.measure(SlowCodec(clock), SlowStyle(clock), 0.3, options)
  # 10 s of audio in 0.05 s and in 0.01 s; the file of the third step in 1 s.
  assert speed.codec == pytest.approx(200, rel=1e-3)
  assert speed.style == pytest.approx(1000, rel=1e-3)
  assert speed.codec_cores == pytest.approx(1, rel=1e-3)
  assert speed.decode == pytest.approx(plan_corpus._FILE_SECS, rel=1e-3)


def test_codes_are_compressed_as_far_as_they_can_be():
  constant = np.zeros([750, 64], np.int32)
  noise = np.random.default_rng(0).integers(0, 1024, [750, 64])
  assert plan_corpus.gzip_ratio_of(constant) < 0.01
  # 10 of 32 bits carry something.
  assert 10 / 32 < plan_corpus.gzip_ratio_of(noise) < 0.5


@pytest.mark.parametrize('change', [{'hours': 0.0}, {'workers': 0}, {'price_core_hour': -1.0}])
def test_numbers_that_mean_nothing_are_refused(change):
  (name,) = change
  with pytest.raises(ValueError, match=f'{name}='):
    plan_corpus.CorpusPlan(**{'hours': 1.0, **change}).check()
