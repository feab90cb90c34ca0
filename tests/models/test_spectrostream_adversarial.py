"""Codec against discriminators: gradients of one step, their balance, and when what is trained."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models.spec import LiveMusicSpec
from models.spectrostream import SpectroStream, SpectroStreamConfig, losses, objective
from models.spectrostream.discriminators import DiscriminatorConfig, discriminate, init_params
from models.spectrostream.recipe import CodecRecipe
from models.spectrostream.training import CodecTrainable, codec_part
from training.state import TrainState, flat_names

SPEC = LiveMusicSpec(codec_levels=4, codebook_size=16, target_levels=2, context_levels=1)
CONFIG = SpectroStreamConfig(
  num_features=4, encoder_widths=(4,) * 8, decoder_widths=(4, 8, 4, 4, 4, 4, 4, 4)
)
JUDGES = DiscriminatorConfig(windows=(128,), width=2, growth=(1, 1, 1, 1, 1, 1))
RECIPE = CodecRecipe(
  windows=(128,), generator_weight=0.7, feature_matching_weight=3.0, decorrelation_weight=0.2,
  calibration_steps=(), calibration_batches=1,
)  # fmt: skip


def _audio(seed, samples=4 * SPEC.samples_per_frame, batch=2):
  rng = np.random.default_rng(seed)
  return (0.2 * rng.standard_normal([batch, samples, 2])).astype(np.float32)


def _state(trainable, optimizer):
  params = trainable.init(jax.random.key(0))
  aux = trainable.init_aux(jax.random.key(1))
  return TrainState(jnp.zeros([], jnp.int32), params, optimizer.init(params), aux)


def test_gradients_are_those_of_the_losses_written_as_one():
  """One pass through the codec gives what differentiating the whole sum at once gives."""
  trainable = CodecTrainable(CONFIG, RECIPE, SPEC, discriminator_config=JUDGES)
  raw = optax.identity()  # Updates are gradients.
  state, audio, rng = _state(trainable, raw), _audio(0), jax.random.key(5)
  step = jax.jit(lambda state: trainable.train_step(state, {'audio': audio}, rng, raw))
  after, metrics = step(state)
  got = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), after.params, state.params)

  heard, hop = audio[:, 480:], 480
  depth_rng, _ = jax.random.split(rng)

  def estimate(params):
    (output, on_latents), _ = trainable._transmit(params, audio, depth_rng, state.aux)
    return output[:, hop:], on_latents

  @jax.jit
  def expected(params):
    def codec_loss(codec):
      x, on_latents = estimate(codec)
      mel, stft = losses.spectral_losses(heard, x, RECIPE.windows, SPEC.sample_rate)
      judges = params['discriminators']
      adversarial = losses.generator_losses(
        discriminate(judges, heard, JUDGES), discriminate(judges, x, JUDGES)
      )
      waveform = losses.waveform_loss(heard, x)
      return (
        mel + 0.3 * stft + 2.0 * waveform + on_latents + 0.7 * adversarial['generator']
        + 3.0 * adversarial['feature_matching']
      )  # fmt: skip

    def judges_loss(judges):
      x = estimate(codec_part(params))[0]
      return losses.discriminator_loss(
        discriminate(judges, heard, JUDGES), discriminate(judges, x, JUDGES)
      )[0]

    loss, gradients = jax.value_and_grad(codec_loss)(codec_part(params))
    return loss, {**gradients, 'discriminators': jax.grad(judges_loss)(params['discriminators'])}

  loss, want = expected(state.params)
  assert float(metrics['loss']) == pytest.approx(float(loss), rel=1e-5)
  for name, gradient in flat_names(want).items():
    found = flat_names(got)[name]
    scale = np.abs(gradient).max() + 1e-3
    np.testing.assert_allclose(found / scale, gradient / scale, atol=3e-3, err_msg=name)
  norm = float(optax.global_norm(codec_part(want)))
  assert float(metrics['weight_gradient_norm']) == pytest.approx(norm, rel=1e-3)
  norm = float(optax.global_norm(want['discriminators']))
  assert float(metrics['discriminator_gradient_norm']) == pytest.approx(norm, rel=1e-3)


def _judge(with_judges, **changes):
  """`objective.judge` on fixed audio as a compiled function of step and balance."""
  params, audio, estimate = init_params(jax.random.key(2), JUDGES), _audio(1), _audio(2)
  recipe, adversary = dataclasses.replace(RECIPE, **changes), None
  if with_judges:
    adversary = params, JUDGES

  def judge(step, balance):
    return objective.judge(audio, estimate, recipe, 48_000, step, balance, adversary)._asdict()

  return jax.jit(judge)


def test_balanced_weights_are_shares_of_the_gradient():
  nothing = dict(mel_weight=0.0, stft_weight=0.0, waveform_weight=0.0)
  weights = {**nothing, 'mel_weight': 1.0, 'waveform_weight': 3.0, 'balance_decay': 0.9}
  judge = _judge(False, **weights)
  first = judge(0, objective.start_balance(False))
  norms = {n: float(first['metrics'][f'output_gradient/{n}']) for n in objective.RECONSTRUCTION}
  parts = {
    name: _judge(False, **{**nothing, f'{name}_weight': 1.0})(0, None)['gradient']
    for name in ('mel', 'waveform')
  }
  for name, part in parts.items():
    assert norms[name] == pytest.approx(float(jnp.linalg.norm(part)), rel=1e-4)
  want = 0.25 * parts['mel'] / norms['mel'] + 0.75 * parts['waveform'] / norms['waveform']
  np.testing.assert_allclose(first['gradient'], want, atol=1e-6)
  # The average of one norm, however little of it has been counted, is that norm.
  balance = jax.tree.map(np.asarray, first['balance'])
  assert balance['norms']['mel'] == pytest.approx(0.1 * norms['mel'], rel=1e-5)
  assert balance['seen']['mel'] == pytest.approx(0.1, rel=1e-5)
  # Of norms 1 (before) and g (now): (0.09 * 1 + 0.1 g) / 0.19.
  before = jax.tree.map(lambda x: jnp.full_like(x, 0.1), balance)
  second = judge(0, before)
  average = {name: (0.09 + 0.1 * norms[name]) / 0.19 for name in parts}
  want = 0.25 * parts['mel'] / average['mel'] + 0.75 * parts['waveform'] / average['waveform']
  np.testing.assert_allclose(second['gradient'], want, rtol=1e-3, atol=1e-6)


def test_discriminators_wait_for_their_step():
  judge = _judge(True, adversarial_start=7)
  waiting, begun, alone = judge(6, None), judge(7, None), _judge(False)(0, None)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(waiting['discriminator_gradients']))
  for name in ('first', 'last'):
    assert np.any(begun['discriminator_gradients']['window_128'][name]['conv']['kernel'])
  np.testing.assert_allclose(waiting['gradient'], alone['gradient'], atol=1e-6)
  assert np.abs(begun['gradient'] - alone['gradient']).max() > 1e-6
  assert float(waiting['loss']) == pytest.approx(float(alone['loss']), rel=1e-6)
  # Means leave out the steps without discriminators.
  summed = jax.tree.map(jnp.add, waiting['metrics'], begun['metrics'])
  trainable = CodecTrainable(CONFIG, RECIPE, SPEC, discriminator_config=JUDGES)
  means = trainable.summarize({**summed, 'steps': np.float32(2)})
  assert means['generator'] == pytest.approx(float(begun['metrics']['generator']))
  assert means['mel'] == pytest.approx(float(begun['metrics']['mel']), rel=1e-5)
  means = trainable.summarize({**waiting['metrics'], 'steps': np.float32(1)})
  assert 'generator' not in means and 'discriminator_accuracy' not in means and 'mel' in means


def test_the_decoder_alone_is_trained_and_tokens_stay():
  recipe = dataclasses.replace(RECIPE, train_only='decoder', bypass_rate=0.0)
  trainable = CodecTrainable(CONFIG, recipe, SPEC)
  rng = np.random.default_rng(3)
  books = rng.normal(size=(4, 16, 4)).astype(np.float16).astype(np.float32)
  params = jax.tree.map(
    lambda x: np.asarray(x).astype(np.float16).astype(np.float32),
    trainable.init(jax.random.key(8)),
  )
  codec = SpectroStream(CONFIG, params, books, SPEC)
  trainable.start_from(codec)
  assert trainable.calibration_steps == (0,)
  optimizer = optax.adamw(1e-2, weight_decay=0.1)  # Which moves what has no gradient, too.
  state = trainable.calibrate(_state(trainable, optimizer), lambda index: {'audio': _audio(index)})
  step = jax.jit(
    lambda state, audio: trainable.train_step(
      state, {'audio': audio}, jax.random.key(0), optimizer
    ),
    donate_argnums=0,  # As the loop does: the start must not go with it.
  )
  for index in range(2):
    state, metrics = step(state, _audio(index))
  assert float(metrics['commitment']) > 0  # It is quantized, by the given codebooks.
  found = trainable.finish(state, None, 0)
  assert found.content_hash == codec.content_hash
  for got, want in zip(
    jax.tree.leaves(found.params['encoder']), jax.tree.leaves(params['encoder']), strict=True
  ):
    np.testing.assert_array_equal(got, want)
  moved = jax.tree.map(lambda a, b: np.any(a != b), found.params['decoder'], params['decoder'])
  assert all(jax.tree.leaves(moved))


def test_a_start_takes_what_fits_and_draws_the_rest():
  trainable = CodecTrainable(CONFIG, RECIPE, SPEC, discriminator_config=JUDGES)
  given = codec_part(trainable.init(jax.random.key(8)))
  trainable.start_from(given)
  state = trainable.calibrate(_state(trainable, optax.identity()), None)
  for name, leaf in flat_names(given).items():
    np.testing.assert_array_equal(flat_names(state.params)[name], leaf)
  fresh = trainable.init(jax.random.key(0))['discriminators']
  for a, b in zip(
    jax.tree.leaves(state.params['discriminators']), jax.tree.leaves(fresh), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  assert float(state.aux['calibrated']) == 0.0


def test_decorrelation_worked_by_hand():
  x = np.float32([[1, 1, 1], [-1, -1, 1], [1, 1, -1], [-1, -1, -1]])  # 0 and 1 are the same.
  assert float(losses.decorrelation_loss(x[None])) == pytest.approx(2 / 9, rel=1e-3)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'train_only': 'encoder'}, "train_only='encoder' is neither 'all' nor 'decoder'"),
    ({'mel_weight': -1.0}, 'mel_weight=-1.0 is negative'),
    (
      dict.fromkeys(
        ('mel_weight', 'stft_weight', 'waveform_weight', 'generator_weight',
         'feature_matching_weight'), 0.0,
      ),
      'nothing would be learnt',
    ),
  ],
)  # fmt: skip
def test_recipes_that_make_no_sense_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(RECIPE, **changes)
