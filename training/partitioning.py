"""How a run is laid out over devices: T5X's mesh (data, model) and logical axis rules.

`PjitPartitioner` is the configuration, under T5X's names; `fit` binds it to the devices that are
there and to a batch size. The result says where every array of the training state lies, turns the
share of a batch that each process reads into one global array, and compiles functions for the mesh.
With one device it does nothing: programs and arrays are those of a run without it.

Which logical name goes to which mesh axis is decided in `models.logical_axes`, by the rules here.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from models import logical_axes
from models.logical_axes import Layout, Rules
from training import state as state_lib
from training.state import TrainState, flat_names

DATA_AXIS, MODEL_AXIS = 'data', 'model'
Batch = dict[str, Any]


def standard_logical_axis_rules(
  activation_partitioning_dims: int = 1,
  parameter_partitioning_dims: int = 1,
  additional_rules: Sequence[tuple[str, str | None]] = (),
) -> Rules:
  """T5X's rules: the more dimensions are partitioned, the less memory, the more communication.

  Args:
    activation_partitioning_dims: 2 spreads the width of the residual streams over 'model', too.
    parameter_partitioning_dims: 2 spreads the parameters' embed axis over 'data', too, and the
      optimizer's state with it.
    additional_rules: put behind the others.

  Raises:
    ValueError: a number of dimensions is neither 1 nor 2.
  """
  for name, value in (
    ('activation_partitioning_dims', activation_partitioning_dims),
    ('parameter_partitioning_dims', parameter_partitioning_dims),
  ):
    if value not in (1, 2):
      raise ValueError(f'{name}={value} is neither 1 nor 2.')
  embed = [('embed', MODEL_AXIS)] * (activation_partitioning_dims == 2)
  embed += [('embed', DATA_AXIS)] * (parameter_partitioning_dims == 2)
  whole = ('kv', 'relpos_buckets', 'abspos_buckets', 'length', 'layers', 'stack', 'mlp_activations')
  return (
    ('batch', DATA_AXIS),
    *((name, MODEL_AXIS) for name in ('vocab', 'mlp', 'heads', 'joined_kv')),
    *(embed or [('embed', None)]),
    *((name, None) for name in whole),
    *map(tuple, additional_rules),
  )


@dataclasses.dataclass(frozen=True)
class PjitPartitioner:
  """Configuration of the mesh, with the parameters of T5X's class of this name.

  Attributes:
    num_partitions: devices that share one copy of the model; the others multiply the data. None
      for 1, or where `model_parallel_submesh` is given.
    model_parallel_submesh: instead of `num_partitions`, on TPUs: the block (x, y, z, cores) of the
      torus whose chips share one copy.
    logical_axis_rules: None for `standard_logical_axis_rules()`.
  """

  num_partitions: int | None = None
  model_parallel_submesh: tuple[int, int, int, int] | None = None
  logical_axis_rules: Rules | None = None

  def __post_init__(self):
    if self.num_partitions and self.model_parallel_submesh:
      raise ValueError(
        f'num_partitions={self.num_partitions} and model_parallel_submesh='
        f'{self.model_parallel_submesh} exclude each other: set one of them to None.'
      )
    if self.num_partitions is not None and self.num_partitions < 1:
      raise ValueError(f'num_partitions={self.num_partitions} must be at least 1.')

  @property
  def model_size(self) -> int:
    """Devices that share one copy of the model."""
    return math.prod(self.model_parallel_submesh or (self.num_partitions or 1,))

  def fit(
    self, batch_size: int | None = None, devices: Sequence[jax.Device] | None = None
  ) -> 'Partitioning':
    """Binds to devices.

    A batch that the data axis does not divide is spread over as many devices as do; the others of
    the process then stay idle. Several processes must divide it.

    Args:
      batch_size: examples of a step over all processes.
      devices: of all processes; None for all that there are.

    Raises:
      ValueError: the devices do not divide into copies of the model, or the batch into shares.
    """
    devices = list(jax.devices() if devices is None else devices)
    if self.model_size < 1 or len(devices) % self.model_size:
      raise ValueError(
        f'{len(devices)} devices do not divide into groups of {self.model_size} '
        '(num_partitions, or the product of model_parallel_submesh).'
      )
    data_size = len(devices) // self.model_size
    if batch_size is not None and batch_size % data_size:
      if len({device.process_index for device in devices}) > 1:
        raise ValueError(
          f'A batch of {batch_size} cannot be shared evenly by {data_size} groups of '
          f'{self.model_size} devices. Choose a multiple of {data_size}, or more num_partitions.'
        )
      data_size = math.gcd(batch_size, data_size)
      devices = devices[: data_size * self.model_size]
      grid = np.array(devices).reshape(data_size, self.model_size)
    else:
      grid = device_grid(devices, self.model_size, self.model_parallel_submesh)
    mesh = Mesh(grid, (DATA_AXIS, MODEL_AXIS), axis_types=(AxisType.Auto,) * 2)
    rules = standard_logical_axis_rules() if self.logical_axis_rules is None else tuple(
      (name, axis) for name, axis in self.logical_axis_rules
    )  # fmt: skip
    return Partitioning(Layout(mesh, rules))


def device_grid(
  devices: Sequence[Any], model_size: int, submesh: tuple[int, ...] | None = None
) -> np.ndarray:
  """Devices as [data, model], neighbours in the hardware side by side along 'model'.

  Several slices (devices with more than one `slice_index`) stand one after the other along 'data',
  so that only the gradients' sum crosses the slower network between them. GPUs count a host as a
  slice; a copy of the model that is larger than a host may span several.

  Args:
    devices: all of the run.
    model_size: length of the second axis.
    submesh: (x, y, z, cores) of the torus along 'model'; None leaves the choice to JAX.

  Raises:
    ValueError: a slice is not a multiple of `model_size`, or `submesh` does not tile it.
  """
  slices: dict[int, list[Any]] = {}
  devices = sorted(devices, key=lambda device: device.id)
  for device in devices:
    slices.setdefault(getattr(device, 'slice_index', 0) or 0, []).append(device)
  on_tpu = devices[0].platform == 'tpu'
  if not on_tpu and any(len(members) % model_size for members in slices.values()):
    slices = {0: devices}
  grids = []
  for index, members in sorted(slices.items()):
    if len(members) % model_size:
      raise ValueError(
        f'Slice {index} has {len(members)} devices, which do not divide into groups of '
        f'{model_size}: a copy of the model cannot span slices.'
      )
    if submesh is not None:
      grids.append(_tile(members, submesh))
      continue
    shape = (len(members) // model_size, model_size)
    grids.append(mesh_utils.create_device_mesh(shape, members, allow_split_physical_axes=True))
  return np.concatenate(grids)


def _tile(devices: Sequence[Any], submesh: tuple[int, ...]) -> np.ndarray:
  """Devices of one slice -> [blocks, devices of a block], blocks of the shape `submesh`."""
  if not all(hasattr(device, 'coords') for device in devices):
    raise ValueError(
      f'model_parallel_submesh={submesh} counts in coordinates of a TPU torus, which these devices '
      'lack; use num_partitions.'
    )
  places = np.array([(*device.coords, device.core_on_chip) for device in devices])
  places = places - places.min(axis=0)
  bounds = places.max(axis=0) + 1
  if len(submesh) != len(bounds) or (bounds % np.array(submesh)).any():
    raise ValueError(
      f'model_parallel_submesh={tuple(submesh)} does not tile the slice, which is '
      f'{tuple(bounds.tolist())} (x, y, z, cores).'
    )
  grid = np.empty(bounds, dtype=object)
  for device, place in zip(devices, places, strict=True):
    grid[tuple(place)] = device
  split = grid.reshape([size for b, s in zip(bounds, submesh, strict=True) for size in (b // s, s)])
  return split.transpose(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, math.prod(submesh))


@dataclasses.dataclass(frozen=True)
class DataShard:
  """Which rows of every batch a process reads: row `index`, then every `count`-th."""

  index: int
  count: int


@dataclasses.dataclass(frozen=True)
class Partitioning:
  """A layout at work; see the module's docstring. Made by `PjitPartitioner.fit`."""

  layout: Layout

  @property
  def mesh(self) -> Mesh:
    return self.layout.mesh

  @property
  def trivial(self) -> bool:
    """One device: nothing has to be laid out."""
    return self.mesh.size == 1

  @property
  def replicated(self) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def rows(self) -> NamedSharding:
    """Axis 0 over 'data', the layout of batches."""
    return NamedSharding(self.mesh, PartitionSpec(DATA_AXIS))

  def __str__(self) -> str:
    if self.trivial:
      return 'on one device'
    data, model = self.mesh.devices.shape
    processes = len({device.process_index for device in self.mesh.devices.flat})
    return f'on {data} x {model} devices (data x model) of {processes} process(es)'

  # What lies where.

  def param_specs(self, trainable: Any, params: Any) -> Any:
    """Tree of `PartitionSpec` like the parameters (or their shapes); replicated without axes."""
    if getattr(trainable, 'logical_axes', None) is None:
      return jax.tree.map(lambda _: PartitionSpec(), params)
    axes = trainable.logical_axes()
    return jax.tree.map(lambda p, names: self.layout.spec(names, p.shape), params, axes)

  def place_params(self, trainable: Any, params: Any) -> Any:
    """Parameters laid out for decoding or scoring; see `active`."""
    specs = self.param_specs(trainable, params)
    return self.place(params, jax.tree.map(self._on_mesh, specs, is_leaf=_is_spec))

  def _on_mesh(self, spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(self.mesh, spec)

  def state_shardings(self, trainable: Any, state: TrainState) -> TrainState:
    """Shardings of a state (or its shapes): the optimizer's arrays lie as the parameters do."""
    specs = self.param_specs(trainable, state.params)
    tree = TrainState(
      step=PartitionSpec(),
      params=specs,
      opt_state=optimizer_specs(state.opt_state, state.params, specs),
      aux=jax.tree.map(lambda _: PartitionSpec(), state.aux),
    )
    return jax.tree.map(self._on_mesh, tree, is_leaf=_is_spec)

  def state_like(self, trainable: Any, optimizer: Any, rng: jax.Array) -> TrainState:
    """Shapes of the state, and where it lies unless one device holds it all."""
    like = jax.eval_shape(lambda key: state_lib.create_state(trainable, optimizer, key), rng)
    if self.trivial:
      return like
    return jax.tree.map(
      lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
      like,
      self.state_shardings(trainable, like),
    )

  def create_state(
    self, trainable: Any, optimizer: Any, rng: jax.Array, params: Any | None = None
  ) -> TrainState:
    """As `training.state.create_state`, every array made where it belongs."""
    if self.trivial:
      return state_lib.create_state(trainable, optimizer, rng, params)
    shardings = jax.tree.map(lambda x: x.sharding, self.state_like(trainable, optimizer, rng))
    if params is not None:
      state_lib.check_same_shapes(jax.eval_shape(trainable.init, rng), params)
      params = self.place(params, shardings.params)

    def build(rng: jax.Array, params: Any | None) -> TrainState:
      state = state_lib.initial_values(trainable, optimizer, rng, params)
      return jax.tree.map(jnp.copy, state)

    return jax.jit(build, out_shardings=shardings)(self.replicate(rng), params)

  def place(self, tree: Any, shardings: Any) -> Any:
    """Host arrays, the same in every process, or arrays of this mesh -> arrays laid out so."""
    if self.trivial:
      return tree
    return jax.tree.map(_put, tree, shardings)

  def like(self, tree: Any, example: Any) -> Any:
    """`tree` laid out as `example` is."""
    return tree if self.trivial else self.place(tree, jax.tree.map(lambda x: x.sharding, example))

  def replicate(self, key: jax.Array) -> jax.Array:
    """A random key on every device."""
    if self.trivial:
      return key
    data = _put(np.asarray(jax.random.key_data(key)), self.replicated)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))

  # Batches.

  @functools.cached_property
  def _groups(self) -> list[list[int]]:
    """Rows of the mesh that each data shard feeds.

    Processes that hold devices of the same mesh row have to read the same examples.
    """
    groups: list[tuple[set[int], set[int]]] = []
    for row, devices in enumerate(self.mesh.devices):
      rows, processes = {row}, {device.process_index for device in devices}
      for group in [g for g in groups if g[1] & processes]:
        groups.remove(group)
        rows, processes = rows | group[0], processes | group[1]
      groups.append((rows, processes))
    if len({len(rows) for rows, _ in groups}) > 1:
      raise ValueError(
        'The processes do not hold equal shares of the data axis; choose num_partitions that '
        'divides, or is a multiple of, the devices of one process.'
      )
    return [sorted(rows) for rows, _ in sorted(groups, key=lambda g: min(g[0]))]

  @functools.cached_property
  def data_shard(self) -> DataShard:
    """The share of every batch that this process reads."""
    own = jax.process_index()
    for index, rows in enumerate(self._groups):
      if any(d.process_index == own for row in rows for d in self.mesh.devices[row]):
        return DataShard(index, len(self._groups))
    raise ValueError(f'Process {own} holds no device of the mesh.')

  def local_feed(self, feed: Any) -> Any:
    """The feed of this process's share, where the feed can read one: `feed.shard(index, count)`."""
    shard = self.data_shard
    if shard.count == 1 or not hasattr(feed, 'shard'):
      return feed
    return feed.shard(shard.index, shard.count)

  def place_batch(self, batch: Batch, *, shared: bool) -> Batch:
    """NumPy rows -> arrays of the whole batch over 'data'. Calls no collective, so threads may.

    Args:
      batch: this process's rows (see `data_shard`), or all rows.
      shared: whether every process gives its own rows; they then lie in an order of their own,
        which `in_order` undoes.
    """
    if self.trivial:
      return jax.device_put(batch)
    return {name: self._global_rows(np.asarray(rows), shared) for name, rows in batch.items()}

  def _global_rows(self, rows: np.ndarray, shared: bool) -> jax.Array:
    count = self.data_shard.count if shared else 1
    size = len(rows) * count
    if count == 1 and size % self.mesh.shape[DATA_AXIS]:  # Such as a short batch of an evaluation.
      return _put(rows, self.replicated)
    own = self._groups[self.data_shard.index] if count > 1 else range(self.mesh.shape[DATA_AXIS])
    per_row = size // self.mesh.shape[DATA_AXIS]
    start_of = {row: position * per_row for position, row in enumerate(own)}

    def read(index: tuple[slice, ...]) -> np.ndarray:
      start = start_of[(index[0].start or 0) // per_row]
      return rows[start : start + per_row]

    return jax.make_array_from_callback((size, *rows.shape[1:]), self.rows, read)

  def placer(self, shared: bool) -> Callable[[Batch], Batch]:
    """`place_batch` as a function of the batch alone."""
    return jax.device_put if self.trivial else lambda batch: self.place_batch(batch, shared=shared)

  def in_order(self, batch: Batch) -> Batch:
    """Inside of a program: shared rows back in the order of one process's batch."""
    count = len(self._groups)
    if count == 1:
      return batch
    size = len(jax.tree.leaves(batch)[0])
    per_row = size // self.mesh.shape[DATA_AXIS]
    place = np.empty(size, np.int32)
    for shard, rows in enumerate(self._groups):
      physical = np.concatenate([np.arange(row * per_row, (row + 1) * per_row) for row in rows])
      place[shard::count] = physical
    return {
      name: jax.lax.with_sharding_constraint(x[place], self.rows) for name, x in batch.items()
    }

  # Programs.

  def active(self) -> contextlib.AbstractContextManager[None]:
    """Functions that are traced in this context follow the layout, such as a model's `generate`."""
    return logical_axes.layout(None if self.trivial else self.layout)

  def jit(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`jax.jit`, traced under the layout, so that activations follow the rules; has `lower`."""
    compiled = jax.jit(function, **options)
    if self.trivial:
      return compiled

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
      with self.active():
        return compiled(*arguments, **named)

    def lower(*arguments: Any, **named: Any) -> jax.stages.Lowered:
      with self.active():
        return compiled.lower(*arguments, **named)

    call.lower = lower
    return call

  def step_compiler(self, state: TrainState, shared: bool) -> Callable[..., Any]:
    """What compiles a step(state, batch, rng) -> (state, metrics), the state staying as it lies.

    Args:
      state: as it lies.
      shared: of the batches, see `place_batch`.
    """
    if self.trivial:
      return jax.jit
    shardings = jax.tree.map(lambda x: x.sharding, state)

    def compile_step(step: Callable[..., Any], **options: Any) -> Callable[..., Any]:
      def laid_out(state: TrainState, batch: Batch, rng: jax.Array) -> Any:
        return step(state, self.in_order(batch) if shared else batch, rng)

      return self.jit(laid_out, out_shardings=(shardings, self.replicated), **options)

    return compile_step


def optimizer_specs(opt_state: Any, params: Any, specs: Any) -> Any:
  """`PartitionSpec` of every array of an optimizer's state, by the parameter that it belongs to.

  An array whose path ends in a parameter's path belongs to it. One of the same shape (a moment, an
  average) lies as the parameter does; one that lacks an axis (Adafactor's v_row, v_col) lies as the
  axes that are left; all others are replicated.

  Args:
    opt_state: the state, or its shapes.
    params: the parameters, or their shapes.
    specs: tree of `PartitionSpec` like the parameters.
  """
  shapes = {name: tuple(leaf.shape) for name, leaf in flat_names(params).items()}
  leaf_specs = jax.tree.leaves(specs, is_leaf=_is_spec)
  by_name = dict(zip(shapes, leaf_specs, strict=True))

  def owner(name: str) -> str | None:
    parts = name.split('/')
    tails = ('/'.join(parts[i:]) for i in range(len(parts)))
    return next((tail for tail in tails if tail in shapes), None)

  def spec(name: str, leaf: Any) -> PartitionSpec:
    param = owner(name)
    if param is None:
      return PartitionSpec()
    shape, axes = shapes[param], (*by_name[param], *[None] * len(shapes[param]))
    axes = axes[: len(shape)]
    if tuple(leaf.shape) == shape:
      return PartitionSpec(*axes)
    missing = [i for i in range(len(shape)) if shape[:i] + shape[i + 1 :] == tuple(leaf.shape)]
    if not missing:
      return PartitionSpec()
    # Of two equally long axes Adafactor's row averages over the later, its column over the other.
    gone = missing[0] if 'v_col' in name.split('/') else missing[-1]
    return PartitionSpec(*(axis for i, axis in enumerate(axes) if i != gone))

  names = flat_names(opt_state)
  return jax.tree.unflatten(
    jax.tree.structure(opt_state), [spec(name, leaf) for name, leaf in names.items()]
  )


def _is_spec(x: Any) -> bool:
  return isinstance(x, PartitionSpec)


def _put(x: Any, sharding: NamedSharding) -> jax.Array:
  """One array onto the mesh; what lies there so already stays."""
  if isinstance(x, jax.Array) and x.sharding == sharding:
    return x
  if sharding.is_fully_addressable:
    return jax.device_put(x, sharding)
  host = np.asarray(x)
  return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
