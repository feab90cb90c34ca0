"""The watch over the sound of a run: silence, clipping and loops are told from music."""

import numpy as np
import pytest

from models.spec import LiveMusicSpec
from pipelines.output_health import OutputHealth
from training.state import TrainState

SPEC = LiveMusicSpec()
RNG = np.random.default_rng(0)


class _Model:
  """Plays given codes."""

  spec = SPEC

  def __init__(self, codes):
    offsets = SPEC.codec_offset + SPEC.codebook_size * np.arange(SPEC.target_levels)
    self._ids = np.asarray(codes) + offsets
    self.keys = []

  def generate(self, params, inputs, *, rng, **options):
    assert options['guidance_weight'] > 0
    self.keys.append(rng)
    return self._ids


class _Codec:
  """The first code of a chunk says what it sounds like."""

  def decode(self, codes):
    samples = 2 * SPEC.sample_rate
    noise = RNG.uniform(-0.3, 0.3, [samples, 2])
    loud = np.clip(20 * noise, -1, 1)
    return [noise, np.zeros([samples, 2]), loud, noise][int(codes[0, 0])]


def _watch(kinds, **options):
  """An evaluator over chunks of these kinds: 0 music, 1 silent, 2 clipped, 3 a loop."""
  codes = RNG.integers(4, 1024, [len(kinds), SPEC.chunk_frames, SPEC.target_levels])
  for row, kind in zip(codes, kinds, strict=True):
    if kind == 3:
      row[:] = np.tile(row[:10], (5, 1))
    row[0, 0] = kind
  model = _Model(codes)
  watch = OutputHealth(model, 'nowhere', **options)
  watch._inputs, watch._codec = np.zeros([len(kinds), SPEC.inputs_length]), _Codec()
  return watch, model


def _state(step):
  return TrainState(step=np.int32(step), params={}, opt_state={}, aux={})


def test_faults_are_told_apart():
  watch, _ = _watch([0, 1, 2, 3])
  found = dict(watch(_state(0)))
  assert {name: found[name] for name in ('silent_share', 'clipped_share', 'looping_share')} == {
    'silent_share': 0.25, 'clipped_share': 0.25, 'looping_share': 0.25
  }  # fmt: skip
  assert dict(_watch([0, 0])[0](_state(0)))['looping_share'] == 0


def test_it_looks_at_the_first_evaluation_of_each_period():
  watch, model = _watch([0], period=100)
  seen = [step for step in (0, 25, 75, 110, 150, 200, 225) if dict(watch(_state(step)))]
  assert seen == [0, 110, 200]
  assert len(model.keys) == 3
  assert not dict(_watch([0], period=0)[0](_state(0)))


def test_options_out_of_range_are_refused():
  with pytest.raises(ValueError, match='0 clips every 10 steps'):
    OutputHealth(None, 'nowhere', period=10, num_clips=0)
