"""What training changes from step to step, as one pytree."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from training.partial import check_patterns, part_of


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """Everything that a checkpoint has to hold, besides the position in the data.

  Attributes:
    step: int32 scalar, the number of updates made.
    params: nested dict of float32 arrays.
    opt_state: the optimizer's own state.
    aux: what a trainable changes outside of the optimizer (codebooks, counters); {} without.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  aux: Any

  def replace(self, **changes: Any) -> 'TrainState':
    """A copy with some fields changed."""
    return dataclasses.replace(self, **changes)


def create_state(
  trainable: Any,
  optimizer: optax.GradientTransformation,
  rng: jax.Array,
  params: Any | None = None,
) -> TrainState:
  """The state before the first step.

  Args:
    trainable: has `init(rng) -> params` and perhaps `init_aux(rng) -> pytree`.
    optimizer: its `init` sees the parameters.
    rng: key of all initial values.
    params: used instead of `trainable.init`; must have its structure and shapes.

  Raises:
    ValueError: `params` lack an array, have one too many, or one of another shape; or none is named
      by a pattern of the optimizer's `trained`.
  """
  if params is not None:
    check_same_shapes(jax.eval_shape(trainable.init, rng), params)

  def build(rng: jax.Array, params: Any | None) -> TrainState:
    return initial_values(trainable, optimizer, rng, params)

  # Copies: the step donates its state, so no array may stand in it twice or belong to the caller.
  return jax.tree.map(lambda x: jnp.array(x, copy=True), jax.jit(build)(rng, params))


def initial_values(
  trainable: Any, optimizer: optax.GradientTransformation, rng: jax.Array, params: Any | None
) -> TrainState:
  """What `create_state` compiles; its arrays may be those of `params`."""
  params_rng, aux_rng = jax.random.split(rng)
  params = trainable.init(params_rng) if params is None else params
  aux = trainable.init_aux(aux_rng) if hasattr(trainable, 'init_aux') else {}
  patterns = getattr(optimizer, 'trained', ())
  check_patterns(params, patterns)
  trained = part_of(params, patterns)
  return TrainState(
    step=jnp.zeros([], jnp.int32), params=params, opt_state=optimizer.init(trained), aux=aux
  )


def flat_names(tree: Any) -> dict[str, Any]:
  """{'encoder/layers/mlp/gate': leaf, ...} of any pytree: keys, fields, indices joined by '/'."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def check_same_shapes(expected: Any, given: Any):
  """Raises a ValueError that names the first array of `given` that does not fit `expected`."""
  expected, given = flat_names(expected), flat_names(given)
  for name in sorted(set(expected) | set(given)):
    if name not in given:
      raise ValueError(f'The given parameters lack {name}; are they of another model?')
    if name not in expected:
      raise ValueError(f'The given parameters hold {name}, which this model does not have.')
    if tuple(expected[name].shape) != tuple(given[name].shape):
      raise ValueError(
        f'{name} has shape {tuple(given[name].shape)}, this model needs '
        f'{tuple(expected[name].shape)}; compare the sizes of the two models.'
      )
