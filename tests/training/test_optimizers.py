"""Optimizers and schedules against T5X's goldens, hand-worked steps and formulas."""

import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models.depthformer import DepthformerConfig, DepthformerModel, from_v1, to_v1
from models.spec import LiveMusicSpec
from training import optimizers, schedules
from training.state import create_state
from training.step import make_train_step

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


@pytest.fixture(scope='module')
def golden():
  return np.load(GOLDEN / 'llm_tiny.npz')


def _run(optimizer, params, gradients):
  state = optimizer.init(params)
  for gradient in gradients:
    updates, state = jax.jit(optimizer.update)(gradient, state, params)
    params = optax.apply_updates(params, updates)
  return params, state


@pytest.mark.parametrize('kind', ['factored', 'full', 'vector'])
def test_adafactor_equals_t5x(golden, kind):
  start, gradients = (golden[f'unit/adafactor_{kind}_{part}'] for part in ('param0', 'grads'))
  params, state = _run(optimizers.adafactor(0.01), {'p': start}, [{'p': g} for g in gradients])
  want = golden[f'unit/adafactor_{kind}_param_after3_lr0.01']
  np.testing.assert_allclose(params['p'], want, rtol=2e-6, atol=1e-8)
  for slot in ('v', 'v_row', 'v_col'):
    got = getattr(state, slot)['p']
    np.testing.assert_allclose(got, golden[f'unit/adafactor_{kind}_{slot}_after3'], rtol=1e-5)
  assert state.count == 3


@pytest.mark.parametrize('kind', ['factored', 'vector'])
def test_adafactor_treats_stacked_layers_one_by_one(golden, kind):
  """Layers of very different size: whole-array rms and clipping would mix them."""
  start, gradients = (golden[f'unit/adafactor_{kind}_{part}'] for part in ('param0', 'grads'))
  scales = [1.0, 30.0, 1e-4]
  one_by_one = [
    _run(optimizers.adafactor(0.01), {'p': start * s}, [{'p': g * s * s} for g in gradients])
    for s in scales
  ]
  stack = {'p': np.stack([start * s for s in scales])}
  optimizer = optimizers.adafactor(0.01, stacked={'p': True})
  params, state = _run(
    optimizer, stack, [{'p': np.stack([g * s * s for s in scales])} for g in gradients]
  )
  for layer, (want, want_state) in enumerate(one_by_one):
    np.testing.assert_allclose(params['p'][layer], want['p'], rtol=1e-6)
    for slot in ('v', 'v_row', 'v_col'):
      want_slot = getattr(want_state, slot)['p']
      np.testing.assert_allclose(getattr(state, slot)['p'][layer], want_slot, rtol=1e-6)


def test_adafactor_step_by_hand():
  """One unfactored step: v = g^2, y = sign(g) with rms 1, so p moves by rate * rms(p)."""
  params, gradient = {'p': jnp.array([3.0, -4.0])}, {'p': jnp.array([0.5, 2.0])}
  got, _ = _run(optimizers.adafactor(0.1), params, [gradient])
  moved = 0.1 * math.sqrt((9 + 16) / 2)
  np.testing.assert_allclose(got['p'], [3.0 - moved, -4.0 - moved], rtol=1e-6)


def test_adafactor_refuses_a_wrong_stacked_tree():
  with pytest.raises(ValueError, match='structure of the parameters'):
    optimizers.adafactor(0.1, stacked={'q': True}).init({'p': jnp.ones(3)})


def _golden_sizes(sizes):
  spec = LiveMusicSpec(
    codec_levels=sizes['num_levels'], codebook_size=sizes['codebook_size'],
    context_frames=sizes['context_frames'], context_levels=sizes['encoder_codec_levels'],
    chunk_frames=sizes['num_frames'], target_levels=sizes['num_levels'],
    style_rvq_levels=sizes['style_levels'], style_levels=sizes['style_levels'],
    style_offset=sizes['style_offset'], vocab_size=sizes['vocab_size_padded'],
  )  # fmt: skip
  names = (
    'embed_dim', 'num_heads', 'head_dim', 'mlp_dim', 'num_encoder_layers', 'num_temporal_layers',
    'num_depth_layers', 'z_loss', 'dtype',
  )  # fmt: skip
  config = DepthformerConfig(
    **{name: sizes[name] for name in names}, dropout_rate=0.0, loss_over='vocabulary'
  )
  return spec, config


def test_language_model_trains_as_under_t5x(golden):
  """Three steps of the whole model: losses and all parameters of the golden run."""
  sizes = json.loads((GOLDEN / 'llm_tiny.json').read_text())['config']
  spec, config = _golden_sizes(sizes)
  model = DepthformerModel(config, spec)
  flat = {k.removeprefix('params/'): golden[k] for k in golden.files if k.startswith('params/')}
  batch = {
    name.removeprefix('batch/'): golden[name] for name in golden.files if name.startswith('batch/')
  }
  batch = {k: batch[k] for k in ('encoder_input_tokens', 'decoder_target_tokens')}
  optimizer = optimizers.adafactor(1e-3, stacked=model.layer_axes())

  class NoDropout:
    init = model.init

    def loss_fn(self, params, batch, rng):
      del rng
      return model.loss_fn(params, batch, None)

  state = create_state(NoDropout(), optimizer, jax.random.key(0), from_v1(flat, config, spec))
  step, losses = make_train_step(NoDropout(), optimizer), []
  for _ in range(3):
    state, metrics = step(state, batch, jax.random.key(1))
    losses.append(float(metrics['loss']))
  np.testing.assert_allclose(losses, golden['train/adafactor_lr1e-3_losses'], rtol=2e-6)
  for name, got in to_v1(state.params, config, spec).items():
    want = golden[f'train/params_after_3_steps/{name}']
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-6, err_msg=name)
  assert state.step == 3


def test_adam_step_by_hand():
  """The first step of Adam moves every entry by rate * g / (|g| + eps)."""
  got, _ = _run(optimizers.adam(0.1), {'p': jnp.array([1.0, 2.0])}, [{'p': jnp.array([4.0, -2.0])}])
  np.testing.assert_allclose(got['p'], [0.9, 2.1], rtol=1e-6)


def test_adamw_decays_matrices_only():
  params = {'matrix': jnp.full([2, 2], 2.0), 'bias': jnp.full([2], 2.0)}
  zero = jax.tree.map(jnp.zeros_like, params)
  got, _ = _run(optimizers.adamw(0.1, weight_decay=0.5), params, [zero])
  np.testing.assert_allclose(got['matrix'], 2.0 * (1 - 0.1 * 0.5), rtol=1e-6)
  np.testing.assert_allclose(got['bias'], 2.0)


def test_gradient_clipping():
  """Only the direction is left of a gradient of norm 50: Adam's second moment shows its size."""
  optimizer = optimizers.adam(0.1, max_gradient_norm=1.0)
  _, state = _run(optimizer, {'p': jnp.zeros(2)}, [{'p': jnp.array([30.0, 40.0])}])
  moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2,)]
  np.testing.assert_allclose(moments[0], [0.06, 0.08], rtol=1e-5)


_SETTINGS = dict(
  base_learning_rate=0.5, warmup_steps=100, decay_factor=0.25, steps_per_decay=300,
  steps_per_cycle=1000,
)  # fmt: skip


@pytest.mark.parametrize('step', [0, 1, 50, 100, 101, 299, 300, 650, 1099, 1101, 5000])
@pytest.mark.parametrize(
  'factors, formula',
  [
    ('constant', lambda s: 0.5),
    ('constant * linear_warmup', lambda s: 0.5 * min(1, s / 100)),
    (
      'constant * linear_warmup * rsqrt_decay',
      lambda s: 0.5 * min(1, s / 100) / math.sqrt(max(s, 100)),
    ),
    ('constant*rsqrt_normalized_decay', lambda s: 0.5 * math.sqrt(100 / max(s, 100))),
    ('constant * decay_every', lambda s: 0.5 * 0.25 ** (s // 300)),
    (
      'constant * cosine_decay',
      lambda s: 0.25 * (1 + math.cos(math.pi * (max(0, s - 100) / 1000 % 1))),
    ),
    ('linear_decay', lambda s: 0.5 * min(s / 100, 1 + 0.25 * (100 - s))),
  ],
)
def test_schedules_follow_their_formulas(factors, formula, step):
  got = schedules.factor_schedule(factors, **_SETTINGS)(step)
  assert float(got) == pytest.approx(max(formula(step), 1e-8), rel=2e-5, abs=1e-7)


def test_schedule_of_magenta_rt_at_its_release():
  schedule = schedules.factor_schedule(base_learning_rate=0.5, warmup_steps=1000)
  assert float(schedule(1_860_000)) == pytest.approx(3.666e-4, rel=1e-3)
  assert float(schedule(1000)) == pytest.approx(0.0158, rel=2e-3)


def test_schedule_without_warmup_starts_at_full_rate():
  schedule = schedules.factor_schedule('constant * linear_warmup', 0.3, warmup_steps=0)
  assert float(schedule(0)) == pytest.approx(0.3)


def test_unknown_factor_names_the_nearest():
  with pytest.raises(ValueError, match="did you mean 'linear_warmup'"):
    schedules.factor_schedule('constant * linear_warmpu')


def test_optimizers_tell_their_rate():
  schedule = schedules.factor_schedule('constant', 0.25)
  for make in (optimizers.adafactor, optimizers.adam, optimizers.adamw):
    assert float(make(schedule).learning_rate(7)) == 0.25
    assert float(make(0.125).learning_rate(7)) == 0.125
