"""What stands for a clip's style in training: its tokens, tokens of a jittered embedding, a prompt.

Style tokens of 10 s of music almost name the excerpt. A model that is tuned on few tracks can use
them to find the track instead of the sound; noise on the embedding before it is quantized, or one
prompt for all, takes that way out. What is played later is often a preset, the mean of a catalog or
of a part of it; a model plays it as the catalog sounds if it has seen it in training. Pure
TensorFlow functions of their arguments, draws included.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

# Keep the noise and the draw of a preset apart from the draws of the crop.
_FOLD, _PRESET_FOLD = 0x57, 0x58


@dataclasses.dataclass(frozen=True, eq=False)
class StyleOptions:
  """How training styles clips; the defaults leave the tokens as they are.

  Attributes:
    jitter: standard deviation of the noise on each coordinate of the embedding (whose length is
      then brought back to what it was); 0 for none. 0.03 to 0.08 for embeddings of length 1.
    prompt: tokens of one style for all clips, or None.
    codebooks: float32 [levels, codebook_size, style_dim] of the style model; jitter needs them.
    preset_rate: share of the examples that are styled by a preset: half of them by the first one,
      the catalog's mean, half by the nearest of the others.
    presets: float32 [presets, style_dim], or None.
    preset_tokens: int32 [presets, levels] of these.

  Raises:
    ValueError: a number is out of range, two ways to style are asked for, or what they need is
      missing.
  """

  jitter: float = 0.0
  prompt: tuple[int, ...] | None = None
  codebooks: np.ndarray | None = None
  preset_rate: float = 0.0
  presets: np.ndarray | None = None
  preset_tokens: np.ndarray | None = None

  def __post_init__(self):
    if not 0 <= self.jitter < float('inf'):
      raise ValueError(f'style jitter {self.jitter} is not a number of at least 0.')
    if self.jitter and self.prompt is not None:
      raise ValueError('A fixed style prompt has nothing to jitter: set one of the two.')
    if self.jitter and self.codebooks is None:
      raise ValueError("Style jitter needs the style model's codebooks.")
    if not 0 <= self.preset_rate <= 1:
      raise ValueError(f'preset rate {self.preset_rate} is not in [0, 1].')
    if self.preset_rate and self.prompt is not None:
      raise ValueError('A fixed style prompt leaves no room for presets: set one of the two.')
    if self.preset_rate and (self.presets is None or self.preset_tokens is None):
      raise ValueError('A preset rate needs presets and their tokens.')

  @property
  def needs_embeddings(self) -> bool:
    return self.jitter > 0 or self.preset_rate > 0

  @property
  def identity(self) -> tuple[Any, ...]:
    """Equal for options that style alike."""
    arrays = (self.codebooks if self.jitter else None,
              *((self.presets, self.preset_tokens) if self.preset_rate else ()))  # fmt: skip
    digests = (
      hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
      for array in arrays if array is not None
    )  # fmt: skip
    return self.jitter, self.prompt, self.preset_rate, ' '.join(digests)


OWN_STYLE = StyleOptions()


def quantize(x: tf.Tensor, codebooks: tf.Tensor) -> tf.Tensor:
  """Greedy residual codes: float32 [N, D] and [levels, codes, D] -> int32 [N, levels]."""
  codes = []
  for codebook in tf.unstack(codebooks):
    distances = tf.reduce_sum(codebook**2, axis=1) - 2.0 * tf.matmul(x, codebook, transpose_b=True)
    nearest = tf.argmin(distances, axis=1, output_type=tf.int32)
    x = x - tf.gather(codebook, nearest)
    codes.append(nearest)
  return tf.stack(codes, axis=1)


def restyle(clip: dict[str, tf.Tensor], key: tf.Tensor, options: StyleOptions) -> tf.Tensor:
  """Style tokens of a clip as training is to see them, int32 [windows, levels].

  Args:
    clip: 'style_tokens' int32 [windows, levels]; 'style_embeddings' float32 [windows, D] where
      the options need them.
    key: stateless seed [2].
    options: see `StyleOptions`.
  """
  tokens = clip['style_tokens']
  if options.prompt is not None:
    prompt = tf.constant(options.prompt, tf.int32)
    return tf.repeat(prompt[None], tf.shape(tokens)[0], axis=0)
  if options.jitter:
    tokens = _jittered(clip['style_embeddings'], key, options)
  if options.preset_rate:
    tokens = _with_presets(tokens, clip['style_embeddings'], key, options)
  return tokens


def _with_presets(
  tokens: tf.Tensor, embeddings: tf.Tensor, key: tf.Tensor, options: StyleOptions
) -> tf.Tensor:
  """The tokens, or those of the catalog's mean, or those of each window's nearest other preset."""
  presets = tf.math.l2_normalize(tf.constant(options.presets, tf.float32), axis=1)
  of_presets = tf.constant(options.preset_tokens, tf.int32)[:, : tf.shape(tokens)[1]]
  draw = tf.random.stateless_uniform(
    [], tf.random.experimental.stateless_fold_in(key, _PRESET_FOLD)
  )
  first = tf.zeros(tf.shape(tokens)[:1], tf.int32)
  nearest = first
  if len(options.presets) > 1:
    cosines = tf.matmul(embeddings, presets[1:], transpose_b=True)  # But for the window's length.
    nearest = 1 + tf.argmax(cosines, axis=1, output_type=tf.int32)
  chosen = tf.where(draw < 0.5 * options.preset_rate, first, nearest)
  return tf.where(draw < options.preset_rate, tf.gather(of_presets, chosen), tokens)


def _jittered(embeddings: tf.Tensor, key: tf.Tensor, options: StyleOptions) -> tf.Tensor:
  key = tf.random.experimental.stateless_fold_in(key, _FOLD)
  noisy = embeddings + options.jitter * tf.random.stateless_normal(tf.shape(embeddings), key)
  length = tf.norm(noisy, axis=1, keepdims=True)
  noisy = noisy * tf.norm(embeddings, axis=1, keepdims=True) / tf.maximum(length, 1e-9)
  return quantize(noisy, tf.constant(options.codebooks, tf.float32))
