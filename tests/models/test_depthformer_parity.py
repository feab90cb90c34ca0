"""Full-sequence form against values that Magenta RealTime v1's own code computed."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.depthformer import DepthformerConfig, DepthformerModel, from_v1, to_v1
from models.spec import LiveMusicSpec

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
SPEC = LiveMusicSpec(
  codebook_size=64, context_frames=10, context_levels=2, chunk_frames=8, target_levels=4,
  style_levels=3, style_offset=322, vocab_size=640,
)  # fmt: skip
CONFIG = DepthformerConfig(
  embed_dim=32, num_heads=4, head_dim=8, mlp_dim=64, num_encoder_layers=2, num_temporal_layers=2,
  num_depth_layers=2, dropout_rate=0.0, loss_over='vocabulary',
)  # fmt: skip
MODEL = DepthformerModel(CONFIG, SPEC)
TOLERANCE = dict(rtol=0, atol=2e-5)


@pytest.fixture(scope='module')
def golden() -> dict[str, np.ndarray]:
  with np.load(GOLDEN / 'llm_tiny.npz') as file:
    return {name: file[name] for name in file.files}


@pytest.fixture(scope='module')
def metrics() -> dict[str, float]:
  return json.loads((GOLDEN / 'llm_tiny.json').read_text())['metrics']


@pytest.fixture(scope='module')
def params(golden):
  return from_v1(_below(golden, 'params/'), CONFIG, SPEC)


@pytest.fixture(scope='module')
def batch(golden) -> dict[str, np.ndarray]:
  names = ('encoder_input_tokens', 'decoder_target_tokens')
  return {name: golden[f'batch/{name}'] for name in names}


def _below(golden: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  return {name[len(prefix) :]: value for name, value in golden.items() if name.startswith(prefix)}


def _logits(model, params, batch, segment_ids=None):
  tokens = (batch['encoder_input_tokens'], batch['decoder_target_tokens'])
  return np.asarray(_jitted_logits(model, params, *tokens, segment_ids))


@functools.partial(jax.jit, static_argnums=0)
def _jitted_logits(model, *arguments):
  return model.logits(*arguments)


def _log_probs(model, params, batch, over):
  return np.asarray(_jitted_log_probs(model, over, params, *batch.values()))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _jitted_log_probs(model, over, *arguments):
  return model.token_log_probs(*arguments, over=over)


def test_batch_has_padding_in_inputs_and_in_the_middle_of_a_frame(batch):
  assert (batch['encoder_input_tokens'] == 0).any()
  assert ((batch['decoder_target_tokens'] == 0).sum(axis=1) % SPEC.target_levels).any()


def test_encoder_output(golden, params, batch):
  encoded = jax.jit(MODEL.encode)(params, batch['encoder_input_tokens'])
  np.testing.assert_allclose(encoded, golden['encoder_output'], **TOLERANCE)


def test_logits_with_and_without_packing_features(golden, params, batch):
  np.testing.assert_allclose(_logits(MODEL, params, batch), golden['logits'], **TOLERANCE)
  ones = tuple(np.ones_like(tokens) for tokens in batch.values())
  np.testing.assert_allclose(_logits(MODEL, params, batch, ones), golden['logits'], **TOLERANCE)


@pytest.mark.parametrize('remat', ['none', 'minimal'])
def test_loss_and_every_gradient(golden, metrics, params, batch, remat):
  model = DepthformerModel(dataclasses.replace(CONFIG, remat=remat), SPEC)
  step = jax.jit(jax.value_and_grad(model.loss_fn, has_aux=True))
  (loss, sums), grads = step(params, batch, None)
  np.testing.assert_allclose(loss, golden['loss'], rtol=1e-6)
  expected = _below(golden, 'grads/')
  grads = to_v1(grads, CONFIG, SPEC)
  assert grads.keys() == expected.keys()
  for name, value in grads.items():
    scale = np.abs(expected[name]).max()
    np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-5 * scale, err_msg=name)
  norm = np.sqrt(sum(np.sum(np.square(value)) for value in grads.values()))
  np.testing.assert_allclose(norm, golden['grad_global_norm'], rtol=1e-5)
  count = float(sums['weight_sum'])
  assert count == golden['batch/decoder_loss_weights'].sum()
  assert float(sums['correct']) / count == pytest.approx(metrics['accuracy'], rel=1e-6)
  assert float(sums['loss_sum']) == pytest.approx(metrics['loss'], rel=1e-6)
  assert float(sums['z_loss']) == pytest.approx(metrics['z_loss'], rel=1e-5)
  assert float(sums['level_loss'].sum()) == pytest.approx(metrics['cross_ent_loss'], rel=1e-6)


def test_given_loss_weights_count_instead_of_padding(golden, params, batch):
  weights = golden['batch/decoder_loss_weights'].copy()
  weights[:, ::2] = 0
  sums = jax.jit(MODEL.loss_fn)(params, batch | {'decoder_loss_weights': weights}, None)[1]
  log_probs = _log_probs(MODEL, params, batch, 'vocabulary')
  assert float(sums['weight_sum']) == weights.sum()
  np.testing.assert_allclose(sums['level_loss'].sum(), -(log_probs * weights).sum(), rtol=1e-6)


def test_score_of_each_row(golden, params, batch):
  log_probs = _log_probs(MODEL, params, batch, 'vocabulary')
  np.testing.assert_allclose(log_probs.sum(axis=1), golden['score_batch'], rtol=1e-6)
  assert not log_probs[batch['decoder_target_tokens'] == 0].any()


def test_loss_over_level_normalises_the_same_logits_over_64_codes(golden, params, batch):
  targets = batch['decoder_target_tokens'].astype(np.int64)
  logits = golden['logits'].astype(np.float64)
  level = np.tile(np.arange(4), 8)
  columns = 2 + level[:, None] * 64 + np.arange(64)
  own = np.take_along_axis(logits, np.broadcast_to(columns, (4, 32, 64)), axis=2)
  normaliser = np.log(np.exp(own).sum(axis=2))
  code = targets - 2 - level * 64
  valid = (code >= 0) & (code < 64)
  score = np.take_along_axis(own, np.clip(code, 0, 63)[..., None], axis=2)[..., 0] - normaliser
  expected = np.where(valid, score, np.where(targets == 0, 0, -np.inf))

  model = DepthformerModel(dataclasses.replace(CONFIG, loss_over='level', z_loss=1e-3), SPEC)
  log_probs = _log_probs(model, params, batch, 'level')
  np.testing.assert_allclose(log_probs, expected, rtol=0, atol=2e-5)
  loss, sums = jax.jit(model.loss_fn)(params, batch, None)
  by_level = np.where(valid, -score, 0).reshape(4, 8, 4).sum(axis=(0, 1))
  np.testing.assert_allclose(sums['level_loss'], by_level, rtol=1e-6)
  np.testing.assert_array_equal(sums['level_weight'], valid.reshape(4, 8, 4).sum(axis=(0, 1)))
  best = np.where(valid, own.argmax(axis=2) == code, False).reshape(4, 8, 4).sum(axis=(0, 1))
  np.testing.assert_array_equal(sums['level_correct'], best)
  penalty = 1e-3 * (np.where(valid, normaliser, 0) ** 2).sum()
  np.testing.assert_allclose(sums['z_loss'], penalty, rtol=1e-6)
  np.testing.assert_allclose(loss, by_level.sum() + penalty, rtol=1e-6)


def test_segments_do_not_see_each_other(params, batch):
  rng = np.random.default_rng(0)
  inputs, targets = (batch[name][:1] for name in batch)
  segments = (1 + (np.arange(23) >= 12)[None], 1 + (np.arange(32) >= 16)[None])
  before = _logits(MODEL, params, dict(batch, **_rows(inputs, targets)), segments)
  other_inputs, other_targets = inputs.copy(), targets.copy()
  other_inputs[:, :12] = rng.integers(2, 600, [1, 12])
  other_targets[:, :16] = rng.integers(2, 600, [1, 16])
  after = _logits(MODEL, params, dict(batch, **_rows(other_inputs, other_targets)), segments)
  np.testing.assert_allclose(before[:, 16:], after[:, 16:], rtol=0, atol=1e-6)
  assert np.abs(before[:, 1:16] - after[:, 1:16]).min(axis=-1).max() > 1e-4


def _rows(inputs, targets):
  return {'encoder_input_tokens': inputs, 'decoder_target_tokens': targets}


def test_bfloat16_is_close_and_keeps_v1_dtypes(golden, params, batch):
  config = dataclasses.replace(CONFIG, dtype='bfloat16')
  model = DepthformerModel(config, SPEC)
  encoded = jax.jit(model.encode)(params, batch['encoder_input_tokens'])
  assert encoded.dtype == jnp.bfloat16
  difference = np.abs(encoded.astype(np.float32) - golden['encoder_output_bf16'])
  assert difference.max() < 0.1 and difference.mean() < 0.01
  logits = _logits(model, params, batch)
  assert logits.dtype == jnp.float32
  difference = np.abs(logits - golden['logits_bf16'])
  assert difference.max() < 0.1 and difference.mean() < 0.01
  normaliser = np.log(np.exp(logits.astype(np.float64)).sum(axis=-1))
  targets = batch['decoder_target_tokens']
  score = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0] - normaliser
  loss = ((1e-4 * normaliser**2 - score) * (targets != 0)).sum()
  np.testing.assert_allclose(loss, golden['loss_bf16'], rtol=1e-3)


def test_bfloat16_streams_encoder_in_bfloat16_decoders_in_float32(params, batch):
  model = DepthformerModel(dataclasses.replace(CONFIG, dtype='bfloat16'), SPEC)
  jaxpr = jax.make_jaxpr(model.logits)(params, *batch.values()).jaxpr
  carries = [
    equation.invars[equation.params['num_consts']].aval
    for equation in jaxpr.eqns
    if equation.primitive.name == 'scan'
  ]
  assert [(carry.shape, str(carry.dtype)) for carry in carries] == [
    ((4, 23, 32), 'bfloat16'), ((4, 8, 32), 'float32'), ((4, 8, 4, 32), 'float32')
  ]  # fmt: skip
