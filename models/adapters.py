"""LoRA and DoRA: small trained arrays beside frozen ones, for any tree of named arrays.

An adapter of rank r on a matrix W [in, out] is A [in, r] and B [r, out] (Hu et al., arXiv
2106.09685); with s = alpha / r the matrix becomes W + s A B. DoRA (Liu et al., arXiv 2402.09353)
also trains the norm m [out] of each column: W becomes (W + s A B) m / |W + s A B|, where the norm
in the denominator is taken as a constant by the gradient. B starts at zero and m at |W|, so that an
adapter starts as nothing. Stacked layers [layers, in, out] have an adapter for each layer.

`strength` t scales what an adapter changes, for both kinds alike: W + t (W' - W).
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import weights

Tree = dict[str, Any]
METHODS = ('lora', 'dora')
FILE_NAME = 'adapter.safetensors'
_KIND = 'adapter'
_EPSILON = 1e-12


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
  """Which arrays are adapted, and how.

  Attributes:
    method: 'lora' or 'dora'.
    rank: r above.
    alpha: of s = alpha / r; None is r itself, so that s = 1.
    patterns: regular expressions; an array is adapted if its name ('encoder/layers/mlp/gate')
      contains a match of one and it is a matrix or a stack of them.

  Raises:
    ValueError: a value is out of range, or a pattern is no regular expression.
  """

  method: str = 'lora'
  rank: int = 8
  alpha: float | None = None
  patterns: tuple[str, ...] = ('attention/', 'mlp/', '^logits$')

  def __post_init__(self):
    object.__setattr__(self, 'patterns', tuple(self.patterns))
    if self.method not in METHODS:
      raise ValueError(f'method={self.method!r} is not one of {", ".join(METHODS)}.')
    if not isinstance(self.rank, int) or self.rank < 1:
      raise ValueError(f'rank={self.rank!r} is not a whole number of at least 1.')
    if self.alpha is not None and not self.alpha > 0:
      raise ValueError(f'alpha={self.alpha} must be above 0.')
    if not self.patterns:
      raise ValueError("patterns is empty: name what to adapt, such as ('attention/',).")
    for pattern in self.patterns:
      try:
        re.compile(pattern)
      except re.error as error:
        raise ValueError(f'{pattern!r} is no regular expression: {error}') from error

  @property
  def scale(self) -> float:
    """s above."""
    return 1.0 if self.alpha is None else self.alpha / self.rank

  def to_dict(self) -> dict[str, Any]:
    """JSON values; `AdapterConfig(**config.to_dict())` is the config again."""
    return dataclasses.asdict(self) | {'patterns': list(self.patterns)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AdaptedKernel:
  """A matrix W [..., in, out] with its adapter; stands in a parameter tree where W would.

  Attributes:
    base: W.
    a: [..., in, r].
    b: [..., r, out].
    magnitude: [..., out] of DoRA, None of LoRA.
    scale: s.
  """

  base: jax.Array
  a: jax.Array
  b: jax.Array
  magnitude: jax.Array | None
  scale: float = dataclasses.field(metadata={'static': True}, default=1.0)

  def project(self, x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """x [..., in] times the adapted matrix, without making it (its gradient neither)."""
    x = x.astype(dtype)
    low = jnp.dot(jnp.dot(x, self.a.astype(dtype)), self.b.astype(dtype))
    y = jnp.dot(x, self.base.astype(dtype)) + jnp.asarray(self.scale, dtype) * low
    return y if self.magnitude is None else y * self._column_factors().astype(dtype)

  def rows(self, ids: jax.Array) -> jax.Array:
    """Rows of an adapted table [vocab, D] by id: [..., D]."""
    found = self.base[ids] + self.scale * jnp.dot(self.a[ids], self.b)
    return found if self.magnitude is None else found * self._column_factors()

  def merged(self, strength: float = 1.0) -> jax.Array:
    """The matrix that `project` multiplies by, between W (strength 0) and it (1) or beyond."""
    matrix = self._sum()
    if self.magnitude is not None:
      matrix = matrix * self._column_factors()[..., None, :]
    return matrix if strength == 1.0 else self.base + strength * (matrix - self.base)

  def _sum(self) -> jax.Array:
    return self.base + self.scale * jnp.matmul(self.a, self.b)

  def _column_factors(self) -> jax.Array:
    """m / |W + s A B|, the norm a constant of the gradient."""
    norms = jax.lax.stop_gradient(column_norms(self._sum()))
    return self.magnitude / norms


def column_norms(matrix: jax.Array) -> jax.Array:
  """Euclidean norms of the columns: [..., in, out] -> [..., out]."""
  return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(matrix), axis=-2), _EPSILON))


def adapted_names(shapes: Mapping[str, Any], config: AdapterConfig) -> list[str]:
  """Names of the arrays that `config` adapts.

  Args:
    shapes: name -> array or shape, such as `weights.flatten(params)`. Norms and biases, which have
      one axis besides that of the layers, have no low rank and are passed over.
    config: what to adapt.

  Raises:
    ValueError: a pattern matches no matrix.
  """
  matrices = [name for name, leaf in shapes.items() if _is_matrix(name, leaf)]
  for pattern in config.patterns:
    if not any(re.search(pattern, name) for name in matrices):
      raise ValueError(
        f'{pattern!r} matches no matrix to adapt; names are {matrices[0]!r}, {matrices[-1]!r} and '
        'the like (see model-info.txt).'
      )
  return [name for name in matrices if any(re.search(p, name) for p in config.patterns)]


def check_rank(shapes: Mapping[str, Any], config: AdapterConfig):
  """Refuses a rank that none of the adapted matrices has.

  Args:
    shapes: as of `adapted_names`.
    config: what to adapt.

  Raises:
    ValueError: the rank is above the highest, or a pattern matches no matrix.
  """
  ranks = {name: min(shapes[name].shape[-2:]) for name in adapted_names(shapes, config)}
  highest = max(ranks, key=ranks.__getitem__)
  if config.rank > ranks[highest]:
    rows, columns = shapes[highest].shape[-2:]
    raise ValueError(
      f'rank={config.rank} is not in 1..{ranks[highest]}: of the matrices that are adapted, '
      f'{highest} has the highest rank, {rows} x {columns}.'
    )


def _is_matrix(name: str, leaf: Any) -> bool:
  return len(leaf.shape) == (3 if '/layers/' in f'/{name}' else 2)


def init_adapter(rng: jax.Array, params: Tree, config: AdapterConfig) -> Tree:
  """A new adapter for `params`: {'encoder': {'layers': {... 'gate': {'a', 'b'[, 'm']}}}}.

  A is drawn from N(0, 1 / in), B is zero, m the norms of the columns: nothing is changed yet.
  """
  flat = weights.flatten(params)
  check_rank(flat, config)
  names = adapted_names(flat, config)
  adapter = {}
  for key, name in zip(jax.random.split(rng, len(names)), names, strict=True):
    *stack, width, out = flat[name].shape
    a = jax.random.normal(key, (*stack, width, config.rank)) / np.sqrt(width)
    adapter[f'{name}/a'] = a
    adapter[f'{name}/b'] = jnp.zeros((*stack, config.rank, out))
    if config.method == 'dora':
      adapter[f'{name}/m'] = column_norms(jnp.asarray(flat[name]))
  return weights.unflatten(adapter)


def attach(params: Tree, adapter: Tree, config: AdapterConfig) -> Tree:
  """`params` with an `AdaptedKernel` in the place of every adapted array.

  Raises:
    ValueError: the adapter is of another model; names the first array.
  """
  return _with_adapter(params, adapter, config, lambda kernel: kernel)


def merge(params: Tree, adapter: Tree, config: AdapterConfig, strength: float = 1.0) -> Tree:
  """`params` with the adapter worked into them, at any strength (1 is as trained).

  Raises:
    ValueError: the adapter is of another model; names the first array.
  """
  return _with_adapter(params, adapter, config, lambda kernel: kernel.merged(strength))


def _with_adapter(params: Tree, adapter: Tree, config: AdapterConfig, use: Any) -> Tree:
  flat, arrays = dict(weights.flatten(params)), weights.flatten(adapter)
  for name in sorted({name.rpartition('/')[0] for name in arrays}):
    if name not in flat:
      raise ValueError(f'The adapter changes {name}, which this model does not have.')
    base, a, b = flat[name], arrays[f'{name}/a'], arrays[f'{name}/b']
    if a.shape[:-1] != base.shape[:-1] or b.shape[-1] != base.shape[-1]:
      raise ValueError(
        f'The adapter of {name} is made for a matrix of {(*a.shape[:-1], b.shape[-1])}, here it '
        f'has {tuple(base.shape)}: it belongs to a model of other sizes.'
      )
    flat[name] = use(AdaptedKernel(base, a, b, arrays.get(f'{name}/m'), config.scale))
  return weights.unflatten(flat)


def adapter_axes(axes: Tree, params: Tree, config: AdapterConfig) -> Tree:
  """Tree like the adapter's with logical axis names; the rank's axis is always whole.

  Args:
    axes: logical axes of the parameters.
    params: the parameters or their shapes.
    config: what is adapted.
  """
  named = {}
  for name, value in _adapted_axes(axes, params, config):
    *stack, width, out = value
    named[f'{name}/a'] = (*stack, width, None)
    named[f'{name}/b'] = (*stack, None, out)
    if config.method == 'dora':
      named[f'{name}/m'] = (*stack, out)
  return weights.unflatten(named)


def adapter_layers(layers: Tree, params: Tree, config: AdapterConfig) -> Tree:
  """Tree like the adapter's with True where axis 0 counts layers, from that of the parameters."""
  parts = ('a', 'b', 'm') if config.method == 'dora' else ('a', 'b')
  flat = {
    f'{name}/{part}': value
    for name, value in _adapted_axes(layers, params, config)
    for part in parts
  }
  return weights.unflatten(flat)


def _adapted_axes(tree: Tree, params: Tree, config: AdapterConfig) -> list[tuple[str, Any]]:
  flat = weights.flatten(tree)
  return [(name, flat[name]) for name in adapted_names(weights.flatten(params), config)]


def num_numbers(tree: Any) -> int:
  """How many numbers a tree of arrays (or shapes) holds."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def save_adapter(
  path: str | pathlib.Path,
  adapter: Tree,
  config: AdapterConfig,
  base: Mapping[str, str],
  dtype: Any = np.float32,
) -> pathlib.Path:
  """Writes an adapter alone; `base` says whose it is ('name', 'weights_hash')."""
  metadata = {'kind': _KIND, 'config': config.to_dict(), 'base': dict(base)}
  return weights.save(path, jax.tree.map(np.asarray, adapter), metadata, dtype)


def load_adapter(path: str | pathlib.Path) -> tuple[Tree, AdapterConfig, dict[str, str]]:
  """Reads what `save_adapter` wrote: adapter, config, base.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is truncated, or no adapter.
  """
  adapter, metadata = weights.load(path)
  if metadata.get('kind') != _KIND:
    raise ValueError(f'{path} holds {json.dumps(metadata.get("kind"))}, not an adapter.')
  try:
    config, base = AdapterConfig(**metadata['config']), dict(metadata['base'])
  except (LookupError, TypeError) as error:
    raise ValueError(f'{path} does not say how the adapter is applied: {error}') from error
  return adapter, config, base
