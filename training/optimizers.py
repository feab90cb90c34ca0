"""Optimizers: Adafactor as T5X has it, Adam and AdamW; each tells its learning rate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from training.schedules import Schedule

Tree = Any
Stacked = Tree | Callable[[Tree], Tree] | None


class Optimizer(optax.GradientTransformation):
  """An optax transformation with its `learning_rate(step)`, for those who log it.

  Attributes:
    learning_rate: a function of the updates made.
    trained: patterns of the parameters that it is for; () for all (see `training.partial`).
  """

  learning_rate: Schedule
  trained: tuple[str, ...] = ()

  @classmethod
  def of(cls, transformation: optax.GradientTransformation, rate: Schedule) -> 'Optimizer':
    """`transformation`, which uses `rate`."""
    optimizer = cls(*transformation)
    optimizer.learning_rate = rate
    return optimizer


def _as_schedule(learning_rate: float | Schedule) -> Schedule:
  return learning_rate if callable(learning_rate) else lambda step: jnp.float32(learning_rate)


class AdafactorState(NamedTuple):
  """Averages of the squared gradients; those that an array does not use have shape [1].

  Attributes:
    count: int32 scalar, updates made.
    v: like the parameters: of arrays that are not factored.
    v_row: mean over the larger of the two factored axes.
    v_col: mean over the smaller one.
  """

  count: jax.Array
  v: Tree
  v_row: Tree
  v_col: Tree


def adafactor(
  learning_rate: float | Schedule,
  *,
  stacked: Stacked = None,
  min_dim_size_to_factor: int = 128,
  decay_rate: float = 0.8,
  clipping_threshold: float = 1.0,
  multiply_by_parameter_scale: bool = True,
  min_parameter_scale: float = 1e-3,
  epsilon: float = 1e-30,
) -> Optimizer:
  """Adafactor (Shazeer and Stern, arXiv 1804.04235) with the choices of T5X.

  With d = 1 - (t + 1)^-decay_rate and v the average d v + (1 - d) (g^2 + epsilon), kept as a row
  and a column where the two largest axes have at least `min_dim_size_to_factor` entries:

    y = g / sqrt(v);  y /= max(1, rms(y) / clipping_threshold)
    p -= learning_rate * max(rms(p), min_parameter_scale) * y

  No momentum, no weight decay. The sum of a loss and its mean give the same updates.

  Args:
    learning_rate: a number or a function of the updates made before this one.
    stacked: tree like the parameters (or a function from them to one) with True where axis 0 counts
      layers. Each layer is then an array of its own: factoring, rms(p) and clipping are per layer.
    min_dim_size_to_factor: see above.
    decay_rate: see above.
    clipping_threshold: see above.
    multiply_by_parameter_scale: False leaves out max(rms(p), ...).
    min_parameter_scale: see above.
    epsilon: see above.
  """
  rate = _as_schedule(learning_rate)

  def factored_axes(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """(axis that the row keeps, axis that it averages away), or None."""
    if len(shape) < 2:
      return None
    *_, smaller, larger = np.argsort(shape, kind='stable').tolist()
    return (smaller, larger) if shape[smaller] >= min_dim_size_to_factor else None

  def init_array(p: jax.Array) -> dict[str, jax.Array]:
    axes = factored_axes(p.shape)
    if axes is None:
      return {'v': jnp.zeros(p.shape), 'v_row': jnp.zeros([1]), 'v_col': jnp.zeros([1])}
    smaller, larger = axes
    return {
      'v': jnp.zeros([1]),
      'v_row': jnp.zeros(np.delete(p.shape, larger)),
      'v_col': jnp.zeros(np.delete(p.shape, smaller)),
    }

  def update_array(
    g: jax.Array, p: jax.Array, old: dict[str, jax.Array], decay: jax.Array, step_size: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    g, new = g.astype(jnp.float32), dict(old)
    squared, axes = jnp.square(g) + epsilon, factored_axes(p.shape)
    if axes is None:
      new['v'] = decay * old['v'] + (1 - decay) * squared
      y = g * jax.lax.rsqrt(new['v'])
    else:
      smaller, larger = axes
      new['v_row'] = decay * old['v_row'] + (1 - decay) * jnp.mean(squared, axis=larger)
      new['v_col'] = decay * old['v_col'] + (1 - decay) * jnp.mean(squared, axis=smaller)
      row = new['v_row'] / jnp.mean(
        new['v_row'], axis=smaller - (larger < smaller), keepdims=True
      )
      y = (
        g
        * jnp.expand_dims(jax.lax.rsqrt(row), larger)
        * jnp.expand_dims(jax.lax.rsqrt(new['v_col']), smaller)
      )
    y = y / jnp.maximum(1.0, _rms(y) / clipping_threshold)
    if multiply_by_parameter_scale:
      step_size = step_size * jnp.maximum(_rms(p), min_parameter_scale)
    return -step_size * y, new

  def is_stacked(params: Tree) -> list[bool]:
    if stacked is None:
      return [False] * len(jax.tree.leaves(params))
    tree = stacked(params) if callable(stacked) else stacked
    if jax.tree.structure(tree) != jax.tree.structure(params):
      raise ValueError('`stacked` must be a tree of booleans with the structure of the parameters.')
    return jax.tree.leaves(tree)

  def init(params: Tree) -> AdafactorState:
    leaves, structure = jax.tree.flatten(params)
    slots = [
      jax.vmap(init_array)(p) if layers else init_array(p)
      for p, layers in zip(leaves, is_stacked(params), strict=True)
    ]
    trees = {n: structure.unflatten([s[n] for s in slots]) for n in ('v', 'v_row', 'v_col')}
    return AdafactorState(count=jnp.zeros([], jnp.int32), **trees)

  def update(
    gradients: Tree, state: AdafactorState, params: Tree | None = None
  ) -> tuple[Tree, AdafactorState]:
    if params is None:
      raise ValueError('Adafactor scales its steps by the parameters: pass them to update().')
    decay = 1.0 - (state.count.astype(jnp.float32) + 1.0) ** -decay_rate
    step_size = rate(state.count)
    structure = jax.tree.structure(params)
    slots = zip(*(jax.tree.leaves(tree) for tree in state[1:]), strict=True)
    updates, news = [], []
    for g, p, slot, layers in zip(
      jax.tree.leaves(gradients), jax.tree.leaves(params), slots, is_stacked(params), strict=True
    ):
      function = jax.vmap(update_array, in_axes=(0, 0, 0, None, None)) if layers else update_array
      change, new = function(
        g, p, dict(zip(('v', 'v_row', 'v_col'), slot, strict=True)), decay, step_size
      )
      updates.append(change.astype(p.dtype))
      news.append(new)
    trees = {n: structure.unflatten([new[n] for new in news]) for n in ('v', 'v_row', 'v_col')}
    return structure.unflatten(updates), AdafactorState(count=state.count + 1, **trees)

  return Optimizer.of(optax.GradientTransformation(init, update), rate)


def adam(
  learning_rate: float | Schedule,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  max_gradient_norm: float | None = None,
) -> Optimizer:
  """Adam, after clipping the gradient to a global norm if one is given."""
  rate = _as_schedule(learning_rate)
  return _clipped(optax.adam(rate, b1=b1, b2=b2, eps=eps), rate, max_gradient_norm)


def adamw(
  learning_rate: float | Schedule,
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  weight_decay: float = 1e-4,
  max_gradient_norm: float | None = None,
) -> Optimizer:
  """AdamW: only arrays with two axes or more decay, not norms and biases.

  Layers stacked on axis 0 count as they are, so a stack of norm scales, [layers, D], decays too
  unless `weight_decay` is 0; Adafactor is the choice for such models.
  """
  rate = _as_schedule(learning_rate)
  transformation = optax.adamw(
    rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay,
    mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
  )  # fmt: skip
  return _clipped(transformation, rate, max_gradient_norm)


def _clipped(
  transformation: optax.GradientTransformation, rate: Schedule, max_norm: float | None
) -> Optimizer:
  if max_norm is not None:
    transformation = optax.chain(optax.clip_by_global_norm(max_norm), transformation)
  return Optimizer.of(transformation, rate)


def _rms(x: jax.Array) -> jax.Array:
  return jnp.sqrt(jnp.mean(jnp.square(x)))
