"""How a SpectroStream is trained: reconstruction first, then with codes in between.

Optionally some channels start as a linear transform that already transmits the waveform (see
`linear_start`) and stay so. Until the first calibration step the latents go straight into the
decoder. There k-means starts the codebooks; from then on every example draws how many levels the
decoder sees: in half of the cases none (the latent bypasses the quantizer), else one of the depths
of Magenta RealTime 2's config, which favour few levels. Codebooks follow the latents by an
exponential moving average, dead codes are moved onto data, and a commitment term draws latents
towards their codes.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import rvq
from models.spec import LiveMusicSpec
from models.spectrostream import losses, network
from models.spectrostream.codec import SpectroStream
from models.spectrostream.config import SpectroStreamConfig
from models.spectrostream.linear_start import LinearStart, linear_start
from models.spectrostream.stft import inverse_stft, stft

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class CodecRecipe:
  """What the loss is made of and how codebooks are kept.

  Attributes:
    mel_weight: of the multi-scale mel distance in nats.
    stft_weight: of the multi-scale STFT distance.
    waveform_weight: of the relative waveform error.
    commitment_weight: of the latent's squared distance from its codes, relative to its variance.
    windows: of the spectral losses, in samples.
    bypass_rate: share of examples whose latents are not quantized.
    calibration_steps: steps before which k-means fits all codebooks anew.
    calibration_batches: batches whose latents k-means sees.
    kmeans_iterations: per level.
    ema_decay: of the codebooks' averages.
    dead_threshold: codes chosen less often than this share of an equal use count as dead.
    revive_until: no codes are moved from this step on, so that the last steps leave them in peace.
    linear_start: carried channels, fitted before step 0; None starts at random, and so must a run
      that starts from the parameters of another.
    linear_start_batches: batches that it is fitted to.
    latent_level: standard deviation that `finish` gives to latents which are not carried.
    final_folds: of the last k-means; see `rvq.fit_residual_kmeans`.
  """

  mel_weight: float = 1.0
  stft_weight: float = 0.3
  waveform_weight: float = 2.0
  commitment_weight: float = 0.1
  windows: tuple[int, ...] = (128, 512, 2048)
  bypass_rate: float = 0.5
  calibration_steps: tuple[int, ...] = (450, 1000)
  calibration_batches: int = 160
  kmeans_iterations: int = 8
  ema_decay: float = 0.99
  dead_threshold: float = 0.02
  revive_until: int = 1000
  linear_start: LinearStart | None = None
  linear_start_batches: int = 40
  latent_level: float = 0.2
  final_folds: int = 4


def depth_choices(num_levels: int) -> np.ndarray:
  """Numbers of levels that training draws from: 1..16, then 18..32 by 2, then 36..64 by 4."""
  depths = [*range(1, 17), *range(18, 33, 2), *range(36, 65, 4)]
  return np.array(sorted({min(depth, num_levels) for depth in depths}), np.int32)


def scale_latents(params: dict[str, Any], scales: np.ndarray) -> dict[str, Any]:
  """Parameters whose latents are `scales` [D] times as large and whose decoder undoes it."""
  params = jax.tree.map(np.array, params)
  output, first = params['encoder']['output_convs'], params['decoder']['input_layer']
  for layer in (output['conv1x1_last'], output['shortcut_layer']['conv1x1_b2']):
    layer['conv']['kernel'] *= scales
    layer['conv']['bias'] *= scales
  for layer in (first['conv1x1_first'], first['shortcut_layer']['conv1x1_b1']):
    layer['conv']['kernel'] /= scales[:, None]
  return params


class CodecTrainable:
  """Drives one SpectroStream's training; batches are {'audio': float32 [B, n, 2]}."""

  def __init__(
    self,
    config: SpectroStreamConfig | None = None,
    recipe: CodecRecipe = CodecRecipe(),
    spec: LiveMusicSpec = LiveMusicSpec(),
    seed: int = 0,
  ):
    """Keeps its arguments; None is the tiny config, `seed` is that of k-means."""
    self.config = config or SpectroStreamConfig.tiny()
    self.recipe, self.spec, self.seed = recipe, spec, seed
    self._hop = network.hop_size(spec)
    self._latents = jax.jit(self.latents)
    self._init = jax.jit(lambda rng: network.init_params(rng, self.config, self.spec))

  @property
  def calibration_steps(self) -> tuple[int, ...]:
    first = () if self.recipe.linear_start is None else (0,)
    return first + tuple(self.recipe.calibration_steps)

  def init(self, rng: jax.Array) -> dict[str, Any]:
    """Starting parameters {'encoder': ..., 'decoder': ...}."""
    return self._init(rng)

  def init_aux(self, rng: jax.Array) -> dict[str, jax.Array]:
    """Codebooks before calibration: zeros, not used; with a linear start, what may be trained."""
    shape = (self.spec.codec_levels, self.spec.codebook_size, self.config.num_features)
    state = rvq.codebook_state(jnp.zeros(shape, jnp.float32))
    aux = {**state._asdict(), 'calibrated': jnp.zeros([], jnp.float32)}
    if self.recipe.linear_start is not None:
      aux['trainable'] = jax.tree.map(jnp.ones_like, self._init(rng))
    return aux

  def latents(self, params: dict[str, Any], audio: jax.Array) -> jax.Array:
    """Audio [B, n, 2] -> latents [B, frames, D]."""
    return network.encode(params['encoder'], stft(audio, self._hop))

  def calibrate(self, state: Any, get_batch: Callable[[int], Mapping[str, np.ndarray]]) -> Any:
    """Before step 0 the linear start, later codebooks by k-means; gives the new state.

    Both are fitted to batches 0, 1, ... of `get_batch`.
    """
    if int(state.step) == 0 and self.recipe.linear_start is not None:
      audio = [get_batch(index)['audio'] for index in range(self.recipe.linear_start_batches)]
      params, trainable = linear_start(
        state.params, self.config, self.spec, np.concatenate(audio), self.recipe.linear_start
      )
      return state.replace(params=params, aux={**state.aux, 'trainable': trainable})
    latents = self._many_latents(state.params, get_batch, self.recipe.calibration_batches)
    codebooks = self._fit(latents.reshape([-1, latents.shape[-1]]))
    books = rvq.codebook_state(codebooks, latents[0].shape[0] * len(get_batch(0)['audio']))
    return state.replace(
      aux={**state.aux, **books._asdict(), 'calibrated': jnp.ones([], jnp.float32)}
    )

  def finish(
    self,
    params: dict[str, Any],
    get_batch: Callable[[int], Mapping[str, np.ndarray]],
    num_batches: int,
  ) -> SpectroStream:
    """The codec of trained parameters: latents brought to one level, codebooks fitted once more.

    RVQ spends its bits on the largest latents. Those that training left free have drifted to any
    size; here each is scaled to `latent_level`, which the decoder's first layer undoes exactly.
    """
    latents = self._many_latents(params, get_batch, num_batches)
    flat = latents.reshape([-1, latents.shape[-1]])
    scales = np.ones(flat.shape[1], np.float32)
    if self.recipe.linear_start is not None:
      free = slice(self.recipe.linear_start.features, None)
      scales[free] = self.recipe.latent_level / np.maximum(flat[:, free].std(0), 1e-6)
    codebooks = self._fit(flat * scales, self.recipe.final_folds)
    codebooks = rvq.move_unused_codes(codebooks, flat * scales, seed=self.seed)
    return SpectroStream(self.config, scale_latents(params, scales), codebooks, self.spec)

  def _many_latents(
    self, params: dict[str, Any], get_batch: Callable[[int], Mapping[str, np.ndarray]], number: int
  ) -> np.ndarray:
    """Latents of batches 0..number-1: [number * B, frames, D]."""
    audio = (get_batch(index)['audio'] for index in range(number))
    return np.concatenate([np.asarray(self._latents(params, batch)) for batch in audio])

  def _fit(self, x: np.ndarray, folds: int = 1) -> np.ndarray:
    return rvq.fit_residual_kmeans(
      x, self.spec.codec_levels, self.spec.codebook_size,
      seed=self.seed, iterations=self.recipe.kmeans_iterations, folds=folds,
    )  # fmt: skip

  def loss_fn(
    self, params: dict[str, Any], batch: Batch, rng: jax.Array, aux: dict[str, jax.Array]
  ) -> tuple[jax.Array, tuple[dict[str, jax.Array], rvq.Assignments]]:
    """Loss of a batch, its parts, and what the latents chose."""
    recipe, audio = self.recipe, batch['audio']
    latents = self.latents(params, audio)
    depths = self._draw_depths(rng, len(audio)) * (aux['calibrated'] > 0)
    found = self._assign(jax.lax.stop_gradient(latents), aux, depths)
    seen, commitment = self._quantize(latents, found.quantized, depths)
    # The decoder's last latent only gives look-ahead to the one before it.
    spectrum = network.decode(params['decoder'], jnp.pad(seen, [(0, 0), (0, 1), (0, 0)]))
    estimate = inverse_stft(spectrum, self._hop)[:, : audio.shape[1]]
    # The first hop has no earlier frame to overlap with: it cannot be right.
    audio, estimate = audio[:, self._hop :], estimate[:, self._hop :]
    mel, distance = losses.spectral_losses(
      audio, estimate, recipe.windows, self.spec.sample_rate
    )
    waveform = losses.waveform_loss(audio, estimate)
    loss = (
      recipe.mel_weight * mel
      + recipe.stft_weight * distance
      + recipe.waveform_weight * waveform
      + recipe.commitment_weight * commitment
    )
    parts = {'mel': mel, 'stft': distance, 'waveform': waveform, 'commitment': commitment}
    return loss, (parts, found)

  def train_step(
    self, state: Any, batch: Batch, rng: jax.Array, optimizer: Any
  ) -> tuple[Any, dict[str, jax.Array]]:
    """One update of the parameters by gradient and of the codebooks by moving average."""
    depth_rng, revive_rng = jax.random.split(rng)
    (loss, (parts, found)), gradients = jax.value_and_grad(self.loss_fn, has_aux=True)(
      state.params, batch, depth_rng, state.aux
    )
    if 'trainable' in state.aux:
      gradients = jax.tree.map(jnp.multiply, gradients, state.aux['trainable'])
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = jax.tree.map(jnp.add, state.params, updates)
    aux, revived = jax.lax.cond(
      state.aux['calibrated'] > 0,
      lambda: self._update_codebooks(state.aux, found, revive_rng, state.step),
      lambda: (state.aux, jnp.zeros([], jnp.int32)),
    )
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients)))
    metrics = {
      'loss': loss, **parts, 'weight_gradient_norm': norm, 'revived_codes': revived,
      'steps': jnp.ones([]),
    }  # fmt: skip
    return state.replace(
      step=state.step + 1, params=params, opt_state=opt_state, aux=aux
    ), metrics

  def summarize(self, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Sums over steps -> means per step."""
    steps = float(metrics['steps'])
    means = {name: float(np.sum(value)) / steps for name, value in metrics.items()}
    del means['steps']
    return means

  def _draw_depths(self, rng: jax.Array, batch_size: int) -> jax.Array:
    """[B] levels per example, 0 for those that bypass the quantizer."""
    bypass_rng, depth_rng = jax.random.split(rng)
    choices = jnp.asarray(depth_choices(self.spec.codec_levels))
    depths = choices[jax.random.randint(depth_rng, [batch_size], 0, len(choices))]
    # Exactly the share that bypasses, whatever the batch, so that steps are alike.
    ranks = jax.random.permutation(bypass_rng, batch_size)
    return jnp.where(ranks < round(self.recipe.bypass_rate * batch_size), 0, depths)

  def _assign(self, latents: jax.Array, aux: dict[str, jax.Array], depths: jax.Array):
    per_frame = jnp.repeat(depths, latents.shape[1])
    flat = latents.reshape([-1, latents.shape[-1]])
    search = functools.partial(rvq.assign, flat, aux['codebooks'], per_frame)
    nothing = functools.partial(
      jax.tree.map, lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(search)
    )
    return jax.lax.cond(aux['calibrated'] > 0, search, nothing)

  def _quantize(self, latents: jax.Array, quantized: jax.Array, depths: jax.Array):
    """What the decoder sees (with the gradient passed straight through) and the commitment."""
    quantized = jnp.reshape(quantized, latents.shape)
    coded = (depths > 0)[:, None, None].astype(latents.dtype)
    difference = coded * (quantized - latents)
    variance = jnp.mean(jnp.var(latents, axis=(0, 1)))
    commitment = jnp.mean(jnp.square(difference)) / jax.lax.stop_gradient(variance + 1e-6)
    return latents + jax.lax.stop_gradient(difference), commitment

  def _update_codebooks(
    self, aux: dict[str, jax.Array], found: rvq.Assignments, rng: jax.Array, step: jax.Array
  ) -> tuple[dict[str, jax.Array], jax.Array]:
    """Moving averages, then dead codes onto residuals: (aux, number of codes revived)."""
    recipe = self.recipe
    books = rvq.CodebookState(*(aux[name] for name in rvq.CodebookState._fields))
    books = rvq.ema_update(books, found.counts, found.sums, recipe.ema_decay)
    equal_use = found.codes.shape[0] / self.spec.codebook_size
    threshold = jnp.where(step < recipe.revive_until, recipe.dead_threshold * equal_use, -1.0)
    books, revived = rvq.revive_dead_codes(books, found.residuals, rng, threshold)
    return {**aux, **books._asdict()}, jnp.sum(revived)
