"""Sample audio of a run: when it is made, from which parameters, and what is written."""

import json
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec
from pipelines.sample_audio import SampleAudio
from training.state import TrainState
from training.wrappers import AveragedState

SPEC = LiveMusicSpec(
  codec_levels=4, codebook_size=8, context_frames=10, context_levels=2, chunk_frames=5,
  target_levels=3, style_dim=6, style_rvq_levels=3, style_levels=2, style_offset=40, vocab_size=64,
)  # fmt: skip
MODEL = DepthformerModel(
  DepthformerConfig(
    embed_dim=16, num_heads=2, head_dim=8, mlp_dim=16, num_encoder_layers=1,
    num_temporal_layers=1, num_depth_layers=1, dropout_rate=0.0,
  ),
  SPEC,
)  # fmt: skip
IDENTITY = {'codec_name': 'c', 'codec_hash': 'c0de', 'style_name': 's', 'style_hash': '5717e'}
FRAME = SPEC.samples_per_frame


class Codec:
  content_hash = 'c0de'

  def decode(self, codes):
    level = np.repeat(codes.sum(-1) / 50, FRAME)
    return np.stack([level, -level], -1).astype(np.float32)


class Style:
  content_hash = '5717e'
  asked: ClassVar = []

  def embed_text(self, texts):
    Style.asked += texts
    return np.stack([np.full(6, len(text), np.float32) for text in texts])

  def tokenize(self, embedding):
    return (np.abs(embedding[:3]) % 8).astype(np.int32)


@pytest.fixture
def make(tmp_path):
  folder = tmp_path / 'data' / 'toy' / '1.0.0'
  folder.mkdir(parents=True)
  (folder / 'dataset_info.json').write_text('{}')
  stats = {'codec': 'c', 'codec_hash': 'c0de', 'style': 's', 'style_hash': '5717e'}
  (folder / 'stats.json').write_text(json.dumps(stats))
  (folder / 'COMPLETED').write_text('')

  def build(codec=None, **options):
    defaults = dict(
      period=10, total_steps=35, prompts=('Heavy metal!', 'rain'), secs=0.3, tensorboard=False
    )
    return SampleAudio(
      MODEL, str(tmp_path / 'data'), str(tmp_path / 'run'),
      load_models=lambda identity: (codec or Codec(), Style()), **(defaults | options),
    )  # fmt: skip

  return build


@pytest.fixture(scope='module')
def params():
  return MODEL.init(jax.random.key(0))


def _state(step, params, average=None):
  opt_state = {} if average is None else AveragedState({}, average)
  return TrainState(jnp.int32(step), params, opt_state, {})


def _audio(tmp_path, step, stem):
  return soundfile.read(tmp_path / 'run' / 'samples' / f'step_{step}' / f'{stem}.wav')[0]


def test_samples_are_written_when_a_period_has_ended(make, tmp_path, params):
  sampler = make()
  sampler.use()
  steps = (5, 9, 12, 15, 19, 20, 30, 34, 35)
  made = [step for step in steps if dict(sampler(_state(step, params)))]
  assert made == [12, 20, 30, 35]  # The last because the run ends there.
  folders = sorted(path.name for path in (tmp_path / 'run' / 'samples').glob('step_*'))
  assert folders == ['step_12', 'step_20', 'step_30', 'step_35']
  # Another process goes on: it knows what was made, and makes again what a restart repeats.
  again = make()
  assert not dict(again(_state(31, params))) and dict(again(_state(20, params)))
  audio = _audio(tmp_path, 12, '0_heavy-metal')
  assert audio.shape == (round(0.3 * SPEC.sample_rate), 2) and np.abs(audio).max() > 0
  np.testing.assert_array_equal(audio, _audio(tmp_path, 30, '0_heavy-metal'))  # One seed.
  assert len(_audio(tmp_path, 12, '1_rain')) == len(audio)
  assert Style.asked[:2] == ['Heavy metal!', 'rain']


def test_figures_and_audio_events(make, tmp_path, params):
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

  sampler = make(tensorboard=True, prompts=('rain',))
  figures = dict(sampler(_state(10, params)))
  audio = _audio(tmp_path, 10, '0_rain')
  rms = 20 * np.log10(np.sqrt(np.mean(audio**2)))
  assert figures['rms_db'] == pytest.approx(rms, abs=0.01)
  assert figures['silence_share'] == 0 and figures['seconds_per_second_of_audio'] > 0
  events = EventAccumulator(str(tmp_path / 'run' / 'training_eval' / 'samples'))
  events.Reload()
  assert events.Tags()['tensors'] == ['0_rain'] or events.Tags()['audio'] == ['0_rain']


def test_averaged_parameters_are_what_is_heard(make, tmp_path, params):
  other = jax.tree.map(lambda x: x + 0.3, params)
  sampler = make(prompts=('rain',))
  assert dict(sampler(_state(10, params))) and dict(sampler(_state(20, other)))
  assert dict(sampler(_state(30, params, average=other)))
  plain, wanted, averaged = (_audio(tmp_path, step, '0_rain') for step in (10, 20, 30))
  np.testing.assert_array_equal(averaged, wanted)
  assert not np.array_equal(averaged, plain)


def test_nothing_is_loaded_where_no_audio_is_asked_for(tmp_path, params):
  sampler = SampleAudio(MODEL, str(tmp_path / 'nowhere'), str(tmp_path))
  sampler.use()
  assert not dict(sampler(_state(10, params)))


def test_what_cannot_work_is_told_before_the_first_step(make):
  with pytest.raises(ValueError, match='SAMPLE_PERIOD'):
    make(period=-1)
  codec = Codec()
  codec.content_hash = 'changed'
  with pytest.raises(ValueError, match='changed'):
    make(codec=codec).use()
