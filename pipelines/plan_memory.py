"""Memory of a training step on one chip, from the shapes of its arrays; compiles nothing.

Parameters, optimizer and batch are exact: shapes and shardings are those of the run. What a step
needs besides is counted from the program as JAX differentiates it, at the two moments that can be
the worst: at the loss, when everything is kept for the backward pass, and when that pass enters the
encoder, whose arrays then meet the gradients. A compiler fuses and reuses some of it, so a scale,
from a compiled program of the same kind, belongs to the count.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding

from models import logical_axes
from models.depthformer import DepthformerModel, network
from models.logical_axes import Layout
from pipelines.plan_chips import Slice
from training import partitioning, state
from training.partitioning import DATA_AXIS, MODEL_AXIS, Partitioning, PjitPartitioner


@dataclasses.dataclass(frozen=True)
class Setting:
  """One way to train a model: what can be changed to make it fit.

  Attributes:
    model: with its remat policy.
    batch_size: examples of a step.
    partitioner: of the run.
    num_microbatches: parts of a batch that are computed one after the other.
    skip_nonfinite: whether the step is one that can be skipped.
  """

  model: DepthformerModel
  batch_size: int
  partitioner: PjitPartitioner = PjitPartitioner()
  num_microbatches: int = 1
  skip_nonfinite: bool = False

  @property
  def rules(self) -> logical_axes.Rules:
    rules = self.partitioner.logical_axis_rules
    return partitioning.standard_logical_axis_rules() if rules is None else tuple(map(tuple, rules))

  @property
  def parameter_dims(self) -> int:
    """Mesh axes that parameters are spread over."""
    return 2 if ('embed', DATA_AXIS) in self.rules else 1

  @property
  def activation_dims(self) -> int:
    """Mesh axes that residual streams are spread over."""
    return 2 if ('embed', MODEL_AXIS) in self.rules else 1

  def with_sharding(self, num_partitions: int, parameter_dims: int) -> 'Setting':
    """The same, laid out by T5X's standard rules."""
    rules = partitioning.standard_logical_axis_rules(self.activation_dims, parameter_dims)
    return dataclasses.replace(self, partitioner=PjitPartitioner(num_partitions, None, rules))

  def with_remat(self, remat: str) -> 'Setting':
    config = dataclasses.replace(self.model.config, remat=remat)
    return dataclasses.replace(self, model=dataclasses.replace(self.model, config=config))

  def data_size(self, place: Slice) -> int:
    """Groups of chips that share a copy of the model.

    Raises:
      ValueError: the chips do not divide into such groups, or the batch among them, or a group's
        examples into microbatches.
    """
    size, chips = self.partitioner.model_size, place.total_chips
    if size < 1 or place.chips % size:
      raise ValueError(f'NUM_PARTITIONS={size} does not divide the {place.chips} chips of a slice.')
    groups = chips // size
    if self.batch_size < 1 or self.batch_size % groups:
      raise ValueError(
        f'A batch of {self.batch_size} cannot be shared evenly by {groups} groups of {size} chips: '
        f'choose a multiple of {groups}, a larger NUM_PARTITIONS, or a smaller slice.'
      )
    rows, parts = self.batch_size // groups, self.num_microbatches
    if parts < 1 or rows % parts:
      raise ValueError(
        f'NUM_MICROBATCHES={parts} does not divide the {rows} examples of each group of chips.'
      )
    return groups


@dataclasses.dataclass(frozen=True)
class StepMemory:
  """Bytes on one chip.

  Attributes:
    params: float32.
    optimizer: its state.
    inputs: the batch.
    gradients: float32.
    kept: from the forward for the backward pass of a microbatch, copies of parameters included.
    at_loss: needed besides params, optimizer and inputs, when the backward pass begins.
    in_encoder: the same, when it enters the encoder.
    scale: share of the last two that a compiled program needs.
  """

  params: float
  optimizer: float
  inputs: float
  gradients: float
  kept: float
  at_loss: float
  in_encoder: float
  scale: float = 1.0

  @property
  def resident(self) -> float:
    """What stays from step to step, and the batch."""
    return self.params + self.optimizer + self.inputs

  @property
  def temporary(self) -> float:
    return self.scale * max(self.at_loss, self.in_encoder)

  @property
  def peak(self) -> float:
    return self.resident + self.temporary

  def calibrated(self, peak: float) -> float:
    """The scale at which this would need `peak` bytes."""
    return max(peak - self.resident, 0.0) * self.scale / self.temporary


def state_shapes(trainable: Any, optimizer: Any) -> state.TrainState:
  """Shapes and dtypes of everything that a checkpoint holds."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  return jax.eval_shape(lambda k: state.create_state(trainable, optimizer, k), key)


def step_memory(
  setting: Setting, place: Slice, like: state.TrainState, scale: float = 1.0
) -> StepMemory:
  """Memory of one chip.

  Args:
    setting: what is trained, and how.
    place: where.
    like: `state_shapes` of the model and its optimizer.
    scale: see `StepMemory`.

  Raises:
    ValueError: see `Setting.data_size`.
  """
  groups, model = setting.data_size(place), setting.model
  size = setting.partitioner.model_size
  shardings = abstract_partitioning(setting, groups).state_shardings(model, like)
  params = _bytes_per_chip(like.params, shardings.params)
  whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like.params))
  rows = setting.batch_size // groups // setting.num_microbatches
  lengths = model.spec.inputs_length + model.spec.targets_length
  several = groups * size > 1
  share = _activation_share(model, setting.activation_dims, size)
  kept = _total(_kept(model, several), share, rows, params / whole)
  of_encoder = _total(_kept(model, several, encoder_only=True), share, rows, params / whole)
  logits, attention = _momentary(model, size)
  again = 0.0
  if model.config.remat != 'none':  # One layer at a time is computed again, and kept as a whole.
    plain = setting.with_remat('none').model
    layers = _kept(plain, several, encoder_only=True)[0]
    again = rows * sum(b * share(shape) for shape, b in layers) / model.config.num_encoder_layers
  sums = params if setting.num_microbatches > 1 else 0.0  # Of the gradients so far.
  return StepMemory(
    params=params,
    optimizer=_bytes_per_chip(like.opt_state, shardings.opt_state),
    inputs=4.0 * (setting.batch_size // groups) * lengths,
    gradients=params,
    kept=kept,
    at_loss=kept + rows * logits + sums,
    in_encoder=of_encoder + params + max(rows * attention, again) + sums,
    scale=scale,
  )


def abstract_partitioning(setting: Setting, groups: int) -> Partitioning:
  """The layout over a mesh without devices."""
  sizes = (groups, setting.partitioner.model_size)
  mesh = AbstractMesh(sizes, (DATA_AXIS, MODEL_AXIS), axis_types=(AxisType.Auto,) * 2)
  return Partitioning(Layout(mesh, setting.rules))


def _bytes_per_chip(tree: Any, shardings: Any) -> float:
  def size(leaf: Any, sharding: NamedSharding) -> float:
    return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

  return float(sum(jax.tree.leaves(jax.tree.map(size, tree, shardings))))


_Kept = tuple[tuple[tuple[tuple[int, ...], float], ...], float]


def _total(
  kept: _Kept, share: Callable[[tuple[int, ...]], float], rows: int, of_params: float
) -> float:
  """Bytes of `_kept` on one chip, which holds `of_params` of the parameters."""
  arrays, copies = kept
  return rows * sum(size * share(shape) for shape, size in arrays) + copies * of_params


@functools.lru_cache(maxsize=32)
def _kept(model: DepthformerModel, several: bool, encoder_only: bool = False) -> _Kept:
  """What autodiff keeps from the forward pass of one example, and of the parameters.

  Args:
    model: with its remat policy.
    several: whether more than one chip trains; the encoder's attention then is another program.
    encoder_only: leave out what the decoder keeps.

  Returns:
    ((shape with a batch of 1, bytes per example), ...) and the bytes of the parameters' copies.
  """
  one, two = (_kept_arrays(model, batch, several, encoder_only) for batch in (1, 2))
  arrays, copies = [], 0.0
  for first, second in zip(one, two, strict=True):
    per_example = _nbytes(second) - _nbytes(first)
    if per_example:
      arrays.append((first.shape, float(per_example)))
    elif first.dtype != jnp.float32:  # float32 ones are the parameters themselves.
      copies += _nbytes(first)
  return tuple(arrays), copies


def _kept_arrays(
  model: DepthformerModel, batch_size: int, several: bool, encoder_only: bool = False
) -> list[Any]:
  shapes = {
    'encoder_input_tokens': (batch_size, model.spec.inputs_length),
    'decoder_target_tokens': (batch_size, model.spec.targets_length),
  }
  batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32) for name, shape in shapes.items()}
  key = jax.eval_shape(lambda: jax.random.key(0))

  def forward(params: Any, batch: Any, key: jax.Array) -> Any:
    if encoder_only:
      tokens = batch['encoder_input_tokens']
      return network.encode(params, tokens, model.config, model.spec, None, key)
    return model.loss_fn(params, batch, key)[0]

  def backward(params: Any, batch: Any, key: jax.Array) -> Any:
    return jax.vjp(lambda p: forward(p, batch, key), params)[1]

  mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), (DATA_AXIS, MODEL_AXIS))
  layout = Layout(mesh, partitioning.standard_logical_axis_rules()) if several else None
  with logical_axes.layout(layout):
    params = jax.eval_shape(model.init, key)
    return jax.tree.leaves(jax.eval_shape(backward, params, batch, key))


def _nbytes(leaf: Any) -> int:
  # Random keys have no itemsize; two words each.
  return math.prod(leaf.shape) * getattr(leaf.dtype, 'itemsize', 8)


def _activation_share(
  model: DepthformerModel, activation_dims: int, model_size: int
) -> Callable[[tuple[int, ...]], float]:
  """Function from the shape of an activation to the share of it that one of `model_size` holds."""
  config = model.config
  spread = (config.mlp_dim, model.spec.vocab_size)

  def share(shape: tuple[int, ...]) -> float:
    is_stream = shape[-1] == config.embed_dim
    by_head = not is_stream and config.num_heads in shape
    sizes = [n for n in shape if n in spread] or [config.num_heads] * by_head
    sizes = sizes or [config.embed_dim] * (is_stream and activation_dims == 2)
    return 1 / model_size if sizes and sizes[0] % model_size == 0 else 1.0

  return share


def _momentary(model: DepthformerModel, model_size: int) -> tuple[float, float]:
  """Bytes of one example that the backward pass holds for a moment.

  Returns:
    Gradients of the logits, and the encoder's attention weights with their gradient.
  """
  config, spec = model.config, model.spec
  columns = spec.vocab_size if config.loss_over == 'vocabulary' else spec.codebook_size
  logits = 4.0 * spec.targets_length * columns
  # Weights are float32; they and the gradient of their logits follow in the activations' dtype.
  width = 4 + 2 * jnp.dtype(config.dtype).itemsize
  attention = float(width) * config.num_heads * spec.inputs_length**2
  logits /= model_size if columns % model_size == 0 else 1
  attention /= model_size if config.num_heads % model_size == 0 else 1
  return logits, attention
