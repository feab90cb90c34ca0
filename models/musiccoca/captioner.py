"""Caption decoder: writes the caption from the audio tower's features while the towers are trained.

A regulariser (CoCa, arXiv 2205.01917): it makes the features keep what the caption says beyond what
tells one clip of the batch from another. It is not part of a shipped model.
"""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from models.musiccoca import towers
from models.musiccoca.config import MusicCoCaConfig, TowerConfig
from models.musiccoca.towers import Params


@dataclasses.dataclass(frozen=True)
class CaptionerConfig:
  """Sizes of the caption decoder; its width and heads are those of the text tower.

  Attributes:
    num_layers: causal layers with cross-attention.
    num_queries: learned queries of the pooler through which the audio features are read.
  """

  num_layers: int = 3
  num_queries: int = 256

  @classmethod
  def tiny(cls) -> 'CaptionerConfig':
    return cls(num_layers=1, num_queries=16)


def init_captioner(rng: jax.Array, captioner: CaptionerConfig, config: MusicCoCaConfig) -> Params:
  """Parameters of the caption pooler and the decoder."""
  tower = dataclasses.replace(config.text, num_layers=captioner.num_layers)
  width = tower.model_dim
  keys = jax.random.split(rng, 5)
  cross = towers.init_layers(keys[0], tower)
  return {
    'pooler': towers.init_pooler(keys[1], config.audio, width, captioner.num_queries),
    'tokens': jax.random.normal(keys[2], (config.vocab_size, width)) * 0.5,
    'positions': 0.02 * jax.random.normal(keys[3], (config.max_text_length, width)),
    'layers': towers.init_layers(keys[4], tower),
    'cross': {
      name: cross[name] for name in ('attention_norm', 'query', 'key', 'value', 'out')
    },
    'norm': {'scale': jnp.ones(width), 'bias': jnp.zeros(width)},
  }


def caption_logits(
  params: Params, features: jax.Array, ids: jax.Array, config: MusicCoCaConfig
) -> jax.Array:
  """Next-piece logits.

  Args:
    params: of `init_captioner`.
    features: audio token features [B, tokens, audio model_dim].
    ids: [B, T] int32, start id first; position t sees ids up to t.
    config: sizes.

  Returns:
    [B, T, vocab_size]; row t predicts ids[t + 1].
  """
  tower, epsilon = config.text, config.norm_epsilon
  audio = towers.pool(features, params['pooler'], config.audio.pooler_heads, epsilon)
  length = ids.shape[1]
  causal = jnp.tril(jnp.ones([length, length]))[None, None]
  x = params['tokens'][ids] + params['positions'][:length]

  def layer(x: jax.Array, layers: tuple[Params, Params]) -> tuple[jax.Array, None]:
    own, cross = layers
    normed = towers.layer_norm(x, own['attention_norm'], epsilon)
    x = x + towers.self_attention(normed, own, tower, causal, config.attention_cap)
    normed = towers.layer_norm(x, cross['attention_norm'], epsilon)
    x = x + _cross_attention(normed, audio, cross, tower, config.attention_cap)
    normed = towers.layer_norm(x, own['mlp_norm'], epsilon)
    return x + towers.feed_forward(normed, own), None

  x = jax.lax.scan(layer, x, (params['layers'], params['cross']))[0]
  x = towers.layer_norm(x, params['norm'], epsilon)
  return x @ params['tokens'].T * tower.model_dim**-0.5


def _cross_attention(
  x: jax.Array, audio: jax.Array, params: Params, tower: TowerConfig, cap: float
) -> jax.Array:
  def heads(inputs: jax.Array, name: str) -> jax.Array:
    projected = inputs @ params[name]['kernel'] + params[name]['bias']
    return projected.reshape(*projected.shape[:-1], tower.num_heads, tower.head_dim)

  query = heads(x, 'query') * tower.head_dim**-0.5
  mixed = towers.attend(query, heads(audio, 'key'), heads(audio, 'value'), None, cap)
  return mixed @ params['out']['kernel'] + params['out']['bias']


def caption_loss(
  params: Params,
  features: jax.Array,
  ids: jax.Array,
  paddings: jax.Array,
  config: MusicCoCaConfig,
) -> tuple[jax.Array, jax.Array]:
  """Summed next-piece cross-entropy in nats over real pieces, and their number."""
  logits = caption_logits(params, features, ids[:, :-1], config)
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:])
  weights = 1.0 - paddings[:, 1:]
  return (losses * weights).sum(), weights.sum()
