"""The watch over the sound of a run: silence, clipping and loops are told from music."""

import types

import jax
import numpy as np
import pytest

from models import tokens
from models.spec import LiveMusicSpec
from pipelines import output_health
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
    self.keys, self.inputs = [], []

  def generate(self, params, inputs, *, rng, **options):
    assert options['guidance_weight'] > 0
    self.keys.append(rng)
    self.inputs.append(inputs)
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
  watch = OutputHealth(model, 'nowhere', secs=2.0, **options)
  watch._contexts = [np.zeros([0, SPEC.target_levels], np.int32) for _ in kinds]
  watch._styles = [np.arange(SPEC.style_rvq_levels) for _ in kinds]
  watch._codec = _Codec()
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


def test_clips_go_on_from_what_was_played():
  codes = RNG.integers(0, 1024, [2, SPEC.chunk_frames, SPEC.target_levels])
  model = _Model(codes)
  given = RNG.integers(0, 1024, [SPEC.context_frames, SPEC.target_levels])
  styles = RNG.integers(0, 1024, [2, SPEC.style_rvq_levels])
  nothing = np.zeros([0, SPEC.target_levels], np.int32)
  played = output_health.play(model, {}, [given, nothing], styles, 3, jax.random.key(1))
  np.testing.assert_array_equal(played, np.tile(codes, (1, 3, 1)))
  # The context of the third chunk: what was given, then two chunks; and two chunks alone.
  longer = np.concatenate([given, codes[0], codes[0]])
  for row, context in enumerate((longer, np.concatenate([codes[1], codes[1]]))):
    expected = tokens.encoder_inputs(context[-SPEC.context_frames :], styles[row], SPEC)
    np.testing.assert_array_equal(model.inputs[2][row], expected)
  assert len({key.tobytes() for key in map(jax.random.key_data, model.keys)}) == 3


def test_likeness_to_the_catalog_stands_beside_the_faults():
  watch, _ = _watch([0, 0])
  assert 'style_cosine' not in dict(watch(_state(0)))
  watch, _ = _watch([0, 0])
  seen = []

  def measure(clips):
    seen.extend(clips)
    return types.SimpleNamespace(means=lambda: {'style_cosine': 0.5, 'sound_distance': 1.5})

  watch._likeness = types.SimpleNamespace(measure=measure)
  found = dict(watch(_state(0)))
  assert (found['style_cosine'], found['sound_distance'], found['silent_share']) == (0.5, 1.5, 0)
  assert [clip.shape for clip in seen] == [(2 * SPEC.sample_rate, 2)] * 2


def test_options_out_of_range_are_refused():
  with pytest.raises(ValueError, match='0 clips every 10 steps'):
    OutputHealth(None, 'nowhere', period=10, num_clips=0)
  with pytest.raises(ValueError, match='Clips of 0 s'):
    OutputHealth(None, 'nowhere', secs=0)
