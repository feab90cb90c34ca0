"""The codec's losses and its training step: hand-worked values, and a small codec that learns."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from models import rvq, weights
from models.spec import LiveMusicSpec
from models.spectrostream import SpectroStreamConfig, linear_components, losses, network
from models.spectrostream import linear_start as linear_start_lib
from models.spectrostream.linear_start import LinearStart, linear_start
from models.spectrostream.recipe import CodecRecipe, depth_choices
from models.spectrostream.stft import inverse_stft
from models.spectrostream.training import CodecTrainable, scale_latents

SPEC = LiveMusicSpec(codec_levels=4, codebook_size=16, target_levels=2, context_levels=1)
CONFIG = SpectroStreamConfig(
  num_features=12,
  encoder_widths=(4, 8, 12, 12, 12, 12, 16, 16),
  decoder_widths=(16, 32, 12, 12, 12, 12, 12, 4),
)
RECIPE = CodecRecipe(
  windows=(128, 512), calibration_steps=(1,), calibration_batches=2, kmeans_iterations=3,
  revive_until=100,
  linear_start=LinearStart(carried=(2, 4, 8, 8, 8, 8, 12, 12), features=8), linear_start_batches=4,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _State:
  step: jax.Array
  params: dict
  opt_state: object
  aux: dict

  def replace(self, **changes):
    return dataclasses.replace(self, **changes)


jax.tree_util.register_dataclass(_State)


def _batch(index: int) -> dict[str, np.ndarray]:
  """Two chords of sines with a little noise, 8 frames long."""
  rng = np.random.default_rng(index)
  time = np.arange(8 * SPEC.samples_per_frame)[:, None] / SPEC.sample_rate
  audio = [
    sum(0.1 * np.sin(2 * np.pi * (rng.uniform(100, 2000) * time + rng.random(2))) for _ in range(4))
    for _ in range(2)
  ]
  audio = np.stack(audio) + 0.01 * rng.standard_normal([2, len(time), 2])
  return {'audio': audio.astype(np.float32)}


@pytest.fixture(name='run', scope='module')
def _run():
  """A trainable after 8 steps, its states after the calibrations, and what the steps reported."""
  trainable = CodecTrainable(CONFIG, RECIPE, SPEC)
  optimizer = optax.adam(3e-3)
  params = trainable.init(jax.random.key(0))
  aux = trainable.init_aux(jax.random.key(1))
  state = _State(jnp.zeros([], jnp.int32), params, optimizer.init(params), aux)
  step = jax.jit(lambda state, batch, rng: trainable.train_step(state, batch, rng, optimizer))
  metrics, calibrated = [], {}
  for index in range(8):
    if index in trainable.calibration_steps:
      state = calibrated[index] = trainable.calibrate(state, _batch)
    state, found = step(state, _batch(0), jax.random.key(index))
    metrics.append(jax.tree.map(float, found))
  return types.SimpleNamespace(
    trainable=trainable, state=state, calibrated=calibrated, metrics=metrics
  )


def test_the_loss_falls(run):
  values = [step['loss'] for step in run.metrics]
  assert all(np.isfinite(values))
  assert min(values[-2:]) < 0.9 * values[0]


def test_nothing_is_quantized_before_calibration(run):
  assert run.metrics[0]['commitment'] == 0.0
  assert run.metrics[-1]['commitment'] > 0.0


def test_calibration_fits_the_codebooks_to_the_latents(run):
  codebooks = run.calibrated[1].aux['codebooks']
  latents = run.trainable._latents(run.calibrated[1].params, _batch(0)['audio'])
  x = np.asarray(latents).reshape([-1, 12])
  errors = [
    np.square(x - np.asarray(rvq.dequantize(rvq.quantize(x, codebooks, k), codebooks))).mean()
    for k in (1, 2, 3, 4)
  ]
  assert errors[0] < 0.3 * x.var()
  assert errors == sorted(errors, reverse=True)


def test_codebooks_follow_the_moving_average(run):
  before, after = run.calibrated[1].aux, run.state.aux
  assert after['calibrated'] == 1.0
  assert np.abs(after['codebooks'] - before['codebooks']).max() > 1e-4
  # Codes equal sums / counts whatever has happened to them.
  ratio = after['sums'] / np.maximum(after['counts'], 1e-6)[..., None]
  np.testing.assert_allclose(after['codebooks'], ratio, rtol=1e-3, atol=1e-4)


def _decode(params, latents):
  padded = jnp.pad(latents, [(0, 0), (0, 1), (0, 0)])
  return inverse_stft(jax.jit(network.decode)(params['decoder'], padded), network.hop_size(SPEC))


def test_the_linear_start_transmits_the_waveform(run):
  """Two bass tones of any phase, level and place have few components: all pass."""
  rng = np.random.default_rng(7)
  time = np.arange(16 * SPEC.samples_per_frame)[:, None] / SPEC.sample_rate
  audio = np.stack([
    sum(
      rng.uniform(0.1, 0.3, 2) * np.sin(2 * np.pi * (pitch * time + rng.random(2)))
      for pitch in (60, 110)
    )
    for _ in range(8)
  ]).astype(np.float32)  # fmt: skip
  start = run.trainable.recipe.linear_start
  params, _ = linear_start(run.trainable.init(jax.random.key(0)), CONFIG, SPEC, audio[1:], start)
  # The free channels, still random, would only add noise.
  layer = params['decoder']['output_layer']['base_conv_last']['conv']
  layer['kernel'] = layer['kernel'].at[:, :, start.carried[0] :].set(0.0)
  decoded = np.asarray(_decode(params, run.trainable._latents(params, audio[:1])))
  # The last frame has no successor, the first no past.
  x, y = audio[:1, 3840:-1920].ravel(), decoded[:, 3840:-1920].ravel()
  scaled = x * (x @ y) / (x @ x)
  assert 10 * np.log10(np.square(scaled).sum() / np.square(scaled - y).sum()) > 10


def test_emphasis_gives_soft_bins_their_share(run):
  """A loud bass and a soft high tone, more of them than latents: which of them are kept?"""
  time = np.arange(8 * SPEC.samples_per_frame)[:, None] / SPEC.sample_rate
  rng = np.random.default_rng(3)

  def tones(low, high, count):
    return sum(
      np.sin(2 * np.pi * (rng.uniform(low, high) * time + rng.random(2))) for _ in range(count)
    )

  audio = np.stack([0.3 * tones(60, 600, 6) + 0.01 * tones(2600, 4400, 3) for _ in range(12)])
  kept = {}
  for emphasis in (0.0, 1.0):
    start = dataclasses.replace(run.trainable.recipe.linear_start, emphasis=emphasis)
    params, _ = linear_start(
      run.trainable.init(jax.random.key(0)), CONFIG, SPEC, audio.astype(np.float32), start
    )
    layer = params['decoder']['output_layer']['base_conv_last']['conv']
    layer['kernel'] = layer['kernel'].at[:, :, start.carried[0] :].set(0.0)
    decoded = _decode(params, run.trainable._latents(params, audio.astype(np.float32)))
    levels = [np.abs(np.fft.rfft(x[:, 2000:-2000], axis=1)) for x in (audio, np.asarray(decoded))]
    frequencies = np.fft.rfftfreq(audio.shape[1] - 4000, 1 / SPEC.sample_rate)
    kept[emphasis] = [
      float(np.square(levels[1][:, band]).sum() / np.square(levels[0][:, band]).sum())
      for band in (frequencies < 1000, (frequencies > 2500) & (frequencies < 4500))
    ]
  assert kept[0.0][0] > kept[1.0][0]
  assert kept[1.0][1] > 3 * kept[0.0][1]


def test_the_latent_basis_leaves_the_least_weighted_error():
  """Against other bases of the same rank, and by the eigenvalues where all weighs alike."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal([400, 2, 6]) @ rng.standard_normal([6, 6]) * [[1.0], [0.6]]
  roots = rng.standard_normal([2, 6, 6])
  metric = roots @ roots.transpose([0, 2, 1])
  flat = x.reshape([-1, 12])

  def error(analysis, synthesis, metric):
    left = (flat - flat @ analysis @ synthesis).reshape(x.shape)
    return np.einsum('nbi,bij,nbj->', left, metric, left)

  basis = linear_components._latent_basis(x, metric, 4)
  least = error(basis.analysis, basis.synthesis, metric)
  inside = basis.analysis != 0
  assert set(inside[:6].sum(0)) == {0, 6} and (inside[:6].any(0) ^ inside[6:].any(0)).all()
  for _ in range(50):
    analysis = basis.analysis + 0.1 * rng.standard_normal([12, 4]) * inside
    synthesis = np.zeros([4, 12])
    for bin_ in (slice(0, 6), slice(6, 12)):
      mine = np.flatnonzero(inside[bin_].any(0))
      # The best synthesis for that analysis.
      heard = flat @ analysis[:, mine]
      synthesis[mine, bin_] = np.linalg.lstsq(heard, flat[:, bin_], rcond=None)[0]
    assert error(analysis, synthesis, metric) > least
  np.testing.assert_allclose(np.square(flat @ basis.analysis).mean(0).max(), 1, rtol=1e-5)
  plain = np.broadcast_to(np.eye(6), [2, 6, 6])
  basis = linear_components._latent_basis(x, plain, 4)
  values = np.sort(np.concatenate([np.linalg.eigvalsh(x[:, i].T @ x[:, i]) for i in range(2)]))
  np.testing.assert_allclose(
    error(basis.analysis, basis.synthesis, plain), values[:8].sum(), rtol=1e-6
  )


def test_free_outputs_hear_carried_inputs_softly_and_free_ones_in_full():
  rng = np.random.default_rng(0)
  kernel = rng.standard_normal([1, 1, 64, 400]) / 8
  bias = np.zeros(400)
  carried, constants = np.arange(48), np.array([63])
  linear_start_lib._listen(kernel, bias, carried, 0.3, constants)
  x = rng.standard_normal([5000, 64])
  x[:, :48] += linear_start_lib._OFFSET
  x[:, 63] = 1.0
  heard = x[:, :48] @ kernel[0, 0, :48] + bias
  assert np.abs(heard.mean(0)).max() < 0.05  # The offset is gone.
  assert np.std(heard) == pytest.approx(0.3 * np.sqrt(48 / 64), rel=0.05)
  np.testing.assert_array_equal(kernel[0, 0, 63], 0)
  assert np.std(x[:, 48:63] @ kernel[0, 0, 48:63]) == pytest.approx(1.0, rel=0.05)


def test_carried_channels_stay_and_others_move(run):
  trainable = weights.flatten(jax.tree.map(np.asarray, run.state.aux['trainable']))
  before = weights.flatten(jax.tree.map(np.asarray, run.calibrated[0].params))
  after = weights.flatten(jax.tree.map(np.asarray, run.state.params))
  assert 0.1 < np.mean(np.concatenate([mask.ravel() for mask in trainable.values()])) < 0.95
  for name, mask in trainable.items():
    np.testing.assert_array_equal(after[name][mask == 0], before[name][mask == 0], err_msg=name)
  moved = [np.abs(after[name] - before[name]).max() > 0 for name in after]
  assert np.mean(moved) > 0.9


def test_scaled_latents_decode_to_the_same(run):
  params, audio = run.state.params, _batch(1)['audio']
  scales = np.linspace(0.25, 4.0, 12).astype(np.float32)
  scaled = scale_latents(params, scales)
  latents = run.trainable._latents(params, audio)
  np.testing.assert_allclose(
    run.trainable._latents(scaled, audio), latents * scales, rtol=1e-3, atol=1e-3
  )
  np.testing.assert_allclose(
    _decode(scaled, latents * scales), _decode(params, latents), rtol=1e-2, atol=1e-3
  )


def test_metrics_become_means_per_step(run):
  summed = {name: sum(step[name] for step in run.metrics) for name in run.metrics[0]}
  means = run.trainable.summarize(summed)
  assert means['mel'] == pytest.approx(np.mean([step['mel'] for step in run.metrics]))
  assert 'steps' not in means


def test_depths_are_those_of_the_v2_config():
  depths = depth_choices(64)
  assert len(depths) == 32 and depths[0] == 1 and depths[-1] == 64
  assert 16 in depths and 17 not in depths and 18 in depths and 34 not in depths and 36 in depths
  assert depth_choices(4).tolist() == [1, 2, 3, 4]
  assert depth_choices(16, (4, 16, 64)).tolist() == [4, 16, 16]
  with pytest.raises(ValueError, match='depths=.*from 1 on'):
    CodecRecipe(depths=(0, 4))


def test_half_of_the_examples_bypass_the_quantizer():
  trainable = CodecTrainable(CONFIG, RECIPE, SPEC)
  depths = np.stack([trainable._draw_depths(jax.random.key(i), 8) for i in range(20)])
  assert (np.sum(depths == 0, axis=1) == 4).all()
  assert set(np.unique(depths)) == {0, 1, 2, 3, 4}


def test_waveform_loss_worked_by_hand():
  audio = jnp.ones([1, 100, 2])
  assert float(losses.waveform_loss(audio, audio)) == pytest.approx(1e-6, abs=1e-6)
  assert float(losses.waveform_loss(audio, 0.25 * audio)) == pytest.approx(0.75)
  quiet = 0.001 * audio  # Counted as if at -34 dB.
  assert float(losses.waveform_loss(quiet, -quiet)) == pytest.approx(0.002 / 0.02, rel=1e-3)


def test_spectral_losses_see_level_and_ignore_polarity():
  rng = np.random.default_rng(0)
  audio = jnp.asarray(rng.standard_normal([2, 4096, 2]), jnp.float32)
  spectral_losses = jax.jit(losses.spectral_losses, static_argnums=(2, 3))
  mel, stft = spectral_losses(audio, -audio, (256, 1024), 48_000)
  assert float(mel) == pytest.approx(0, abs=1e-5) and float(stft) == pytest.approx(0, abs=1e-5)
  mel, stft = spectral_losses(audio, 0.5 * audio, (256, 1024), 48_000)
  assert float(mel) == pytest.approx(np.log(2), rel=0.02)
  assert float(stft) == pytest.approx(0.5 + np.log(2), rel=0.02)


def test_a_full_scale_sine_has_magnitude_one():
  time = np.arange(4800) / 48_000
  audio = np.sin(2 * np.pi * 3000 * time)[None, :, None].astype(np.float32)
  assert float(losses.magnitudes(audio, 512).max()) == pytest.approx(1.0, rel=1e-3)


def test_the_loudness_loss_is_the_difference_of_levels():
  audio = np.random.default_rng(0).standard_normal([2, 4800, 2]).astype(np.float32)
  assert float(losses.loudness_loss(audio, audio)) == 0
  assert float(losses.loudness_loss(audio, audio / 2)) == pytest.approx(np.log(4), rel=1e-4)
  # As loud in all, half of the difference between the channels.
  mid, side = audio.mean(2), (audio[..., 0] - audio[..., 1]) / 2
  narrow = side / 2
  power = np.sqrt(np.square(audio).mean((1, 2)) - np.square(narrow).mean(1))
  mid = mid * (power / np.sqrt(np.square(mid).mean(1)))[:, None]
  estimate = np.stack([mid + narrow, mid - narrow], -1)
  got = float(losses.loudness_loss(audio, estimate))
  assert got == pytest.approx(np.log(4) / 2, rel=1e-3)
  # What is too soft is pulled up, what is silent in both is left alone.
  pull = jax.grad(losses.loudness_loss, argnums=1)(audio, jnp.asarray(audio / 2))
  assert float((pull * audio).sum()) < 0
  silence = np.zeros_like(audio)
  assert not np.asarray(jax.grad(losses.loudness_loss, argnums=1)(silence, silence)).any()


def test_the_level_loss_holds_mean_and_deviation():
  latents = np.random.default_rng(0).standard_normal([4, 500, 3]).astype(np.float32)
  latents = (latents - latents.mean((0, 1))) / latents.std((0, 1))
  assert float(losses.level_loss(6 * latents, 6.0)) == pytest.approx(0, abs=1e-4)
  assert float(losses.level_loss(6 * latents, 2.0)) == pytest.approx(np.log(3) ** 2, rel=1e-4)
  assert float(losses.level_loss(6 * latents + 12, 6.0)) == pytest.approx(0.1 * 4, rel=1e-3)
  # A latent that says nothing has a finite loss and gradient.
  dead = jax.value_and_grad(losses.level_loss)(np.zeros([4, 500, 3], np.float32), 6.0)
  assert np.isfinite(dead[0]) and np.isfinite(np.asarray(dead[1])).all()
  with pytest.raises(ValueError, match='free_level=0 must be above 0'):
    dataclasses.replace(RECIPE, free_level=0)
