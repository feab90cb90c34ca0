"""Autoregressive decoding of one chunk: 50 temporal steps, each with 16 depth steps, one program.

Every step consumes the token before it. The temporal stack runs once a frame on the mean embedding
of the previous frame's tokens and keeps a cache over frames; the depth stack keeps a cache over the
levels of the frame. Cross-attention keys and values are computed once per chunk.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.depthformer import layers, objective, sampling
from models.depthformer.config import DepthformerConfig
from models.depthformer.network import Params
from models.spec import LiveMusicSpec


@dataclasses.dataclass(frozen=True)
class DecodingOptions:
  """What is fixed when the decoding program is compiled.

  Attributes:
    num_frames: frames to decode; the rest of the chunk stays 0.
    greedy: take the best id instead of sampling.
    guided: rows come in pairs (conditioned, unconditioned), combined by the guidance weight.
    top_k_bound: at least the top_k that is asked for at run time; 0 keeps all ids.
    constrain_levels: only ids of the position's own level.
    reference: draw as v1 does, over the whole vocabulary and with its key handling, even where
      only the level's ids can be drawn.
  """

  num_frames: int
  greedy: bool
  guided: bool
  top_k_bound: int
  constrain_levels: bool
  reference: bool

  @property
  def by_level(self) -> bool:
    """True where logits are computed for the level's own ids only."""
    return self.constrain_levels and not self.reference


class _Rows(NamedTuple):
  """What decoding carries from step to step, besides the caches."""

  token: jax.Array
  ended: jax.Array
  score: jax.Array
  rng: jax.Array


def decode_chunk(
  params: Params,
  encoded: jax.Array,
  encoder_tokens: jax.Array,
  rng: jax.Array,
  temperature: jax.Array,
  top_k: jax.Array,
  guidance_weight: jax.Array,
  config: DepthformerConfig,
  spec: LiveMusicSpec,
  options: DecodingOptions,
) -> tuple[jax.Array, jax.Array]:
  """Decodes `options.num_frames` frames.

  Args:
    params: the model's parameters.
    encoded: [rows, inputs_length, D]; guided rows come as (conditioned, unconditioned) pairs.
    encoder_tokens: [rows, inputs_length] int32.
    rng: sampling key.
    temperature: scalar.
    top_k: scalar int32, at most `options.top_k_bound`.
    guidance_weight: scalar.
    config: sizes.
    spec: token layout.
    options: what the program is specialised to.

  Returns:
    ids int32 [rows, num_frames, levels] and summed log-probabilities [rows].
  """
  dtype = jnp.dtype(config.dtype)
  num_rows, num_levels = len(encoded), spec.target_levels
  temporal = _fused_layers(params['temporal']['layers'], config.num_temporal_layers, dtype)
  depth = _fused_layers(params['depth']['layers'], config.num_depth_layers, dtype)
  memory = [
    layers.keys_and_values(p['cross_attention'], encoded, config.num_heads, dtype) for p in temporal
  ]
  memory_bias = layers.mask_bias((encoder_tokens != spec.pad_id)[:, None, None, :], dtype)
  frame_bias = _causal_bias(
    params['temporal'], options.num_frames, config.temporal_max_distance, dtype
  )
  level_bias = _causal_bias(params['depth'], num_levels, num_levels, dtype)
  table = params['embedding'].astype(dtype)
  head = params['logits']
  head = objective.level_kernels(head, spec) if options.by_level else head
  choose = sampling.make_sampler(head, temperature, top_k, guidance_weight, spec, options)

  def depth_step(carry: tuple, level: jax.Array):
    rows, x, caches, noise = carry
    caches = list(caches)
    bias = jax.lax.dynamic_index_in_dim(level_bias, level, 1)
    for i, p in enumerate(depth):
      y = layers.rms_norm(x, p['attention_norm'], dtype)
      y, caches[i] = _cached_attention(p['attention'], y, caches[i], level, bias, config)
      x = x + y
      x = x + _fused_mlp(p['mlp'], layers.rms_norm(x, p['mlp_norm'], dtype))
    x = layers.rms_norm(x, params['decoder_norm'], dtype).astype(jnp.float32)
    rows = choose(x[:, 0], level, noise, rows)
    embedded = table[rows.token].astype(jnp.float32)[:, None]
    return (rows, embedded, tuple(caches), noise), (rows.token, embedded)

  def frame_step(carry: tuple, inputs: tuple):
    rows, x, caches = carry
    frame, noise = inputs
    caches = list(caches)
    bias = jax.lax.dynamic_index_in_dim(frame_bias, frame, 1)
    for i, p in enumerate(temporal):
      y = layers.rms_norm(x, p['attention_norm'], dtype)
      y, caches[i] = _cached_attention(p['attention'], y, caches[i], frame, bias, config)
      x = x + y
      y = layers.rms_norm(x, p['cross_norm'], dtype)
      queries = layers.split_heads(y @ p['cross_attention']['query'], config.num_heads)
      y = layers.attend(queries, *memory[i], memory_bias)
      x = x + y @ p['cross_attention']['out']
      x = x + _fused_mlp(p['mlp'], layers.rms_norm(x, p['mlp_norm'], dtype))
    carry = (rows, x, _empty_caches(depth, num_rows, num_levels, config), noise)
    (rows, _, _, _), (ids, embedded) = jax.lax.scan(depth_step, carry, jnp.arange(num_levels))
    return (rows, jnp.mean(embedded, axis=0), tuple(caches)), ids

  rows = _Rows(
    token=jnp.full([num_rows], spec.pad_id, jnp.int32),
    ended=jnp.zeros([num_rows], bool),
    score=jnp.zeros([num_rows], jnp.float32),
    rng=rng,
  )
  start = jnp.broadcast_to(table[spec.pad_id].astype(jnp.float32), [num_rows, 1, config.embed_dim])
  carry = (rows, start, _empty_caches(temporal, num_rows, options.num_frames, config))
  noise = sampling.frame_noise(rng, options, spec, num_rows)
  (rows, _, _), ids = jax.lax.scan(frame_step, carry, (jnp.arange(options.num_frames), noise))
  return jnp.moveaxis(ids, -1, 0), rows.score


def _causal_bias(stack: Params, length: int, max_distance: int, dtype: jnp.dtype) -> jax.Array:
  """Relative bias plus causal mask [H, length, length]; row i hides what is not written yet."""
  bias = layers.relative_bias(stack['relative_bias'].astype(dtype), length, max_distance)
  return bias + layers.mask_bias(jnp.tri(length, dtype=bool), dtype)


def _fused_layers(stacked: Params, num_layers: int, dtype: jnp.dtype) -> list[dict[str, Any]]:
  """Layers one by one, cast once, with matrices that share their input side by side."""
  fused = []
  for i in range(num_layers):
    p = jax.tree.map(lambda leaf, i=i: leaf[i].astype(dtype), stacked)
    attention, mlp = p['attention'], p['mlp']
    p['attention'] = {
      'qkv': jnp.concatenate([attention[part] for part in ('query', 'key', 'value')], axis=1),
      'out': attention['out'],
    }
    p['mlp'] = {'in': jnp.concatenate([mlp['gate'], mlp['up']], axis=1), 'out': mlp['out']}
    fused.append(p)
  return fused


def _fused_mlp(p: dict[str, jax.Array], x: jax.Array) -> jax.Array:
  gate, up = jnp.split(x @ p['in'], 2, axis=-1)
  return (jax.nn.gelu(gate, approximate=True) * up) @ p['out']


def _empty_caches(
  stack: list[Any], num_rows: int, length: int, config: DepthformerConfig
) -> tuple[tuple[jax.Array, jax.Array], ...]:
  """Keys and values [rows, length, H, K] of each layer."""
  shape = [num_rows, length, config.num_heads, config.head_dim]
  zeros = jnp.zeros(shape, config.dtype)
  return tuple((zeros, zeros) for _ in stack)


def _cached_attention(
  p: dict[str, jax.Array],
  x: jax.Array,
  cache: tuple[jax.Array, jax.Array],
  position: jax.Array,
  bias: jax.Array,
  config: DepthformerConfig,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Attention of the newest position [rows, 1, D] over the cache, which it joins."""
  queries, keys, values = (
    layers.split_heads(part, config.num_heads) for part in jnp.split(x @ p['qkv'], 3, axis=-1)
  )
  keys = jax.lax.dynamic_update_slice_in_dim(cache[0], keys, position, 1)
  values = jax.lax.dynamic_update_slice_in_dim(cache[1], values, position, 1)
  return layers.attend(queries, keys, values, bias) @ p['out'], (keys, values)
