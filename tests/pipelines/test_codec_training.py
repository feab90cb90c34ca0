"""A codec's run ends in a file that loads as the codec that was trained."""

import dataclasses

import jax
import numpy as np
import pytest

from models.spec import LiveMusicSpec
from models.spectrostream import SpectroStream, SpectroStreamConfig
from models.spectrostream.discriminators import DiscriminatorConfig
from models.spectrostream.recipe import CodecRecipe
from models.spectrostream.training import CodecTrainable
from pipelines import codec_training
from training import optimizers
from training.checkpoints import restore_params

SPEC = LiveMusicSpec(codec_levels=16, codebook_size=8, style_offset=2 + 16 * 8, vocab_size=256)
CONFIG = SpectroStreamConfig(
  num_features=4, encoder_widths=(4,) * 8, decoder_widths=(4, 8, 4, 4, 4, 4, 4, 4)
)


class Tones:
  """Two crops of 0.2 s a batch, of sines at random pitches."""

  batch_size = 2

  def batch(self, index):
    rng = np.random.default_rng(index)
    time = np.arange(9600) / SPEC.sample_rate
    pitches = rng.uniform(100, 2000, [2, 1, 2])
    return {'audio': np.float32(0.3 * np.sin(2 * np.pi * pitches * time[:, None]))}


class Still(CodecTrainable):
  """Learns nothing, which compiles fast."""

  def train_step(self, state, batch, rng, optimizer):
    return state, {'loss': batch['audio'].mean(), 'steps': 1.0}


@pytest.mark.parametrize(
  'make', [Still, pytest.param(CodecTrainable, marks=pytest.mark.slow)], ids=['still', 'learning']
)
def test_run_ends_in_a_codec(tmp_path, make):
  recipe = CodecRecipe(
    windows=(512,), calibration_steps=() if make is Still else (1,), calibration_batches=4,
    kmeans_iterations=2, revive_until=0, final_folds=1,
  )  # fmt: skip
  trainable = make(CONFIG, recipe, SPEC)
  codec_training.train_codec(
    trainable=trainable, feed=Tones(), finish_batches=4, model_dir=str(tmp_path), total_steps=2,
    optimizer=optimizers.adam(1e-3), tensorboard=False,
  )  # fmt: skip
  codec = SpectroStream.load(tmp_path / codec_training.WEIGHTS_FILE)
  assert codec.config == CONFIG and codec.spec == SPEC
  params, step = restore_params(tmp_path)
  assert step == 2
  for got, want in zip(
    jax.tree.leaves(codec.params), jax.tree.leaves(params), strict=True
  ):
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-6)  # The file holds float16.
  # The last codebooks are fitted to the feed's own latents: level by level they come nearer.
  latents = np.asarray(trainable._latents(params, Tones().batch(0)['audio'])).reshape([-1, 4])
  codebooks, residual, errors = np.asarray(codec.codebooks), latents, []
  for book in codebooks:
    nearest = np.square(residual[:, None] - book[None]).sum(-1).argmin(1)
    residual = residual - book[nearest]
    errors.append(np.square(residual).mean())
  assert errors[-1] < 0.2 * errors[0] < 0.2 * np.square(latents).mean()


def test_codebooks_are_fitted_to_the_feed_for_the_end(tmp_path):
  class Silence(Tones):
    def batch(self, index):
      return jax.tree.map(np.zeros_like, super().batch(index))

  recipe = CodecRecipe(calibration_steps=(), kmeans_iterations=1, final_folds=1)
  trainable = Still(CONFIG, recipe, SPEC)
  codec_training.train_codec(
    trainable=trainable, feed=Tones(), finish_feed=Silence(), finish_batches=2, total_steps=1,
    model_dir=str(tmp_path), optimizer=optimizers.adam(1e-3), tensorboard=False,
  )  # fmt: skip
  codec = SpectroStream.load(tmp_path / codec_training.WEIGHTS_FILE)
  silent = trainable._latents(codec.params, np.zeros([1, 9600, 2], np.float32))[0]
  # All latents are the same ones: the first codes are what they are.
  distances = np.abs(np.asarray(codec.codebooks)[0][:, None] - np.asarray(silent)).max(-1)
  assert distances.min(0).max() < 1e-2


JUDGES = DiscriminatorConfig(windows=(128,), width=1, growth=(1, 1, 1, 1, 1, 1))


def _train(model_dir, trainable, path=None, steps=2):
  codec_training.train_codec(
    trainable=trainable, feed=Tones(), finish_batches=1, model_dir=str(model_dir),
    total_steps=steps, optimizer=optimizers.adam(1e-3), tensorboard=False,
    initial_checkpoint_path=path and str(path),
  )  # fmt: skip


@pytest.fixture(name='codec', scope='module')
def _codec():
  rng = np.random.default_rng(1)
  params = CodecTrainable(CONFIG, spec=SPEC).init(jax.random.key(4))
  return SpectroStream(CONFIG, params, rng.normal(size=[16, 8, 4]).astype(np.float32), SPEC)


def test_the_decoder_of_a_file_is_trained_and_its_tokens_stay(tmp_path, codec):
  path = codec.save(tmp_path / 'before.safetensors')
  recipe = CodecRecipe(train_only='decoder', calibration_steps=(1,))
  _train(tmp_path / 'run', Still(CONFIG, recipe, SPEC, discriminator_config=JUDGES), path)
  found = SpectroStream.load(tmp_path / 'run' / codec_training.WEIGHTS_FILE)
  assert found.content_hash == codec.content_hash
  for got, want in zip(
    jax.tree.leaves(found.params), jax.tree.leaves(SpectroStream.load(path).params), strict=True
  ):
    np.testing.assert_array_equal(got, want)  # `Still` learns nothing.
  audio = np.float32(Tones().batch(0)['audio'])
  np.testing.assert_array_equal(found.encode(audio), codec.encode(audio))
  with pytest.raises(ValueError, match='name the codec that has them by INITIAL_CHECKPOINT_PATH'):
    _train(tmp_path / 'other', Still(CONFIG, recipe, SPEC))
  with pytest.raises(ValueError, match='is a training run.*codec.safetensors'):
    _train(tmp_path / 'other', Still(CONFIG, recipe, SPEC), tmp_path / 'run')


def test_a_decoder_goes_on_with_the_codec_that_it_began_with_only(tmp_path, codec):
  paths = [codec.save(tmp_path / 'a.safetensors')]
  params = jax.tree.map(lambda x: 1.01 * x, codec.params)
  other = SpectroStream(CONFIG, params, codec.codebooks, SPEC)
  paths.append(other.save(tmp_path / 'b.safetensors'))
  recipe = CodecRecipe(train_only='decoder', calibration_steps=())
  _train(tmp_path / 'run', Still(CONFIG, recipe, SPEC), paths[0])
  _train(tmp_path / 'run', Still(CONFIG, recipe, SPEC), paths[0])
  with pytest.raises(ValueError, match='of another codec than .*b.safetensors'):
    _train(tmp_path / 'run', Still(CONFIG, recipe, SPEC), paths[1])


def test_a_codec_of_another_spec_is_no_start(tmp_path, codec):
  path = codec.save(tmp_path / 'a.safetensors')
  fewer = dataclasses.replace(SPEC, codec_levels=8, target_levels=8)
  with pytest.raises(ValueError, match='has codec_levels=16, the codec to be trained 8'):
    codec_training.start_from(CodecTrainable(CONFIG, spec=fewer), str(path))


def test_the_decoder_of_a_file_may_be_widened(tmp_path, capsys):
  sizes = {'num_features': 4, 'encoder_widths': (4,) * 8}
  narrow, wide = (
    SpectroStreamConfig(**sizes, decoder_widths=(4, 8, 4, 4, 4, 4, 3, last)) for last in (2, 4)
  )
  params = CodecTrainable(narrow, spec=SPEC).init(jax.random.key(4))
  books = np.random.default_rng(1).normal(size=[16, 8, 4]).astype(np.float32)
  codec = SpectroStream(narrow, params, books, SPEC)
  path = codec.save(tmp_path / 'before.safetensors', np.float32)
  recipe = CodecRecipe(train_only='decoder', calibration_steps=())
  _train(tmp_path / 'run', Still(wide, recipe, SPEC), path)
  assert f'widened to decoder_widths={wide.decoder_widths}' in capsys.readouterr().out
  found = SpectroStream.load(tmp_path / 'run' / codec_training.WEIGHTS_FILE)
  assert (found.config, found.content_hash) == (wide, codec.content_hash)
  codes = np.random.default_rng(2).integers(0, 8, [12, 16])
  before = codec.decode(codes)
  np.testing.assert_allclose(found.decode(codes), before, atol=2e-3 * np.abs(before).max())
  with pytest.raises(ValueError, match='others may grow'):
    codec_training.start_from(
      CodecTrainable(narrow, recipe, SPEC), str(tmp_path / 'run' / codec_training.WEIGHTS_FILE)
    )


def test_a_run_goes_on_from_another_with_its_discriminators_if_they_fit(tmp_path, codec, capsys):
  recipe = CodecRecipe(calibration_steps=())
  first = Still(CONFIG, recipe, SPEC, discriminator_config=JUDGES)
  state = codec_training.runs.train(
    trainable=first, feed=Tones(), model_dir=str(tmp_path / 'a'), total_steps=1, seed=7,
    optimizer=optimizers.adam(1e-3), tensorboard=False,
  )  # fmt: skip

  def started(config):
    trainable = Still(CONFIG, recipe, SPEC, discriminator_config=config)
    codec_training.start_from(trainable, str(tmp_path / 'a'))
    like = codec_training.TrainState(
      np.int32(0), trainable.init(jax.random.key(0)), {}, trainable.init_aux(jax.random.key(0))
    )
    return trainable.calibrate(like, Tones().batch).params

  same = started(JUDGES)
  for got, want in zip(jax.tree.leaves(same), jax.tree.leaves(state.params), strict=True):
    np.testing.assert_array_equal(got, want)
  wider = started(DiscriminatorConfig(windows=(128,), width=2, growth=(1, 1, 1, 1, 1, 1)))
  assert 'its discriminators are of other sizes and start anew' in capsys.readouterr().out
  assert wider['discriminators']['window_128']['first']['conv']['bias'].shape == (2,)
  np.testing.assert_array_equal(
    wider['encoder']['base_conv_first']['conv']['kernel'],
    state.params['encoder']['base_conv_first']['conv']['kernel'],
  )
  other = SpectroStreamConfig(
    num_features=6, encoder_widths=(4,) * 8, decoder_widths=(4, 8, 4, 4, 4, 4, 4, 4)
  )
  with pytest.raises(ValueError, match='compare the sizes of the two models'):
    codec_training.start_from(CodecTrainable(other, recipe, SPEC), str(tmp_path / 'a'))
