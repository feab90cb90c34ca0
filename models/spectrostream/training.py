"""How a SpectroStream is trained: to reconstruct, with codes in between, against discriminators.

Optionally some channels start as a linear transform that already transmits the waveform (see
`linear_start`) and stay so. Until the first calibration step the latents go straight into the
decoder. There k-means starts the codebooks; from then on every example draws how many levels the
decoder sees: in half of the cases none (the latent bypasses the quantizer), else one of the depths
of Magenta RealTime 2's config, which favour few levels. Codebooks follow the latents by an
exponential moving average, dead codes are moved onto data, and a commitment term draws latents
towards their codes. STFT discriminators, whose parameters lie beside the codec's, are updated in
the same step, from the same forward pass.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from models import rvq
from models.low_rank import LowRankCodebooks
from models.spec import LiveMusicSpec
from models.spectrostream import codebooks, discriminators, losses, network, objective
from models.spectrostream.codec import SpectroStream
from models.spectrostream.config import SpectroStreamConfig
from models.spectrostream.discriminators import DiscriminatorConfig
from models.spectrostream.growing import grow
from models.spectrostream.linear_start import linear_refit, linear_start
from models.spectrostream.recipe import DECODER, CodecRecipe, depth_choices
from models.spectrostream.stft import inverse_stft, stft
from models.spectrostream.widening import widen

Batch = dict[str, jax.Array]
Tree = dict[str, Any]
CODEC_PARTS = ('encoder', 'decoder')
DISCRIMINATORS = 'discriminators'


def scale_latents(params: Tree, scales: np.ndarray) -> Tree:
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
  """Drives one SpectroStream's training; batches are {'audio': float32 [B, n, 2]}.

  Parameters are {'encoder': ..., 'decoder': ...}, with discriminators also 'discriminators', which
  want an optimizer of their own (`training.wrappers.by_part`).
  """

  def __init__(
    self,
    config: SpectroStreamConfig | None = None,
    recipe: CodecRecipe | None = None,
    spec: LiveMusicSpec = LiveMusicSpec(),
    seed: int = 0,
    discriminator_config: DiscriminatorConfig | None = None,
  ):
    """Keeps its arguments.

    Args:
      config: None is the tiny config.
      recipe: weights and times; None for the defaults.
      spec: sample and frame rate, levels and codes.
      seed: of k-means.
      discriminator_config: None trains by reconstruction only.
    """
    self.config = config or SpectroStreamConfig.tiny()
    self.recipe, self.spec, self.seed = recipe or CodecRecipe(), spec, seed
    self.discriminator_config = discriminator_config
    self._hop = network.hop_size(spec)
    self._latents = jax.jit(self.latents)
    self._init = jax.jit(self._init_params)
    self._start: Tree | SpectroStream | None = None

  def start_from(self, start: Tree | SpectroStream):
    """Lets a new run start from a codec with its codebooks, or from parameters alone.

    Args:
      start: a codec; or 'encoder', 'decoder' and perhaps 'discriminators', whose codebooks are left
        to the first calibration step. Its decoder may be narrower (see `widening`); with the
        recipe's `refit_from` a codec may be smaller all over (see `growing`).
    """
    self._start = start

  @property
  def calibration_steps(self) -> tuple[int, ...]:
    """Steps before which the loop calls `calibrate`."""
    given = self._start is not None or self.recipe.linear_start is not None
    later = () if self.recipe.train_only == DECODER else tuple(self.recipe.calibration_steps)
    return ((0,) if given else ()) + later

  def init(self, rng: jax.Array) -> Tree:
    """Starting parameters."""
    return self._init(rng)

  def _init_params(self, rng: jax.Array) -> Tree:
    params = network.init_params(rng, self.config, self.spec)
    if self.discriminator_config is not None:
      key = jax.random.fold_in(rng, 1)
      params[DISCRIMINATORS] = discriminators.init_params(key, self.discriminator_config)
    return params

  def init_aux(self, rng: jax.Array) -> Tree:
    """Codebooks before calibration; with a linear start, what may be trained; the balance."""
    sizes = (self.spec.codec_levels, self.spec.codebook_size, self.config.num_features)
    aux = codebooks.empty(*sizes)
    if self.recipe.linear_start is not None:
      aux['trainable'] = jax.tree.map(jnp.ones_like, codec_part(self._init(rng)))
    if self.recipe.balance:
      aux['balance'] = objective.start_balance(self.discriminator_config is not None)
    return aux

  def logical_axes(self) -> Tree:
    """Tree like the parameters with the logical axis names of each array (for partitioning)."""
    shapes = jax.eval_shape(self._init_params, jax.random.key(0))
    return jax.tree.map(lambda x: _AXES[x.ndim], shapes)

  def latents(self, params: Tree, audio: jax.Array) -> jax.Array:
    """Audio [B, n, 2] -> latents [B, frames, D]."""
    return network.encode(params['encoder'], stft(audio, self._hop))

  def output(self, params: Tree, latents: jax.Array) -> jax.Array:
    """Latents [B, frames, D] -> audio [B, frames * 1920, 2]; its first hop cannot be right."""
    # The decoder's last latent only gives look-ahead to the one before it.
    padded = jnp.pad(latents, [(0, 0), (0, 1), (0, 0)])
    return inverse_stft(network.decode(params['decoder'], padded), self._hop)

  # What happens beside the steps.

  def calibrate(self, state: Any, get_batch: Callable[[int], Mapping[str, np.ndarray]]) -> Any:
    """Before step 0 the start, linear or given; later codebooks by k-means; gives the new state.

    What is fitted is fitted to batches 0, 1, ... of `get_batch`.
    """
    if int(state.step) == 0 and self._start is not None:
      if self.recipe.refit_from is not None:
        return self._refitted(state, get_batch)
      return self._given_start(self._linear_start(state, get_batch), get_batch)
    if int(state.step) == 0 and self.recipe.linear_start is not None:
      return self._linear_start(state, get_batch)
    latents = self._many_latents(state.params, get_batch, self.recipe.calibration_batches)
    values = self._fit(latents.reshape([-1, latents.shape[-1]]))
    vectors = latents[0].shape[0] * len(get_batch(0)['audio'])
    return state.replace(aux={**state.aux, **codebooks.filled(values, vectors)})

  def finish(
    self, state: Any, get_batch: Callable[[int], Mapping[str, np.ndarray]], num_batches: int
  ) -> SpectroStream:
    """The codec of a trained state: latents brought to one level, codebooks fitted once more.

    RVQ spends its bits on the largest latents. Those that training left free have drifted to any
    size; here each is scaled to `latent_level`, which the decoder's first layer undoes exactly.
    Where the decoder alone was trained, all else is what it was.
    """
    params = codec_part(state.params)
    if self.recipe.train_only == DECODER:
      return self._start.with_decoder(params['decoder'], self.config.decoder_widths)
    latents = self._many_latents(params, get_batch, num_batches)
    flat = latents.reshape([-1, latents.shape[-1]])
    scales = np.ones(flat.shape[1], np.float32)
    if self.recipe.linear_start is not None:
      free = slice(self.recipe.num_carried, None)
      scales[free] = self.recipe.latent_level / np.maximum(flat[:, free].std(0), 1e-6)
    values = self._fit(flat * scales, self.recipe.final_folds)
    ranks = self.recipe.ranks
    values = rvq.move_unused_codes(values, flat * scales, seed=self.seed, ranks=ranks)
    if ranks is not None:
      values = LowRankCodebooks.of(values, ranks)
    return SpectroStream(self.config, scale_latents(params, scales), values, self.spec)

  def _given_start(self, state: Any, get_batch: Callable[[int], Mapping[str, np.ndarray]]) -> Any:
    """The parameters of `start_from`, and its codebooks where there are any."""
    whole = isinstance(self._start, SpectroStream)
    given = self._start.params if whole else self._start
    given = {**given, 'decoder': widen(given['decoder'], state.params['decoder'])}
    # Copies: the loop gives the state's own arrays away, and `finish` needs the start once more.
    parts = {name: jax.tree.map(jnp.array, given[name]) for name in state.params if name in given}
    state = state.replace(params={**state.params, **parts})
    if not whole:
      return state
    batch, samples, _ = get_batch(0)['audio'].shape
    vectors = batch * -(-samples // self.spec.samples_per_frame)
    books = codebooks.filled(np.asarray(self._start.codebooks), vectors)
    return state.replace(aux={**state.aux, **books})

  def _refitted(self, state: Any, get_batch: Callable[[int], Mapping[str, np.ndarray]]) -> Any:
    """The codec of `start_from`, grown to this one's sizes, its carried channels fitted anew."""
    recipe, codec = self.recipe, self._start
    old = (codec.params, codec.config, recipe.refit_from)
    new = (self.config, recipe.linear_start)
    params = grow(codec.params, old[1:], codec_part(state.params), new, self.spec)
    audio = [get_batch(index)['audio'] for index in range(recipe.linear_start_batches)]
    params, trainable = linear_refit(
      params, self.config, self.spec, np.concatenate(audio), recipe.linear_start, old
    )
    if recipe.free_level is not None:
      params = self._levelled(params, get_batch)
    aux = {**state.aux, 'trainable': trainable}
    return state.replace(params={**state.params, **params}, aux=aux)

  def _levelled(
    self, params: Tree, get_batch: Callable[[int], Mapping[str, np.ndarray]]
  ) -> Tree:
    """The same codec with its free latents at `free_level`, which the decoder's start undoes."""
    latents = self._many_latents(params, get_batch, _LEVEL_BATCHES)
    deviations = latents.reshape([-1, latents.shape[-1]]).std(0)
    scales = np.ones_like(deviations)
    free = slice(self.recipe.num_carried, None)
    scales[free] = self.recipe.free_level / np.maximum(
      deviations[free], 1e-3 * np.median(deviations[free]) + 1e-9
    )
    return scale_latents(params, scales)

  def _linear_start(self, state: Any, get_batch: Callable[[int], Mapping[str, np.ndarray]]) -> Any:
    """Carried channels and what may be trained, where the recipe has them."""
    if self.recipe.linear_start is None:
      return state
    audio = [get_batch(index)['audio'] for index in range(self.recipe.linear_start_batches)]
    params, trainable = linear_start(
      codec_part(state.params), self.config, self.spec, np.concatenate(audio),
      self.recipe.linear_start,
    )  # fmt: skip
    aux = {**state.aux, 'trainable': trainable}
    return state.replace(params={**state.params, **params}, aux=aux)

  def _many_latents(
    self, params: Tree, get_batch: Callable[[int], Mapping[str, np.ndarray]], number: int
  ) -> np.ndarray:
    """Latents of batches 0..number-1: [number * B, frames, D]."""
    params = {'encoder': params['encoder']}
    audio = (get_batch(index)['audio'] for index in range(number))
    return np.concatenate([np.asarray(self._latents(params, batch)) for batch in audio])

  def _fit(self, x: np.ndarray, folds: int = 1) -> np.ndarray:
    energy = np.square(x).mean(-1)
    return rvq.fit_residual_kmeans(
      x, self.spec.codec_levels, self.spec.codebook_size,
      seed=self.seed, iterations=self.recipe.kmeans_iterations, folds=folds,
      ranks=self.recipe.ranks, weights=(energy + _SILENCE * energy.mean()) ** -self.recipe.evenness,
    )  # fmt: skip

  # One step.

  def train_step(
    self, state: Any, batch: Batch, rng: jax.Array, optimizer: Any
  ) -> tuple[Any, dict[str, jax.Array]]:
    """One update of codec and discriminators by gradient, of codebooks by moving average."""
    recipe, audio = self.recipe, batch['audio']
    depth_rng, revive_rng = jax.random.split(rng)
    (output, on_latents), pull, (found, parts) = jax.vjp(
      lambda params: self._transmit(params, audio, depth_rng, state.aux),
      codec_part(state.params), has_aux=True,
    )  # fmt: skip
    # The first hop has no earlier frame to overlap with: it cannot be right.
    judged = objective.judge(
      audio[:, self._hop :], output[:, self._hop :], recipe, self.spec.sample_rate, state.step,
      state.aux.get('balance'), self._adversary(state.params),
    )  # fmt: skip
    back = jnp.pad(judged.gradient, [(0, 0), (self._hop, 0), (0, 0)])
    (gradients,) = pull((back, jnp.ones_like(on_latents)))
    if 'trainable' in state.aux:
      gradients = jax.tree.map(jnp.multiply, gradients, state.aux['trainable'])
    norm = optax.global_norm(gradients)
    if judged.discriminator_gradients is not None:
      gradients[DISCRIMINATORS] = judged.discriminator_gradients
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = jax.tree.map(jnp.add, state.params, updates)
    aux, revived = state.aux, jnp.zeros([], jnp.int32)
    if recipe.train_only == DECODER:
      params['encoder'] = state.params['encoder']  # Whatever the optimizer does without gradient.
    else:
      aux, revived = codebooks.follow(aux, found, revive_rng, state.step, recipe)
    if judged.balance:
      aux = {**aux, 'balance': judged.balance}
    metrics = {
      'loss': judged.loss + on_latents, **judged.metrics, **parts, 'weight_gradient_norm': norm,
      'revived_codes': revived, 'steps': jnp.ones([]),
    }  # fmt: skip
    return state.replace(
      step=state.step + 1, params=params, opt_state=opt_state, aux=aux
    ), metrics

  def summarize(self, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Sums over steps -> means per step; adversarial ones per step with discriminators."""
    metrics = {name: float(np.sum(value)) for name, value in metrics.items()}
    steps, adversarial = metrics.pop('steps'), metrics.pop('adversarial_steps', 0.0)
    counts = dict.fromkeys(metrics, steps)
    for name in metrics:
      if name.removeprefix('output_gradient/') in objective.ADVERSARIAL_METRICS:
        counts[name] = adversarial
    return {name: value / counts[name] for name, value in metrics.items() if counts[name]}

  def _adversary(self, params: Tree) -> tuple[Tree, DiscriminatorConfig] | None:
    if self.discriminator_config is None:
      return None
    return params[DISCRIMINATORS], self.discriminator_config

  def _transmit(
    self, params: Tree, audio: jax.Array, rng: jax.Array, aux: Tree
  ) -> tuple[tuple[jax.Array, jax.Array], tuple[rvq.Assignments, dict[str, jax.Array]]]:
    """((decoder's output like `audio`, loss on latents), (what these chose, the loss's parts))."""
    recipe = self.recipe
    latents = self.latents(params, audio)
    if recipe.train_only == DECODER:
      latents = jax.lax.stop_gradient(latents)
    depths = self._draw_depths(rng, len(audio)) * (aux['calibrated'] > 0)
    found = codebooks.assign(aux, jax.lax.stop_gradient(latents), depths)
    seen, commitment = self._quantize(latents, found.quantized, depths)
    loss, parts = recipe.commitment_weight * commitment, {'commitment': commitment}
    free = latents[..., recipe.num_carried :]
    if recipe.decorrelation_weight:
      parts['decorrelation'] = losses.decorrelation_loss(free)
      loss += recipe.decorrelation_weight * parts['decorrelation']
    if recipe.free_level is not None:
      parts['level'] = losses.level_loss(free, recipe.free_level)
      loss += recipe.free_level_weight * parts['level']
    return (self.output(params, seen)[:, : audio.shape[1]], loss), (found, parts)

  def _draw_depths(self, rng: jax.Array, batch_size: int) -> jax.Array:
    """[B] levels per example, 0 for those that bypass the quantizer."""
    bypass_rng, depth_rng = jax.random.split(rng)
    choices = jnp.asarray(depth_choices(self.spec.codec_levels, self.recipe.depths))
    depths = choices[jax.random.randint(depth_rng, [batch_size], 0, len(choices))]
    # Exactly the share that bypasses, whatever the batch, so that steps are alike.
    ranks = jax.random.permutation(bypass_rng, batch_size)
    return jnp.where(ranks < round(self.recipe.bypass_rate * batch_size), 0, depths)

  def _quantize(self, latents: jax.Array, quantized: jax.Array, depths: jax.Array):
    """What the decoder sees (with the gradient passed straight through) and the commitment."""
    quantized = jnp.reshape(quantized, latents.shape)
    coded = (depths > 0)[:, None, None].astype(latents.dtype)
    difference = coded * (quantized - latents)
    variance = jnp.mean(jnp.var(latents, axis=(0, 1)))
    commitment = jnp.mean(jnp.square(difference)) / jax.lax.stop_gradient(variance + 1e-6)
    return latents + jax.lax.stop_gradient(difference), commitment


_LEVEL_BATCHES = 20  # Of which the deviations of free latents are taken.
# Energy under which latents count as silent, as a share of the mean.
_SILENCE = 1e-4

# By the number of an array's axes: biases and scales; kernels [time, frequency, in, out].
_AXES = {1: ('mlp',), 4: (None, None, 'embed', 'mlp')}


def codec_part(params: Tree) -> Tree:
  """Encoder and decoder of a training run's parameters."""
  return {name: params[name] for name in CODEC_PARTS}
