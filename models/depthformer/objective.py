"""Logits, log-probabilities, loss and metrics of target tokens."""

from typing import Any

import jax
import jax.numpy as jnp

from models import logical_axes
from models.spec import LiveMusicSpec


def vocabulary_logits(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
  """float32 [..., D] times [D, vocab_size] in float32."""
  logits = jnp.dot(hidden, kernel)
  names = ('batch',) + ('length',) * (logits.ndim - 2) + ('vocab',)
  return logical_axes.constrain(logits, *names)


def level_kernels(kernel: jax.Array, spec: LiveMusicSpec) -> jax.Array:
  """Columns of the output layer [D, vocab_size] by level: [levels, D, codebook_size]."""
  size = spec.target_levels * spec.codebook_size
  used = jax.lax.slice_in_dim(kernel, spec.codec_offset, spec.codec_offset + size, axis=1)
  return used.reshape(-1, spec.target_levels, spec.codebook_size).transpose(1, 0, 2)


def level_logits(hidden: jax.Array, kernel: jax.Array, spec: LiveMusicSpec) -> jax.Array:
  """Own level's codes only: [B, frames, levels, D] -> [levels, B, frames, codebook_size]."""
  return jnp.einsum('bfqd,qdc->qbfc', hidden, level_kernels(kernel, spec))


def level_offsets(spec: LiveMusicSpec) -> jax.Array:
  """First id of each level, int32 [levels]."""
  return spec.codec_offset + jnp.arange(spec.target_levels) * spec.codebook_size


def target_statistics(
  hidden: jax.Array, kernel: jax.Array, targets: jax.Array, over: str, spec: LiveMusicSpec
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Scores of the targets, normalised over the level's codes or the vocabulary.

  Args:
    hidden: float32 [B, frames, levels, D].
    kernel: output layer [D, vocab_size].
    targets: int32 [B, targets_length].
    over: 'level' or 'vocabulary'.
    spec: token layout.

  Returns:
    (log-probability, logsumexp, is it the best, can it be scored), each [B, frames, levels]. Only
    ids of their own level can be scored over 'level'.
  """
  shape = hidden.shape[:-1]
  targets = targets.reshape(shape)
  if over == 'vocabulary':
    logits = vocabulary_logits(hidden, kernel)
    chosen, valid = targets, jnp.ones(shape, bool)
  elif over == 'level':
    logits = jnp.moveaxis(level_logits(hidden, kernel, spec), 0, 2)
    chosen = targets - level_offsets(spec)
    valid = (chosen >= 0) & (chosen < spec.codebook_size)
    chosen = jnp.where(valid, chosen, 0)
  else:
    raise ValueError(f"over={over!r} is neither 'level' nor 'vocabulary'.")
  score = jnp.take_along_axis(logits, chosen[..., None], axis=-1)[..., 0]
  best = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
  normaliser = best + jnp.log(jnp.sum(jnp.exp(logits - best[..., None]), axis=-1))
  return score - normaliser, normaliser, valid & (score >= best), valid


def token_log_probs(
  hidden: jax.Array, kernel: jax.Array, targets: jax.Array, over: str, spec: LiveMusicSpec
) -> jax.Array:
  """log p of each target, float32 [B, targets_length]: 0 at padding, -inf at impossible ids."""
  log_probs, _, _, valid = target_statistics(hidden, kernel, targets, over, spec)
  log_probs = jnp.where(valid, log_probs, -jnp.inf).reshape(targets.shape)
  return jnp.where(targets == spec.pad_id, 0.0, log_probs)


def loss_and_metrics(
  hidden: jax.Array,
  kernel: jax.Array,
  targets: jax.Array,
  over: str,
  z_loss: float,
  spec: LiveMusicSpec,
  weights: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, Any]]:
  """Cross-entropy plus z_loss * logsumexp^2, summed over the tokens that are not padding.

  Args:
    hidden: float32 [B, frames, levels, D].
    kernel: output layer [D, vocab_size].
    targets: int32 [B, targets_length].
    over: 'level' or 'vocabulary'.
    z_loss: weight of the squared logsumexp.
    spec: token layout.
    weights: [B, targets_length]; without them every token but padding counts once.

  Returns:
    The sum in nats, and metrics as sums: 'loss_sum' (z-loss included), 'z_loss', 'weight_sum',
    'correct', and per level (z-loss excluded) 'level_loss', 'level_correct', 'level_weight'.
  """
  if weights is None:
    weights = targets != spec.pad_id
  log_probs, normaliser, correct, valid = target_statistics(hidden, kernel, targets, over, spec)
  weights = weights.reshape(valid.shape).astype(jnp.float32) * valid
  cross_entropy = -log_probs * weights
  penalty = z_loss * jnp.square(normaliser) * weights
  loss = jnp.sum(cross_entropy) + jnp.sum(penalty)
  return loss, {
    'loss_sum': loss,
    'z_loss': jnp.sum(penalty),
    'weight_sum': jnp.sum(weights),
    'correct': jnp.sum(correct * weights),
    'level_loss': jnp.sum(cross_entropy, axis=(0, 1)),
    'level_correct': jnp.sum(correct * weights, axis=(0, 1)),
    'level_weight': jnp.sum(weights, axis=(0, 1)),
  }
