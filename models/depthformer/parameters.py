"""Parameters of a Depthformer: shapes, initial values, and Magenta RT v1's names for them.

The own tree stacks the layers of each stack on a leading axis (leaves under a 'layers' key); v1's
is flat and unstacked: `encoder/layers_3/mlp/wi_0/kernel`. `from_v1` and `to_v1` are exact inverses,
for parameters and for optimizer statistics alike.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from models import weights
from models.depthformer.config import DepthformerConfig
from models.spec import LiveMusicSpec

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One array of the model: shape and logical axes of a single layer, and how it starts."""

  shape: tuple[int, ...]
  axes: tuple[str, ...]
  init: str
  v1_name: str
  num_layers: int | None = None

  @property
  def stacked_shape(self) -> tuple[int, ...]:
    return self.shape if self.num_layers is None else (self.num_layers,) + self.shape


def leaves(config: DepthformerConfig, spec: LiveMusicSpec) -> dict[str, Leaf]:
  """Own name ('encoder/layers/mlp/gate') -> `Leaf`; its v1 name holds '{}' for the layer."""
  embed, vocab = config.embed_dim, spec.vocab_size
  temporal = 'decoder/decoder/temporal_decoder'
  depth = 'decoder/decoder/depth_decoder'
  tree = {
    'embedding': Leaf((vocab, embed), ('vocab', 'embed'), 'embedding', 'token_embedder/embedding'),
    'encoder/norm': _norm(config, 'encoder/encoder_norm/scale'),
    'temporal/relative_bias': Leaf(
      (config.num_heads, config.temporal_buckets),
      ('heads', 'relpos_buckets'),
      'relative',
      f'{temporal}/relpos_bias/rel_embedding',
    ),
    'depth/relative_bias': Leaf(
      (config.num_heads, spec.target_levels),
      ('heads', 'relpos_buckets'),
      'relative',
      f'{depth}/relpos_bias_depth/rel_embedding',
    ),
    'decoder_norm': _norm(config, 'decoder/decoder_norm/scale'),
    'logits': Leaf((embed, vocab), ('embed', 'vocab'), 'truncated', 'decoder/logits_dense/kernel'),
  }
  stacks = [
    ('encoder', 'encoder/layers_{}', config.num_encoder_layers, ''),
    ('temporal', temporal + '/layers_{}', config.num_temporal_layers, 'self_'),
    ('depth', depth + '/depth_layers_{}', config.num_depth_layers, 'self_'),
  ]
  for stack, prefix, num_layers, own in stacks:
    for name, leaf in _layer(config, prefix, own, stack == 'temporal'):
      tree[f'{stack}/layers/{name}'] = dataclasses.replace(leaf, num_layers=num_layers)
  return tree


def _layer(
  config: DepthformerConfig, prefix: str, own: str, cross: bool
) -> Iterator[tuple[str, Leaf]]:
  """Names and leaves of one layer; `own` is what v1 puts before 'attention' in this stack."""
  embed, joined, mlp = config.embed_dim, config.num_heads * config.head_dim, config.mlp_dim
  sublayers = [('attention', 'attention_norm', f'{own}attention', f'pre_{own}attention_layer_norm')]
  if cross:
    sublayers.append(
      (
        'cross_attention',
        'cross_norm',
        'encoder_decoder_attention',
        'pre_cross_attention_layer_norm',
      )
    )
  for name, norm, v1_name, v1_norm in sublayers:
    yield norm, _norm(config, f'{prefix}/{v1_norm}/scale')
    for part in ('query', 'key', 'value'):
      init = 'query' if part == 'query' else 'normal'
      kernel = f'{prefix}/{v1_name}/{part}/kernel'
      yield f'{name}/{part}', Leaf((embed, joined), ('embed', 'joined_kv'), init, kernel)
    kernel = f'{prefix}/{v1_name}/out/kernel'
    yield f'{name}/out', Leaf((joined, embed), ('joined_kv', 'embed'), 'normal', kernel)
  yield 'mlp_norm', _norm(config, f'{prefix}/pre_mlp_layer_norm/scale')
  for part, v1_name in (('gate', 'wi_0'), ('up', 'wi_1')):
    kernel = f'{prefix}/mlp/{v1_name}/kernel'
    yield f'mlp/{part}', Leaf((embed, mlp), ('embed', 'mlp'), 'truncated', kernel)
  yield 'mlp/out', Leaf((mlp, embed), ('mlp', 'embed'), 'truncated', f'{prefix}/mlp/wo/kernel')


def _norm(config: DepthformerConfig, v1_name: str) -> Leaf:
  return Leaf((config.embed_dim,), ('embed',), 'ones', v1_name)


def init(rng: jax.Array, config: DepthformerConfig, spec: LiveMusicSpec) -> Params:
  """Initial parameters, float32, distributed as v1's."""
  tree = leaves(config, spec)
  rngs = jax.random.split(rng, len(tree))
  flat = {}
  for key, (name, leaf) in zip(rngs, sorted(tree.items()), strict=True):
    if leaf.num_layers is None:
      flat[name] = _initial(key, leaf, config)
    else:
      layer_keys = jax.random.split(key, leaf.num_layers)
      flat[name] = jax.vmap(lambda k, leaf=leaf: _initial(k, leaf, config))(layer_keys)
  return weights.unflatten(flat)


def _initial(key: jax.Array, leaf: Leaf, config: DepthformerConfig) -> jax.Array:
  """Initial value of one layer's array. Fan-in counts the 2-D stored shape."""
  scaling = jax.nn.initializers.variance_scaling
  match leaf.init:
    case 'ones':
      return jnp.ones(leaf.shape, jnp.float32)
    case 'embedding':
      return jax.random.normal(key, leaf.shape, jnp.float32)
    case 'normal':
      return scaling(1.0, 'fan_in', 'normal')(key, leaf.shape, jnp.float32)
    case 'query':  # Stands in for the division by sqrt(K) that attention leaves out.
      kernel = scaling(1.0, 'fan_in', 'normal')(key, leaf.shape, jnp.float32)
      return kernel / math.sqrt(config.head_dim)
    case 'truncated':
      return scaling(1.0, 'fan_in', 'truncated_normal')(key, leaf.shape, jnp.float32)
    case 'relative':
      return scaling(1.0, 'fan_avg', 'uniform')(key, leaf.shape, jnp.float32)
  raise ValueError(f'Unknown initialiser {leaf.init!r}.')


def from_v1(
  flat: dict[str, Any],
  config: DepthformerConfig,
  spec: LiveMusicSpec,
  *,
  check_shapes: bool = True,
) -> Params:
  """v1's {'encoder/encoder_norm/scale': array, ...} -> own tree with stacked layers.

  Args:
    flat: arrays by v1's path, without a leading 'target/'.
    config: sizes.
    spec: token layout.
    check_shapes: turn off for optimizer statistics, whose shapes are the optimizer's business.

  Raises:
    ValueError: an array is missing, unknown, or of another shape; names the first.
  """
  remaining = dict(flat)
  tree = {}

  def take(name: str, leaf: Leaf) -> jax.Array:
    if name not in remaining:
      raise ValueError(f'{name} is missing ({len(flat)} arrays given); do the sizes fit?')
    value = remaining.pop(name)
    if check_shapes and tuple(value.shape) != leaf.shape:
      raise ValueError(f'{name} has shape {tuple(value.shape)}; these sizes need {leaf.shape}.')
    return jnp.asarray(value)

  for name, leaf in leaves(config, spec).items():
    if leaf.num_layers is None:
      tree[name] = take(leaf.v1_name, leaf)
    else:
      tree[name] = jnp.stack([take(leaf.v1_name.format(i), leaf) for i in range(leaf.num_layers)])
  if remaining:
    raise ValueError(f'{sorted(remaining)[0]} is not part of a model of these sizes.')
  return weights.unflatten(tree)


def to_v1(params: Params, config: DepthformerConfig, spec: LiveMusicSpec) -> dict[str, jax.Array]:
  """Own tree -> v1's flat {'encoder/encoder_norm/scale': array, ...}; works under eval_shape."""
  flat = weights.flatten(params)
  named = {}
  for name, leaf in leaves(config, spec).items():
    if name not in flat:
      raise ValueError(f'{name} is missing from the parameters.')
    if leaf.num_layers is None:
      named[leaf.v1_name] = flat[name]
    else:
      for i in range(leaf.num_layers):
        named[leaf.v1_name.format(i)] = flat[name][i]
  return named


def v1_axes(config: DepthformerConfig, spec: LiveMusicSpec) -> dict[str, tuple[str, ...]]:
  """v1's path -> logical axis names, such as ('embed', 'joined_kv')."""
  axes = {}
  for leaf in leaves(config, spec).values():
    for i in range(leaf.num_layers or 1):
      axes[leaf.v1_name.format(i)] = leaf.axes
  return axes


def layer_axes(config: DepthformerConfig, spec: LiveMusicSpec) -> Params:
  """Own tree with True where axis 0 counts layers: optimizers treat it as a batch axis."""
  return weights.unflatten(
    {name: leaf.num_layers is not None for name, leaf in leaves(config, spec).items()}
  )


def logical_axes(config: DepthformerConfig, spec: LiveMusicSpec) -> Params:
  """Own tree of logical axis names, 'layers' first where layers are stacked."""
  return weights.unflatten(
    {
      name: leaf.axes if leaf.num_layers is None else ('layers',) + leaf.axes
      for name, leaf in leaves(config, spec).items()
    }
  )
