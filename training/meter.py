"""Between two lines of metrics: sums, times, and the check that every loss is finite."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from training import metrics as metrics_lib
from training.step import SKIPPED, watched

_WAY_OUT = (
  'Nothing of it was saved; the newest checkpoint is whole. A lower learning rate or a longer '
  'warmup is the usual way out.'
)


class Meter:
  """Collects the metrics of the steps, one step behind the device.

  `add` waits for the step before the one it is given: the device has one step to work on while the
  next batch is fetched, and the clock stays honest.
  """

  def __init__(
    self,
    trainable: Any,
    optimizer: Any,
    *,
    max_skipped_steps: int = 0,
    on_skip: Callable[[int, Any], None] = lambda step, indices: None,
  ):
    """Starts empty.

    Args:
      trainable: may have `summarize`.
      optimizer: may have `learning_rate`.
      max_skipped_steps: so many skipped steps in a row are borne; one more is an error.
      on_skip: called with the number of a skipped step and the indices of its examples (or None).
    """
    self._trainable = trainable
    self._max_skipped, self._on_skip = max_skipped_steps, on_skip
    self._skipped_in_a_row = self._skipped = 0
    self._learning_rate = getattr(optimizer, 'learning_rate', None)
    self._began = time.monotonic()
    self._steps: list[dict[str, Any]] = []
    self._seconds: collections.Counter = collections.Counter()
    self._window_began = self._began
    self._examples = 0
    self._unchecked: tuple[int, dict[str, Any], Any] | None = None

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
    self._unchecked = (step, metrics, batch)
    self._steps.append(metrics)
    self._examples += len(jax.tree.leaves(batch)[0])

  def check(self):
    """Waits for the last step and looks at its loss.

    Raises:
      FloatingPointError: the loss or the gradient is not finite, or too many steps in a row were
        skipped for that; names the step.
    """
    if self._unchecked is None:
      return
    step, metrics, batch = self._unchecked
    self._unchecked = None
    for name, value in jax.device_get(watched(metrics)).items():
      if not np.isfinite(value).all():
        raise FloatingPointError(f'{name} is {value} at step {step}. {_WAY_OUT}')
    if metrics.get(SKIPPED):
      self._skipped += 1
      self._skipped_in_a_row += 1
      self._on_skip(step, _example_indices(batch))
      if self._skipped_in_a_row > self._max_skipped:
        raise FloatingPointError(
          f'The loss or the gradient was not finite {self._skipped_in_a_row} steps in a row, the '
          f'last of them step {step}. {_WAY_OUT}'
        )
    else:
      self._skipped_in_a_row = 0
    jax.block_until_ready(metrics)

  def summary(self, step: int) -> dict[str, float]:
    """Values since the last summary, `step` steps having been made; starts anew."""
    self.check()
    # Skipped steps have zeros for metrics: they count neither as steps nor as examples.
    made = [m for m in jax.device_get(self._steps) if not m.get(SKIPPED)]
    metrics = [{name: m[name] for name in m if name != SKIPPED} for m in made]
    summed = metrics_lib.sum_metrics(metrics)
    values = metrics_lib.summarize(self._trainable, summed) if made else {}
    if self._skipped:
      values['skipped_steps'] = float(self._skipped)
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


def _example_indices(batch: Any) -> list[int]:
  """The 'index' of the examples that this process holds; [] where the batch has none."""
  index = batch.get('index', ()) if isinstance(batch, dict) else ()
  shards = [shard.data for shard in getattr(index, 'addressable_shards', ())] or [index]
  return sorted({int(i) for shard in shards for i in np.ravel(shard)})
