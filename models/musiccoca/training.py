"""Contrastive captioning: how the two towers are trained.

Symmetric softmax loss over L2-normalised embeddings with a learned temperature, plus the caption
loss at equal weight (CoCa, arXiv 2205.01917; Live Music Models, arXiv 2508.04651). Optional terms:
alignment draws the embeddings of a pair together, so that text asks for the tokens that audio has;
two clips of one track are each other's positives, whatever was done to their sound; and a linear
map of the embedding must say what a teacher has heard in the clip.

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
_OTHER = 'other_'  # Of a track's second clip.
Metrics = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class SoundChanges:
  """What may happen to the sound of a clip in training, so that the embedding does not hang on it.

  Everything is done to the log-mel values and drawn anew for each clip.

  Attributes:
    colour_db: the timbre is changed by a smooth curve over the bands, of up to this much either
      way, as by an equalizer.
    fill_db: valleys between partials are filled, as a codec does: to each value is added what lies
      around it, at a level between 40 dB and this below it; None for nothing.
    noise_db: each value is moved by noise of a standard deviation of up to this.
  """

  colour_db: float = 0.0
  fill_db: float | None = None
  noise_db: float = 0.0


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
    sound_changes: what else is changed of a clip.
    same_track_weight: of the contrastive loss between two clips of one track, whose clips are in
      the batch as 'other_log_mel'.
    teacher_weight: of the mean squared error of a linear map from the normalised embedding to
      'teacher'.
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
  sound_changes: SoundChanges = SoundChanges()
  same_track_weight: float = 0.0
  teacher_weight: float = 0.0
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


_LEAST_FILL_DB = 40.0
_AROUND = 9  # Bands over which a valley is filled.
_NUM_WAVES = 4  # Of the curve by which a timbre is changed: half periods over all bands.
_NEPERS = math.log(10) / 10  # Of power, in a decibel.


def change_sound(log_mels: jax.Array, draws: Batch, floor: float) -> jax.Array:
  """Log-mel values [B, frames, bands] of the same music with another sound; see `SoundChanges`.

  Args:
    log_mels: natural log of power.
    draws: any of 'colour_db' [B, 4], weights of cosines over the bands; 'fill_db' [B], how far
      below its surroundings a valley is filled; 'noise_db' [B, frames, bands].
    floor: that was added to the power.
  """
  x = log_mels.astype(jnp.float32)
  if 'fill_db' in draws:
    power = jnp.maximum(jnp.exp(x) - floor, 0.0)
    padded = jnp.pad(power, [(0, 0), (0, 0), (_AROUND // 2, _AROUND // 2)], mode='edge')
    around = sum(padded[..., i : i + x.shape[-1]] for i in range(_AROUND)) / _AROUND
    x = jnp.log(power + around * 10 ** (-draws['fill_db'][:, None, None] / 10) + floor)
  if 'colour_db' in draws:
    places = (np.arange(x.shape[-1]) + 0.5) / x.shape[-1]
    waves = np.cos(np.pi * np.arange(1, _NUM_WAVES + 1)[:, None] * places)
    curve = draws['colour_db'] @ waves.astype(np.float32)
    power = jnp.maximum(jnp.exp(x) - floor, 0.0)
    x = jnp.log(power * jnp.exp(_NEPERS * curve)[:, None] + floor)
  if 'noise_db' in draws:
    x = x + _NEPERS * draws['noise_db']
  return x


def change_gain(log_mels: jax.Array, gains_db: jax.Array, floor: float) -> jax.Array:
  """Log-mel values [B, ., .] of the same audio at another level; gains [B] in dB."""
  power = jnp.maximum(jnp.exp(log_mels) - floor, 0.0)
  return jnp.log(power * 10 ** (gains_db[:, None, None] / 10) + floor)


class StyleTrainable:
  """Trains both towers and the caption decoder on (audio, caption) batches.

  A batch holds 'text_ids' [B, T] int32 and 'text_paddings' [B, T] float32 with T up to
  `max_text_length`, and the clips either as 'audio' [B, n] float32 (mono at
  `spec.style_sample_rate`) or as 'log_mel' [B, frames, mel_bins]. If the recipe asks for it, also
  'other_log_mel', other clips of the same tracks, and 'teacher' [B, teacher_width], what was heard
  in the first ones.

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
    teacher_width: int = 0,
  ):
    """Takes sizes and recipe.

    Args:
      config: sizes.
      recipe: the loss.
      spec: rates, window and width of the embedding.
      mel_matrix: of a released model, for clips given as audio.
      trained: the run starts from towers that hear well already; their first layer is left as it
        is.
      teacher_width: numbers of a 'teacher' row of the batches.

    Raises:
      ValueError: the recipe asks for a teacher, and there is none.
    """
    if recipe and recipe.teacher_weight and not teacher_width:
      raise ValueError(f'teacher_weight={recipe.teacher_weight} needs batches with a teacher.')
    self.teacher_width = teacher_width if recipe and recipe.teacher_weight else 0
    self.calibration_steps = () if trained else (0,)
    self.config = config
    self.mel_matrix = mel_matrix
    self.recipe = recipe or StyleRecipe()
    self.spec = spec or LiveMusicSpec()

  @property
  def clip_samples(self) -> int:
    return self.spec.style_window_secs * self.spec.style_sample_rate

  def init(self, rng: jax.Array) -> dict[str, Any]:
    """Parameters: 'audio', 'text', and those of `init_beside_towers`."""
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
    """Parameters of what no style model holds: 'captioner', 'log_temperature', 'teacher'."""
    recipe = self.recipe
    found = {
      'captioner': captioner.init_captioner(rng, recipe.captioner, self.config),
      'log_temperature': jnp.float32(math.log(recipe.initial_temperature)),
    }
    if self.teacher_width:
      kernel = jnp.zeros([self.spec.style_dim, self.teacher_width])
      found['teacher'] = {'kernel': kernel, 'bias': jnp.zeros([self.teacher_width])}
    return found

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
    batch = {**batch, **self._draw(batch, rng)}
    embedded, features = self._embed(params, batch)
    own = self._own_losses(params, embedded, features, batch)
    pair_loss, metrics = self._pair_loss(embedded, params['log_temperature'], batch['text_ids'])
    return self._total(pair_loss, metrics, own, _pieces(batch))

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
    embedded = jax.lax.map(lambda part: self._embed(params, part)[0], parts)
    pair_gradients = jax.value_and_grad(self._pair_loss, argnums=(0, 1), has_aux=True)
    (pair_loss, metrics), (embedding_gradients, temperature_gradient) = pair_gradients(
      jax.tree.map(_join, embedded), params['log_temperature'], ids
    )
    pieces, pulls = _pieces(batch), jax.tree.map(lambda x: _split(x, number), embedding_gradients)

    def carried(params: dict[str, Any], part: Batch, pulls: dict[str, jax.Array]):
      embedded, features = self._embed(params, part)
      own = self._own_losses(params, embedded, features, part)
      pulled = sum((embedded[name] * pull).sum() for name, pull in pulls.items())
      return pulled + self._weighted(own, len(ids), pieces), own

    def add(total: Any, inputs: Any) -> tuple[Any, None]:
      return jax.tree.map(jnp.add, total, jax.grad(carried, has_aux=True)(params, *inputs)), None

    like = jax.eval_shape(lambda: carried(params, *jax.tree.map(lambda x: x[0], (parts, pulls)))[1])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (params, like))
    (gradients, own), _ = jax.lax.scan(add, zeros, (parts, pulls))
    gradients['log_temperature'] += temperature_gradient
    return *self._total(pair_loss, metrics, own, pieces), gradients

  def _embed(
    self, params: dict[str, Any], batch: Batch
  ) -> tuple[dict[str, jax.Array], jax.Array]:
    """Embeddings [B, D] of a batch with what `_draw` gave, and the audio tower's features.

    Returns:
      ({'audio', 'text'} and, with a second clip of each track, 'other'; features of the first).
    """
    audio, features = self._embed_clips(params, batch, '')
    text = towers.embed_text_ids(
      params['text'], batch['text_ids'], batch['text_paddings'], self.config
    )
    embedded = {'audio': audio, 'text': text}
    if self.recipe.same_track_weight:
      embedded['other'], _ = self._embed_clips(params, batch, _OTHER)
    return embedded, features

  def _embed_clips(
    self, params: dict[str, Any], batch: Batch, which: str
  ) -> tuple[jax.Array, jax.Array]:
    config = self.config
    kept = batch.get(f'{which}kept')
    features = towers.audio_features(params['audio'], self._patches(batch, which), config, kept)
    pooled = towers.pool(
      features, params['audio']['pooler'], config.audio.pooler_heads, config.norm_epsilon
    )
    return pooled[:, 0], features

  def _own_losses(
    self, params: dict[str, Any], embedded: dict[str, jax.Array], features: jax.Array, batch: Batch
  ) -> dict[str, jax.Array]:
    """Losses of each clip by itself, summed: 'caption' nats, 'teacher' squared errors."""
    caption, _ = captioner.caption_loss(
      params['captioner'], features, batch['text_ids'], batch['text_paddings'], self.config
    )
    if not self.recipe.teacher_weight:
      return {'caption': caption}
    # An embedding of unit norm has small coordinates; the map starts from those of unit size.
    audio = normalize(embedded['audio']) * math.sqrt(self.spec.style_dim)
    told = audio @ params['teacher']['kernel'] + params['teacher']['bias']
    return {'caption': caption, 'teacher': jnp.square(told - batch['teacher']).sum()}

  def _weighted(self, own: dict[str, jax.Array], count: int, pieces: jax.Array) -> jax.Array:
    """What `_own_losses` add to the loss of a batch of `count` clips."""
    loss = self.recipe.caption_weight * own['caption'] / jnp.maximum(pieces, 1)
    if 'teacher' in own:
      loss += self.recipe.teacher_weight * own['teacher'] / count
    return loss

  def _pair_loss(
    self, embedded: dict[str, jax.Array], log_temperature: jax.Array, ids: jax.Array
  ) -> tuple[jax.Array, Metrics]:
    """The loss of a whole batch's embeddings against each other, and its metrics."""
    recipe, count = self.recipe, len(ids)
    temperature = jnp.maximum(jnp.exp(log_temperature), recipe.min_temperature)
    positives = same_text(ids)
    contrastive, cosines = contrastive_loss(
      embedded['audio'], embedded['text'], temperature, positives
    )
    distance = (1.0 - jnp.diagonal(cosines)).sum()
    loss = recipe.contrastive_weight * contrastive + recipe.alignment_weight * distance
    hits = jnp.take_along_axis(positives, cosines.argmax(1)[:, None], 1)
    metrics = {
      'weight_sum': jnp.float32(count),
      'contrastive_sum': contrastive,
      'distance_sum': distance,
      'matched_sum': hits.sum(),
      'temperature_sum': temperature * count,
    }
    if 'other' in embedded:
      same_track, cosines = contrastive_loss(embedded['audio'], embedded['other'], temperature)
      loss += recipe.same_track_weight * same_track
      found = (cosines.argmax(1) == jnp.arange(count)).sum()
      metrics |= {'same_track_sum': same_track, 'same_track_found_sum': jnp.float32(found)}
    return loss / count, metrics

  def _total(
    self, pair_loss: jax.Array, metrics: Metrics, own: dict[str, jax.Array], pieces: jax.Array
  ) -> tuple[jax.Array, Metrics]:
    count = metrics['weight_sum']
    loss = pair_loss + self._weighted(own, count, pieces)
    sums = {f'{name}_sum': value for name, value in own.items()}
    return loss, {**metrics, 'loss_sum': loss * count, **sums, 'piece_sum': pieces}

  def _draw(self, batch: Batch, rng: jax.Array | None) -> Batch:
    """What augments each clip: 'gain_db' [B], 'kept' [B, k] places of the patches, and what
    `change_sound` takes; for the second clips the same, with a prefix."""
    if rng is None:
      return {}
    draws = self._draw_clips(batch, rng, '')
    if self.recipe.same_track_weight:
      draws |= self._draw_clips(batch, jax.random.fold_in(rng, 1), _OTHER)
    return draws

  def _draw_clips(self, batch: Batch, rng: jax.Array, which: str) -> Batch:
    recipe, count, draws = self.recipe, len(batch['text_ids']), {}
    gain_rng, patch_rng = jax.random.split(rng)
    if f'{which}log_mel' in batch:
      frames, bands = batch[f'{which}log_mel'].shape[1:]
    else:
      bands = self.config.mel_bins
      frames = self.config.num_frames(batch['audio'].shape[1])
    if recipe.kept_patches is not None:
      places = (frames // self.config.patch_size) * (bands // self.config.patch_size)
      order = jnp.argsort(jax.random.uniform(patch_rng, (count, places)), axis=1)
      draws['kept'] = order[:, : recipe.kept_patches]
    if recipe.max_gain_db:
      limit = recipe.max_gain_db
      draws['gain_db'] = jax.random.uniform(gain_rng, (count,), minval=-limit, maxval=limit)
    changes, keys = recipe.sound_changes, jax.random.split(jax.random.fold_in(rng, 2), 4)
    if changes.colour_db:
      # The waves together reach the limit at most.
      limit = changes.colour_db / _NUM_WAVES
      shape = (count, _NUM_WAVES)
      draws['colour_db'] = jax.random.uniform(keys[0], shape, minval=-limit, maxval=limit)
    if changes.fill_db is not None:
      draws['fill_db'] = jax.random.uniform(
        keys[1], (count,), minval=changes.fill_db, maxval=_LEAST_FILL_DB
      )
    if changes.noise_db:
      size = jax.random.uniform(keys[2], (count, 1, 1), maxval=changes.noise_db)
      draws['noise_db'] = size * jax.random.normal(keys[3], (count, frames, bands))
    return {f'{which}{name}': value for name, value in draws.items()}

  def _patches(self, batch: Batch, which: str = '') -> jax.Array:
    """What the audio tower sees of the clips, float32 [B, k, patch_size^2]."""
    config = self.config
    if f'{which}log_mel' in batch:
      log_mels = batch[f'{which}log_mel']
    else:
      rate = self.spec.style_sample_rate
      log_mels = frontend.log_mel(batch['audio'], config, rate, self.mel_matrix)
    names = ('fill_db', 'colour_db', 'noise_db')
    changes = {name: batch[f'{which}{name}'] for name in names if f'{which}{name}' in batch}
    if changes:
      log_mels = change_sound(log_mels, changes, config.log_floor)
    tokens = frontend.patches(log_mels, config)
    if f'{which}kept' in batch:
      tokens = jnp.take_along_axis(tokens, batch[f'{which}kept'][..., None], axis=1)
    tokens = tokens.astype(jnp.float32)
    if f'{which}gain_db' in batch:
      tokens = change_gain(tokens, batch[f'{which}gain_db'], config.log_floor)
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
    if 'same_track_sum' in metrics:
      values['same_track_loss'] = float(metrics['same_track_sum']) / count
      values['same_track_accuracy'] = float(metrics['same_track_found_sum']) / count
    if 'teacher_sum' in metrics:
      values['teacher_loss'] = float(metrics['teacher_sum']) / count
    if 'weight_gradient_norm' in metrics:
      steps = float(metrics.get('num_steps', 1.0))
      values['weight_gradient_norm'] = float(metrics['weight_gradient_norm']) / steps
    return values


def _pieces(batch: Batch) -> jax.Array:
  """How many pieces the captions of a batch have to be told."""
  return (1.0 - batch['text_paddings'][:, 1:]).sum()


def _split(x: jax.Array, number: int) -> jax.Array:
  """[B, ...] -> [number, B / number, ...]; part i holds rows i, i + number, ...: where the batch is
  spread over devices, each keeps its own."""
  if len(x) % number:
    raise ValueError(f'num_microbatches={number} does not divide the batch of {len(x)} examples.')
  return jnp.moveaxis(x.reshape((len(x) // number, number) + x.shape[1:]), 1, 0)


def _join(parts: jax.Array) -> jax.Array:
  """The inverse of `_split`."""
  return jnp.moveaxis(parts, 0, 1).reshape((-1,) + parts.shape[2:])
