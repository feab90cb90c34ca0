"""SeqIO preprocessors: v1's two steps with v1's draws, and ours, keyed on (seed, index, epoch)."""

import seqio
import tensorflow as tf

from models.spec import LiveMusicSpec
from tasks import crops, styles

# Bits of a record's position: `index` and `epoch` travel with every example of our own tasks.
POSITION_FEATURES = ('index', 'epoch')


def construct_v1_example(spec: LiveMusicSpec, prompt_draw_secs: int = 40):
  """v1's first step: parses a record, draws prompt and start from two seeds, cuts the example."""
  grid = crops.CropGrid.of(spec)

  @seqio.map_over_dataset(num_seeds=2)
  def construct(record, seeds):
    codes = tf.ensure_shape(tf.io.parse_tensor(record['acoustic_tokens'], tf.int32), [None, None])
    style = tf.ensure_shape(tf.io.parse_tensor(record['style_tokens'], tf.int32), [None, None])
    clip_secs = tf.shape(codes)[0] // grid.frame_rate
    draw = tf.random.stateless_uniform([], seeds[0], 0, prompt_draw_secs, tf.int32)
    prompt = crops.prompt_secs(draw, clip_secs, spec)
    last = clip_secs - (prompt + grid.chunk_secs)
    start = tf.random.stateless_uniform([], seeds[1], 0, last + 1, tf.int32)
    frame_rate = grid.frame_rate
    return crops.build_example(codes, style, prompt * frame_rate, start * frame_rate, spec)

  return construct


def drop_v1_style(spec: LiveMusicSpec, probability: float = 0.1):
  """v1's second step: masks the style with a categorical draw from one seed."""

  @seqio.map_over_dataset(num_seeds=1)
  def drop(example, seed):
    logits = tf.math.log([[1.0 - probability, probability]])
    masked = tf.random.stateless_categorical(logits, 1, seed)[0, 0] == 1
    return {**example, 'inputs': crops.mask_style(example['inputs'], masked, spec)}

  return drop


def count_epochs(dataset: tf.data.Dataset) -> tf.data.Dataset:
  """Adds 'epoch' int64 where the source did not: one more whenever the index starts anew."""
  if 'epoch' in dataset.element_spec:
    return dataset

  def step(state, example):
    previous, epoch = state
    epoch += tf.cast(example['index'] <= previous, tf.int64)
    return (example['index'], epoch), {**example, 'epoch': epoch}

  return dataset.scan((tf.constant(-1, tf.int64), tf.constant(0, tf.int64)), step)


@seqio.map_over_dataset(num_seeds=1)
def _seed_only(unused_number, seed):
  return seed


def base_seed() -> tf.Tensor:
  """A seed int64 [2] that SeqIO's own seed determines; to be called inside a preprocessor.

  SeqIO hands a preprocessor a stream of seeds, one for each position of the stream. Draws that must
  not depend on where a run was resumed take the stream's first value only.
  """
  stream = _seed_only(tf.data.Dataset.range(1))
  return tf.stack(stream.get_single_element())


def random_crops(
  options: crops.CropOptions,
  spec: LiveMusicSpec,
  style: styles.StyleOptions = styles.OWN_STYLE,
):
  """Clips -> random examples, drawn anew in each epoch and independent of their neighbours."""

  def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
    seed = base_seed()

    def crop(clip):
      key = crops.draw_key(seed, clip['index'], clip['epoch'])
      style_tokens = styles.restyle(clip, key, style)
      example = crops.random_crop(clip['acoustic_tokens'], style_tokens, key, options, spec)
      return {**example, **{name: clip[name] for name in POSITION_FEATURES}}

    return dataset.map(crop, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

  return preprocess


def fixed_crops(crops_per_clip: int, spec: LiveMusicSpec):
  """Clips -> up to `crops_per_clip` examples each, all different, the same ones always.

  Crop k of clip i has the index i * crops_per_clip + k; a clip too short for `crops_per_clip`
  different places gives fewer examples, and its last indices are left out.
  """

  def preprocess(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def all_crops(clip):
      codes = clip['acoustic_tokens']
      num_crops = crops.num_fixed_crops(codes, crops_per_clip, spec)

      def crop(number):
        place = tf.cast(number, tf.int32)
        example = crops.fixed_crop(codes, clip['style_tokens'], place, num_crops, spec)
        index = clip['index'] * crops_per_clip + number
        return {**example, 'index': index, 'epoch': clip['epoch']}

      return tf.data.Dataset.range(tf.cast(num_crops, tf.int64)).map(crop)

    return dataset.flat_map(all_crops)

  return preprocess
