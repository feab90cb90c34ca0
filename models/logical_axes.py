"""Logical names of array axes, and the one place where they are mapped to axes of a device mesh.

Models name the axes of their parameters and, by `constrain`, those of their activations; a run
says with `layout` which mesh and rules apply. Without a layout, `constrain` adds nothing to the
program.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Rules = tuple[tuple[str, str | None], ...]


@dataclasses.dataclass(frozen=True)
class Layout:
  """Devices in a mesh, and the rules that map logical axis names to its axes.

  Attributes:
    mesh: with the axes that the rules name.
    rules: (logical name, mesh axis or None), the more important first. A name may have several: the
      first whose mesh axis no other axis of the array has taken is used.
  """

  mesh: Mesh
  rules: Rules

  def spec(self, names: tuple[str | None, ...], shape: tuple[int, ...]) -> PartitionSpec:
    """Mesh axes of an array; an axis that they do not divide evenly stays whole.

    Raises:
      ValueError: not as many names as axes, or a name without a rule.
    """
    if len(names) != len(shape):
      raise ValueError(f'Axis names {names} do not fit an array of shape {shape}.')
    axes = mesh_axes(names, self.rules)
    return PartitionSpec(*(
      axis if axis is not None and size % self.mesh.shape[axis] == 0 else None
      for axis, size in zip(axes, shape, strict=True)
    ))  # fmt: skip

  def sharding(self, names: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
    """As `spec`, on the mesh."""
    return NamedSharding(self.mesh, self.spec(names, shape))


# Part of what jit's caches are keyed by: a function is traced anew under another layout.
_LAYOUT = jax.make_user_context(None)


def mesh_axes(names: tuple[str | None, ...], rules: Rules) -> tuple[str | None, ...]:
  """Logical axis names of one array -> mesh axes, each used at most once (T5X's and flax's rules).

  >>> mesh_axes(('embed', 'mlp'), (('mlp', 'model'), ('embed', 'model'), ('embed', 'data')))
  ('data', 'model')

  Raises:
    ValueError: a name that no rule mentions.
  """
  known = {name for name, _ in rules}
  axes: list[str | None] = [None] * len(names)
  settled = [name is None for name in names]
  for name, axis in rules:
    for position, own in enumerate(names):
      if own == name and not settled[position] and (axis is None or axis not in axes):
        axes[position], settled[position] = axis, True
  for name in names:
    if name is not None and name not in known:
      raise ValueError(f'No rule maps the axis name {name!r}; rules know {sorted(known)}.')
  return tuple(axes)


@contextlib.contextmanager
def layout(value: Layout | None) -> Iterator[None]:
  """While functions are traced in this block, `constrain` follows `value`."""
  with _LAYOUT(value):
    yield


def current() -> Layout | None:
  """The layout of the block that this is called in."""
  return _LAYOUT.value


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
  """x itself, laid out as its axis names say; exactly x where there is no layout."""
  active = _LAYOUT.value
  if active is None:
    return x
  return jax.lax.with_sharding_constraint(x, active.sharding(names, x.shape))
