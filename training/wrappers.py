"""What can be put around optimizers: clipping, frozen parameters, averages, one for each part.

Each takes an `Optimizer` and gives one with the same learning rate; `wrapped` puts on all.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from training import partial
from training.optimizers import Optimizer
from training.state import TrainState, flat_names

Tree = Any


class AveragedState(NamedTuple):
  """State of `averaged`: the optimizer's own, and the moving average of the parameters."""

  inner: Any
  average: Tree


def wrapped(
  make: Callable[..., optax.GradientTransformation],
  *,
  stacked: Any = None,
  max_gradient_norm: float | None = None,
  frozen: Sequence[str] = (),
  average_decay: float | None = None,
  trained: Sequence[str] = (),
) -> optax.GradientTransformation:
  """What `make` makes, with clipping, freezing and averaging around it, each where asked for.

  With `trained`, all of them see only those parameters; see `training.partial`.

  Args:
    make: makes an optimizer.
    stacked: handed on to `make` if it takes it.
    max_gradient_norm: see `clipped`; None for no clipping.
    frozen: see `freezing`.
    average_decay: see `averaging`; None for no average.
    trained: regular expressions for the names of the parameters to train, such as ('^depth/',); ()
      for all. The others get no gradient, no optimizer state and no average.
  """
  takes_stacked = 'stacked' in inspect.signature(make).parameters
  if trained and isinstance(stacked, dict):
    stacked = partial.part_of(stacked, trained)
  optimizer = make(stacked=stacked) if takes_stacked else make()
  if max_gradient_norm is not None:
    optimizer = clipped(optimizer, max_gradient_norm)
  if frozen:
    optimizer = freezing(optimizer, frozen)
  if average_decay is not None:
    optimizer = averaging(optimizer, average_decay)
  return partly(optimizer, trained) if trained else optimizer


def clipped(
  optimizer: optax.GradientTransformation, max_norm: float
) -> optax.GradientTransformation:
  """Scales the gradient of a batch down to a global norm of at most `max_norm`.

  The norm is that of the summed loss, which grows with the tokens of a batch.

  Raises:
    ValueError: `max_norm` is not above 0.
  """
  if max_norm <= 0:
    raise ValueError(f'max_gradient_norm={max_norm} must be above 0.')

  def update(gradients: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, Any]:
    scale = jnp.minimum(1.0, max_norm / jnp.maximum(optax.global_norm(gradients), 1e-30))
    return optimizer.update(jax.tree.map(lambda g: g * scale, gradients), state, params)

  return _like(optimizer, optimizer.init, update)


def freezing(
  optimizer: optax.GradientTransformation, patterns: Sequence[str]
) -> optax.GradientTransformation:
  """Leaves parameters as they are whose name contains a match of one of `patterns`.

  Names are those of model-info.txt, such as 'encoder/layers/mlp/gate'. The optimizer sees a zero
  gradient for them.

  Raises:
    ValueError: (at `init`) a pattern matches no parameter, or all parameters are frozen.
  """
  compiled = [re.compile(pattern) for pattern in patterns]

  def is_frozen(tree: Tree) -> list[bool]:
    return [any(p.search(name) for p in compiled) for name in flat_names(tree)]

  def without_frozen(tree: Tree) -> Tree:
    leaves, structure = jax.tree.flatten(tree)
    return structure.unflatten([
      jnp.zeros_like(leaf) if freeze else leaf
      for leaf, freeze in zip(leaves, is_frozen(tree), strict=True)
    ])  # fmt: skip

  def init(params: Tree) -> Any:
    names = list(flat_names(params))
    for pattern in compiled:
      if not any(pattern.search(name) for name in names):
        raise ValueError(
          f'{pattern.pattern!r} matches no parameter to freeze; names are {names[0]!r}, '
          f'{names[-1]!r} and the like (see model-info.txt).'
        )
    if all(is_frozen(params)):
      raise ValueError(f'{list(patterns)} freeze all parameters: nothing is left to train.')
    return optimizer.init(params)

  def update(gradients: Tree, state: Any, params: Tree | None = None) -> tuple[Tree, Any]:
    updates, state = optimizer.update(without_frozen(gradients), state, params)
    return without_frozen(updates), state

  return _like(optimizer, init, update)


def averaging(
  optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
  """Keeps an exponential moving average of the parameters beside the optimizer's state.

  average = decay * average + (1 - decay) * parameters after each update, from the first parameters
  on. `averaged_params` finds it.

  Raises:
    ValueError: `decay` is not in [0, 1).
  """
  if not 0.0 <= decay < 1.0:
    raise ValueError(f'average_decay={decay} is not in [0, 1).')

  def init(params: Tree) -> AveragedState:
    return AveragedState(optimizer.init(params), jax.tree.map(jnp.copy, params))

  def update(gradients: Tree, state: AveragedState, params: Tree) -> tuple[Tree, AveragedState]:
    updates, inner = optimizer.update(gradients, state.inner, params)
    average = jax.tree.map(
      lambda mean, p, change: decay * mean + (1.0 - decay) * (p + change),
      state.average, params, updates,
    )  # fmt: skip
    return updates, AveragedState(inner, average)

  return _like(optimizer, init, update)


def by_part(
  make: Callable[..., optax.GradientTransformation],
  parts: Mapping[str, optax.GradientTransformation],
  *,
  stacked: Any = None,
) -> optax.GradientTransformation:
  """Optimizers of their own for some top-level parts of the parameters, each blind to the others.

  A part whose gradient is zero everywhere is not being trained: its parameters and its optimizer's
  state, the count of steps included, stay as they are.

  Args:
    make: makes the optimizer of all other parts, whose learning rate is logged.
    parts: name of a part, such as 'discriminators' -> its optimizer. Parts that the parameters lack
      are passed over.
    stacked: handed on to `make` if it takes it.
  """
  takes_stacked = 'stacked' in inspect.signature(make).parameters
  rest = make(stacked=stacked) if takes_stacked else make()

  def split(tree: Tree) -> dict[str, tuple[optax.GradientTransformation, Tree]]:
    found = {name: (parts[name], {name: tree[name]}) for name in parts if name in tree}
    others = {name: leaf for name, leaf in tree.items() if name not in found}
    return {'others': (rest, others), **found}

  def init(params: Tree) -> dict[str, Any]:
    return {name: optimizer.init(part) for name, (optimizer, part) in split(params).items()}

  def update(gradients: Tree, state: Any, params: Tree) -> tuple[Tree, dict[str, Any]]:
    updates, states, values = {}, {}, split(params)
    for name, (optimizer, gradient) in split(gradients).items():
      changes, new = optimizer.update(gradient, state[name], values[name][1])
      moved = jnp.any(jnp.stack([jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradient)]))
      updates |= jax.tree.map(lambda x, moved=moved: jnp.where(moved, x, 0.0), changes)
      states[name] = jax.tree.map(
        lambda a, b, moved=moved: jnp.where(moved, a, b), new, state[name]
      )
    return updates, states

  return _like(rest, init, update)


def partly(
  optimizer: optax.GradientTransformation, patterns: Sequence[str]
) -> optax.GradientTransformation:
  """An optimizer of the parameters that `patterns` name; the step gives it no others.

  Its `trained` tells `training.step` and `training.state`.
  """
  made = _like(optimizer, optimizer.init, optimizer.update)
  made = made if isinstance(made, Optimizer) else Optimizer(*made)
  made.trained = tuple(patterns)
  return made


def averaged_params(state: TrainState) -> Tree:
  """The parameters, the moving average in place of those that the run keeps one of."""
  if not isinstance(state.opt_state, AveragedState):
    return state.params
  return partial.with_part(state.params, state.opt_state.average)


def restart_average(state: TrainState) -> TrainState:
  """The state with its moving average at its parameters, after these were set from outside."""
  if not isinstance(state.opt_state, AveragedState):
    return state
  average = jax.tree.map(jnp.copy, partial.like_part(state.params, state.opt_state.average))
  return state.replace(opt_state=state.opt_state._replace(average=average))


def _like(
  optimizer: optax.GradientTransformation, init: Any, update: Any
) -> optax.GradientTransformation:
  transformation = optax.GradientTransformation(init, update)
  rate = getattr(optimizer, 'learning_rate', None)
  return transformation if rate is None else Optimizer.of(transformation, rate)
