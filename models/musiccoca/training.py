"""Contrastive captioning: how the two towers are trained.

Symmetric softmax loss over L2-normalised embeddings with a learned temperature, plus the caption
loss at equal weight (CoCa, arXiv 2205.01917; Live Music Models, arXiv 2508.04651). An optional
alignment term draws the embeddings of a pair together, so that text asks for the tokens that
audio has.

Every clip of a batch meets every text of it, whatever the number of devices, processes and
microbatches: embeddings are small, so the texts' are gathered from everywhere, and with
microbatches all embeddings come first, then gradients part by part (arXiv 2101.06983).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models.logical_axes import constrain
from models.musiccoca import captioner, frontend, towers
from models.musiccoca.captioner import CaptionerConfig
from models.musiccoca.config import MusicCoCaConfig
from models.spec import LiveMusicSpec

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


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
    num_microbatches: parts of a batch that go through the towers one after the other, for less
      memory; loss and gradient are those of the whole batch.
  """

  contrastive_weight: float = 1.0
  caption_weight: float = 1.0
  alignment_weight: float = 0.0
  kept_patches: int | None = None
  max_gain_db: float = 6.0
  initial_temperature: float = 0.07
  min_temperature: float = 0.01
  captioner: CaptionerConfig = CaptionerConfig()
  num_microbatches: int = 1

  def __post_init__(self):
    if self.num_microbatches < 1:
      raise ValueError(f'num_microbatches={self.num_microbatches} must be at least 1.')


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
    (sum over the batch of (audio-to-text + text-to-audio) / 2 in nats, cosines [B, B]). Under a
    layout each device holds its clips' rows of the cosines, against the texts of all devices.
  """
  audio = constrain(normalize(audio), 'batch', None)
  everyone = constrain(normalize(text), None, None)
  cosines = constrain(audio @ everyone.T, 'batch', None)
  logits = cosines / temperature
  if positives is None:
    positives = jnp.eye(len(audio))
  positives = constrain(positives, 'batch', None)
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

  Attributes:
    calibration_steps: steps before which the loop calls `calibrate`.
  """

  def __init__(
    self,
    config: MusicCoCaConfig,
    recipe: StyleRecipe | None = None,
    spec: LiveMusicSpec | None = None,
    mel_matrix: np.ndarray | None = None,
    trained: bool = False,
  ):
    """Takes sizes and recipe.

    Args:
      config: sizes.
      recipe: the loss.
      spec: rates, window and width of the embedding.
      mel_matrix: of a released model, for clips given as audio.
      trained: the run starts from towers that hear well already; their first layer is left as it
        is.
    """
    self.calibration_steps = () if trained else (0,)
    self.config = config
    self.mel_matrix = mel_matrix
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
      **self.init_beside_towers(keys[2]),
    }

  def init_beside_towers(self, rng: jax.Array) -> dict[str, Any]:
    """Parameters of what no style model holds: 'captioner', 'log_temperature'."""
    return {
      'captioner': captioner.init_captioner(rng, self.recipe.captioner, self.config),
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
    tokens = self._patches(jax.tree.map(jnp.asarray, get_batch(0)))
    audio = towers.standardize_patches(state.params['audio'], tokens)
    return state.replace(params={**state.params, 'audio': audio})

  def loss_fn(
    self, params: dict[str, Any], batch: Batch, rng: jax.Array | None = None
  ) -> tuple[jax.Array, Metrics]:
    """Loss of a batch and its metrics (sums and counts). `rng` None leaves out all augmentation."""
    audio, text, features = self._embed(params, {**batch, **self._draw(batch, rng)})
    caption, pieces = self._caption_loss(params, features, batch)
    pair_loss, metrics = self._pair_loss(audio, text, params['log_temperature'], batch['text_ids'])
    return self._total(pair_loss, metrics, caption, pieces)

  def train_step(
    self, state: Any, batch: Batch, rng: jax.Array, optimizer: optax.GradientTransformation
  ) -> tuple[Any, Metrics]:
    """One update; returns the next state, and the metrics with loss and norm of the gradient."""
    loss, metrics, gradients = self.gradients(state.params, batch, rng)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norm = optax.global_norm(gradients)
    metrics = {**metrics, 'loss': loss, 'weight_gradient_norm': norm}
    return state.replace(params=params, opt_state=opt_state), metrics

  def gradients(
    self, params: dict[str, Any], batch: Batch, rng: jax.Array | None = None
  ) -> tuple[jax.Array, Metrics, dict[str, Any]]:
    """(loss, metrics, gradients) of `loss_fn`, by microbatches if the recipe says so.

    The towers see one microbatch at a time, twice: first for the embeddings of the whole batch,
    whose contrastive loss gives a gradient for each embedding, then to carry these gradients, and
    those of the caption loss, back to the parameters.

    Raises:
      ValueError: the number of microbatches does not divide the batch.
    """
    number, ids = self.recipe.num_microbatches, batch['text_ids']
    if number == 1:
      (loss, metrics), gradients = jax.value_and_grad(self.loss_fn, has_aux=True)(
        params, batch, rng
      )
      return loss, metrics, gradients
    parts = jax.tree.map(
      lambda x: _split(x, number), {**batch, **self._draw(batch, rng)}
    )
    audio, text = jax.lax.map(lambda part: self._embed(params, part)[:2], parts)
    pair_gradients = jax.value_and_grad(self._pair_loss, argnums=(0, 1, 2), has_aux=True)
    (pair_loss, metrics), (audio_gradient, text_gradient, temperature_gradient) = pair_gradients(
      _join(audio), _join(text), params['log_temperature'], ids
    )
    pieces = (1.0 - batch['text_paddings'][:, 1:]).sum()
    caption_scale = self.recipe.caption_weight / jnp.maximum(pieces, 1)

    def carried(params: dict[str, Any], part: Batch, pulls: tuple[jax.Array, jax.Array]):
      audio, text, features = self._embed(params, part)
      caption, _ = self._caption_loss(params, features, part)
      return (audio * pulls[0]).sum() + (text * pulls[1]).sum() + caption_scale * caption, caption

    def add(total: Any, inputs: Any) -> tuple[Any, None]:
      gradients, caption = jax.grad(carried, has_aux=True)(params, *inputs)
      return jax.tree.map(jnp.add, total, (gradients, caption)), None

    zeros = (jax.tree.map(jnp.zeros_like, params), jnp.float32(0))
    pulls = (_split(audio_gradient, number), _split(text_gradient, number))
    (gradients, caption), _ = jax.lax.scan(add, zeros, (parts, pulls))
    gradients['log_temperature'] += temperature_gradient
    return *self._total(pair_loss, metrics, caption, pieces), gradients

  def _embed(self, params: dict[str, Any], batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(audio [B, D], text [B, D], the audio tower's features) of a batch with what `_draw` gave."""
    config = self.config
    tokens = self._patches(batch)
    features = towers.audio_features(params['audio'], tokens, config, batch.get('kept'))
    epsilon = config.norm_epsilon
    audio = towers.pool(features, params['audio']['pooler'], config.audio.pooler_heads, epsilon)
    text = towers.embed_text_ids(
      params['text'], batch['text_ids'], batch['text_paddings'], config
    )
    return audio[:, 0], text, features

  def _caption_loss(
    self, params: dict[str, Any], features: jax.Array, batch: Batch
  ) -> tuple[jax.Array, jax.Array]:
    return captioner.caption_loss(
      params['captioner'], features, batch['text_ids'], batch['text_paddings'], self.config
    )

  def _pair_loss(
    self, audio: jax.Array, text: jax.Array, log_temperature: jax.Array, ids: jax.Array
  ) -> tuple[jax.Array, Metrics]:
    """The loss of a whole batch's embeddings, without captions, and its metrics."""
    recipe, count = self.recipe, len(audio)
    temperature = jnp.maximum(jnp.exp(log_temperature), recipe.min_temperature)
    positives = same_text(ids)
    contrastive, cosines = contrastive_loss(audio, text, temperature, positives)
    distance = (1.0 - jnp.diagonal(cosines)).sum()
    loss = recipe.contrastive_weight * contrastive + recipe.alignment_weight * distance
    hits = jnp.take_along_axis(positives, cosines.argmax(1)[:, None], 1)
    return loss / count, {
      'weight_sum': jnp.float32(count),
      'contrastive_sum': contrastive,
      'distance_sum': distance,
      'matched_sum': hits.sum(),
      'temperature_sum': temperature * count,
    }

  def _total(
    self, pair_loss: jax.Array, metrics: Metrics, caption: jax.Array, pieces: jax.Array
  ) -> tuple[jax.Array, Metrics]:
    loss = pair_loss + self.recipe.caption_weight * caption / jnp.maximum(pieces, 1)
    sums = {'loss_sum': loss * metrics['weight_sum'], 'caption_sum': caption, 'piece_sum': pieces}
    return loss, {**metrics, **sums}

  def _draw(self, batch: Batch, rng: jax.Array | None) -> Batch:
    """What augments each clip of a batch: 'gain_db' [B], 'kept' [B, k] places of the patches."""
    if rng is None:
      return {}
    recipe, count, draws = self.recipe, len(batch['text_ids']), {}
    gain_rng, patch_rng = jax.random.split(rng)
    if recipe.kept_patches is not None:
      if 'log_mel' in batch:
        frames, bands = batch['log_mel'].shape[1:]
        places = (frames // self.config.patch_size) * (bands // self.config.patch_size)
      else:
        places = self.config.num_patches(batch['audio'].shape[1])
      order = jnp.argsort(jax.random.uniform(patch_rng, (count, places)), axis=1)
      draws['kept'] = order[:, : recipe.kept_patches]
    if recipe.max_gain_db:
      limit = recipe.max_gain_db
      draws['gain_db'] = jax.random.uniform(gain_rng, (count,), minval=-limit, maxval=limit)
    return draws

  def _patches(self, batch: Batch) -> jax.Array:
    """What the audio tower sees of the clips, float32 [B, k, patch_size^2]."""
    config = self.config
    if 'log_mel' in batch:
      log_mels = batch['log_mel']
    else:
      rate = self.spec.style_sample_rate
      log_mels = frontend.log_mel(batch['audio'], config, rate, self.mel_matrix)
    tokens = frontend.patches(log_mels, config)
    if 'kept' in batch:
      tokens = jnp.take_along_axis(tokens, batch['kept'][..., None], axis=1)
    tokens = tokens.astype(jnp.float32)
    if 'gain_db' in batch:
      tokens = change_gain(tokens, batch['gain_db'], config.log_floor)
    return tokens

  def summarize(self, metrics: dict[str, Any]) -> dict[str, float]:
    """Summed metrics -> means, for the writers."""
    count = max(float(metrics['weight_sum']), 1.0)
    values = {
      'loss': float(metrics['loss_sum']) / count,
      'contrastive_loss': float(metrics['contrastive_sum']) / count,
      'caption_loss': float(metrics['caption_sum']) / max(float(metrics['piece_sum']), 1.0),
      'pair_distance': float(metrics['distance_sum']) / count,
      'batch_accuracy': float(metrics['matched_sum']) / count,
      'temperature': float(metrics['temperature_sum']) / count,
    }
    if 'weight_gradient_norm' in metrics:
      steps = float(metrics.get('num_steps', 1.0))
      values['weight_gradient_norm'] = float(metrics['weight_gradient_norm']) / steps
    return values


def _split(x: jax.Array, number: int) -> jax.Array:
  """[B, ...] -> [number, B / number, ...]; part i holds rows i, i + number, ...: where the batch is
  spread over devices, each keeps its own."""
  if len(x) % number:
    raise ValueError(f'num_microbatches={number} does not divide the batch of {len(x)} examples.')
  return jnp.moveaxis(x.reshape((len(x) // number, number) + x.shape[1:]), 1, 0)


def _join(parts: jax.Array) -> jax.Array:
  """The inverse of `_split`."""
  return jnp.moveaxis(parts, 0, 1).reshape((-1,) + parts.shape[2:])
