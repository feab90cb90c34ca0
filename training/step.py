"""One update: from a trainable and an optimizer to a compiled step."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from training.state import TrainState

Batch = dict[str, jax.Array]
Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def gradient_step(
  trainable: Any,
  state: TrainState,
  batch: Batch,
  rng: jax.Array,
  optimizer: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """The step of a trainable that only has a `loss_fn`: descends its gradient.

  Returns:
    The next state, and the metrics of `loss_fn` with 'loss' and 'weight_gradient_norm' beside them.
  """
  (loss, metrics), gradients = jax.value_and_grad(trainable.loss_fn, has_aux=True)(
    state.params, batch, rng
  )
  updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
  state = state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
  )
  return state, {
    **metrics,
    'loss': loss,
    'weight_gradient_norm': optax.global_norm(gradients),
  }


def make_train_step(
  trainable: Any,
  optimizer: optax.GradientTransformation,
  jit: Callable[..., Step] = jax.jit,
) -> Step:
  """A compiled `step(state, batch, rng) -> (state, metrics)`; the given state is consumed.

  The key of a step is `rng` folded with the step's number, so that a restarted run draws the same
  dropout. A trainable's own `train_step(state, batch, rng, optimizer)` comes before the default;
  where it leaves `state.step` alone it is counted here. `jit` compiles it, for several devices too.
  """

  def step(state: TrainState, batch: Batch, rng: jax.Array):
    step_rng = jax.random.fold_in(rng, state.step)
    if hasattr(trainable, 'train_step'):
      updated, metrics = trainable.train_step(state, batch, step_rng, optimizer)
      # Whether or not it counted, one step has been made.
      return updated.replace(step=state.step + 1), metrics
    return gradient_step(trainable, state, batch, step_rng, optimizer)

  return jit(step, donate_argnums=0)
