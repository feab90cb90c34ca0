"""Reconstruction losses: multi-scale mel and STFT magnitudes, and the waveform itself.

Mel bands follow the codec report's distance: windows of w samples at hop w / 4, w / 16 bands of
equal mel width from 0 to half the sample rate, a full-scale sine at magnitude 1, a floor at -80
dB; here in nats (1 nat = 8.7 dB).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from models.spectrostream.discriminators import Judgement

_FLOOR = 1e-4
_SILENT_POWER = 1e-6  # Levels below -60 dBFS count as this.
_BINS_PER_MEL = 16


def magnitudes(audio: jax.Array, window: int) -> jax.Array:
  """[B, n, channels] -> STFT magnitudes [B, channels, frames, window // 2 + 1], hop window / 4."""
  hop = window // 4
  x = jnp.transpose(audio, [0, 2, 1])
  num_hops = x.shape[-1] // hop
  hops = jnp.reshape(x[..., : num_hops * hop], [*x.shape[:2], num_hops, hop])
  count = num_hops - 3
  frames = jnp.concatenate([hops[:, :, i : i + count] for i in range(4)], axis=-1)
  spectrum = jnp.fft.rfft(frames * _analysis_window(window), axis=-1)
  # The root of zero has no gradient; 1e-12 lies 40 dB under the floor.
  power = jnp.square(jnp.real(spectrum)) + jnp.square(jnp.imag(spectrum))
  return jnp.sqrt(power + 1e-12)


def spectral_losses(
  audio: jax.Array, estimate: jax.Array, windows: tuple[int, ...], sample_rate: int
) -> tuple[jax.Array, jax.Array]:
  """Multi-scale distances, means over windows.

  Args:
    audio: [B, n, channels].
    estimate: the same shape.
    windows: in samples.
    sample_rate: in Hz.

  Returns:
    (mel, stft): mean |ln m - ln m'| over mel bands; sum |s - s'| / sum s over the batch plus mean
    |ln s - ln s'| over bins.
  """
  mel_terms, stft_terms = [], []
  for window in windows:
    filters = mel_filters(sample_rate, window, window // _BINS_PER_MEL)
    s, t = magnitudes(audio, window), magnitudes(estimate, window)
    mel_terms.append(_log_distance(s @ filters, t @ filters))
    relative = jnp.sum(jnp.abs(s - t)) / (jnp.sum(s) + _FLOOR)
    stft_terms.append(relative + _log_distance(s, t))
  return sum(mel_terms) / len(windows), sum(stft_terms) / len(windows)


def loudness_loss(audio: jax.Array, estimate: jax.Array) -> jax.Array:
  """Mean absolute difference of levels in nats of power: of both channels, and of their difference.

  Args:
    audio: [B, n, 2].
    estimate: the same shape.
  """

  def levels(x: jax.Array) -> jax.Array:
    power = jnp.square(x).mean(axis=(1, 2))
    side = jnp.square(x[..., 0] - x[..., 1]).mean(axis=1)
    return jnp.log(jnp.stack([power, side]) + _SILENT_POWER)

  return jnp.abs(levels(audio) - levels(estimate)).mean()


def waveform_loss(audio: jax.Array, estimate: jax.Array) -> jax.Array:
  """Mean over examples of ||x - x'|| / ||x||; quieter than -34 dB counts as -34 dB."""
  error = jnp.sqrt(jnp.mean(jnp.square(audio - estimate), axis=(1, 2)) + 1e-12)
  level = jnp.sqrt(jnp.mean(jnp.square(audio), axis=(1, 2)))
  return jnp.mean(error / jnp.maximum(level, 0.02))


def decorrelation_loss(latents: jax.Array) -> jax.Array:
  """Mean squared entry of the correlation matrix less identity, of latents [B, frames, D]."""
  flat = latents.reshape([-1, latents.shape[-1]])
  flat = (flat - flat.mean(0)) / (flat.std(0) + 1e-4)
  correlation = flat.T @ flat / len(flat)
  return jnp.mean(jnp.square(correlation - jnp.eye(len(correlation))))


def level_loss(latents: jax.Array, level: float) -> jax.Array:
  """How far latents [B, frames, D] are from a mean of 0 and a standard deviation of `level`.

  The mean over them of the squared logarithm of deviation over level, and of a tenth of the squared
  mean over level.
  """
  flat = latents.reshape([-1, latents.shape[-1]])
  deviation = jnp.sqrt(flat.var(0) + 1e-8 * level**2)
  return jnp.mean(jnp.square(jnp.log(deviation / level)) + 0.1 * jnp.square(flat.mean(0) / level))


def discriminator_loss(
  originals: dict[str, Judgement], estimates: dict[str, Judgement]
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Hinge loss of the discriminators: mean of max(0, 1 - D(x)) + max(0, 1 + D(x')).

  The mean is over the logits of each discriminator, then over discriminators, so that those with
  long windows, which give few logits, count as much as the others.

  Args:
    originals: of `discriminators.discriminate`.
    estimates: of the same crops, coded.

  Returns:
    (loss, {'discriminator_accuracy': share of logits with the right sign, 'logit_original': mean,
    'logit_estimate': mean}).
  """
  real = [judgement.logits for judgement in originals.values()]
  fake = [judgement.logits for judgement in estimates.values()]
  hinge = [
    jnp.mean(jax.nn.relu(1.0 - r)) + jnp.mean(jax.nn.relu(1.0 + f))
    for r, f in zip(real, fake, strict=True)
  ]
  right = [0.5 * (jnp.mean(r > 0) + jnp.mean(f < 0)) for r, f in zip(real, fake, strict=True)]
  return _mean(hinge), {
    'discriminator_accuracy': _mean(right),
    'logit_original': _mean([jnp.mean(logits) for logits in real]),
    'logit_estimate': _mean([jnp.mean(logits) for logits in fake]),
  }


def generator_losses(
  originals: dict[str, Judgement], estimates: dict[str, Judgement]
) -> dict[str, jax.Array]:
  """What the codec is told by the discriminators.

  Returns:
    'generator': mean of max(0, 1 - D(x')), over logits and then over discriminators;
    'feature_matching': mean of |f - f'| over the entries of each layer's features, then over layers
    and discriminators. The originals' features are targets: no gradient goes into them.
  """
  hinge = [jnp.mean(jax.nn.relu(1.0 - judgement.logits)) for judgement in estimates.values()]
  distances = [
    jnp.mean(jnp.abs(jax.lax.stop_gradient(f) - g))
    for name in estimates
    for f, g in zip(originals[name].features, estimates[name].features, strict=True)
  ]
  return {'generator': _mean(hinge), 'feature_matching': _mean(distances)}


def _mean(values: list[jax.Array]) -> jax.Array:
  return sum(values) / len(values)


def _log_distance(s: jax.Array, t: jax.Array) -> jax.Array:
  # Added rather than clipped at the floor: a silent estimate keeps a gradient.
  return jnp.mean(jnp.abs(jnp.log(s + _FLOOR) - jnp.log(t + _FLOOR)))


@functools.lru_cache(maxsize=16)
def _analysis_window(window: int) -> np.ndarray:
  values = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
  return (2 * values / values.sum()).astype(np.float32)


@functools.lru_cache(maxsize=16)
def mel_filters(sample_rate: int, window: int, num_mels: int) -> np.ndarray:
  """Triangular filters [window // 2 + 1, <= num_mels], each summing to 1, without empty ones."""
  top = 2595 * np.log10(1 + sample_rate / 2 / 700)
  edges = 700 * (10 ** (np.linspace(0, top, num_mels + 2) / 2595) - 1)
  frequencies = np.arange(window // 2 + 1)[:, None] * sample_rate / window
  rising = (frequencies - edges[:-2]) / np.diff(edges[:-1])
  falling = (edges[2:] - frequencies) / np.diff(edges[1:])
  filters = np.maximum(0, np.minimum(rising, falling))
  total = filters.sum(0)
  return (filters[:, total > 0] / total[total > 0]).astype(np.float32)
