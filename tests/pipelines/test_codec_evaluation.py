"""What a codec's run says of itself: distances by depth, use of codes, samples; and when."""

import types

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from evaluation import codec_metrics
from models.spec import LiveMusicSpec
from pipelines.codec_evaluation import HeldOutReconstruction, SampleReconstructions, code_use
from training.state import TrainState
from training.wrappers import AveragedState

SPEC = LiveMusicSpec(codec_levels=3, codebook_size=2, target_levels=2, context_levels=1)
FRAME = SPEC.samples_per_frame
# Levels of frames, alike in both channels, are halved: 0.2 or 0.6, less or more 0.1, then 0.05.
CODEBOOKS = np.float32([[0.2, 0.6], [-0.1, 0.1], [-0.05, 0.05]])[..., None].repeat(2, -1)


class Levels:
  """A codec that keeps each frame's mean absolute level; `gain` is its only parameter."""

  spec = SPEC
  recipe = types.SimpleNamespace(train_only='all', dead_threshold=0.02)

  def latents(self, params, audio):
    frames = audio.reshape([len(audio), -1, FRAME, 2])
    return jnp.abs(frames).mean(2)

  def output(self, params, latents):
    sign = jnp.tile(jnp.float32([1, -1]), FRAME // 2)[:, None]
    audio = params['decoder']['gain'] * latents[:, :, None] * sign
    return audio.reshape([len(audio), -1, 2])


class Feed:
  """Two crops of 12 frames; a frame's level is one of 0.05, 0.15 to 0.75."""

  def __init__(self):
    self.asked = 0

  def batch(self, index):
    self.asked += 1
    levels = np.random.default_rng(index).integers(8, size=[2, 12, 1]) / 10 + 0.05
    sign = np.tile([1, -1], FRAME // 2)[:, None]
    audio = np.repeat(levels[:, :, None] * sign, 2, -1).reshape([2, -1, 2])
    return {'audio': audio.astype(np.float32)}


def _state(step=100, calibrated=1.0, gain=1.0, average=None):
  params = {'encoder': {}, 'decoder': {'gain': jnp.float32(gain)}, 'discriminators': {'w': 1.0}}
  opt_state = {}
  if average is not None:
    opt_state = AveragedState({}, {**params, 'decoder': {'gain': jnp.float32(average)}})
  aux = {
    'codebooks': jnp.asarray(CODEBOOKS), 'calibrated': jnp.float32(calibrated),
    'counts': jnp.float32([[3, 1], [2, 2], [4, 0]]),
  }  # fmt: skip
  return TrainState(jnp.int32(step), params, opt_state, aux)


def test_distances_fall_with_depth_to_those_of_the_report():
  feed = Feed()
  evaluator = HeldOutReconstruction(Levels(), feed, depths=(1, 2, 64), num_batches=2)
  found = dict(evaluator(_state()))
  distances = [found[f'mel_distance/depth_{depth:02d}'] for depth in (1, 2, 3)]  # 64 are 3 here.
  assert distances[0] > distances[1] > distances[2] and distances[2] < 0.05
  assert found['si_sdr/depth_01'] < found['si_sdr/depth_02'] < 40 < found['si_sdr/depth_03']
  audio = np.concatenate([Feed().batch(index)['audio'] for index in (0, 1)])

  def distance(decoded):
    inner = slice(FRAME, -FRAME)
    return np.mean([
      codec_metrics.mel_distance(x[inner], y[inner], SPEC.sample_rate)
      for x, y in zip(audio, decoded, strict=True)
    ])  # fmt: skip

  half = np.sign(audio) * np.where(np.abs(audio) < 0.4, 0.2, 0.6).astype(np.float32)
  assert found['mel_distance/depth_01'] == pytest.approx(distance(half), rel=1e-3)
  assert dict(evaluator(_state())) == found and feed.asked == 2  # Read once.
  louder = dict(evaluator(_state(average=2.0)))  # The average is what is measured.
  assert louder['mel_distance/depth_03'] == pytest.approx(distance(2 * audio), rel=1e-3)


def test_before_calibration_only_the_autoencoder_is_measured():
  found = dict(HeldOutReconstruction(Levels(), Feed())(_state(calibrated=0.0)))
  assert sorted(found) == ['mel_distance/not_quantized', 'si_sdr/not_quantized']


def test_use_of_codes_by_hand():
  found = dict(HeldOutReconstruction(Levels(), None)(_state()))
  quarter = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
  assert found['entropy_bits/level_00'] == pytest.approx(quarter, rel=1e-5)
  assert found['entropy_bits/level_01'] == pytest.approx(1.0)
  assert found['perplexity/level_02'] == pytest.approx(1.0)
  assert found['dead_share/level_02'] == 0.5 and found['dead_share/level_00'] == 0.0
  assert found['entropy_bits'] == pytest.approx((quarter + 1) / 3, rel=1e-5)
  assert found['dead_share'] == pytest.approx(0.5 / 3)
  assert dict(code_use(np.ones([1, 1024]), 0.02))['perplexity'] == pytest.approx(1024, rel=1e-5)
  frozen = Levels()
  frozen.recipe = types.SimpleNamespace(train_only='decoder', dead_threshold=0.02)
  assert not dict(HeldOutReconstruction(frozen, None)(_state()))


def test_samples_stand_beside_their_originals_once_in_a_period(tmp_path):
  sampler = SampleReconstructions(
    Levels(), Feed(), str(tmp_path), period=10, total_steps=35, depths=(1, 3), tensorboard=False
  )
  made = [step for step in (5, 10, 15, 25, 35) if dict(sampler(_state(step)))]
  assert made == [10, 25, 35]
  folder = tmp_path / 'samples' / 'step_25'
  names = sorted(path.name for path in folder.iterdir())
  tags = ('original', 'not_quantized', 'depth_01', 'depth_03')
  assert names == sorted(f'{i}_{tag}.wav' for i in (0, 1) for tag in tags)
  original, rate = soundfile.read(folder / '1_original.wav')
  assert rate == SPEC.sample_rate
  np.testing.assert_allclose(original, Feed().batch(0)['audio'][1], atol=1e-4)
  decoded = soundfile.read(folder / '1_depth_03.wav')[0]
  np.testing.assert_allclose(decoded, original, atol=1e-3)
  assert not dict(SampleReconstructions(Levels(), None, str(tmp_path), period=1)(_state()))
  with pytest.raises(ValueError, match='SAMPLE_PERIOD'):
    SampleReconstructions(Levels(), Feed(), str(tmp_path), period=-1)


def test_events_hold_histograms_and_audio(tmp_path):
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

  evaluator = HeldOutReconstruction(Levels(), None, depths=(1, 3), histogram_dir=str(tmp_path))
  assert dict(evaluator(_state(7)))
  events = EventAccumulator(str(tmp_path / 'training_eval' / 'held_out'))
  events.Reload()
  tags = events.Tags()['tensors'] + events.Tags()['histograms']
  assert sorted(tags) == ['relative_code_use/level_00', 'relative_code_use/level_02']
