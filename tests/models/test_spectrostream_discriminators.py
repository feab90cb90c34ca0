"""Discriminators against plain forms of the same layers; adversarial losses worked by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from models.spectrostream import discriminators, losses
from models.spectrostream.discriminators import DiscriminatorConfig, Judgement

CONFIG = DiscriminatorConfig(windows=(128, 256), width=2, growth=(2, 2, 2, 3, 3, 4))


def _audio(samples, batch=2, seed=0):
  return np.random.default_rng(seed).normal(size=[batch, samples, 2]).astype(np.float32)


def test_spectrogram_is_the_fourier_transform_of_every_half_window():
  audio = _audio(700)
  got = np.asarray(discriminators.spectrogram(audio, 256))
  assert got.shape == (4, 4, 128, 3)  # 5 whole hops make 4 frames; 60 samples are left over.
  window = np.hanning(257)[:-1]
  window /= np.sqrt(np.square(window).sum())
  for row, (example, channel) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
    for frame in range(4):
      x = np.fft.rfft(audio[example, frame * 128 : frame * 128 + 256, channel] * window)[:-1]
      want = np.stack([x.real, x.imag, np.abs(x)], -1)
      np.testing.assert_allclose(got[row, frame], want, atol=2e-6)


def test_noise_has_the_same_level_at_every_window():
  audio = _audio(16384)
  for window in (128, 1024, 4096):
    magnitudes = np.asarray(discriminators.spectrogram(audio, window))[..., 2]
    assert np.sqrt(np.square(magnitudes).mean()) == pytest.approx(1.0, abs=0.05)


def _plain_conv(layer, x, stride=(1, 1)):
  """What `layers.conv` does, by XLA's own strided convolution."""
  kernel, padding = layer['conv']['kernel'], []
  for axis, (size, k, s) in enumerate(zip(x.shape[1:3], kernel.shape, stride, strict=False)):
    total = max(k - s, 0)
    left = total if axis == 0 else total // 2
    padding.append((left, (-(-size // s) - 1) * s + k - size - left))
  y = lax.conv_general_dilated(
    x, kernel, stride, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  return y + layer['conv']['bias']


def _plain_norm(norm, x):
  mean, std = x.mean((2, 3), keepdims=True), np.sqrt(x.var((2, 3), keepdims=True) + 1e-6)
  x = (x - mean) / std * norm['scale'] + norm['bias']
  return np.where(x > 0, x, 0.2 * x)


def _plain_logits(params, x):
  x = np.asarray(_plain_conv(params['first'], x))
  for index, stride in enumerate([(1, 2), (2, 2), (1, 2), (2, 2), (1, 2), (2, 2)]):
    block = params[f'block_{index}']
    if index == 4:  # Left and right of an example side by side.
      x = np.concatenate([x[0::2], x[1::2]], axis=-1)
    h = np.asarray(_plain_conv(block['conv_a'], _plain_norm(block['norm_a'], x)))
    h = np.asarray(_plain_conv(block['conv_b'], _plain_norm(block['norm_b'], h), stride))
    st, sf = stride
    x = np.pad(x, [(0, 0), (0, -x.shape[1] % st), (0, 0), (0, 0)])
    pooled = np.mean([x[:, a::st, b::sf] for a in range(st) for b in range(sf)], axis=0)
    x = h + np.asarray(_plain_conv(block['shortcut'], pooled) if 'shortcut' in block else pooled)
  x = np.pad(_plain_norm(params['norm_last'], x), [(0, 0), (1, 1), (0, 0), (0, 0)])
  kernel = params['last']['conv']['kernel']
  y = lax.conv_general_dilated(
    x, kernel, (1, 1), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )
  return np.asarray(y)[:, :, 0, 0] + params['last']['conv']['bias']


def test_judgements_are_those_of_plain_layers():
  params = discriminators.init_params(jax.random.key(0), CONFIG)
  rng = np.random.default_rng(1)  # Scales and biases that show.
  params = jax.tree.map(lambda x: np.float32(x + 0.1 * rng.normal(size=x.shape)), params)
  audio = _audio(2600)
  judged = jax.jit(lambda x: discriminators.discriminate(params, x, CONFIG))(audio)
  assert list(judged) == ['window_128', 'window_256']
  got = judged['window_256']
  spectrogram = np.asarray(discriminators.spectrogram(audio, 256))
  want = _plain_logits(params['window_256'], spectrogram)
  assert got.logits.shape == (2, -(-spectrogram.shape[1] // 8))  # Time is halved three times.
  np.testing.assert_allclose(got.logits, want, atol=2e-5)
  assert len(got.features) == 7
  assert got.features[-1].shape == (2, want.shape[1], 2, 8)


def test_sizes():
  shapes = jax.eval_shape(
    lambda: discriminators.init_params(jax.random.key(0), DiscriminatorConfig())
  )
  assert set(shapes) == {f'window_{w}' for w in (128, 256, 512, 1024, 2048, 4096)}
  assert shapes['window_4096']['last']['conv']['kernel'].shape == (3, 32, 512, 1)
  assert shapes['window_128']['block_4']['conv_a']['conv']['kernel'].shape == (3, 3, 512, 512)
  params = discriminators.init_params(jax.random.key(0), CONFIG)
  kernel = np.asarray(params['window_256']['block_3']['conv_a']['conv']['kernel'])
  assert kernel.std() == pytest.approx(1 / np.sqrt(9 * 4), rel=0.2)
  assert (np.asarray(params['window_128']['norm_last']['scale']) == 1).all()


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'windows': (128, 100)}, 'window of 100 samples is not a multiple of 128'),
    ({'windows': (128, 128)}, 'must be different'),
    ({'growth': (1, 2)}, 'one width and 6 multiples'),
  ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    dataclasses.replace(CONFIG, **changes)


def test_short_crops_are_refused():
  with pytest.raises(ValueError, match='Crops of 200 samples are shorter than the window of 256'):
    discriminators.spectrogram(_audio(200), 256)


def _judgements(*logits, features=((0.0,),)):
  return {
    f'window_{i}': Judgement(jnp.float32([row]), [jnp.float32(f) for f in features])
    for i, row in enumerate(logits)
  }


def test_hinge_losses_worked_by_hand():
  originals, estimates = _judgements([2.0, 0.5], [-1.0]), _judgements([-3.0, 1.0], [0.0])
  hinge, metrics = losses.discriminator_loss(originals, estimates)
  # Window 0: (0 + 0.5) / 2 + (0 + 2) / 2; window 1: 2 + 1. Windows count alike.
  assert float(hinge) == pytest.approx((0.25 + 1.0 + 2.0 + 1.0) / 2)
  assert float(metrics['logit_original']) == pytest.approx((1.25 - 1.0) / 2)
  assert float(metrics['logit_estimate']) == pytest.approx((-1.0 + 0.0) / 2)
  # 2 of 2 and 1 of 2 right; 0 of 1 and 0 of 1 (a logit of 0 decides nothing).
  assert float(metrics['discriminator_accuracy']) == pytest.approx((0.75 + 0.0) / 2)
  generator = losses.generator_losses(originals, estimates)['generator']
  assert float(generator) == pytest.approx(((4.0 + 0.0) / 2 + 1.0) / 2)


def test_feature_matching_worked_by_hand():
  originals = _judgements([0.0], features=([1.0, 2.0, 3.0], [10.0]))
  estimates = _judgements([0.0], features=([1.0, 0.0, 4.0], [6.0]))
  distance = losses.generator_losses(originals, estimates)['feature_matching']
  assert float(distance) == pytest.approx((3.0 / 3 + 4.0) / 2)  # Of entries, then of layers.
  into_originals = jax.grad(
    lambda x: losses.generator_losses(x, estimates)['feature_matching']
  )(originals)
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(into_originals))
