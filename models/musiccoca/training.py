"""Contrastive captioning: how the two towers are trained.

Symmetric softmax loss over L2-normalised embeddings with a learned temperature, plus the caption
loss at equal weight (CoCa, arXiv 2205.01917; Live Music Models, arXiv 2508.04651). An optional
alignment term draws the embeddings of a pair together, so that text asks for the tokens that
audio has.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from models.musiccoca import captioner, frontend, towers
from models.musiccoca.captioner import CaptionerConfig
from models.musiccoca.config import MusicCoCaConfig
from models.spec import LiveMusicSpec

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class StyleRecipe:
  """What the loss is made of.

  Attributes:
    contrastive_weight: of the contrastive loss.
    caption_weight: of the caption loss (mean nats per piece).
    alignment_weight: of the mean of 1 - cosine over pairs. It is independent of the embeddings'
      scale, which a distance would shrink.
    kept_patches: random patches that the audio tower sees in training; None for all.
    max_gain_db: the clip's level is changed by up to this much, either way.
    initial_temperature: of the contrastive softmax.
    min_temperature: the learned temperature stays above this.
    captioner: sizes of the caption decoder.
  """

  contrastive_weight: float = 1.0
  caption_weight: float = 1.0
  alignment_weight: float = 0.0
  kept_patches: int | None = None
  max_gain_db: float = 6.0
  initial_temperature: float = 0.07
  min_temperature: float = 0.01
  captioner: CaptionerConfig = CaptionerConfig()


def normalize(x: jax.Array) -> jax.Array:
  """Rows of unit L2 norm."""
  return x * jax.lax.rsqrt(jnp.maximum(jnp.square(x).sum(-1, keepdims=True), 1e-12))


def same_text(ids: jax.Array) -> jax.Array:
  """Which captions of a batch read alike: ids [B, T] -> float32 [B, B]."""
  return (ids[:, None] == ids[None]).all(-1).astype(jnp.float32)


def contrastive_loss(
  audio: jax.Array, text: jax.Array, temperature: jax.Array, positives: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
  """Symmetric softmax cross-entropy of a batch's audio against its texts.

  Args:
    audio: [B, D], any norm.
    text: [B, D], any norm; row i belongs to audio row i.
    temperature: cosine similarities are divided by it.
    positives: [B, B], 1 where a text fits a clip; such texts share the target evenly. None for the
      diagonal.

  Returns:
    (sum over the batch of (audio-to-text + text-to-audio) / 2 in nats, cosines [B, B]).
  """
  cosines = normalize(audio) @ normalize(text).T
  logits = cosines / temperature
  if positives is None:
    positives = jnp.eye(len(audio))
  to_text = -(positives * jax.nn.log_softmax(logits, 1)).sum(1) / positives.sum(1)
  to_audio = -(positives * jax.nn.log_softmax(logits, 0)).sum(0) / positives.sum(0)
  return 0.5 * (to_text + to_audio).sum(), cosines


def locked_audio_loss(
  text_params: dict[str, Any], batch: Batch, config: MusicCoCaConfig, temperature: float
) -> tuple[jax.Array, jax.Array]:
  """Loss of the text tower alone, against embeddings of a finished audio tower.

  Contrastive loss per pair, plus the squared distance of the pairs relative to the spread of the
  audio. Since the audio stays as it is, a small distance cannot be had by a collapse (locked-tower
  tuning: LiT, arXiv 2111.07991).

  Args:
    text_params: of the text tower.
    batch: 'audio_embedding' [B, D], 'text_ids' [B, T], 'text_paddings' [B, T].
    config: sizes.
    temperature: of the contrastive softmax.

  Returns:
    (loss, relative distance: 1 is what the mean of the audio would get).
  """
  ids, audio = batch['text_ids'], batch['audio_embedding']
  text = towers.embed_text_ids(text_params, ids, batch['text_paddings'], config)
  contrastive, _ = contrastive_loss(audio, text, temperature, same_text(ids))
  spread = jnp.square(audio - audio.mean(0)).sum()
  distance = jnp.square(audio - text).sum() / jnp.maximum(spread, 1e-9)
  return contrastive / len(audio) + distance, distance


def change_gain(log_mels: jax.Array, gains_db: jax.Array, floor: float) -> jax.Array:
  """Log-mel values [B, ., .] of the same audio at another level; gains [B] in dB."""
  power = jnp.maximum(jnp.exp(log_mels) - floor, 0.0)
  return jnp.log(power * 10 ** (gains_db[:, None, None] / 10) + floor)


class StyleTrainable:
  """Trains both towers and the caption decoder on (audio, caption) batches.

  A batch holds 'text_ids' [B, T] int32 and 'text_paddings' [B, T] float32 with T up to
  `max_text_length`, and the clips either as 'audio' [B, n] float32 (mono at
  `spec.style_sample_rate`) or as 'log_mel' [B, frames, mel_bins].
  """

  calibration_steps = (0,)

  def __init__(
    self,
    config: MusicCoCaConfig,
    recipe: StyleRecipe | None = None,
    spec: LiveMusicSpec | None = None,
  ):
    self.config = config
    self.recipe = recipe or StyleRecipe()
    self.spec = spec or LiveMusicSpec()

  @property
  def clip_samples(self) -> int:
    return self.spec.style_window_secs * self.spec.style_sample_rate

  def init(self, rng: jax.Array) -> dict[str, Any]:
    """Parameters: 'audio', 'text', 'captioner', 'log_temperature'."""
    return jax.jit(self._init)(rng)

  def _init(self, rng: jax.Array) -> dict[str, Any]:
    keys = jax.random.split(rng, 3)
    width = self.spec.style_dim
    return {
      'audio': towers.init_audio_tower(keys[0], self.config, self.clip_samples, width),
      'text': towers.init_text_tower(keys[1], self.config, width),
      'captioner': captioner.init_captioner(keys[2], self.recipe.captioner, self.config),
      'log_temperature': jnp.float32(math.log(self.recipe.initial_temperature)),
    }

  def layer_axes(self) -> dict[str, Any]:
    """Tree like the parameters with True where axis 0 counts layers (for optimizers)."""
    shapes = jax.eval_shape(self.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(
      lambda path, _: any(getattr(key, 'key', None) in ('layers', 'cross') for key in path), shapes
    )

  def calibrate(self, state: Any, get_batch: Callable[[int], Batch]) -> Any:
    """Centres and scales the audio tower's first layer on a batch, before the first step."""
    tokens, _ = self._view(jax.tree.map(jnp.asarray, get_batch(0)), None)
    audio = towers.standardize_patches(state.params['audio'], tokens)
    return state.replace(params={**state.params, 'audio': audio})

  def loss_fn(
    self, params: dict[str, Any], batch: Batch, rng: jax.Array | None = None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of a batch and its metrics (sums and counts). `rng` None leaves out all augmentation."""
    config, recipe = self.config, self.recipe
    ids, paddings = batch['text_ids'], batch['text_paddings']
    tokens, kept = self._view(batch, rng)
    features = towers.audio_features(params['audio'], tokens, config, kept)
    epsilon = config.norm_epsilon
    audio = towers.pool(features, params['audio']['pooler'], config.audio.pooler_heads, epsilon)
    audio = audio[:, 0]
    text = towers.embed_text_ids(params['text'], ids, paddings, config)
    temperature = jnp.maximum(jnp.exp(params['log_temperature']), recipe.min_temperature)
    positives = same_text(ids)
    contrastive, cosines = contrastive_loss(audio, text, temperature, positives)
    caption, pieces = captioner.caption_loss(
      params['captioner'], features, ids, paddings, config
    )
    distance = (1.0 - jnp.diagonal(cosines)).sum()
    count = len(audio)
    loss = (
      recipe.contrastive_weight * contrastive / count
      + recipe.caption_weight * caption / jnp.maximum(pieces, 1)
      + recipe.alignment_weight * distance / count
    )
    hits = jnp.take_along_axis(positives, cosines.argmax(1)[:, None], 1)
    metrics = {
      'loss_sum': loss * count,
      'weight_sum': jnp.float32(count),
      'contrastive_sum': contrastive,
      'distance_sum': distance,
      'caption_sum': caption,
      'piece_sum': pieces,
      'matched_sum': hits.sum(),
      'temperature_sum': temperature * count,
    }
    return loss, metrics

  def _view(self, batch: Batch, rng: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
    """What the audio tower sees of the clips in training: (patches, their places or None)."""
    config, recipe = self.config, self.recipe
    if 'log_mel' in batch:
      log_mels = batch['log_mel']
    else:
      log_mels = frontend.log_mel(batch['audio'], config, self.spec.style_sample_rate)
    tokens = frontend.patches(log_mels, config)
    if rng is None:
      return tokens.astype(jnp.float32), None
    gain_rng, patch_rng = jax.random.split(rng)
    count, kept = len(tokens), None
    if recipe.kept_patches is not None:
      draws = jax.random.uniform(patch_rng, tokens.shape[:2])
      kept = jnp.argsort(draws, axis=1)[:, : recipe.kept_patches]
      tokens = jnp.take_along_axis(tokens, kept[..., None], axis=1)
    tokens = tokens.astype(jnp.float32)
    if recipe.max_gain_db:
      limit = recipe.max_gain_db
      gains = jax.random.uniform(gain_rng, (count,), minval=-limit, maxval=limit)
      tokens = change_gain(tokens, gains, config.log_floor)
    return tokens, kept

  def summarize(self, metrics: dict[str, Any]) -> dict[str, float]:
    """Summed metrics -> means, for the writers."""
    count = max(float(metrics['weight_sum']), 1.0)
    return {
      'loss': float(metrics['loss_sum']) / count,
      'contrastive_loss': float(metrics['contrastive_sum']) / count,
      'caption_loss': float(metrics['caption_sum']) / max(float(metrics['piece_sum']), 1.0),
      'pair_distance': float(metrics['distance_sum']) / count,
      'batch_accuracy': float(metrics['matched_sum']) / count,
      'temperature': float(metrics['temperature_sum']) / count,
    }
