"""Losses on the decoder's output, their gradients with regard to it, and the balance of these.

A step goes through the codec once: forward to the decoder's output, then each loss from there, then
one combined gradient back. That makes the size of every loss's gradient at the output known. Where
losses are balanced, loss i with weight w_i contributes w_i / sum(w) * g_i / average(|g_i|): weights
are shares of the gradient, whatever the losses' scales (EnCodec, arXiv 2210.13438, section 3.4).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from models.spectrostream import discriminators, losses
from models.spectrostream.discriminators import DiscriminatorConfig
from models.spectrostream.recipe import CodecRecipe

RECONSTRUCTION = ('mel', 'stft', 'waveform', 'loudness')
ADVERSARIAL = ('generator', 'feature_matching')
# Metrics that steps without discriminators do not have.
ADVERSARIAL_METRICS = (
  *ADVERSARIAL, 'discriminator', 'discriminator_accuracy', 'logit_original', 'logit_estimate',
  'discriminator_gradient_norm',
)  # fmt: skip
Values = dict[str, jax.Array]
Balance = dict[str, Values]


class Judged(NamedTuple):
  """What is thought of a batch's output.

  Attributes:
    loss: weighted sum of the losses on the output.
    gradient: what goes back into the decoder, like its output.
    discriminator_gradients: like the discriminators' parameters; None without any.
    balance: the next averages.
    metrics: scalars; every loss by its name.
  """

  loss: jax.Array
  gradient: jax.Array
  discriminator_gradients: Any
  balance: Balance
  metrics: Values


def start_balance(with_discriminators: bool) -> Balance:
  """Averages before the first step; only used where losses are balanced."""
  names = RECONSTRUCTION + (ADVERSARIAL if with_discriminators else ())
  zeros = {name: jnp.zeros([], jnp.float32) for name in names}
  return {'norms': zeros, 'seen': jax.tree.map(jnp.copy, zeros)}


def judge(
  audio: jax.Array,
  estimate: jax.Array,
  recipe: CodecRecipe,
  sample_rate: int,
  step: jax.Array,
  balance: Balance | None = None,
  adversary: tuple[Any, DiscriminatorConfig] | None = None,
) -> Judged:
  """Losses of an output and the gradients that follow from them.

  Args:
    audio: [B, n, 2].
    estimate: the same shape.
    recipe: weights, and when discriminators begin.
    sample_rate: in Hz.
    step: scalar, number of the step.
    balance: averages so far; None where losses are not balanced.
    adversary: parameters and sizes of the discriminators; None without any.
  """
  weights = recipe.output_weights

  def reconstruct(estimate):
    mel, stft = losses.spectral_losses(audio, estimate, recipe.windows, sample_rate)
    waveform = losses.waveform_loss(audio, estimate)
    loudness = losses.loudness_loss(audio, estimate)
    return {'mel': mel, 'stft': stft, 'waveform': waveform, 'loudness': loudness}

  values, pull = jax.vjp(reconstruct, estimate)
  gradients = _pulled(pull, values, weights, separate=balance is not None)
  metrics, begun, discriminator_gradients = dict(values), None, None
  if adversary is not None:
    begun = (step >= recipe.adversarial_start).astype(jnp.float32)
    found = _when_begun(recipe, begun, adversary, audio, estimate, balance is not None)
    discriminator_gradients = found['discriminator_gradients']
    metrics |= found['metrics'] | {'adversarial_steps': begun}
    gradients |= found['gradients']
  if balance is None:
    gradient, balance = sum(gradients.values()), {}
  else:
    gradient, balance, norms = _balanced(gradients, weights, balance, begun, recipe.balance_decay)
    metrics |= {f'output_gradient/{name}': norm for name, norm in norms.items()}
  loss = sum(weight * metrics[name] for name, weight in weights.items() if name in metrics)
  return Judged(loss, gradient, discriminator_gradients, balance, metrics)


def _when_begun(
  recipe: CodecRecipe,
  begun: jax.Array,
  adversary: tuple[Any, DiscriminatorConfig],
  audio: jax.Array,
  estimate: jax.Array,
  separate: bool,
) -> dict[str, Any]:
  """`_face` the discriminators, or zeros before they begin."""
  params, config = adversary

  def face():
    return _face(params, config, audio, estimate, recipe.output_weights, separate)

  def wait():
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(face))

  # Without a condition where there is none: XLA shares work across it only on some devices.
  return face() if not recipe.adversarial_start else jax.lax.cond(begun > 0, face, wait)


def _face(
  params: Any,
  config: DiscriminatorConfig,
  audio: jax.Array,
  estimate: jax.Array,
  weights: dict[str, float],
  separate: bool,
) -> dict[str, Any]:
  """Both sides of the game on the same judgements, made with the parameters before the step."""
  originals, pull_originals = jax.vjp(
    lambda params: discriminators.discriminate(params, audio, config), params
  )
  estimates, pull_estimates = jax.vjp(
    lambda params, x: discriminators.discriminate(params, x, config), params, estimate
  )
  (hinge, metrics), towards = jax.value_and_grad(
    losses.discriminator_loss, argnums=(0, 1), has_aux=True
  )(originals, estimates)
  on_originals, (on_estimates, _) = pull_originals(towards[0])[0], pull_estimates(towards[1])
  discriminator_gradients = jax.tree.map(jnp.add, on_originals, on_estimates)

  values, pull_values = jax.vjp(
    lambda estimates: losses.generator_losses(originals, estimates), estimates
  )

  def pull(cotangent):
    return (pull_estimates(pull_values(cotangent)[0])[1],)

  metrics |= {
    **values, 'discriminator': hinge,
    'discriminator_gradient_norm': optax.global_norm(discriminator_gradients),
  }  # fmt: skip
  return {
    'gradients': _pulled(pull, values, weights, separate),
    'discriminator_gradients': discriminator_gradients,
    'metrics': metrics,
  }


def _pulled(
  pull: Callable[[Values], tuple[jax.Array]],
  values: Values,
  weights: dict[str, float],
  separate: bool,
) -> Values:
  """Gradients at the output: one of each loss, or the weighted sum of all under their names."""
  if not separate:
    cotangent = {name: weights[name] * jnp.ones_like(value) for name, value in values.items()}
    return {'+'.join(values): pull(cotangent)[0]}
  return {
    name: pull({other: jnp.float32(other == name) for other in values})[0] for name in values
  }


def _balanced(
  gradients: Values,
  weights: dict[str, float],
  balance: Balance,
  begun: jax.Array | None,
  decay: float,
) -> tuple[jax.Array, Balance, Values]:
  """(combined gradient, next averages, norms); losses that have not begun leave their average."""
  total = sum(weights[name] for name in gradients)
  norms = {name: optax.global_norm(gradient) for name, gradient in gradients.items()}
  averages, seen, combined = {}, {}, 0.0
  for name, gradient in gradients.items():
    share = (1.0 - decay) * (begun if name in ADVERSARIAL else 1.0)
    averages[name] = (1.0 - share) * balance['norms'][name] + share * norms[name]
    seen[name] = (1.0 - share) * balance['seen'][name] + share
    norm = averages[name] / jnp.maximum(seen[name], 1e-12)
    combined += weights[name] / total * gradient / jnp.maximum(norm, 1e-12)
  return combined, {'norms': averages, 'seen': seen}, norms
