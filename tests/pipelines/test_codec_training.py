"""A codec's run ends in a file that loads as the codec that was trained."""

import jax
import numpy as np
import pytest

from models.spec import LiveMusicSpec
from models.spectrostream import SpectroStream, SpectroStreamConfig
from models.spectrostream.training import CodecRecipe, CodecTrainable
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
