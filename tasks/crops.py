"""From a clip's tokens to one example: which seconds, which style row, what is masked.

Everything here is a pure TensorFlow function of its arguments, draws included. The rules are those
of Magenta RT v1's fine-tuning task: a prompt of p seconds and the chunk after it are cut out of a
clip of L whole seconds; the prompt's first levels and the style of the window that holds the
target's centre form the input.
"""

import dataclasses

import tensorflow as tf

from models.spec import LiveMusicSpec


@dataclasses.dataclass(frozen=True)
class CropOptions:
  """How training crops clips.

  Attributes:
    prompt_draw_secs: the prompt is drawn uniformly from [0, prompt_draw_secs) whole seconds, then
      capped by the context's length; 40 gives a full context in three of four draws.
    style_dropout: probability that the style is masked, which guidance needs.
    context_dropout: probability that the whole context is masked; 0 in v1.
    start: 'second' starts crops on whole seconds, as v1 does; 'frame' on any frame.
  """

  prompt_draw_secs: int = 40
  style_dropout: float = 0.1
  context_dropout: float = 0.0
  start: str = 'second'

  def __post_init__(self):
    if self.prompt_draw_secs < 1:
      raise ValueError(f'prompt_draw_secs={self.prompt_draw_secs} must be at least 1.')
    for name in ('style_dropout', 'context_dropout'):
      if not 0 <= getattr(self, name) <= 1:
        raise ValueError(f'{name}={getattr(self, name)} is not a probability in 0..1.')
    if self.start not in ('second', 'frame'):
      raise ValueError(f"start={self.start!r} is not one of 'second', 'frame'.")


V1_CROPS = CropOptions()


@dataclasses.dataclass(frozen=True)
class CropGrid:
  """Whole-second lengths of a spec's context and chunk."""

  frame_rate: int
  context_secs: int
  chunk_secs: int

  @classmethod
  def of(cls, spec: LiveMusicSpec) -> 'CropGrid':
    """Raises ValueError where the context or the chunk is not a whole number of seconds."""
    for name in ('context_frames', 'chunk_frames'):
      if getattr(spec, name) % spec.frame_rate:
        raise ValueError(
          f'{name}={getattr(spec, name)} is not a multiple of frame_rate={spec.frame_rate}; '
          'crops are made of whole seconds.'
        )
    return cls(
      spec.frame_rate,
      spec.context_frames // spec.frame_rate,
      spec.chunk_frames // spec.frame_rate,
    )


def codec_ids(codes: tf.Tensor, spec: LiveMusicSpec) -> tf.Tensor:
  """Codec codes int32 [frames, levels] -> vocabulary ids of the same shape."""
  levels = tf.range(tf.shape(codes)[-1], dtype=tf.int32)
  return codes + spec.codec_offset + levels * spec.codebook_size


def style_ids(tokens: tf.Tensor, spec: LiveMusicSpec) -> tf.Tensor:
  """Style tokens int32 [>= style_levels] -> vocabulary ids [style_levels]."""
  levels = tf.range(spec.style_levels, dtype=tf.int32)
  return tokens[: spec.style_levels] + spec.style_offset + levels * spec.codebook_size


def prompt_secs(draw: tf.Tensor, clip_secs: tf.Tensor, spec: LiveMusicSpec) -> tf.Tensor:
  """Seconds of context for a prompt draw: the draw, capped by the context and by the clip."""
  grid = CropGrid.of(spec)
  return tf.minimum(tf.minimum(draw, grid.context_secs), clip_secs - grid.chunk_secs)


def build_example(
  codes: tf.Tensor,
  style_tokens: tf.Tensor,
  prompt_frames: tf.Tensor,
  start_frame: tf.Tensor,
  spec: LiveMusicSpec,
) -> dict[str, tf.Tensor]:
  """Cuts one example out of a clip.

  Args:
    codes: int32 [frames, >= target_levels].
    style_tokens: int32 [windows, >= style_levels].
    prompt_frames: scalar int32, frames of context.
    start_frame: scalar int32, first frame of the context.
    spec: token layout.

  Returns:
    'inputs' int32 [inputs_length], 'targets' int32 [targets_length].
  """
  target_start = start_frame + prompt_frames
  prompt = codec_ids(codes[start_frame:target_start, : spec.context_levels], spec)
  missing = (spec.context_frames - prompt_frames) * spec.context_levels
  context = tf.concat(
    [tf.fill([missing], tf.constant(spec.mask_id, tf.int32)), tf.reshape(prompt, [-1])], axis=0
  )
  centre = target_start + spec.chunk_frames // 2
  row = centre // (spec.style_window_secs * spec.frame_rate)
  row = tf.minimum(row, tf.shape(style_tokens)[0] - 1)
  targets = codec_ids(
    codes[target_start : target_start + spec.chunk_frames, : spec.target_levels], spec
  )
  inputs = tf.concat([context, style_ids(style_tokens[row], spec)], axis=0)
  return {
    'inputs': tf.ensure_shape(inputs, [spec.inputs_length]),
    'targets': tf.ensure_shape(tf.reshape(targets, [-1]), [spec.targets_length]),
  }


def mask_style(inputs: tf.Tensor, masked: tf.Tensor, spec: LiveMusicSpec) -> tf.Tensor:
  """Sets the style ids of inputs [inputs_length] to the mask where `masked` (scalar) is true."""
  if not spec.style_levels:
    return inputs
  is_style = tf.range(spec.inputs_length) >= spec.context_length
  return tf.where(is_style & masked, spec.mask_id, inputs)


def mask_context(inputs: tf.Tensor, masked: tf.Tensor, spec: LiveMusicSpec) -> tf.Tensor:
  """Sets the context ids of inputs [inputs_length] to the mask where `masked` is true."""
  is_context = tf.range(spec.inputs_length) < spec.context_length
  return tf.where(is_context & masked, spec.mask_id, inputs)


def draw_key(seed: tf.Tensor, index: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
  """A stateless seed int32 [2] that depends on (seed [2], record index, epoch) and nothing else."""
  key = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int32), index)
  return tf.random.experimental.stateless_fold_in(key, epoch)


def random_crop(
  codes: tf.Tensor,
  style_tokens: tf.Tensor,
  key: tf.Tensor,
  options: CropOptions,
  spec: LiveMusicSpec,
) -> dict[str, tf.Tensor]:
  """One random example of a clip; the same key gives the same example.

  Args:
    codes: int32 [frames, >= target_levels]; at least one chunk long.
    style_tokens: int32 [windows, >= style_levels].
    key: stateless seed [2]; see `draw_key`.
    options: how to crop.
    spec: token layout.

  Returns:
    'inputs' and 'targets' of `build_example`.
  """
  grid = CropGrid.of(spec)
  keys = tf.unstack(tf.random.experimental.stateless_split(key, 4))
  frames = tf.shape(codes)[0]
  clip_secs = frames // grid.frame_rate
  draw = tf.random.stateless_uniform([], keys[0], 0, options.prompt_draw_secs, tf.int32)
  prompt = prompt_secs(draw, clip_secs, spec)
  if options.start == 'second':
    last = clip_secs - (prompt + grid.chunk_secs)
    start = tf.random.stateless_uniform([], keys[1], 0, last + 1, tf.int32) * grid.frame_rate
  else:
    last = frames - (prompt * grid.frame_rate + spec.chunk_frames)
    start = tf.random.stateless_uniform([], keys[1], 0, last + 1, tf.int32)
  example = build_example(codes, style_tokens, prompt * grid.frame_rate, start, spec)
  inputs = example['inputs']
  if options.style_dropout:
    drop = tf.random.stateless_uniform([], keys[2]) < options.style_dropout
    inputs = mask_style(inputs, drop, spec)
  if options.context_dropout:
    drop = tf.random.stateless_uniform([], keys[3]) < options.context_dropout
    inputs = mask_context(inputs, drop, spec)
  return {**example, 'inputs': inputs}


def num_fixed_crops(codes: tf.Tensor, crops_per_clip: int, spec: LiveMusicSpec) -> tf.Tensor:
  """Returns the number of fixed crops of a clip, scalar int32: at most one for each place.

  Equal crops of a short clip would count in a loss like as many clips.

  Args:
    codes: int32 [frames, levels].
    crops_per_clip: wanted.
    spec: token layout.
  """
  return tf.minimum(crops_per_clip, _last_fixed_start(codes, spec)[0] + 1)


def _last_fixed_start(codes: tf.Tensor, spec: LiveMusicSpec) -> tuple[tf.Tensor, tf.Tensor]:
  """The last whole second at which a fixed crop may start, and its seconds of context."""
  grid = CropGrid.of(spec)
  clip_secs = tf.shape(codes)[0] // grid.frame_rate
  prompt = prompt_secs(tf.constant(grid.context_secs), clip_secs, spec)
  return clip_secs - (prompt + grid.chunk_secs), prompt


def fixed_crop(
  codes: tf.Tensor,
  style_tokens: tf.Tensor,
  number: tf.Tensor,
  num_crops: tf.Tensor | int,
  spec: LiveMusicSpec,
) -> dict[str, tf.Tensor]:
  """Crop `number` of `num_crops` evenly spaced ones, each with as much context as there is.

  Args:
    codes: int32 [frames, >= target_levels]; at least one chunk long.
    style_tokens: int32 [windows, >= style_levels].
    number: scalar int32 in 0..num_crops - 1.
    num_crops: at most `num_fixed_crops`, or crops are equal.
    spec: token layout.

  Returns:
    'inputs' and 'targets' of `build_example`; nothing is masked but missing context.
  """
  last, prompt = _last_fixed_start(codes, spec)
  start = last * number // tf.maximum(1, num_crops - 1)
  frame_rate = CropGrid.of(spec).frame_rate
  return build_example(codes, style_tokens, prompt * frame_rate, start * frame_rate, spec)
