"""One update: from a trainable and an optimizer to a compiled step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from training.partial import part_of, with_part
from training.state import TrainState

Batch = dict[str, jax.Array]
Step = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]

SKIPPED = 'skipped'
_WATCHED = ('loss', 'weight_gradient_norm', 'discriminator_gradient_norm')


def gradient_step(
  trainable: Any,
  state: TrainState,
  batch: Batch,
  rng: jax.Array,
  optimizer: optax.GradientTransformation,
  num_microbatches: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """The step of a trainable that only has a `loss_fn`: descends its gradient.

  Args:
    trainable: its `loss_fn` returns sums over the batch, as `num_microbatches` adds them up. Where
      the optimizer is for a part of the parameters, only that part has a gradient.
    state: before the step.
    batch: arrays with the batch first.
    rng: key of the step.
    optimizer: see `training.optimizers`.
    num_microbatches: parts of the batch whose gradients are computed one after the other, for
      less memory; each has a dropout key of its own.

  Returns:
    The next state, and the metrics of `loss_fn` with 'loss' and 'weight_gradient_norm' beside them.
  """
  patterns = getattr(optimizer, 'trained', ())
  trained = part_of(state.params, patterns)

  def loss_of(trained: Any, batch: Batch, rng: jax.Array) -> Any:
    params = with_part(state.params, trained) if patterns else trained
    return trainable.loss_fn(params, batch, rng)

  gradient_of = jax.value_and_grad(loss_of, has_aux=True)
  if num_microbatches == 1:
    (loss, metrics), gradients = gradient_of(trained, batch, rng)
  else:
    (loss, metrics), gradients = _summed(gradient_of, trained, batch, rng, num_microbatches)
  updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
  updated = optax.apply_updates(trained, updates)
  state = state.replace(
    step=state.step + 1,
    params=with_part(state.params, updated) if patterns else updated,
    opt_state=opt_state,
  )
  return state, {
    **metrics,
    'loss': loss,
    'weight_gradient_norm': optax.global_norm(gradients),
  }


def _summed(
  gradient_of: Callable[..., Any], params: Any, batch: Batch, rng: jax.Array, number: int
) -> Any:
  """Sum of what `gradient_of` returns over `number` microbatches.

  Microbatch i holds examples i, i + number, ...: where the batch is spread over devices, each keeps
  its own.
  """

  def part(x: jax.Array) -> jax.Array:
    if len(x) % number:
      raise ValueError(f'num_microbatches={number} does not divide the batch of {len(x)} examples.')
    return jnp.moveaxis(x.reshape((len(x) // number, number) + x.shape[1:]), 1, 0)

  parts, rngs = jax.tree.map(part, batch), jax.random.split(rng, number)
  shapes = jax.eval_shape(gradient_of, params, jax.tree.map(lambda x: x[0], parts), rngs[0])
  zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def add(total: Any, inputs: tuple[Batch, jax.Array]) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, gradient_of(params, *inputs)), None

  return jax.lax.scan(add, zeros, (parts, rngs))[0]


def make_train_step(
  trainable: Any,
  optimizer: optax.GradientTransformation,
  jit: Callable[..., Step] = jax.jit,
  *,
  num_microbatches: int = 1,
  skip_nonfinite: bool = False,
) -> Step:
  """A compiled `step(state, batch, rng) -> (state, metrics)`; the given state is consumed.

  The key of a step is `rng` folded with the step's number, so that a restarted run draws the same
  dropout. A trainable's own `train_step(state, batch, rng, optimizer)` comes before the default;
  where it leaves `state.step` alone it is counted here. `jit` compiles it, for several devices too.

  Args:
    trainable: see `training.loop.train`.
    optimizer: see `training.optimizers`.
    jit: compiles the step.
    num_microbatches: see `gradient_step`.
    skip_nonfinite: a step whose loss or gradient is not finite changes nothing but the number of
      the step; its metrics are zero, and 'skipped' is 1 instead of 0.

  Raises:
    ValueError: microbatches are asked of a trainable with a step of its own.
  """
  own_step = hasattr(trainable, 'train_step')
  if num_microbatches < 1 or (own_step and num_microbatches > 1):
    limit = f'1: {type(trainable).__name__} makes its own steps' if own_step else 'at least 1'
    raise ValueError(f'num_microbatches={num_microbatches} must be {limit}.')

  def step(state: TrainState, batch: Batch, rng: jax.Array):
    step_rng = jax.random.fold_in(rng, state.step)
    if own_step:
      updated, metrics = trainable.train_step(state, batch, step_rng, optimizer)
      # Whether or not it counted, one step has been made.
      updated = updated.replace(step=state.step + 1)
    else:
      updated, metrics = gradient_step(
        trainable, state, batch, step_rng, optimizer, num_microbatches
      )
    return _unless_nonfinite(state, updated, metrics) if skip_nonfinite else (updated, metrics)

  return jit(step, donate_argnums=0)


def watched(metrics: dict[str, Any]) -> dict[str, Any]:
  """The metrics that must be finite: loss and gradient norms, or all where there is none."""
  return {name: metrics[name] for name in _WATCHED if name in metrics} or metrics


def _unless_nonfinite(
  state: TrainState, updated: TrainState, metrics: dict[str, jax.Array]
) -> tuple[TrainState, dict[str, jax.Array]]:
  finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in watched(metrics).values()]))

  def choose(new: Any, old: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)

  kept = choose(updated, state).replace(step=updated.step)
  metrics = choose(metrics, jax.tree.map(jnp.zeros_like, metrics))
  return kept, {**metrics, SKIPPED: jnp.where(finite, 0.0, 1.0)}
