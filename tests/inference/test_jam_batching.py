"""Several players in one batch hear what each would hear alone."""

import dataclasses

import jax
import numpy as np
import pytest

from inference import continuation
from inference.batching import BatchEngine, _Pending, top_k_bound
from inference.sampling import SamplingOptions
from inference.session import LiveSession
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec

SPEC = LiveMusicSpec(
  sample_rate=80,
  frame_rate=5,
  codec_levels=4,
  codebook_size=64,
  context_frames=6,
  context_levels=2,
  chunk_frames=4,
  target_levels=3,
  style_dim=5,
  style_rvq_levels=3,
  style_levels=2,
  style_offset=194,
  vocab_size=384,
)
CONFIG = DepthformerConfig(
  embed_dim=32,
  num_heads=2,
  head_dim=16,
  mlp_dim=32,
  num_encoder_layers=1,
  num_temporal_layers=1,
  num_depth_layers=1,
  dtype='float32',
)


class Codec:
  content_hash = 'codec'
  spec = SPEC

  def decode(self, codes):
    values = codes.astype(np.float32).sum(-1) / 200
    wave = np.linspace(0.2, 1, SPEC.samples_per_frame, dtype=np.float32)
    left = (values[..., None] * wave).reshape(*values.shape[:-1], -1)
    return np.stack([left, -left], -1)


class Style:
  content_hash = 'style'

  def tokenize(self, embedding):
    return np.int32(embedding[:3]) % 64


class Bundle:
  spec = SPEC
  model = DepthformerModel(CONFIG, SPEC)
  codec_name, codec_hash, style_name, style_hash = 'codec', 'codec', 'style', 'style'
  presets = {}

  def __init__(self):
    # A random model that has opinions: its logits must tell ids apart.
    self.params = jax.tree.map(lambda leaf: 3 * leaf, self.model.init(jax.random.key(1)))


@pytest.fixture(scope='module')
def bundle():
  return Bundle()


@pytest.fixture(scope='module')
def engine(bundle):
  engine = BatchEngine(bundle, Codec(), max_batch=4)
  yield engine
  engine.close()


PLAYERS = [
  (3, SamplingOptions(1.0, 40, 5.0), np.float32([1, 2, 3, 0, 0])),
  (4, SamplingOptions(0.5, 33, 2.0), np.float32([9, 8, 7, 0, 0])),
  (3, SamplingOptions(1.3, 50, 0.0), None),
]


def test_players_in_a_batch_hear_what_they_hear_alone(bundle, engine):
  codec, style = Codec(), Style()
  alone = []
  for seed, sampling, embedding in PLAYERS:
    options = {name: getattr(sampling, name) for name in ('temperature', 'top_k')}
    session = LiveSession(
      bundle, codec, style, seed=seed, guidance_weight=sampling.guidance_weight, **options
    )
    session.set_style(embedding)
    alone.append([session.next_chunk() for _ in range(3)])
  # As many players as a program has rows: none of them waits.
  for size in (1, 2, 4):
    engine._compile(size, 64).result()
  players = [*PLAYERS, PLAYERS[0]]
  at = [continuation.Continuation.initial(SPEC, seed) for seed, _, _ in players]
  sizes = set()
  for index in range(3):
    requests = [
      continuation.request_for(
        before, None if style_of is None else style.tokenize(style_of), sampling, SPEC
      )
      for before, (_, sampling, style_of) in zip(at, players, strict=True)
    ]
    for k, future in enumerate([engine.submit(request) for request in requests]):
      result = future.result(60)
      sizes.add(result.batch_size)
      chunk, at[k] = continuation.advanced(at[k], result.codes, result.audio, SPEC)
      np.testing.assert_array_equal(chunk, alone[k % 3][index])
  assert max(sizes) > 1
  # Different seeds and styles are different music.
  assert not np.array_equal(alone[0][0], alone[1][0])
  assert not np.array_equal(alone[0][0], alone[2][0])


def test_a_crowd_is_served_by_the_programs_that_are_there(engine):
  at = continuation.Continuation.initial(SPEC, 1)
  request = continuation.request_for(at, None, SamplingOptions(), SPEC)
  assert engine.is_ready(SamplingOptions())
  waiting = [_Pending(request, None, 0.0) for _ in range(7)]
  assert engine._choose(waiting) == waiting[:4]
  assert engine._choose(waiting[:3]) == waiting[:2]
  # Another top-k has a program of its own, and is not made to wait for others.
  other = dataclasses.replace(request, sampling=SamplingOptions(top_k=0))
  waiting[0] = _Pending(other, None, 0.0)
  assert engine._choose(waiting) == waiting[:1]
  # What is not compiled is not used: the crowd is served one by one meanwhile.
  programs = engine._programs
  engine._programs = {(1, 64): programs[1, 64]}
  assert engine._choose(waiting[1:]) == waiting[1:2]
  engine._programs = programs


def test_a_batch_that_fails_fails_its_players_only(engine):
  at = continuation.Continuation.initial(SPEC, 1)
  good = continuation.request_for(at, None, SamplingOptions(), SPEC)
  bad = dataclasses.replace(good, inputs=np.zeros(1), unconditional_inputs=np.zeros(1))
  with pytest.raises(TypeError):
    engine.submit(bad).result(60)
  assert engine.submit(good).result(60).codes.shape == (4, 3)


@pytest.mark.parametrize(
  ('top_k', 'bound'), [(0, 0), (1, 64), (64, 64), (65, 256), (257, 1024), (1024, 0)]
)
def test_top_k_runs_under_few_bounds(top_k, bound):
  assert top_k_bound(top_k, 1024) == bound


def test_sizes_of_batches_are_powers_of_two(bundle):
  with pytest.raises(ValueError, match='max_batch=3'):
    BatchEngine(bundle, Codec(), max_batch=3)
