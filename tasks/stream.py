"""The examples that a training run reads: a pure function of (task, split, seed, step)."""

from collections.abc import Iterator

import numpy as np
import seqio
import tensorflow as tf

from tasks import preprocessors, registry

_CONVERTED = {'inputs': 'encoder_input_tokens', 'targets': 'decoder_target_tokens'}

# The second, where the message of the first quotes a damaged record.
_READ_ERRORS = (tf.errors.OpError, UnicodeDecodeError)


def num_examples(task_name: str, split: str) -> int:
  """Returns the examples in one epoch of a split; an evaluation task is read to count them."""
  if registry.task_info(task_name).examples_per_record == 1:
    return seqio.TaskRegistry.get(task_name).source.num_input_examples(split)
  # A short clip gives fewer examples, and its length stands in its record.
  examples = example_dataset(task_name, split, seed=0, num_epochs=1)
  try:
    return int(examples.reduce(np.int64(0), lambda count, _: count + 1))
  except _READ_ERRORS as error:
    raise seqio.TaskRegistry.get(task_name).source.explain(split, 0, error) from None


def check(task_name: str, split: str):
  """Checks a split before it is read.

  Raises:
    TokenDataError: it is not there or empty, or not all of its shards are whole.
  """
  registry.task_info(task_name)
  seqio.TaskRegistry.get(task_name).source.check(split)


def example_dataset(
  task_name: str,
  split: str,
  *,
  seed: int,
  start_example: int = 0,
  host: int = 0,
  num_hosts: int = 1,
  num_epochs: int | None = None,
) -> tf.data.Dataset:
  """Converted examples n = start_example + host, then every num_hosts-th, through all epochs.

  Example n depends on (task, split, seed, n) only, so a stream may be entered anywhere and be
  dealt out to any number of hosts.

  Returns:
    A data set of 'encoder_input_tokens' int32 [inputs_length], 'decoder_target_tokens' int32
    [targets_length], 'index' int64 and 'epoch' int64 scalars.

  Raises:
    ValueError: no records, or shards that the hosts cannot share.
  """
  info = registry.task_info(task_name)
  if info.examples_per_record != 1 and (num_hosts != 1 or start_example):
    raise ValueError(
      f'{task_name!r} gives up to {info.examples_per_record} examples per record; it is read '
      'from its start by one host.'
    )
  task = seqio.TaskRegistry.get(task_name)
  records = task.source.stream(
    split, start=start_example, host=host, num_hosts=num_hosts, num_epochs=num_epochs
  )
  records = task.preprocess_precache(records, seed=seed)
  examples = task.preprocess_postcache(records, sequence_length=None, seed=seed)

  def convert(example):
    position = {name: example[name] for name in preprocessors.POSITION_FEATURES}
    return {new: example[old] for old, new in _CONVERTED.items()} | position

  return examples.map(convert)


def batched_examples(
  task_name: str,
  split: str,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  *,
  host: int = 0,
  num_hosts: int = 1,
  num_epochs: int | None = None,
  drop_remainder: bool = False,
) -> tf.data.Dataset:
  """`example_dataset` in batches of batch_size / num_hosts, from step `start_step` on.

  The last batch of a finite stream is shorter, or left out with `drop_remainder`.

  Raises:
    ValueError: the sizes do not divide.
  """
  if batch_size < 1 or batch_size % num_hosts:
    raise ValueError(f'batch_size={batch_size} is not a positive multiple of {num_hosts} hosts.')
  examples = example_dataset(
    task_name,
    split,
    seed=seed,
    start_example=start_step * batch_size,
    host=host,
    num_hosts=num_hosts,
    num_epochs=num_epochs,
  )
  return examples.batch(batch_size // num_hosts, drop_remainder=drop_remainder).prefetch(2)


def token_batches(
  task_name: str,
  split: str,
  batch_size: int,
  seed: int,
  start_step: int = 0,
  *,
  host: int = 0,
  num_hosts: int = 1,
  num_epochs: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields the batches of step start_step, start_step + 1, ...

  Step s holds the examples [s * batch_size, (s + 1) * batch_size) of the stream, whatever the
  number of hosts; a host gets every num_hosts-th of them.

  Args:
    task_name: of `live_music_task` or `live_music_eval_task`.
    split: e.g. 'train'.
    batch_size: examples of a step over all hosts.
    seed: of every draw.
    start_step: first step wanted.
    host: of this process.
    num_hosts: of the run; divides batch_size and the number of shards.
    num_epochs: None never ends. Otherwise the last batch is filled up with rows whose tokens are
      all `spec.pad_id` (no weight in the loss) and whose index is -1.

  Yields:
    'encoder_input_tokens' int32 [batch_size / num_hosts, inputs_length], 'decoder_target_tokens'
    int32 [.., targets_length], 'index' int64 [..], 'epoch' int64 [..].

  Raises:
    TokenDataError: a record is damaged, or is not there; names shard and record.
    ValueError: the sizes do not divide.
  """
  batches = batched_examples(
    task_name, split, batch_size, seed, start_step,
    host=host, num_hosts=num_hosts, num_epochs=num_epochs,
  )  # fmt: skip
  info, size = registry.task_info(task_name), batch_size // num_hosts
  example = start_step * batch_size
  try:
    for batch in batches.as_numpy_iterator():
      yield _fill(batch, size, info.spec.pad_id)
      example += batch_size
  except _READ_ERRORS as error:
    source = seqio.TaskRegistry.get(task_name).source
    raise source.explain(split, example // info.examples_per_record, error) from None


def _fill(batch: dict[str, np.ndarray], size: int, pad_id: int) -> dict[str, np.ndarray]:
  missing = size - len(batch['index'])
  if not missing:
    return batch
  fills = {'index': -1, 'epoch': 0}
  return {
    name: np.concatenate(
      [rows, np.full([missing, *rows.shape[1:]], fills.get(name, pad_id), rows.dtype)]
    )
    for name, rows in batch.items()
  }
