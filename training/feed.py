"""Batches of token examples through SeqIO. Importing this module imports no TensorFlow."""

from collections.abc import Iterator
from typing import Any

import numpy as np


class TokenFeed:
  """Batches of a registered live music task; batch s holds examples [s B, (s + 1) B).

  A batch is {'encoder_input_tokens': int32 [B, inputs_length], 'decoder_target_tokens': int32
  [B, targets_length], 'index': int32 [B]}; 'index' counts the records of the split.
  """

  def __init__(
    self,
    task_name: str,
    split: str,
    batch_size: int,
    *,
    seed: int = 0,
    num_epochs: int | None = None,
    host: int = 0,
    num_hosts: int = 1,
  ):
    """Describes the stream; nothing is read yet.

    Args:
      task_name: of `tasks.registry.live_music_task` or `live_music_eval_task`.
      split: such as 'train'.
      batch_size: examples of a step over all hosts.
      seed: of every draw.
      num_epochs: None never ends.
      host: of this process.
      num_hosts: of the run.

    Raises:
      ValueError: `batch_size` is no number of examples.
    """
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
      raise ValueError(f'batch_size={batch_size!r} is not a whole number above 0.')
    self.task_name, self.split, self.batch_size = task_name, split, batch_size
    self._options = dict(seed=seed, num_epochs=num_epochs, host=host, num_hosts=num_hosts)

  def shard(self, index: int, count: int) -> 'TokenFeed':
    """The same batches, of which this one yields row `index` and every `count`-th after it."""
    options = self._options | {'host': index, 'num_hosts': count}
    return TokenFeed(self.task_name, self.split, self.batch_size, **options)

  @property
  def num_examples(self) -> int:
    """Examples in one epoch of the split."""
    from tasks import stream

    return stream.num_examples(self.task_name, self.split)

  def check(self):
    """Checks the split before its first batch is read.

    Raises:
      TokenDataError: it is not there or empty, or not all of its shards are whole.
    """
    from tasks import stream

    stream.check(self.task_name, self.split)

  def examples(self, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Single examples `start`, `start + 1`, ... of the stream, as rows of batches."""
    one = TokenFeed(self.task_name, self.split, 1, seed=self._options['seed'])
    for batch in one.batches(start):
      yield {name: rows[0] for name, rows in batch.items()}

  def batches(self, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Batches `start`, `start + 1`, ... without reading those before."""
    from tasks import stream

    options = dict(self._options)
    for batch in stream.token_batches(
      self.task_name, self.split, self.batch_size, options.pop('seed'), start, **options
    ):
      yield {
        'encoder_input_tokens': batch['encoder_input_tokens'],
        'decoder_target_tokens': batch['decoder_target_tokens'],
        'index': batch['index'].astype(np.int32),
      }


class MixedFeed:
  """Batches of two feeds, a fixed share of the examples being the second's.

  Example n of the run (batch s holds [s B, (s + 1) B)) is the second feed's where
  floor((n + 1) rate) is above floor(n rate), and it takes that feed's examples in their own order:
  so the share is exact from the start, and any step can be entered without counting. The 'index'
  of the second feed's examples counts on behind the first's.
  """

  def __init__(
    self, first: TokenFeed, second: TokenFeed, rate: float, *, host: int = 0, num_hosts: int = 1
  ):
    """Describes the mixture; nothing is read yet.

    Args:
      first: its batch size is the mixture's.
      second: its own batch size does not matter.
      rate: share of the second, 0..1.
      host: of this process.
      num_hosts: of the run; each reads all examples and keeps its own.

    Raises:
      ValueError: the rate is no share.
    """
    if not 0 <= rate <= 1:
      raise ValueError(f'The replay rate {rate} is not in 0..1.')
    self.batch_size = first.batch_size
    self._feeds, self._rate = (first, second), rate
    self._host, self._num_hosts = host, num_hosts

  def shard(self, index: int, count: int) -> 'MixedFeed':
    """The same batches, of which this one yields row `index` and every `count`-th after it."""
    return MixedFeed(*self._feeds, self._rate, host=index, num_hosts=count)

  def check(self):
    """Checks both splits; see `TokenFeed.check`."""
    for feed in self._feeds:
      feed.check()

  def num_second(self, num_examples: int) -> int:
    """How many of the first `num_examples` examples are the second feed's."""
    # A rate such as 0.1 must not fall short by rounding.
    return int(np.floor(num_examples * self._rate + 1e-9))

  def batches(self, start: int = 0) -> Iterator[dict[str, np.ndarray]]:
    """Batches `start`, `start + 1`, ... without reading those before."""
    first, second = self._feeds
    example = start * self.batch_size
    behind = self.num_second(example)
    streams = (first.examples(example - behind), second.examples(behind))
    offset = first.num_examples
    while True:
      rows = []
      for _ in range(self.batch_size):
        which = self.num_second(example + 1) - self.num_second(example)
        row = next(streams[which])
        if which:
          row = row | {'index': row['index'] + np.int32(offset)}
        rows.append(row)
        example += 1
      rows = rows[self._host :: self._num_hosts]
      yield {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def token_dataset(
  task_name: str,
  split: str,
  batch_size: int,
  *,
  seed: int,
  start_step: int = 0,
  host: int = 0,
  num_hosts: int = 1,
  num_epochs: int | None = None,
) -> Any:
  """The batches of `TokenFeed` from `start_step` on, as a tf.data.Dataset without 'index'.

  Args are those of `TokenFeed`; a last batch that is not full is left out.

  Raises:
    ValueError: the sizes do not divide.
  """
  from tasks import stream

  batches = stream.batched_examples(
    task_name, split, batch_size, seed, start_step,
    host=host, num_hosts=num_hosts, num_epochs=num_epochs, drop_remainder=True,
  )  # fmt: skip
  names = ('encoder_input_tokens', 'decoder_target_tokens')
  return batches.map(lambda batch: {name: batch[name] for name in names})
