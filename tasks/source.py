"""Token records as a SeqIO data source in global index order, whatever the number of hosts.

Record i of a split lies in shard i mod S, so reading the S shards round-robin gives the records in
the order of their index. Counting on through the epochs, example n of the stream is record
n mod N in epoch n // N, and belongs to host n mod H. A host therefore reads in each epoch those
shards whose number has one residue mod H; the residue moves on by N from epoch to epoch.
"""

import functools
import json
import pathlib
import re

import seqio
import tensorflow as tf

from models.spec import MAGENTA_RT_V1, LiveMusicSpec

_EMBEDDINGS = ('style_embeddings',)
COMPLETION_MARKER = 'COMPLETED'
_SHARD_NAME = re.compile(
  r'(?P<name>.+)-(?P<split>[^-]+)\.tfrecord-(?P<shard>\d{5,})-of-(?P<num>\d{5,})'
)


def find_token_folder(data_dir: str | pathlib.Path) -> pathlib.Path:
  """The one folder at or below `data_dir` (two levels at most) that holds finished token records.

  Raises:
    ValueError: no such folder, several, or one whose preparation has not finished.
  """
  root = pathlib.Path(data_dir).expanduser()
  found = [
    path.parent
    for pattern in ('dataset_info.json', '*/dataset_info.json', '*/*/dataset_info.json')
    for path in sorted(root.glob(pattern))
    # Hidden folders are data sets in the making.
    if not any(part.startswith('.') for part in path.relative_to(root).parts)
  ]
  finished = [folder for folder in found if (folder / COMPLETION_MARKER).exists()]
  if len(finished) == 1:
    return finished[0]
  if finished:
    raise ValueError(
      f'{root} holds several token data sets: {", ".join(map(str, finished))}. Name one of them.'
    )
  if found:
    raise ValueError(
      f'{found[0]} has no {COMPLETION_MARKER} marker: its preparation has not finished. '
      'Run prepare.py again; it resumes.'
    )
  raise ValueError(f'No token records at or below {root}. Make them with prepare.py.')


def split_files(folder: pathlib.Path) -> dict[str, list[str]]:
  """Shards of each split, in order.

  Raises:
    ValueError: a shard is missing.
  """
  shards: dict[str, dict[int, str]] = {}
  totals: dict[str, int] = {}
  for path in sorted(folder.iterdir()):
    match = _SHARD_NAME.fullmatch(path.name)
    if match:
      shards.setdefault(match['split'], {})[int(match['shard'])] = str(path)
      totals[match['split']] = int(match['num'])
  for split, found in shards.items():
    missing = sorted(set(range(totals[split])) - set(found))
    if missing:
      raise ValueError(f'{folder}: split {split!r} lacks shard {missing[0]} of {totals[split]}.')
  return {split: [found[i] for i in sorted(found)] for split, found in shards.items()}


def split_sizes(folder: pathlib.Path) -> dict[str, int]:
  """Number of records of each split, from the TFDS metadata."""
  info = json.loads((folder / 'dataset_info.json').read_text())
  return {
    split['name']: sum(int(length) for length in split['shardLengths']) for split in info['splits']
  }


def compression_of(folder: pathlib.Path) -> str:
  """How shards are compressed, '' or 'GZIP', as the statistics beside them say."""
  try:
    stats = json.loads((folder / 'stats.json').read_text(encoding='utf-8'))
  except FileNotFoundError:
    return ''
  return stats.get('format', {}).get('compression', '')


def count_records(files: list[str], compression: str = '') -> int:
  """Counts by reading; for files without metadata."""
  return sum(1 for _ in tf.data.TFRecordDataset(files, compression))


class TokenRecordSource(seqio.DataSource):
  """Parsed clips of a token data set in global index order.

  Elements: 'acoustic_tokens' int32 [frames, levels], 'style_tokens' int32 [windows, levels],
  'index' int64 scalar (position in the split); from `stream` also 'epoch' int64 scalar.
  """

  def __init__(
    self,
    files: dict[str, list[str]],
    num_records: dict[str, int] | None = None,
    spec: LiveMusicSpec = MAGENTA_RT_V1,
    *,
    embeddings: bool = False,
    compression: str = '',
  ):
    """Of the shards of each split; `embeddings` adds 'style_embeddings' float32 [windows, D]."""
    self._embeddings, self._compression = embeddings, compression
    self._files = {split: list(paths) for split, paths in files.items()}
    self._spec = spec
    if num_records is None:
      num_records = {
        split: count_records(paths, compression) for split, paths in self._files.items()
      }
    super().__init__(splits=sorted(self._files), num_input_examples=num_records)

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return False

  def list_shards(self, split: str) -> list[str]:
    if split not in self._files:
      raise ValueError(f'There is no split {split!r}; the data set has {sorted(self._files)}.')
    return self._files[split]

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
      ValueError: the split is empty, or the shards do not divide among the hosts.
    """
    self.list_shards(split)
    total = self.num_input_examples(split)
    if not total:
      raise ValueError(f'Split {split!r} has no records.')
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
    indexed = records.enumerate()
    return indexed.map(
      lambda position, record: self._parse(residue + position * num_hosts, record),
      num_parallel_calls=tf.data.AUTOTUNE,
      deterministic=True,
    )

  def _parse(self, index: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
    features = tf.io.parse_single_example(
      record,
      {
        name: tf.io.FixedLenFeature([], tf.string)
        for name in ('acoustic_tokens', 'style_tokens', *_EMBEDDINGS[: self._embeddings])
      },
    )
    codes = tf.io.parse_tensor(features['acoustic_tokens'], tf.int32)
    style = tf.io.parse_tensor(features['style_tokens'], tf.int32)
    codes = tf.ensure_shape(codes, [None, None])[:, : self._spec.target_levels]
    parsed = {
      'acoustic_tokens': codes,
      'style_tokens': tf.ensure_shape(style, [None, None]),
      'index': index,
    }
    for name in _EMBEDDINGS[: self._embeddings]:
      embedded = tf.io.parse_tensor(features[name], tf.float32)
      parsed[name] = tf.ensure_shape(embedded, [None, None])
    return parsed
