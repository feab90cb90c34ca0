"""Decoding against v1's own token sequences, and the fast sampler against the distribution."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.depthformer import DepthformerConfig, DepthformerModel, from_v1
from models.depthformer import model as model_lib
from models.spec import LiveMusicSpec

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'llm_tiny.npz'
SPEC = LiveMusicSpec(
  codebook_size=64, context_frames=10, context_levels=2, chunk_frames=8, target_levels=4,
  style_levels=3, style_offset=322, vocab_size=640,
)  # fmt: skip
CONFIG = DepthformerConfig(
  embed_dim=32, num_heads=4, head_dim=8, mlp_dim=64, num_encoder_layers=2, num_temporal_layers=2,
  num_depth_layers=2, dropout_rate=0.0,
)  # fmt: skip
MODEL = DepthformerModel(CONFIG, SPEC)
GREEDY = dict(temperature=0.0)
V1 = dict(constrain_levels=False, reference_sampler=True)


@pytest.fixture(scope='module')
def golden() -> dict[str, np.ndarray]:
  with np.load(GOLDEN) as file:
    return {name: file[name] for name in file.files}


@pytest.fixture(scope='module')
def params(golden):
  names = [name for name in golden if name.startswith('params/')]
  return from_v1({name[len('params/') :]: golden[name] for name in names}, CONFIG, SPEC)


@pytest.fixture(scope='module')
def inputs(golden) -> np.ndarray:
  return golden['decode/encoder_input_tokens']


def _generate(params, inputs, **options) -> np.ndarray:
  ids = MODEL.generate(params, inputs, **options)
  return np.asarray(ids).reshape(len(inputs), -1)


def _unmasked(inputs: np.ndarray) -> np.ndarray:
  """The golden's even rows; its odd rows are the same with the style masked."""
  masked = inputs[0::2].copy()
  masked[:, SPEC.context_length :] = SPEC.mask_id
  np.testing.assert_array_equal(masked, inputs[1::2])
  return inputs[0::2]


def _logits(params, inputs: np.ndarray, tokens: np.ndarray) -> np.ndarray:
  return np.asarray(_jitted_logits(params, inputs, tokens))


_jitted_logits = jax.jit(MODEL.logits)


def _best_of_level(logits: np.ndarray) -> np.ndarray:
  """Best id of each position's own level; logits [rows, frames, levels, ids]."""
  first = 2 + 64 * np.arange(4)
  best = [logits[:, :, i, start : start + 64].argmax(axis=-1) for i, start in enumerate(first)]
  return np.stack(best, axis=-1) + first


@pytest.mark.parametrize(
  'name, options',
  [
    ('greedy_nocfg', GREEDY | V1),
    ('constrained_greedy_nocfg', GREEDY),
    ('topk1_temp1_nocfg', dict(temperature=1.0, top_k=1, rng=jax.random.key(5)) | V1),
    ('greedy_nocfg_short', GREEDY | V1 | dict(max_decode_steps=8)),
    ('sampled_nocfg_t1.1_k40_seed3', dict(temperature=1.1, top_k=40, rng=jax.random.key(3)) | V1),
  ],
)
def test_unguided_sequences_are_v1s(golden, params, inputs, name, options):
  steps = np.count_nonzero(golden[f'decode/{name}'][0])
  if 'short' in name:
    options = options | dict(max_decode_steps=steps)
  np.testing.assert_array_equal(
    _generate(params, inputs, guidance_weight=0.0, **options), golden[f'decode/{name}']
  )


@pytest.mark.parametrize(
  'name, options',
  [
    ('greedy_cfg4', GREEDY | V1),
    ('constrained_greedy_cfg4', GREEDY),
    ('sampled_cfg4_t1.1_k5_seed7', dict(temperature=1.1, top_k=5, rng=jax.random.key(7)) | V1),
    ('constrained_sampled_cfg4_t1.1_k5_seed7',
     dict(temperature=1.1, top_k=5, rng=jax.random.key(7), reference_sampler=True)),
  ],
)  # fmt: skip
def test_guided_sequences_are_v1s(golden, params, inputs, name, options):
  rows = _unmasked(inputs)
  expected = golden[f'decode/{name}']
  np.testing.assert_array_equal(expected[0::2], expected[1::2])
  np.testing.assert_array_equal(
    _generate(params, rows, guidance_weight=4.0, **options), expected[0::2]
  )


@pytest.mark.parametrize('guided', [False, True])
def test_scores_are_v1s(golden, params, inputs, guided):
  name = 'sampled_cfg4_t1.1_k5_seed7' if guided else 'sampled_nocfg_t1.1_k40_seed3'
  options = dict(top_k=5, rng=jax.random.key(7)) if guided else dict(rng=jax.random.key(3))
  rows = inputs[0::2] if guided else inputs
  scores = MODEL.generate(
    params, rows, guidance_weight=4.0 * guided, return_scores=True, **options, **V1
  )[1]
  expected = golden[f'decode/{name}_scores'][:: 2 if guided else 1]
  np.testing.assert_allclose(scores, expected, rtol=1e-5)
  greedy = MODEL.generate(
    params, rows, guidance_weight=4.0 * guided, return_scores=True, **GREEDY, **V1
  )[1]
  assert not np.asarray(greedy).any()


@pytest.mark.parametrize('guided', [False, True])
def test_id_1_ends_a_row_when_unconstrained(golden, params, inputs, guided):
  column = golden['decode/eos_logits_kernel_col1']
  params = params | {'logits': params['logits'].at[:, 1].set(column)}
  expected = golden['decode/eos_greedy_cfg4' if guided else 'decode/eos_greedy_nocfg']
  rows = inputs[0::2] if guided else inputs
  tokens = _generate(params, rows, guidance_weight=4.0 * guided, **GREEDY, **V1)
  np.testing.assert_array_equal(tokens, expected[:: 2 if guided else 1])
  if not guided:
    assert [list(row).index(1) for row in expected[:2]] == [10, 11]


def test_step_by_step_logits_are_those_of_the_full_sequence(golden, params, inputs):
  tokens = golden['decode/greedy_nocfg']
  assert tokens.all()
  logits = _logits(params, inputs, tokens)
  np.testing.assert_allclose(logits, golden['decode/greedy_nocfg_step_logits'], rtol=0, atol=2e-5)


def test_cached_decoding_in_the_default_sampler_is_greedy_over_the_full_sequence(params, inputs):
  tokens = _generate(params, inputs, guidance_weight=0.0, **GREEDY)
  logits = _logits(params, inputs, tokens).reshape(4, 8, 4, 640)
  np.testing.assert_array_equal(tokens.reshape(4, 8, 4), _best_of_level(logits))


# 40 of the 64 codes: their power of two is all of them, which must not lift the limit.
@pytest.mark.parametrize('guidance_weight, top_k', [(0.0, 0), (2.0, 5), (0.0, 40)])
def test_default_sampler_draws_from_the_scaled_top_k_distribution(
  params, inputs, guidance_weight, top_k
):
  """Frequencies of the first token over 1000 rows against the softmax, by a chi-square test."""
  num_rows, temperature = 1000, 1.3
  row = inputs[:1]
  masked = row.copy()
  masked[:, SPEC.context_length :] = SPEC.mask_id
  conditioned, unconditioned = (
    _logits(params, rows, np.full([1, 32], 2, np.int32))[0, 0, 2:66].astype(np.float64)
    for rows in (row, masked)
  )
  logits = (1 + guidance_weight) * conditioned - guidance_weight * unconditioned
  logits /= temperature
  expected = np.exp(logits - logits.max())
  if top_k:
    expected[np.argsort(expected)[:-top_k]] = 0
  expected /= expected.sum()
  tokens = _generate(
    params, np.repeat(row, num_rows, axis=0), rng=jax.random.key(1), temperature=temperature,
    top_k=top_k, guidance_weight=guidance_weight, max_decode_steps=1,
  )[:, 0]  # fmt: skip
  counts = np.bincount(tokens - 2, minlength=64)
  assert not counts[expected == 0].any()
  likely = expected * num_rows >= 5
  statistic = np.sum((counts - expected * num_rows)[likely] ** 2 / (expected * num_rows)[likely])
  degrees = likely.sum() - 1
  assert statistic < degrees + 5 * np.sqrt(2 * degrees)


def test_default_sampler_is_seeded(params, inputs):
  """A golden of our own: the same key gives the same tokens on every platform and version."""
  options = dict(temperature=1.1, top_k=5, guidance_weight=4.0)
  first = _generate(params, inputs[0::2], rng=jax.random.key(7), **options)
  expected = [
    54, 87, 150, 223, 20, 76, 144, 223, 23, 89, 186, 257, 60, 114, 168, 246,
    23, 89, 186, 245, 20, 89, 160, 218, 20, 96, 143, 244, 20, 67, 190, 246,
  ]  # fmt: skip
  np.testing.assert_array_equal(first[0], expected)
  codes = first.reshape(2, 8, 4) - 2 - 64 * np.arange(4)
  assert (codes >= 0).all() and (codes < 64).all()
  assert (first != _generate(params, inputs[0::2], rng=jax.random.key(8), **options)).any()


def test_scores_of_the_default_sampler_are_log_probabilities_of_what_it_drew(params, inputs):
  tokens, scores = MODEL.generate(
    params, inputs, rng=jax.random.key(2), temperature=1.0, top_k=0, guidance_weight=0.0,
    return_scores=True,
  )  # fmt: skip
  score = jax.jit(MODEL.token_log_probs)
  expected = score(params, inputs, np.asarray(tokens).reshape(4, -1)).sum(axis=1)
  np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_guidance_between_equal_rows_changes_nothing(params, inputs):
  rows = inputs[0::2]
  guided = _generate(params, rows, guidance_weight=3.0, unconditional_inputs=rows, **GREEDY)
  np.testing.assert_array_equal(guided, _generate(params, rows, guidance_weight=0.0, **GREEDY))


def test_padding_in_the_inputs_is_not_attended(params, inputs):
  """The full-sequence form, whose padding rows are golden, would choose the same tokens."""
  rows = inputs[0::2].copy()
  rows[:, :4] = SPEC.pad_id
  tokens = _generate(params, rows, guidance_weight=0.0, **GREEDY)
  full = _logits(params, rows, tokens).reshape(2, 8, 4, 640)
  np.testing.assert_array_equal(tokens.reshape(2, 8, 4), _best_of_level(full))


@pytest.mark.parametrize('steps', [5, 8, 32])
def test_max_decode_steps_leaves_zeros(params, inputs, steps):
  short = _generate(params, inputs, guidance_weight=0.0, max_decode_steps=steps, **GREEDY, **V1)
  full = _generate(params, inputs, guidance_weight=0.0, **GREEDY, **V1)
  np.testing.assert_array_equal(short, np.where(np.arange(32) < steps, full, 0))


def test_bfloat16_decodes_as_its_full_sequence_form(params, inputs):
  config = DepthformerConfig.from_dict(CONFIG.to_dict() | {'dtype': 'bfloat16'})
  model = DepthformerModel(config, SPEC)
  tokens = model.generate(params, inputs, guidance_weight=0.0, **GREEDY).reshape(4, -1)
  logits = jax.jit(model.logits)(params, inputs, tokens).reshape(4, 8, 4, 640)
  own = jnp.stack([logits[:, :, i, 2 + 64 * i : 66 + 64 * i] for i in range(4)], axis=2)
  chosen = jnp.take_along_axis(own, (tokens.reshape(4, 8, 4)[..., None] - 2) % 64, axis=-1)
  assert float((own.max(axis=-1) - chosen[..., 0]).max()) < 0.05


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(top_k=-1), r'top_k=-1 is not in 0\.\.640'),
    (dict(max_decode_steps=33), r'max_decode_steps=33 is not in 1\.\.32'),
    (dict(rng=None), r'temperature=1\.1 samples and needs rng'),
  ],
)
def test_bad_options_name_the_value_and_the_range(params, inputs, arguments, message):
  with pytest.raises(ValueError, match=message):
    MODEL.generate(params, inputs, **(dict(rng=jax.random.key(0)) | arguments))


def test_inputs_of_a_wrong_length_are_refused(params, inputs):
  with pytest.raises(ValueError, match=r'\(4, 22\) must be \[B, 23\]'):
    MODEL.generate(params, inputs[:, 1:], **GREEDY)


def test_turning_the_knobs_does_not_compile_again(params, inputs):
  options = dict(rng=jax.random.key(0))
  inputs = inputs[0::2]
  MODEL.generate(params, inputs, temperature=1.0, top_k=5, guidance_weight=1.0, **options)
  compiled = model_lib._generate._cache_size()
  MODEL.generate(params, inputs, temperature=0.7, top_k=8, guidance_weight=3.0, **options)
  assert model_lib._generate._cache_size() == compiled
