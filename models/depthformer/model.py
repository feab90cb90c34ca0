"""DepthformerModel: the language model as the rest of the system uses it."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from models.depthformer import decoding, network, objective, parameters, sampling
from models.depthformer.config import DepthformerConfig
from models.depthformer.network import Params, Segments
from models.spec import LiveMusicSpec


@dataclasses.dataclass(frozen=True)
class DepthformerModel:
  """A Depthformer of given sizes over given tokens; holds no parameters.

  Magenta RT v1's language model (Live Music Models, arXiv 2508.04651): a bidirectional encoder over
  10 s of coarse context and the style, a temporal decoder over frames, a depth decoder over levels.
  All methods are pure and can be jitted with `self` closed over; `generate` compiles itself.
  """

  config: DepthformerConfig
  spec: LiveMusicSpec = LiveMusicSpec()

  def init(self, rng: jax.Array) -> Params:
    """Initial parameters: nested dict of float32 arrays, layers stacked on the first axis."""
    return parameters.init(rng, self.config, self.spec)

  def layer_axes(self) -> Params:
    """Tree like the parameters with True where axis 0 counts layers (for optimizers)."""
    return parameters.layer_axes(self.config, self.spec)

  def logical_axes(self) -> Params:
    """Tree like the parameters with the logical axis names of each array (for partitioning)."""
    return parameters.logical_axes(self.config, self.spec)

  def encode(self, params: Params, encoder_input_tokens: jax.Array) -> jax.Array:
    """[B, inputs_length] int32 -> [B, inputs_length, embed_dim] in the activation dtype."""
    return network.encode(params, encoder_input_tokens, self.config, self.spec)

  def logits(
    self,
    params: Params,
    encoder_input_tokens: jax.Array,
    decoder_target_tokens: jax.Array,
    segment_ids: tuple[jax.Array, jax.Array] | None = None,
  ) -> jax.Array:
    """Logits of every target given those before it, float32 [B, targets_length, vocab_size].

    Args:
      params: the model's parameters.
      encoder_input_tokens: [B, inputs_length] int32.
      decoder_target_tokens: [B, targets_length] int32; shifted right inside.
      segment_ids: of packed examples, (encoder, decoder), each like the tokens; segments begin at
        frame boundaries.
    """
    hidden = self._hidden(params, encoder_input_tokens, decoder_target_tokens, segment_ids)
    logits = objective.vocabulary_logits(hidden, params['logits'])
    return logits.reshape(decoder_target_tokens.shape + (-1,))

  def loss_fn(
    self, params: Params, batch: dict[str, jax.Array], dropout_rng: jax.Array | None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Summed loss in nats and summed metrics of a batch; see `objective.loss_and_metrics`.

    Args:
      params: the model's parameters.
      batch: 'encoder_input_tokens' [B, inputs_length] and 'decoder_target_tokens'
        [B, targets_length], int32; optional: 'encoder_segment_ids', 'decoder_segment_ids',
        'decoder_loss_weights'.
      dropout_rng: key for dropout; None turns it off.
    """
    segment_ids = None
    if 'encoder_segment_ids' in batch:
      segment_ids = (batch['encoder_segment_ids'], batch['decoder_segment_ids'])
    targets = batch['decoder_target_tokens']
    hidden = self._hidden(params, batch['encoder_input_tokens'], targets, segment_ids, dropout_rng)
    return objective.loss_and_metrics(
      hidden,
      params['logits'],
      targets,
      self.config.loss_over,
      self.config.z_loss,
      self.spec,
      batch.get('decoder_loss_weights'),
    )

  def token_log_probs(
    self,
    params: Params,
    encoder_input_tokens: jax.Array,
    decoder_target_tokens: jax.Array,
    over: str = 'level',
  ) -> jax.Array:
    """log p of each target in nats, float32 [B, targets_length]; 0 at padding.

    `over` normalises over the codes of the target's own 'level' (ids of other levels get -inf) or
    over the whole 'vocabulary' (whose sum per row is v1's score).
    """
    hidden = self._hidden(params, encoder_input_tokens, decoder_target_tokens)
    return objective.token_log_probs(
      hidden, params['logits'], decoder_target_tokens, over, self.spec
    )

  def token_scores(
    self, params: Params, encoder_input_tokens: jax.Array, decoder_target_tokens: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """log p of each target among its level's codes, and whether it is the most probable of them.

    float32 and bool, both [B, targets_length]; targets without padding and of their own level.
    """
    hidden = self._hidden(params, encoder_input_tokens, decoder_target_tokens)
    log_probs, _, correct, _ = objective.target_statistics(
      hidden, params['logits'], decoder_target_tokens, 'level', self.spec
    )
    shape = decoder_target_tokens.shape
    return log_probs.reshape(shape), correct.reshape(shape)

  def generate(
    self,
    params: Params,
    encoder_input_tokens: jax.Array,
    *,
    rng: jax.Array | None = None,
    temperature: float = 1.1,
    top_k: int = 40,
    guidance_weight: float = 4.0,
    constrain_levels: bool = True,
    unconditional_inputs: jax.Array | None = None,
    max_decode_steps: int | None = None,
    reference_sampler: bool = False,
    return_scores: bool = False,
  ) -> Any:
    """Generates the chunk that follows.

    Args:
      params: the model's parameters.
      encoder_input_tokens: [B, inputs_length] int32.
      rng: sampling key; not needed at temperature 0.
      temperature: at most 1e-4 takes the best id of each step.
      top_k: samples among this many best ids; 0 among all.
      guidance_weight: w of (1 + w) conditioned - w unconditioned logits; 0 turns guidance off.
      constrain_levels: only ids of each position's own level can be drawn. Off is v1, where id 1
        ends a row (zeros follow) and any id may be drawn anywhere.
      unconditional_inputs: [B, inputs_length] of the unconditioned rows; default: the same
        context with the style masked.
      max_decode_steps: tokens to decode; the rest is 0.
      reference_sampler: draws as v1 does, over the whole vocabulary and one key a step. The
        default draws from the same distribution, faster, by other random numbers.
      return_scores: also return the summed log-probability of each row under the distribution it
        was drawn from, float32 [B] (0 when greedy).

    Returns:
      int32 [B, chunk_frames, target_levels], v1 token ids.

    Raises:
      ValueError: wrong shapes, or top_k or max_decode_steps out of range.
    """
    spec, tokens = self.spec, jnp.asarray(encoder_input_tokens)
    if tokens.ndim != 2 or tokens.shape[1] != spec.inputs_length:
      raise ValueError(f'Inputs of shape {tokens.shape} must be [B, {spec.inputs_length}].')
    if not 0 <= top_k <= spec.vocab_size:
      raise ValueError(f'top_k={top_k} is not in 0..{spec.vocab_size} (0 keeps all ids).')
    steps = spec.targets_length if max_decode_steps is None else max_decode_steps
    if not 1 <= steps <= spec.targets_length:
      raise ValueError(f'max_decode_steps={steps} is not in 1..{spec.targets_length}.')
    greedy = temperature <= sampling.GREEDY_TEMPERATURE
    if rng is None and not greedy:
      raise ValueError(f'temperature={temperature} samples and needs rng=jax.random.key(seed).')
    guided = guidance_weight != 0
    if guided:
      if unconditional_inputs is None:
        unconditional_inputs = tokens.at[:, spec.context_length :].set(spec.mask_id)
      tokens = jnp.stack([tokens, jnp.asarray(unconditional_inputs)], axis=1)
      tokens = tokens.reshape(-1, spec.inputs_length)
    options = decoding.DecodingOptions(
      num_frames=-(-steps // spec.target_levels),
      greedy=greedy,
      guided=guided,
      # A power of two, so that turning the knob compiles seldom.
      top_k_bound=0 if greedy or not top_k else 1 << (top_k - 1).bit_length(),
      constrain_levels=constrain_levels,
      reference=reference_sampler,
    )
    ids, scores = _generate(
      params,
      tokens,
      jax.random.key(0) if rng is None else rng,
      float(temperature),
      int(top_k),
      float(guidance_weight),
      model=self,
      options=options,
    )
    stride = 2 if guided else 1
    ids = _fill(ids[::stride], steps, spec)
    return (ids, scores[::stride]) if return_scores else ids

  def _hidden(
    self,
    params: Params,
    encoder_tokens: jax.Array,
    targets: jax.Array,
    segment_ids: tuple[jax.Array, jax.Array] | None = None,
    rng: jax.Array | None = None,
  ) -> jax.Array:
    """What the output layer sees, float32 [B, frames, levels, D]."""
    segments = None if segment_ids is None else Segments(*segment_ids)
    rng_encoder, rng_decoder = (None, None) if rng is None else jax.random.split(rng)
    encoded = network.encode(params, encoder_tokens, self.config, self.spec, segments, rng_encoder)
    return network.decode(
      params, encoded, encoder_tokens, targets, self.config, self.spec, segments, rng_decoder
    )


@functools.partial(jax.jit, static_argnames=('model', 'options'))
def _generate(
  params: Params,
  tokens: jax.Array,
  rng: jax.Array,
  temperature: jax.Array,
  top_k: jax.Array,
  guidance_weight: jax.Array,
  *,
  model: DepthformerModel,
  options: decoding.DecodingOptions,
) -> tuple[jax.Array, jax.Array]:
  encoded = model.encode(params, tokens)
  return decoding.decode_chunk(
    params,
    encoded,
    tokens,
    rng,
    temperature,
    top_k,
    guidance_weight,
    model.config,
    model.spec,
    options,
  )


def _fill(ids: jax.Array, steps: int, spec: LiveMusicSpec) -> jax.Array:
  """[B, frames, levels] -> [B, chunk_frames, levels] with zeros from position `steps` on."""
  ids = jnp.pad(ids, [[0, 0], [0, spec.chunk_frames - ids.shape[1]], [0, 0]])
  flat = ids.reshape(len(ids), -1)
  flat = jnp.where(jnp.arange(spec.targets_length) < steps, flat, spec.pad_id)
  return flat.reshape(ids.shape)
