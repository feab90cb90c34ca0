"""A codec in a larger one plays as before; refitted to other audio, it carries that."""

import dataclasses

import jax
import numpy as np
import pytest

from models.spec import LiveMusicSpec
from models.spectrostream import SpectroStream, growing, network
from models.spectrostream.config import SpectroStreamConfig
from models.spectrostream.linear_start import LinearStart, linear_refit, linear_start
from models.spectrostream.recipe import CodecRecipe
from models.spectrostream.stft import inverse_stft, stft
from models.spectrostream.training import CodecTrainable
from pipelines.codec_training import train_codec
from training.state import TrainState

SPEC = LiveMusicSpec()
HOP = network.hop_size(SPEC)
SMALL = SpectroStreamConfig(
  num_features=12,
  encoder_widths=(4, 8, 12, 12, 12, 12, 16, 16),
  decoder_widths=(16, 32, 12, 12, 12, 12, 12, 4),
)
START = LinearStart(carried=(2, 4, 8, 8, 8, 8, 12, 12), features=8)
LARGE = SpectroStreamConfig(
  num_features=20,
  encoder_widths=(6, 10, 14, 14, 14, 14, 24, 24),
  decoder_widths=(24, 48, 14, 14, 14, 14, 14, 6),
)


def _audio(seed: int, low: float, high: float) -> np.ndarray:
  """[8, 8 frames, 2] of four sines each."""
  rng = np.random.default_rng(seed)
  time = np.arange(8 * SPEC.samples_per_frame)[:, None] / SPEC.sample_rate
  return np.stack([
    sum(
      0.2 * np.sin(2 * np.pi * (rng.uniform(low, high) * time + rng.random(2))) for _ in range(4)
    )
    for _ in range(8)
  ]).astype(np.float32)  # fmt: skip


@jax.jit
def _play(params, audio: np.ndarray) -> jax.Array:
  """Audio through encoder and decoder, which leaves out the last frame, less the first two."""
  latents = network.encode(params['encoder'], stft(audio, HOP))
  return inverse_stft(network.decode(params['decoder'], latents), HOP)[:, 3840:]


@pytest.fixture(name='small', scope='module')
def _small():
  """A codec whose free channels play, fitted to low tones."""
  params = network.init_params(jax.random.key(0), SMALL, SPEC)
  return linear_start(params, SMALL, SPEC, _audio(0, 60, 400), START)[0]


def _grown(small, start: LinearStart, audio: np.ndarray):
  fresh = network.init_params(jax.random.key(0), LARGE, SPEC)
  params = growing.grow(small, (SMALL, START), fresh, (LARGE, start), SPEC)
  return linear_refit(params, LARGE, SPEC, audio, start, (small, SMALL, START))


def test_a_refit_to_the_same_audio_changes_nothing(small):
  params, trainable = linear_refit(small, SMALL, SPEC, _audio(0, 60, 400), START)
  for new, old in zip(jax.tree.leaves(params), jax.tree.leaves(small), strict=True):
    np.testing.assert_allclose(new, old, atol=1e-4)
  frozen = sum(int((leaf == 0).sum()) for leaf in jax.tree.leaves(trainable))
  assert 0 < frozen < sum(leaf.size for leaf in jax.tree.leaves(params))


def test_a_grown_codec_plays_as_before(small):
  audio = _audio(0, 60, 400)
  grown, _ = _grown(small, START, audio)
  np.testing.assert_allclose(_play(grown, audio), _play(small, audio), atol=2e-4)


def test_more_carried_channels_carry_more_and_free_ones_stay(small):
  other = _audio(5, 300, 1500)
  more = LinearStart(carried=(2, 6, 10, 10, 10, 10, 18, 18), features=14)
  grown, trainable = _grown(small, more, other)

  def error(params):
    params = jax.tree.map(np.array, params)
    params['decoder']['output_layer']['base_conv_last']['conv']['kernel'][:, :, 2:] = 0
    left = _play(params, other) - other[:, 3840:-1920]
    return float(np.square(left).sum() / np.square(other[:, 3840:-1920]).sum())

  assert error(grown) < 0.7 * error(small)
  # A free channel's weights onto another, in the encoder's first unit.
  name = ('encoder', 'encoder_0', 'conv2d_3x3', 'conv', 'kernel')
  old, new, free = small, grown, trainable
  for part in name:
    old, new, free = old[part], new[part], free[part]
  np.testing.assert_array_equal(new[:, :, 2:4, 2:4], old[:, :, 2:4, 2:4])
  assert (free[:, :, 2:4, 2:4] == 1).all() and (free[:, :, :, :2] == 0).all()


def test_a_run_starts_from_a_smaller_codec(small):
  """Its channels are there, the carried ones are frozen, and its codebooks are not used."""
  more = LinearStart(carried=(2, 6, 10, 10, 10, 10, 18, 18), features=14)
  recipe = CodecRecipe(linear_start=more, refit_from=START, linear_start_batches=2)
  trainable = CodecTrainable(LARGE, recipe, SPEC)
  books = np.zeros([SPEC.codec_levels, SPEC.codebook_size, SMALL.num_features], np.float32)
  trainable.start_from(SpectroStream(SMALL, small, books, SPEC))
  assert trainable.calibration_steps[0] == 0
  params = trainable.init(jax.random.key(0))
  state = TrainState(np.int32(0), params, {}, trainable.init_aux(jax.random.key(1)))
  state = trainable.calibrate(state, lambda index: {'audio': _audio(index, 60, 400)})
  assert float(state.aux['calibrated']) == 0
  audio = np.concatenate([_audio(0, 60, 400), _audio(1, 60, 400)])
  expected, trained = _grown(small, more, audio)
  for got, wanted in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(got, wanted, atol=1e-5)
  for got, wanted in zip(
    jax.tree.leaves(state.aux['trainable']), jax.tree.leaves(trained), strict=True
  ):
    np.testing.assert_array_equal(got, wanted)


def test_free_latents_start_at_their_level(small):
  """Whatever their size was before; the codec plays the same, and training holds them there."""
  more = LinearStart(carried=(2, 6, 10, 10, 10, 10, 16, 16), features=12)
  audio = {'audio': _audio(5, 60, 400)}
  played = []
  for level in (None, 5.0):
    recipe = CodecRecipe(
      linear_start=more, refit_from=START, linear_start_batches=2, free_level=level
    )
    trainable = CodecTrainable(LARGE, recipe, SPEC)
    books = np.zeros([SPEC.codec_levels, SPEC.codebook_size, SMALL.num_features], np.float32)
    trainable.start_from(SpectroStream(SMALL, small, books, SPEC))
    params = trainable.init(jax.random.key(0))
    state = TrainState(np.int32(0), params, {}, trainable.init_aux(jax.random.key(1)))
    params = trainable.calibrate(state, lambda _: audio).params
    latents = np.asarray(jax.jit(trainable.latents)(params, audio['audio']))
    deviations = latents.reshape(-1, 20).std(0)
    played.append((np.asarray(_play(params, audio['audio'])), deviations))
  np.testing.assert_allclose(played[0][0], played[1][0], atol=1e-3)
  np.testing.assert_allclose(played[1][1][:12], played[0][1][:12], rtol=1e-3)
  np.testing.assert_allclose(played[1][1][12:], 5.0, rtol=0.05)
  assert np.abs(np.log(played[0][1][12:] / 5)).max() > 0.5, 'else nothing was moved'


def test_what_cannot_be_refitted_is_refused(tmp_path):
  with pytest.raises(ValueError, match='refit_from needs the linear_start'):
    CodecRecipe(refit_from=START)
  with pytest.raises(ValueError, match='refit_from changes tokens'):
    CodecRecipe(refit_from=START, linear_start=START, train_only='decoder')
  trainable = CodecTrainable(SMALL, CodecRecipe(linear_start=START, refit_from=START), SPEC)
  with pytest.raises(ValueError, match='name that codec by INITIAL_CHECKPOINT_PATH'):
    train_codec(trainable=trainable, feed=None, model_dir=str(tmp_path))


def test_too_little_room_is_refused(small):
  fresh = network.init_params(jax.random.key(1), LARGE, SPEC)
  crowded = LinearStart(carried=(2, 4, 8, 8, 8, 8, 22, 12), features=8)
  message = r'encoder_widths\[6\]=24 with 22 carried channels has no room for 12 carried and 4 free'
  with pytest.raises(ValueError, match=message):
    growing.grow(small, (SMALL, START), fresh, (LARGE, crowded), SPEC)


def test_a_projection_in_one_codec_only_is_refused(small):
  other = dataclasses.replace(LARGE, encoder_widths=(6, 10, 14, 14, 14, 16, 24, 24))
  with pytest.raises(ValueError, match='encoder/encoder_4/shortcut_layer/conv1x1 is in one of the'):
    growing.check_can_grow((SMALL, START), (other, START), SPEC)


def test_a_codec_without_a_linear_start_is_refused():
  params = network.init_params(jax.random.key(0), SMALL, SPEC)
  with pytest.raises(ValueError, match='did not begin with the linear start'):
    linear_refit(params, SMALL, SPEC, _audio(0, 60, 400), START)
