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
