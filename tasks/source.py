"""Token records as a SeqIO data source in global index order, whatever the number of hosts.

Record i of a split lies in shard i mod S, so reading the S shards round-robin gives the records in
the order of their index. Counting on through the epochs, example n of the stream is record
n mod N in epoch n // N, and belongs to host n mod H. A host therefore reads in each epoch those
shards whose number has one residue mod H; the residue moves on by N from epoch to epoch.

Shards are checked before the first record is read (`models.record_shards`). Checksums, the number
of records in an epoch, each record's own index and the range of its codes are checked on the way.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf
from google.protobuf.message import DecodeError

from models import record_shards, shard_bytes
from models.record_shards import (
  COMPLETION_MARKER,
  TokenDataError,
  TokenFolder,
  check_record,
  error_text,
)
from models.spec import MAGENTA_RT_V1, LiveMusicSpec

__all__ = ['COMPLETION_MARKER', 'TokenDataError', 'TokenRecordSource', 'find_token_folder']

_EMBEDDINGS = ('style_embeddings',)
# Beside the tokens; records of others have neither.
_PLACE = {
  'index': tf.io.FixedLenFeature([], tf.int64, -1),
  'track_id': tf.io.FixedLenFeature([], tf.string, ''),
}
# Shards that are searched for the record behind an error of TensorFlow, which names none.
_MAX_SEARCHED = 256


def find_token_folder(data_dir: str | pathlib.Path) -> pathlib.Path:
  """Finds the folder of token records; see `record_shards.find_token_folder`."""
  return pathlib.Path(record_shards.find_token_folder(data_dir))


class TokenRecordSource(seqio.DataSource):
  """Parsed clips of a token data set in global index order.

  Elements: 'acoustic_tokens' int32 [frames, levels], 'style_tokens' int32 [windows, levels],
  'index' int64 scalar (position in the split); from `stream` also 'epoch' int64 scalar.
  """

  def __init__(
    self,
    files: Mapping[str, Sequence[str]],
    num_records: Mapping[str, int] | None = None,
    spec: LiveMusicSpec = MAGENTA_RT_V1,
    *,
    embeddings: bool = False,
    compression: str = '',
    folder: TokenFolder | None = None,
  ):
    """Of the shards of each split.

    Args:
      files: the shards, by split, in order.
      num_records: of each split; None counts them.
      spec: token layout.
      embeddings: adds 'style_embeddings' float32 [windows, D].
      compression: of the shards, '' or 'GZIP'.
      folder: of the data set, which gives the shards of a split once they are known to be whole, in
        place of `files`.
    """
    self._embeddings, self._compression = embeddings, compression
    self._files = {split: list(paths) for split, paths in files.items()}
    self._spec, self._folder = spec, folder
    if num_records is None:
      num_records = {
        split: sum(shard_bytes.count_records(path, compression) for path in paths)
        for split, paths in self._files.items()
      }
      told = ', '.join(f'{count} of split {split!r}' for split, count in num_records.items())
      print(f'Records without a dataset_info.json are counted: {told}.', flush=True)
    super().__init__(splits=sorted(self._files), num_input_examples=num_records)

  @classmethod
  def of_folder(
    cls, folder: TokenFolder, spec: LiveMusicSpec = MAGENTA_RT_V1, *, embeddings: bool = False
  ) -> 'TokenRecordSource':
    """Makes a source of prepare.py's output; shards of a split are checked at its first use."""
    return cls(
      dict.fromkeys(folder.splits, ()),
      {split: folder.num_records(split) for split in folder.splits},
      spec,
      embeddings=embeddings,
      compression=folder.compression,
      folder=folder,
    )

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> list[str]:
    """Returns the shards of a split, in order.

    Raises:
      TokenDataError: there is no such split, or not all of its shards are whole.
    """
    if self._folder is not None:
      return self._folder.shards(split)
    if split not in self._files:
      raise TokenDataError(f'There is no split {split!r}; the data set has {sorted(self._files)}.')
    return self._files[split]

  def check(self, split: str):
    """Checks a split: raises TokenDataError if it is missing or empty, or a shard is damaged."""
    files = self.list_shards(split)
    if not self.num_input_examples(split):
      where = self._folder.path if self._folder else files[:1]
      raise TokenDataError(f'Split {split!r} of {where} has no records.')

  def get_dataset(
    self,
    split: str = 'train',
    shuffle: bool = False,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    *,
    sequence_length=None,
    use_cached: bool = False,
    num_epochs: int | None = 1,
  ) -> tf.data.Dataset:
    """One epoch of a split; SeqIO's interface. Shards are read in order: they lie shuffled."""
    del shuffle, seed, sequence_length, use_cached, num_epochs
    host, num_hosts = (shard_info.index, shard_info.num_shards) if shard_info else (0, 1)
    return self._epoch(split, tf.constant(host, tf.int64), num_hosts)

  def stream(
    self,
    split: str,
    *,
    start: int = 0,
    host: int = 0,
    num_hosts: int = 1,
    num_epochs: int | None = None,
  ) -> tf.data.Dataset:
    """The records n = start + host, start + host + num_hosts, ... counted through all epochs.

    Raises:
      TokenDataError: the split is not there or empty, or not all of its shards are whole.
      ValueError: the shards do not divide among the hosts.
    """
    self.check(split)
    total = self.num_input_examples(split)
    if not 0 <= host < num_hosts:
      raise ValueError(f'host={host} is not in 0..{num_hosts - 1}.')
    first = start + host
    first_epoch = first // total
    # Records of this host's residue that stand before the first one in its epoch.
    passed = first % total // num_hosts
    last_epoch = 2**62 if num_epochs is None else num_epochs
    later = tf.data.Dataset.range(first_epoch + 1, max(last_epoch, first_epoch + 1))

    def epoch_records(epoch):
      residue = tf.math.floormod(tf.cast(start + host, tf.int64) - epoch * total, num_hosts)
      records = self._epoch(split, residue, num_hosts)
      return records.map(lambda record: {**record, 'epoch': epoch})

    begun = epoch_records(tf.constant(first_epoch, tf.int64)).skip(passed)
    if first_epoch >= last_epoch:
      return begun.take(0)
    return begun.concatenate(later.flat_map(epoch_records))

  def _epoch(self, split: str, residue: tf.Tensor, num_hosts: int) -> tf.data.Dataset:
    files = self.list_shards(split)
    if len(files) % num_hosts:
      raise ValueError(
        f'Split {split!r} has {len(files)} shards, which {num_hosts} hosts cannot share evenly. '
        'Prepare it with a number of shards that is a multiple of the hosts.'
      )
    per_host = len(files) // num_hosts
    mine = tf.gather(tf.constant(files), residue + num_hosts * tf.range(per_host, dtype=tf.int64))
    records = tf.data.Dataset.from_tensor_slices(mine).interleave(
      functools.partial(tf.data.TFRecordDataset, compression_type=self._compression),
      cycle_length=per_host,
      block_length=1,
    )
    # A shard that loses records on the way would shift the order; one that loses all of them would
    # leave an endless search for the next.
    total = self.num_input_examples(split)
    expected = (total - residue + num_hosts - 1) // num_hosts
    records = records.apply(tf.data.experimental.assert_cardinality(expected))
    indexed = records.enumerate()
    return indexed.map(
      lambda position, record: self._parse(residue + position * num_hosts, record),
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )

  def _parse(self, index: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
    names = ('acoustic_tokens', 'style_tokens', *_EMBEDDINGS[: self._embeddings])
    features = tf.io.parse_single_example(
      record, {name: tf.io.FixedLenFeature([], tf.string) for name in names} | _PLACE
    )
    codes = tf.ensure_shape(tf.io.parse_tensor(features['acoustic_tokens'], tf.int32), [None, None])
    style = tf.ensure_shape(tf.io.parse_tensor(features['style_tokens'], tf.int32), [None, None])
    codes = codes[:, : self._spec.target_levels]
    with tf.control_dependencies([self._assert_sound(index, features, codes, style)]):
      codes = tf.identity(codes)
    parsed = {'acoustic_tokens': codes, 'style_tokens': style, 'index': index}
    for name in _EMBEDDINGS[: self._embeddings]:
      embedded = tf.io.parse_tensor(features[name], tf.float32)
      parsed[name] = tf.ensure_shape(embedded, [None, None])
    return parsed

  def _assert_sound(
    self, index: tf.Tensor, features: dict[str, tf.Tensor], codes: tf.Tensor, style: tf.Tensor
  ) -> tf.Operation:
    """`check_record` in the graph, and that the record's own index is its place in the split.

    Of the codes, the levels that training reads; a negative code is a large one without its sign.
    """
    spec = self._spec
    least = ((codes, spec.chunk_frames, spec.target_levels), (style, 1, spec.style_levels))
    sound = [
      (tf.shape(values)[0] >= rows) & (tf.shape(values)[1] >= levels)
      & (tf.reduce_max(tf.bitcast(values, tf.uint32)) < spec.codebook_size)
      for values, rows, levels in least
    ]  # fmt: skip
    place = features['index']
    if self._folder is not None:
      sound.append((place == index) | (place < 0))
    what = f'tokens outside of 0..{spec.codebook_size - 1}, too few of them, or a wrong place'
    told = ['A token record is not sound:', what, 'record', index, 'of the split, its own index',
            place, 'track', features['track_id']]  # fmt: skip
    return tf.debugging.Assert(tf.reduce_all(tf.stack(sound)), told)

  def explain(self, split: str, position: int, error: Exception) -> TokenDataError:
    """Finds shard and record behind an error of TensorFlow, which names neither.

    Args:
      split: that was read.
      position: of the first record, counted through the epochs, that did not come.
      error: what was raised instead.
    """
    try:
      # One may have been cut or removed since the first look.
      files = self._folder.shards(split, anew=True) if self._folder else self.list_shards(split)
    except TokenDataError as found:
      return found
    first = position % max(1, self.num_input_examples(split)) % max(1, len(files))
    for path in (files[first:] + files[:first])[:_MAX_SEARCHED]:
      if fault := self._fault(path, files.index(path), len(files)):
        way_out = self._folder.remake(path) if self._folder else 'Make these records again.'
        return TokenDataError(f'{path}: {fault}.', way_out)
    return TokenDataError(
      f'Split {split!r} of {pathlib.Path(files[0]).parent} could not be read behind record '
      f'{position - 1}, and its shards look sound now: {error_text(error)}.',
      'Check that disk, and run this again.',
    )

  def _fault(self, path: str, shard: int, num_shards: int) -> str:
    """The first thing that is wrong in a shard, in words; '' where nothing is."""
    place, track = 0, ''
    try:
      for record in tf.data.TFRecordDataset(path, self._compression).as_numpy_iterator():
        features = tf.train.Example.FromString(record).features.feature
        track = b''.join(features['track_id'].bytes_list.value).decode(errors='replace')
        codes, style = (
          tf.io.parse_tensor(features[name].bytes_list.value[0], tf.int32).numpy()
          for name in ('acoustic_tokens', 'style_tokens')
        )
        index = [*features['index'].int64_list.value, -1][0]
        wanted = shard + place * num_shards
        if fault := check_record(codes, style, self._spec):
          return f'record {place} (index {max(index, wanted)}, track {track!r}): {fault}'
        if self._folder is not None and index not in (-1, wanted):
          return f'record {place} has the index {index}, there should be record {wanted}'
        place += 1
    except tf.errors.NotFoundError:
      return 'the file is gone'
    except tf.errors.DataLossError as error:
      return f'record {place} is damaged ({error_text(error)})'
    except (tf.errors.OpError, IndexError, ValueError, DecodeError) as error:
      return f'record {place} does not hold tokens ({error_text(error)})'
    return ''
