"""The three stacks of a Depthformer in full-sequence form (training and scoring).

Encoder over context and style tokens -> temporal decoder over frames -> depth decoder over the
levels of each frame. Layers are scanned: every leaf under 'layers' has the layer as its first axis.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.depthformer import layers
from models.depthformer.config import DepthformerConfig
from models.depthformer.long_attention import long_attention
from models.spec import LiveMusicSpec

Params = dict[str, Any]

_CHECKPOINT_POLICIES = {
  'minimal': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'full': jax.checkpoint_policies.nothing_saveable,
}


class Segments(NamedTuple):
  """Segment ids of packed examples: encoder [B, inputs_length], decoder [B, targets_length]."""

  encoder: jax.Array
  decoder: jax.Array


def encode(
  params: Params,
  tokens: jax.Array,
  config: DepthformerConfig,
  spec: LiveMusicSpec,
  segments: Segments | None = None,
  rng: jax.Array | None = None,
) -> jax.Array:
  """Encoder inputs [B, inputs_length] int32 -> [B, inputs_length, D] in the activation dtype.

  Padding (id 0) is neither attended nor passed on; `mask_id` is a token like any other.
  """
  dtype = jnp.dtype(config.dtype)
  rate = config.dropout_rate
  present = (tokens != spec.pad_id)[..., None].astype(dtype)
  segment_ids = None if segments is None else segments.encoder
  rng_input, rng_layers, rng_output = layers.keys(rng, 3)

  embedded = layers.lookup(params['embedding'], tokens).astype(dtype)
  embedded = embedded + layers.sinusoid(tokens.shape[-1], config.embed_dim)
  x = layers.stream(layers.dropout(embedded, rate, rng_input).astype(dtype))

  def layer(x: jax.Array, inputs: tuple[Params, jax.Array | None]):
    p, rng = inputs
    rng_values, rng_attention, rng_hidden, rng_mlp = layers.keys(rng, 4)
    y = layers.rms_norm(x, p['attention_norm'], dtype) * present
    queries = layers.split_heads(
      layers.project(y, p['attention']['query'], dtype), config.num_heads
    )
    keys, values = layers.keys_and_values(p['attention'], y, config.num_heads, dtype)
    values = layers.drop_values(values, rate, rng_values)
    y = long_attention(queries, keys, values, tokens != spec.pad_id, segment_ids)
    y = layers.project(y, p['attention']['out'], dtype)
    x = x + layers.dropout(y, rate, rng_attention)
    y = layers.rms_norm(x, p['mlp_norm'], dtype) * present
    y = layers.gated_mlp(p['mlp'], y, dtype, rate, rng_hidden)
    return layers.stream(x + layers.dropout(y, rate, rng_mlp)), None

  x = _scan(layer, x, params['encoder']['layers'], rng_layers, config)
  x = layers.rms_norm(x, params['encoder']['norm'], dtype)
  return layers.dropout(x, rate, rng_output) * present


def decode(
  params: Params,
  encoded: jax.Array,
  encoder_tokens: jax.Array,
  targets: jax.Array,
  config: DepthformerConfig,
  spec: LiveMusicSpec,
  segments: Segments | None = None,
  rng: jax.Array | None = None,
) -> jax.Array:
  """What the output layer sees, when each target is predicted from those before it.

  Args:
    params: the model's parameters.
    encoded: [B, inputs_length, D] from `encode`.
    encoder_tokens: [B, inputs_length] int32; id 0 is not attended.
    targets: [B, targets_length] int32, time-major and level-minor; 0 pads.
    config: sizes.
    spec: token layout.
    segments: segment ids of packed examples.
    rng: dropout key, None to predict.

  Returns:
    float32 [B, frames, levels, D], normalised; position (f, j) predicts target f * levels + j.
  """
  dtype = jnp.dtype(config.dtype)
  rate = config.dropout_rate
  batch, frames, levels = len(targets), spec.chunk_frames, spec.target_levels
  rng_tokens, rng_temporal, rng_depth, rng_output = layers.keys(rng, 4)
  present = (targets != spec.pad_id).reshape(batch, frames, levels)
  active = _active_positions(present)

  # The start token shares the dropout mask of the sequence, hence one call over all of them.
  ids = jnp.pad(targets, [[0, 0], [1, 0]], constant_values=spec.pad_id)
  embedded = layers.lookup(params['embedding'], ids).astype(dtype).astype(jnp.float32)
  embedded = layers.stream(layers.dropout(embedded, rate, rng_tokens))
  start, embedded = embedded[:, 0], embedded[:, 1:].reshape(batch, frames, levels, -1)

  previous = jnp.concatenate([start[:, None], jnp.mean(embedded, axis=2)[:, :-1]], axis=1)
  if segments is not None:
    of_frame = segments.decoder.reshape(batch, frames, levels)[:, :, 0]
    first = jnp.pad(of_frame[:, 1:] != of_frame[:, :-1], [[0, 0], [1, 0]], constant_values=True)
    previous = jnp.where(first[..., None], start[:, None], previous)
  context = _temporal(
    params,
    previous,
    present,
    active,
    encoded,
    encoder_tokens,
    config,
    spec,
    segments,
    rng_temporal,
  )
  inputs = jnp.concatenate([context[:, :, None], embedded[:, :, :-1]], axis=2)
  x = _depth(params, inputs, present, active, config, rng_depth)
  x = layers.rms_norm(x, params['decoder_norm'], dtype).reshape(batch, frames * levels, -1)
  x = layers.dropout(x, rate, rng_output).astype(jnp.float32)
  return x.reshape(batch, frames, levels, -1) * active[..., None]


def _active_positions(present: jax.Array) -> jax.Array:
  """Positions whose decoder input or next input is a token: bool [B, frames, levels].

  The first position is always active; the last has no next input.
  """
  flat = present.reshape(len(present), -1)
  before = jnp.pad(flat[:, :-1], [[0, 0], [1, 0]], constant_values=True)
  after = jnp.pad(flat[:, :-1], [[0, 0], [0, 1]], constant_values=False)
  return (before | after).reshape(present.shape)


def _temporal(
  params: Params,
  x: jax.Array,
  present: jax.Array,
  active: jax.Array,
  encoded: jax.Array,
  encoder_tokens: jax.Array,
  config: DepthformerConfig,
  spec: LiveMusicSpec,
  segments: Segments | None,
  rng: jax.Array | None,
) -> jax.Array:
  """Decoder over frames: float32 [B, frames, D] -> the same, one context vector a frame."""
  dtype = jnp.dtype(config.dtype)
  rate = config.dropout_rate
  frames, levels = present.shape[1:]
  # v1's activation mask of frame f is that of the second token of the frame before it.
  flat = active.reshape(len(active), -1)
  second = jnp.minimum(jnp.arange(frames - 1) * levels + 2, frames * levels - 1)
  gate = jnp.concatenate([flat[:, :1], flat[:, second]], axis=1)[..., None].astype(dtype)

  begun, ended = present[:, :, 0], present[:, :, -1]
  self_mask = begun[:, :, None] & begun[:, None, :] & jnp.tri(frames, dtype=bool)
  cross_mask = ended[:, :, None] & (encoder_tokens != spec.pad_id)[:, None, :]
  if segments is not None:
    of_frame = segments.decoder[:, ::levels]
    self_mask &= of_frame[:, :, None] == of_frame[:, None, :]
    cross_mask &= of_frame[:, :, None] == segments.encoder[:, None, :]
  bias = layers.relative_bias(
    params['temporal']['relative_bias'].astype(dtype), frames, config.temporal_max_distance
  )
  self_bias = layers.mask_bias(self_mask[:, None], dtype) + bias
  cross_bias = layers.mask_bias(cross_mask[:, None], dtype)

  def layer(x: jax.Array, inputs: tuple[Params, jax.Array | None]):
    p, rng = inputs
    r_self, r_self_values, r_cross, r_cross_values, r_hidden, r_mlp = layers.keys(rng, 6)
    y = layers.rms_norm(x, p['attention_norm'], dtype) * gate
    y = _attention(p['attention'], y, y, self_bias, config, r_self_values)
    x = x + layers.dropout(y, rate, r_self)
    y = layers.rms_norm(x, p['cross_norm'], dtype) * gate
    y = _attention(p['cross_attention'], y, encoded, cross_bias, config, r_cross_values)
    x = x + layers.dropout(y, rate, r_cross)
    y = layers.rms_norm(x, p['mlp_norm'], dtype) * gate
    y = layers.gated_mlp(p['mlp'], y, dtype, rate, r_hidden)
    return layers.stream(x + layers.dropout(y, rate, r_mlp)), None

  return _scan(layer, x, params['temporal']['layers'], rng, config)


def _depth(
  params: Params,
  x: jax.Array,
  present: jax.Array,
  active: jax.Array,
  config: DepthformerConfig,
  rng: jax.Array | None,
) -> jax.Array:
  """Decoder over the levels of each frame: float32 [B, frames, levels, D] -> the same."""
  dtype = jnp.dtype(config.dtype)
  levels = present.shape[-1]
  # v1 gates slot j with the mask of the position after it.
  flat = active.reshape(len(active), -1)
  gate = jnp.concatenate([flat[:, 1:], flat[:, -1:]], axis=1).reshape(active.shape)
  gate = gate[..., None].astype(dtype)
  mask = present[..., :, None] & present[..., None, :] & jnp.tri(levels, dtype=bool)
  bias = layers.relative_bias(params['depth']['relative_bias'].astype(dtype), levels, levels)
  bias = layers.mask_bias(mask[:, :, None], dtype) + bias

  def layer(x: jax.Array, inputs: tuple[Params, jax.Array | None]):
    p, rng = inputs
    y = layers.rms_norm(x, p['attention_norm'], dtype) * gate
    x = x + _attention(p['attention'], y, y, bias, config, rng)
    y = layers.rms_norm(x, p['mlp_norm'], dtype) * gate
    return layers.stream(x + layers.gated_mlp(p['mlp'], y, dtype)), None

  return _scan(layer, x, params['depth']['layers'], rng, config)


def _attention(
  p: Params,
  x: jax.Array,
  source: jax.Array,
  bias: jax.Array,
  config: DepthformerConfig,
  rng: jax.Array | None,
) -> jax.Array:
  """One attention sublayer of the decoder, from its normalised input to its residual."""
  dtype = jnp.dtype(config.dtype)
  queries = layers.split_heads(layers.project(x, p['query'], dtype), config.num_heads)
  keys, values = layers.keys_and_values(p, source, config.num_heads, dtype)
  values = layers.drop_values(values, config.dropout_rate, rng)
  return layers.project(layers.attend(queries, keys, values, bias), p['out'], dtype)


def _scan(
  layer: Any, x: jax.Array, stacked: Params, rng: jax.Array | None, config: DepthformerConfig
) -> jax.Array:
  """Runs `layer` over stacked parameters, each layer with its own key and the remat policy."""
  if config.remat != 'none':
    layer = jax.checkpoint(layer, policy=_CHECKPOINT_POLICIES[config.remat], prevent_cse=False)
  num_layers = len(stacked['mlp_norm'])
  rngs = None if rng is None else jax.random.split(rng, num_layers)
  # Unrolled, a few layers run an eighth faster on CPUs: nothing is copied into stacked buffers.
  unroll = num_layers <= 2
  return jax.lax.scan(layer, x, (stacked, rngs), unroll=unroll)[0]
