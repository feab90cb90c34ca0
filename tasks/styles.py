"""What stands for a clip's style in training: its tokens, tokens of a jittered embedding, a prompt.

Style tokens of 10 s of music almost name the excerpt. A model that is tuned on few tracks can use
them to find the track instead of the sound; noise on the embedding before it is quantized, or one
prompt for all, takes that way out. Pure TensorFlow functions of their arguments, draws included.
"""

import dataclasses
import hashlib
from typing import Any

import numpy as np
import tensorflow as tf

_FOLD = 0x57  # Keeps the noise apart from the draws of the crop.


@dataclasses.dataclass(frozen=True, eq=False)
class StyleOptions:
  """How training styles clips; the defaults leave the tokens as they are.

  Attributes:
    jitter: standard deviation of the noise on each coordinate of the embedding (whose length is
      then brought back to what it was); 0 for none. 0.03 to 0.08 for embeddings of length 1.
    prompt: tokens of one style for all clips, or None.
    codebooks: float32 [levels, codebook_size, style_dim] of the style model; jitter needs them.

  Raises:
    ValueError: the jitter is negative, both are asked for, or codebooks are missing.
  """

  jitter: float = 0.0
  prompt: tuple[int, ...] | None = None
  codebooks: np.ndarray | None = None

  def __post_init__(self):
    if not 0 <= self.jitter < float('inf'):
      raise ValueError(f'style jitter {self.jitter} is not a number of at least 0.')
    if self.jitter and self.prompt is not None:
      raise ValueError('A fixed style prompt has nothing to jitter: set one of the two.')
    if self.jitter and self.codebooks is None:
      raise ValueError("Style jitter needs the style model's codebooks.")

  @property
  def needs_embeddings(self) -> bool:
    return self.jitter > 0

  @property
  def identity(self) -> tuple[Any, ...]:
    """Equal for options that style alike."""
    digest = ''
    if self.needs_embeddings:
      digest = hashlib.sha256(np.ascontiguousarray(self.codebooks).tobytes()).hexdigest()
    return self.jitter, self.prompt, digest


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
  if not options.jitter:
    return tokens
  embeddings = clip['style_embeddings']
  key = tf.random.experimental.stateless_fold_in(key, _FOLD)
  noisy = embeddings + options.jitter * tf.random.stateless_normal(tf.shape(embeddings), key)
  length = tf.norm(noisy, axis=1, keepdims=True)
  noisy = noisy * tf.norm(embeddings, axis=1, keepdims=True) / tf.maximum(length, 1e-9)
  return quantize(noisy, tf.constant(options.codebooks, tf.float32))
