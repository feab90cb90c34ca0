"""Between two lines of metrics: sums, times, and the check that every loss is finite."""

import collections
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from training import metrics as metrics_lib


class Meter:
  """Collects the metrics of the steps, one step behind the device.

  `add` waits for the step before the one it is given: the device has one step to work on while the
  next batch is fetched, and the clock stays honest.
  """

  def __init__(self, trainable: Any, optimizer: Any):
    self._trainable = trainable
    self._learning_rate = getattr(optimizer, 'learning_rate', None)
    self._began = time.monotonic()
    self._steps: list[dict[str, Any]] = []
    self._seconds: collections.Counter = collections.Counter()
    self._window_began = self._began
    self._examples = 0
    self._unchecked: tuple[int, dict[str, Any]] | None = None

  @property
  def has_steps(self) -> bool:
    """Whether steps were added since the last `summary`."""
    return bool(self._steps)

  @contextlib.contextmanager
  def timed(self, name: str) -> Iterator[None]:
    """Adds the seconds that the block takes to `timing/<name>_seconds`."""
    start = time.monotonic()
    yield
    self._seconds[name] += time.monotonic() - start

  def add(self, step: int, metrics: dict[str, Any], batch: Any):
    """Takes the metrics of a dispatched step; `step` counts it. See `check` for errors."""
    self.check()
    self._unchecked = (step, metrics)
    self._steps.append(metrics)
    self._examples += len(jax.tree.leaves(batch)[0])

  def check(self):
    """Waits for the last step and looks at its loss.

    Raises:
      FloatingPointError: the loss or the gradient is not finite; names the step.
    """
    if self._unchecked is None:
      return
    step, metrics = self._unchecked
    self._unchecked = None
    watched = {name: metrics[name] for name in ('loss', 'weight_gradient_norm') if name in metrics}
    for name, value in jax.device_get(watched or metrics).items():
      if not np.isfinite(value).all():
        raise FloatingPointError(
          f'{name} is {value} at step {step}. Nothing was saved after it; the newest checkpoint is '
          'whole. A lower learning rate or a longer warmup is the usual way out.'
        )
    jax.block_until_ready(metrics)

  def summary(self, step: int) -> dict[str, float]:
    """Values since the last summary, `step` steps having been made; starts anew."""
    self.check()
    summed = metrics_lib.sum_metrics(jax.device_get(self._steps))
    values = metrics_lib.summarize(self._trainable, summed)
    if self._learning_rate is not None:
      values['learning_rate'] = float(self._learning_rate(step - 1))
    values.update(self._timing(summed))
    self._steps, self._examples = [], 0
    self._seconds.clear()
    self._window_began = time.monotonic()
    return values

  def _timing(self, summed: dict[str, np.ndarray]) -> dict[str, float]:
    """T5X's timing tags; rates leave out compiling, saving and evaluating.

    What nothing else accounts for is the steps' own time.
    """
    now = time.monotonic()
    values = {f'{name}_seconds': seconds for name, seconds in self._seconds.items()}
    values['step_seconds'] = now - self._window_began - sum(self._seconds.values())
    values['uptime'] = now - self._began
    secs, steps = values['step_seconds'] + self._seconds['data_wait'], len(self._steps)
    values['steps_per_second'] = steps / secs
    values['seqs_per_second'] = self._examples / secs
    values['data_wait_fraction'] = self._seconds['data_wait'] / secs
    if 'level_weight' in summed:
      tokens_per_second = float(summed['weight_sum']) / secs
      values['target_tokens_per_second'] = tokens_per_second
      values['target_tokens_per_second_per_core'] = tokens_per_second / jax.device_count()
    return {f'timing/{name}': value for name, value in values.items()}
