"""The two towers as functions over nested dictionaries of parameters.

Both are pre-norm Transformers over stacked layers (`lax.scan`), with soft-capped attention logits
and exact GELU, read out by a pooler with one learned query (MusicCoCa, Live Music Models,
arXiv 2508.04651; CoCa, arXiv 2205.01917).
"""

from typing import Any

import jax
import jax.numpy as jnp

from models.musiccoca.config import MusicCoCaConfig, TowerConfig
from models.musiccoca.frontend import patches

Params = dict[str, Any]

_MASKED = -1e9


def _dense(rng: jax.Array, shape: tuple[int, ...], fan_in: int) -> jax.Array:
  return jax.random.normal(rng, shape, jnp.float32) * fan_in**-0.5


def _norm(*shape: int) -> Params:
  return {'scale': jnp.ones(shape), 'bias': jnp.zeros(shape)}


def init_layers(rng: jax.Array, tower: TowerConfig) -> Params:
  """Parameters of all layers, stacked on the first axis."""
  layers, width = tower.num_layers, tower.model_dim
  inner = tower.num_heads * tower.head_dim
  keys = jax.random.split(rng, 6)
  params = {
    'attention_norm': _norm(layers, width),
    'mlp_norm': _norm(layers, width),
    'out': {
      'kernel': _dense(keys[3], (layers, inner, width), inner),
      'bias': jnp.zeros((layers, width)),
    },
    'mlp_in': {
      'kernel': _dense(keys[4], (layers, width, tower.mlp_dim), width),
      'bias': jnp.zeros((layers, tower.mlp_dim)),
    },
    'mlp_out': {
      'kernel': _dense(keys[5], (layers, tower.mlp_dim, width), tower.mlp_dim),
      'bias': jnp.zeros((layers, width)),
    },
  }
  for name, key in zip(('query', 'key', 'value'), keys):
    params[name] = {
      'kernel': _dense(key, (layers, width, inner), width),
      'bias': jnp.zeros((layers, inner)),
    }
  return params


def init_pooler(
  rng: jax.Array, tower: TowerConfig, output_dim: int, num_queries: int = 1
) -> Params:
  """Parameters of an attention pooler with `num_queries` learned queries."""
  width = tower.model_dim
  inner = tower.pooler_heads * tower.pooler_head_dim
  keys = jax.random.split(rng, 4)
  return {
    'query': _dense(keys[0], (num_queries, inner), tower.pooler_head_dim),
    'key': {'kernel': _dense(keys[1], (width, inner), width), 'bias': jnp.zeros(inner)},
    'value': {'kernel': _dense(keys[2], (width, inner), width), 'bias': jnp.zeros(inner)},
    'out': {
      'kernel': _dense(keys[3], (inner, output_dim), inner),
      'bias': jnp.zeros(output_dim),
    },
    'norm': _norm(output_dim),
  }


def init_audio_tower(
  rng: jax.Array, config: MusicCoCaConfig, num_samples: int, output_dim: int
) -> Params:
  """Parameters of the audio tower for clips of `num_samples`; positions hold the patch bias."""
  width = config.audio.model_dim
  size = config.patch_size**2
  keys = jax.random.split(rng, 4)
  return {
    'patch': {'kernel': _dense(keys[0], (size, width), size)},
    'positions': 0.02 * jax.random.normal(keys[1], (config.num_patches(num_samples), width)),
    'layers': init_layers(keys[2], config.audio),
    'norm': _norm(width),
    'pooler': init_pooler(keys[3], config.audio, output_dim),
  }


def standardize_patches(params: Params, tokens: jax.Array) -> Params:
  """Audio tower parameters to start training from, by the statistics of its input.

  The front end has no normalisation: what is common to all clips at a place of the picture would
  hide how they differ. The first layer can undo both, so it starts there: its kernel is divided
  by the patches' standard deviation, and the positions take away what the mean patch of each
  place maps to.

  Args:
    params: of `init_audio_tower`.
    tokens: [B, all patches, patch_size^2] of some clips.
  """
  mean = tokens.mean(0)
  deviation = jnp.sqrt(jnp.square(tokens - mean).mean())
  kernel = params['patch']['kernel'] / jnp.maximum(deviation, 1e-3)
  return {
    **params,
    'patch': {'kernel': kernel},
    'positions': params['positions'] - mean @ kernel,
  }


def init_text_tower(rng: jax.Array, config: MusicCoCaConfig, output_dim: int) -> Params:
  """Parameters of the text tower."""
  width = config.text.model_dim
  keys = jax.random.split(rng, 4)
  return {
    'tokens': jax.random.normal(keys[0], (config.vocab_size, width)) * 0.5,
    'positions': 0.02 * jax.random.normal(keys[1], (config.max_text_length, width)),
    'layers': init_layers(keys[2], config.text),
    'norm': _norm(width),
    'pooler': init_pooler(keys[3], config.text, output_dim),
  }


def layer_norm(x: jax.Array, params: Params, epsilon: float) -> jax.Array:
  """Layer norm over the last axis with scale and bias."""
  mean = x.mean(-1, keepdims=True)
  variance = jnp.square(x - mean).mean(-1, keepdims=True)
  return (x - mean) * jax.lax.rsqrt(variance + epsilon) * params['scale'] + params['bias']


def _project(x: jax.Array, params: Params) -> jax.Array:
  return x @ params['kernel'] + params['bias']


def _heads(x: jax.Array, num_heads: int) -> jax.Array:
  return x.reshape(*x.shape[:-1], num_heads, -1)


def attend(
  queries: jax.Array, keys: jax.Array, values: jax.Array, mask: jax.Array | None, cap: float | None
) -> jax.Array:
  """Attention over heads; logits are capped, then masked.

  Args:
    queries: [B, Q, heads, head_dim], scaled already.
    keys: [B, K, heads, head_dim].
    values: [B, K, heads, head_dim].
    mask: 1 where a key may be seen, broadcast to [B, heads, Q, K]; None for all.
    cap: logits become cap * tanh(logits / cap); None for none.

  Returns:
    [B, Q, heads * head_dim].
  """
  logits = jnp.einsum('bqhd,bkhd->bhqk', queries, keys)
  if cap is not None:
    logits = cap * jnp.tanh(logits / cap)
  if mask is not None:
    logits = jnp.where(mask > 0, logits, _MASKED)
  mixed = jnp.einsum('bhqk,bkhd->bqhd', jax.nn.softmax(logits), values)
  return mixed.reshape(*mixed.shape[:2], -1)


def feed_forward(x: jax.Array, params: Params, seen: jax.Array | None = None) -> jax.Array:
  """Two projections with exact GELU; hidden and output are multiplied by `seen` [B, T, 1]."""
  hidden = jax.nn.gelu(_project(x, params['mlp_in']), approximate=False)
  if seen is None:
    return _project(hidden, params['mlp_out'])
  return _project(hidden * seen, params['mlp_out']) * seen


def self_attention(
  x: jax.Array, params: Params, tower: TowerConfig, mask: jax.Array | None, cap: float
) -> jax.Array:
  """Multi-head attention of normed inputs [B, T, model_dim] to themselves."""
  query, key, value = (
    _heads(_project(x, params[name]), tower.num_heads) for name in ('query', 'key', 'value')
  )
  mixed = attend(query * tower.head_dim**-0.5, key, value, mask, cap)
  return _project(mixed, params['out'])


def apply_layers(
  x: jax.Array,
  params: Params,
  tower: TowerConfig,
  config: MusicCoCaConfig,
  seen: jax.Array | None = None,
) -> jax.Array:
  """All layers over x [B, T, model_dim]; `seen` [B, T] is 1 at real positions, 0 at padding."""
  key_mask = None if seen is None else seen[:, None, None, :]
  column = None if seen is None else seen[..., None]

  def layer(x: jax.Array, params: Params) -> tuple[jax.Array, None]:
    normed = layer_norm(x, params['attention_norm'], config.norm_epsilon)
    x = x + self_attention(normed, params, tower, key_mask, config.attention_cap)
    normed = layer_norm(x, params['mlp_norm'], config.norm_epsilon)
    return x + feed_forward(normed, params, column), None

  return jax.lax.scan(layer, x, params)[0]


def pool(
  x: jax.Array, params: Params, num_heads: int, epsilon: float, seen: jax.Array | None = None
) -> jax.Array:
  """Attention pooling [B, T, model_dim] -> [B, queries, output_dim].

  Logits are neither scaled nor capped: any scale is part of the stored query.
  """
  query = jnp.broadcast_to(params['query'], (x.shape[0], *params['query'].shape))
  key, value = _project(x, params['key']), _project(x, params['value'])
  mask = None if seen is None else seen[:, None, None, :]
  mixed = attend(*(_heads(part, num_heads) for part in (query, key, value)), mask, None)
  return layer_norm(_project(mixed, params['out']), params['norm'], epsilon)


def audio_features(
  params: Params, tokens: jax.Array, config: MusicCoCaConfig, kept: jax.Array | None = None
) -> jax.Array:
  """Patches [B, k, patch_size^2] -> normed token features [B, k, model_dim].

  `kept` [B, k] int32 names the places of the given patches in the whole picture (training looks
  at a random part of it); None where all are given.
  """
  positions = params['positions'] if kept is None else params['positions'][kept]
  x = tokens @ params['patch']['kernel'] + positions
  x = apply_layers(x, params['layers'], config.audio, config)
  return layer_norm(x, params['norm'], config.norm_epsilon)


def embed_log_mel(params: Params, log_mels: jax.Array, config: MusicCoCaConfig) -> jax.Array:
  """Log-mel [B, frames, mel_bins] -> embeddings [B, output_dim], not normalised."""
  features = audio_features(params, patches(log_mels, config), config)
  return pool(features, params['pooler'], config.audio.pooler_heads, config.norm_epsilon)[:, 0]


def embed_text_ids(
  params: Params, ids: jax.Array, paddings: jax.Array, config: MusicCoCaConfig
) -> jax.Array:
  """Ids [B, T] int32 with paddings [B, T] (1 at padding) -> [B, output_dim], not normalised."""
  seen = 1.0 - paddings
  x = params['tokens'][ids] + params['positions'][: ids.shape[1]]
  x = apply_layers(x, params['layers'], config.text, config, seen)
  x = layer_norm(x, params['norm'], config.norm_epsilon)
  return pool(x, params['pooler'], config.text.pooler_heads, config.norm_epsilon, seen)[:, 0]


def num_parameters(params: Params) -> int:
  """Number of scalars in a tree of arrays or shapes."""
  return sum(int(leaf.size) for leaf in jax.tree.leaves(params))
