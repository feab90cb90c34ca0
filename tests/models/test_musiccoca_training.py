"""The style model's loss against hand-computed values, and a run that learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models.musiccoca import captioner, frontend, towers, training
from models.musiccoca.captioner import CaptionerConfig
from models.musiccoca.config import MusicCoCaConfig, TowerConfig
from models.spec import LiveMusicSpec
from training.state import TrainState

_TOWER = TowerConfig(
  num_layers=1, model_dim=16, num_heads=2, head_dim=8, mlp_dim=24, pooler_heads=2, pooler_head_dim=4
)
_CONFIG = MusicCoCaConfig(audio=_TOWER, text=_TOWER, vocab_size=20, max_text_length=6)
_SPEC = LiveMusicSpec(style_window_secs=1, style_dim=24)
_RECIPE = training.StyleRecipe(captioner=CaptionerConfig(num_layers=1, num_queries=2))


_caption_logits = jax.jit(captioner.caption_logits, static_argnums=3)


@jax.jit
def _captioner_params() -> dict:
  return captioner.init_captioner(jax.random.key(0), _RECIPE.captioner, _CONFIG)


@jax.jit
def _log_mel(audio: jax.Array) -> jax.Array:
  return frontend.log_mel(audio, _CONFIG, 16_000)


def test_contrastive_loss_equals_a_hand_computed_one():
  rng = np.random.default_rng(0)
  audio, text = rng.standard_normal([2, 3, 5])
  total = 0.0
  for i in range(3):
    similarity = lambda a, t: a @ t / np.linalg.norm(a) / np.linalg.norm(t) / 0.2  # noqa: E731
    own = np.exp(similarity(audio[i], text[i]))
    total -= 0.5 * np.log(own / sum(np.exp(similarity(audio[i], text[j])) for j in range(3)))
    total -= 0.5 * np.log(own / sum(np.exp(similarity(audio[j], text[i])) for j in range(3)))
  got, cosines = training.contrastive_loss(audio, text, 0.2)
  assert float(got) == pytest.approx(total, rel=1e-5)
  assert float(cosines[1, 2]) == pytest.approx(similarity(audio[1], text[2]) * 0.2, rel=1e-5)


def test_contrastive_loss_ignores_the_norm():
  rng = np.random.default_rng(1)
  audio, text = rng.standard_normal([2, 4, 6])
  first, _ = training.contrastive_loss(audio, text, 0.1)
  second, _ = training.contrastive_loss(30 * audio, 0.01 * text, 0.1)
  assert float(first) == pytest.approx(float(second), rel=1e-4)


def test_equal_captions_share_the_target():
  ids = jnp.array([[1, 5, 0], [1, 6, 0], [1, 5, 0]])
  positives = np.asarray(training.same_text(ids))
  np.testing.assert_array_equal(positives, [[1, 0, 1], [0, 1, 0], [1, 0, 1]])
  audio = np.eye(3)
  text = np.array([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]])
  got, _ = training.contrastive_loss(audio, text, 0.01, positives)
  # Two texts fit equally: log 2 each for clips and texts 0 and 2, nothing for 1.
  assert float(got) == pytest.approx(2 * np.log(2), rel=1e-5)


def test_caption_logits_do_not_see_later_pieces():
  params = _captioner_params()
  features = jax.random.normal(jax.random.key(1), (2, 8, 16))
  first = _caption_logits(params, features, jnp.array([[1, 4, 5, 6]] * 2), _CONFIG)
  second = _caption_logits(params, features, jnp.array([[1, 4, 5, 9]] * 2), _CONFIG)
  np.testing.assert_allclose(first[:, :3], second[:, :3], atol=1e-6)
  assert np.abs(np.asarray(first[:, 3] - second[:, 3])).max() > 1e-2
  assert np.abs(np.asarray(first[0] - first[1])).max() > 1e-3, 'the audio must matter'


def test_caption_loss_counts_real_pieces_only():
  params = _captioner_params()
  features = jax.random.normal(jax.random.key(1), (1, 8, 16))
  ids, paddings = np.array([[1, 4, 5, 0, 0]]), np.array([[0, 0, 0, 1, 1.0]])
  loss_fn = jax.jit(captioner.caption_loss, static_argnums=4)
  total, pieces = loss_fn(params, features, ids, paddings, _CONFIG)
  logits = np.asarray(
    _caption_logits(params, features, ids[:, :-1], _CONFIG), np.float64
  )[0]
  chosen = logits[[0, 1], [4, 5]] - np.log(np.exp(logits[:2]).sum(1))
  assert float(pieces) == 2
  assert float(total) == pytest.approx(-chosen.sum(), rel=1e-5)


def test_gain_changes_the_log_mel_as_it_changes_audio():
  audio = np.random.default_rng(0).standard_normal(8_000).astype(np.float32) * 0.1
  plain = _log_mel(audio[None])
  louder = _log_mel(audio[None] * np.float32(10 ** (6 / 20)))
  got = training.change_gain(plain, jnp.array([6.0]), _CONFIG.log_floor)
  np.testing.assert_allclose(np.asarray(got), np.asarray(louder), atol=2e-3)


def test_valleys_are_filled_by_what_lies_around_them():
  power = np.full([1, 4, 128], 1e-6, np.float32)
  power[..., 60] = 9.0  # A partial; nine bands around it share a mean of 1.
  floor = 1e-3
  got = training.change_sound(
    jnp.log(power + floor), {'fill_db': jnp.array([20.0])}, floor
  )
  got = np.exp(np.asarray(got)) - floor
  np.testing.assert_allclose(got[0, :, [56, 58, 62, 64]], 0.01, rtol=2e-2)
  np.testing.assert_allclose(got[0, :, 60], 9.01, rtol=1e-3)
  np.testing.assert_allclose(got[0, :, [50, 70]], 0, atol=1e-4)


def test_the_timbre_is_tilted_by_a_smooth_curve():
  plain = jnp.log(jnp.ones([2, 4, 128]))
  draws = {'colour_db': jnp.array([[3.0, 0, 0, 0], [0, 0, 0, 0]])}
  got = np.asarray(training.change_sound(plain, draws, 1e-9)) * 10 / np.log(10)
  assert got[0, 0, 0] == pytest.approx(3, abs=0.01)
  assert got[0, 0, 63:65].mean() == pytest.approx(0, abs=0.01)
  assert got[0, 0, -1] == pytest.approx(-3, abs=0.01)
  np.testing.assert_allclose(got[1], 0, atol=1e-4)


def test_noise_moves_each_value_by_decibels():
  noise = np.random.default_rng(0).standard_normal([1, 4, 128])
  got = training.change_sound(jnp.zeros([1, 4, 128]), {'noise_db': jnp.array(noise)}, 1e-3)
  np.testing.assert_allclose(np.asarray(got) * 10 / np.log(10), noise, rtol=1e-4)


def test_two_clips_of_a_track_are_each_others_positives(augmented):
  recipe, _, params, batch = augmented
  plain = dataclasses.replace(recipe, teacher_weight=0.0)
  trainable = training.StyleTrainable(_CONFIG, plain, _SPEC)
  loss, metrics = jax.jit(trainable.loss_fn)(params, batch)
  embed = jax.jit(towers.embed_log_mel, static_argnums=2)
  clips = [embed(params['audio'], x, _CONFIG) for x in
           (_log_mel(batch['audio']), batch['other_log_mel'])]  # fmt: skip
  expected, _ = training.contrastive_loss(*clips, 0.07)
  assert float(metrics['same_track_sum']) == pytest.approx(float(expected), rel=1e-4)
  alone = training.StyleTrainable(
    _CONFIG, dataclasses.replace(plain, same_track_weight=0.0), _SPEC
  )
  without, _ = jax.jit(alone.loss_fn)(params, batch)
  assert float(loss - without) == pytest.approx(0.6 * float(expected) / 6, rel=1e-3)


def test_the_teacher_asks_for_a_linear_map_of_the_embedding(augmented):
  _, trainable, params, batch = augmented
  loss_fn = jax.jit(trainable.loss_fn)
  clips = jax.jit(towers.embed_log_mel, static_argnums=2)(
    params['audio'], _log_mel(batch['audio']), _CONFIG
  )
  unit = np.asarray(clips) / np.linalg.norm(clips, axis=1, keepdims=True) * np.sqrt(24)
  told = unit @ np.asarray(params['teacher']['kernel'])
  _, metrics = loss_fn(params, batch)
  expected = np.square(told - batch['teacher']).sum()
  assert float(metrics['teacher_sum']) == pytest.approx(expected, rel=1e-4)
  assert trainable.summarize(metrics)['teacher_loss'] == pytest.approx(expected / 6, rel=1e-4)
  with pytest.raises(ValueError, match='teacher_weight=0.4 needs batches with a teacher'):
    training.StyleTrainable(_CONFIG, trainable.recipe, _SPEC)


def _tones(count: int) -> dict[str, np.ndarray]:
  t = np.arange(16_000) / 16_000
  audio = np.stack([0.3 * np.sin(2 * np.pi * 200 * 1.6**i * t) for i in range(count)])
  ids = np.zeros([count, 6], np.int32)
  ids[:, 0], ids[:, 1] = 1, np.arange(count) + 3
  paddings = np.ones([count, 6], np.float32)
  paddings[:, :2] = 0
  return {'audio': audio.astype(np.float32), 'text_ids': ids, 'text_paddings': paddings}


def test_audio_and_log_mel_batches_give_the_same_loss():
  trainable = training.StyleTrainable(_CONFIG, _RECIPE, _SPEC)
  params = trainable.init(jax.random.key(0))
  batch = _tones(3)
  log_mel = _log_mel(batch['audio'])
  loss_fn = jax.jit(trainable.loss_fn)
  first, metrics = loss_fn(params, batch)
  second, _ = loss_fn(params, {**batch, 'log_mel': log_mel})
  assert float(first) == pytest.approx(float(second), rel=1e-6)
  means = trainable.summarize(metrics)
  assert means['loss'] == pytest.approx(means['contrastive_loss'] + means['caption_loss'], rel=1e-5)
  assert means['temperature'] == pytest.approx(0.07)


def test_training_tells_tones_apart():
  recipe = dataclasses.replace(_RECIPE, kept_patches=32, alignment_weight=0.5)
  trainable = training.StyleTrainable(_CONFIG, recipe, _SPEC)
  params = trainable.init(jax.random.key(0))
  optimizer = optax.adam(5e-3)
  state = optimizer.init(params)
  batch = _tones(4)
  batch['log_mel'] = _log_mel(batch.pop('audio'))

  @jax.jit
  def step(params, state, rng):
    (_, metrics), grads = jax.value_and_grad(trainable.loss_fn, has_aux=True)(params, batch, rng)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, metrics

  first = None
  for i in range(60):
    params, state, metrics = step(params, state, jax.random.key(i))
    first = first or trainable.summarize(metrics)
  last = trainable.summarize(metrics)
  assert last['batch_accuracy'] == 1.0
  assert last['contrastive_loss'] < 0.2 * first['contrastive_loss']
  assert last['caption_loss'] < 0.3 * first['caption_loss']
  assert last['pair_distance'] < 0.5 * first['pair_distance']


def test_locked_audio_loss_is_zero_distance_at_the_audio_itself():
  trainable = training.StyleTrainable(_CONFIG, _RECIPE, _SPEC)
  params = trainable.init(jax.random.key(0))['text']
  batch = _tones(4)
  embed = jax.jit(towers.embed_text_ids, static_argnums=3)
  text = np.asarray(embed(params, batch['text_ids'], batch['text_paddings'], _CONFIG))
  loss_fn = jax.jit(training.locked_audio_loss, static_argnums=(2, 3))
  loss, distance = loss_fn(params, {**batch, 'audio_embedding': text}, _CONFIG, 0.1)
  contrastive, _ = training.contrastive_loss(text, text, 0.1)
  assert float(distance) == pytest.approx(0, abs=1e-6)
  assert float(loss) == pytest.approx(float(contrastive) / 4, rel=1e-4)
  _, distance = loss_fn(params, {**batch, 'audio_embedding': text + 1.0}, _CONFIG, 0.1)
  spread = np.square(text - text.mean(0)).sum()
  assert float(distance) == pytest.approx(text.size / spread, rel=1e-3)


def test_calibration_centres_the_first_layer():
  trainable = training.StyleTrainable(_CONFIG, _RECIPE, _SPEC)
  params = trainable.init(jax.random.key(0))
  batch = _tones(4)
  state = TrainState(step=0, params=params, opt_state=(), aux={})
  audio = trainable.calibrate(state, lambda step: batch).params['audio']
  tokens = frontend.patches(_log_mel(batch['audio']), _CONFIG)
  first = np.asarray(tokens @ audio['patch']['kernel'] + audio['positions'])
  assert np.abs(first.mean(0)).max() < 0.2, 'only the small random positions are left'
  deviation = np.sqrt(np.square(tokens - tokens.mean(0)).mean())
  np.testing.assert_allclose(
    np.asarray(audio['patch']['kernel']) * deviation,
    np.asarray(params['audio']['patch']['kernel']), rtol=1e-3,
  )  # fmt: skip


def test_layer_axes_are_those_of_stacked_layers():
  trainable = training.StyleTrainable(_CONFIG, _RECIPE, _SPEC)
  axes = trainable.layer_axes()
  assert axes['audio']['layers']['out']['kernel'] and axes['captioner']['cross']['key']['bias']
  assert not axes['audio']['patch']['kernel'] and not axes['text']['pooler']['query']


@pytest.fixture(scope='module')
def augmented():
  """A trainable with all augmentations and every term of the loss, parameters and a batch of 6."""
  recipe = dataclasses.replace(
    _RECIPE, kept_patches=24, alignment_weight=0.3, caption_weight=0.7, same_track_weight=0.6,
    teacher_weight=0.4, sound_changes=training.SoundChanges(6.0, 10.0, 3.0),
  )  # fmt: skip
  trainable = training.StyleTrainable(_CONFIG, recipe, _SPEC, teacher_width=5)
  batch = _tones(6)
  batch['other_log_mel'] = _log_mel(batch['audio'] + 0.01)
  batch['teacher'] = np.random.default_rng(0).standard_normal([6, 5]).astype(np.float32)
  batch['text_ids'][4:, 2:4] = 7  # Captions of unequal length: pieces are counted over the batch.
  batch['text_paddings'][4:, 2:4] = 0
  batch['text_ids'][1] = batch['text_ids'][0]  # Two clips share a caption.
  params = trainable.init(jax.random.key(0))
  # The map to the teacher starts from zero, which would have no gradient to the towers.
  params['teacher']['kernel'] += 0.1 * jax.random.normal(jax.random.key(1), (24, 5))
  return recipe, trainable, params, batch


@pytest.fixture(scope='module')
def whole(augmented):
  """Loss, metrics and gradients of the batch in one piece."""
  _, trainable, params, batch = augmented
  return jax.jit(trainable.gradients)(params, batch, jax.random.key(4))


@pytest.mark.parametrize(
  'number', [3, *(pytest.param(number, marks=pytest.mark.slow) for number in (2, 6))]
)
def test_microbatches_give_the_gradient_of_the_whole_batch(augmented, whole, number):
  recipe, _, params, batch = augmented
  loss, metrics, gradients = whole
  parts = training.StyleTrainable(
    _CONFIG, dataclasses.replace(recipe, num_microbatches=number), _SPEC, teacher_width=5
  )
  got_loss, got_metrics, got = jax.jit(parts.gradients)(params, batch, jax.random.key(4))
  assert float(got_loss) == pytest.approx(float(loss), rel=1e-6)
  assert got_metrics.keys() == metrics.keys()
  for name in metrics:
    assert float(got_metrics[name]) == pytest.approx(float(metrics[name]), rel=1e-5), name
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * max(1.0, np.abs(b).max())),
    got, gradients,
  )  # fmt: skip


def test_a_part_alone_has_fewer_negatives(augmented):
  """So that equal gradients above say something: a smaller batch has another loss."""
  _, trainable, params, batch = augmented
  loss_fn = jax.jit(trainable.loss_fn)
  alone = jax.tree.map(lambda x: x[::3], batch)
  assert float(loss_fn(params, alone)[0]) < 0.95 * float(loss_fn(params, batch)[0])


def test_the_learned_temperature_has_a_gradient(augmented):
  _, trainable, params, batch = augmented
  _, _, gradients = jax.jit(trainable.gradients)(params, batch)
  moved = {**params, 'log_temperature': params['log_temperature'] + 1e-2}
  back = {**params, 'log_temperature': params['log_temperature'] - 1e-2}
  loss_fn = jax.jit(trainable.loss_fn)
  slope = float(loss_fn(moved, batch)[0] - loss_fn(back, batch)[0]) / 2e-2
  assert float(gradients['log_temperature']) == pytest.approx(slope, rel=2e-2)


def test_microbatches_must_divide_the_batch(augmented):
  recipe, _, params, batch = augmented
  parts = training.StyleTrainable(
    _CONFIG, dataclasses.replace(recipe, num_microbatches=4), _SPEC, teacher_width=5
  )
  with pytest.raises(ValueError, match='num_microbatches=4 does not divide the batch of 6'):
    parts.gradients(params, batch)
  with pytest.raises(ValueError, match='at least 1'):
    training.StyleRecipe(num_microbatches=0)
