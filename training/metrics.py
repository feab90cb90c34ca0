"""Metrics of a run: sums become T5X's tags, tags go to metrics.jsonl and to TensorBoard."""

import contextlib
import json
import pathlib
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from models import notices
from training import disk

FILE_NAME = 'metrics.jsonl'
NUM_STEPS = 'num_steps'


def sum_metrics(steps: list[Mapping[str, Any]]) -> dict[str, np.ndarray]:
  """Sums the metrics of several steps in float64; adds 'num_steps'."""
  names = steps[0].keys() if steps else ()
  summed = {
    name: np.sum([np.asarray(step[name], np.float64) for step in steps], axis=0) for name in names
  }
  return {**summed, NUM_STEPS: np.float64(len(steps))}


def summarize(trainable: Any, summed: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Summed metrics -> name -> value for the writers.

  A trainable's own `summarize` is asked first. Without one, sums of a language model become T5X's
  tags, and anything else the mean over the steps, vectors as name/00, name/01, ...
  """
  if hasattr(trainable, 'summarize'):
    named = trainable.summarize(dict(summed))
    values = {name: float(value) for name, value in named.items() if name != NUM_STEPS}
  elif 'level_weight' in summed:
    values = token_metrics(summed)
  else:
    values = {}
    for name in summed:
      if name != NUM_STEPS:
        values.update(_spread(name, summed[name] / summed[NUM_STEPS]))
  return values


def token_metrics(summed: Mapping[str, np.ndarray]) -> dict[str, float]:
  """T5X's tags from the sums of `DepthformerModel.loss_fn`, and loss and accuracy per RVQ level.

  'loss' is the mean over steps of the summed loss, as in T5X; the losses per token are in nats.
  'loss/level_03' is the cross-entropy of level 3 (z-loss excluded).
  """
  steps, tokens = summed[NUM_STEPS], summed['weight_sum']
  cross_entropy = summed['loss_sum'] - summed['z_loss']
  values = {
    'loss': summed['loss_sum'] / steps,
    'loss_per_nonpadding_target_token': summed['loss_sum'] / tokens,
    'cross_ent_loss': cross_entropy / steps,
    'cross_ent_loss_per_nonpadding_target_token': cross_entropy / tokens,
    'z_loss': summed['z_loss'] / steps,
    'accuracy': summed['correct'] / tokens,
  }
  if 'weight_gradient_norm' in summed:
    values['weight_gradient_norm'] = summed['weight_gradient_norm'] / steps
  for name in ('loss', 'correct'):
    per_level = summed[f'level_{name}'] / np.maximum(summed['level_weight'], 1e-9)
    tag = 'accuracy' if name == 'correct' else name
    values.update({f'{tag}/level_{i:02d}': value for i, value in enumerate(per_level)})
  return {name: float(value) for name, value in values.items()}


def _spread(name: str, value: np.ndarray) -> dict[str, float]:
  value = np.asarray(value)
  if value.ndim == 0:
    return {name: float(value)}
  return {f'{name}/{i:02d}': float(v) for i, v in enumerate(value.reshape(-1))}


class Writers:
  """Writes scalars to MODEL_DIR/metrics.jsonl always and to TensorBoard events where possible.

  A line of metrics.jsonl is {"step": 100, "stream": "train", "loss": 6.9, ...}; the events of a
  stream lie in MODEL_DIR/<stream>/. TensorBoard goes through clu, which imports TensorFlow; it is
  imported at the first `write`.
  """

  def __init__(self, model_dir: str | pathlib.Path, *, tensorboard: bool = True):
    self._dir = pathlib.Path(model_dir)
    self._dir.mkdir(parents=True, exist_ok=True)
    self._tensorboard = tensorboard
    self._event_writers: dict[str, Any] = {}

  def rewind(self, step: int, anew: Collection[str] = ()):
    """Drops the lines after `step`, and those of `step` in the streams `anew`.

    A run that is started again makes these steps, or that evaluation, again.
    """
    path = self._dir / FILE_NAME
    if not path.exists():
      return
    kept = [
      line for line in read_metrics(self._dir)
      if line['step'] < step or line['step'] == step and line['stream'] not in anew
    ]  # fmt: skip
    partial = path.with_suffix('.partial')
    with self._told():
      partial.write_text(''.join(json.dumps(line) + '\n' for line in kept))
      partial.replace(path)

  def write(self, step: int, values: Mapping[str, float], stream: str = 'train'):
    """Appends one line, and one event per value."""
    line = {'step': step, 'stream': stream, **values}
    with self._told(), open(self._dir / FILE_NAME, 'a', encoding='utf-8') as file:
      file.write(json.dumps(line) + '\n')
    writer = self._event_writer(stream)
    if writer is not None:
      writer.write_scalars(step, {name: float(value) for name, value in values.items()})

  def close(self):
    for writer in self._event_writers.values():
      writer.close()
    self._event_writers.clear()

  @contextlib.contextmanager
  def _told(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      way_out = 'Started again, the run goes on from its newest checkpoint.'
      raise disk.disk_error(FILE_NAME, self._dir, error.errno, way_out) from error

  def _event_writer(self, stream: str) -> Any | None:
    if not self._tensorboard:
      return None
    if stream not in self._event_writers:
      try:
        from clu import metric_writers
      except ImportError as error:
        notices.say(f'No TensorBoard events, only {FILE_NAME}: {error}')
        self._tensorboard = False
        return None
      self._event_writers[stream] = metric_writers.SummaryWriter(str(self._dir / stream))
    return self._event_writers[stream]


class NoWriters:
  """What a process writes that is not the first: nothing."""

  def rewind(self, step: int, anew: Collection[str] = ()):
    pass

  def write(self, step: int, values: Mapping[str, float], stream: str = 'train'):
    pass

  def close(self):
    pass


def read_metrics(model_dir: str | pathlib.Path) -> list[dict[str, Any]]:
  """The lines of metrics.jsonl; a last line cut short by a crash is left out."""
  path = pathlib.Path(model_dir) / FILE_NAME
  lines = []
  for line in path.read_text(encoding='utf-8').splitlines() if path.exists() else []:
    try:
      lines.append(json.loads(line))
    except json.JSONDecodeError:
      continue
  return lines


def values_by_step(model_dir: str | pathlib.Path, name: str) -> dict[int, float]:
  """Step -> value of one metric by its stream and name: 'training_eval/held_out/accuracy'."""
  path = pathlib.Path(model_dir) / FILE_NAME
  values = {}
  for line in path.read_text(encoding='utf-8').splitlines() if path.exists() else []:
    stream = re.search(r'"stream": "([^"]*)"', line)
    # The line of every log period is long, and there are many: only those of the stream are parsed.
    if not stream or not name.startswith(f'{stream[1]}/'):
      continue
    with contextlib.suppress(json.JSONDecodeError):
      parsed = json.loads(line)
      if (metric := name.removeprefix(f'{stream[1]}/')) in parsed:
        values[parsed['step']] = parsed[metric]
  return values
