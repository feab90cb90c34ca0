"""A window of training steps under JAX's profiler, for XProf and TensorBoard."""

import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax

from training import hosts

FOLDER = 'profile'


class ProfileWindow:
  """Traces steps `first` to `last`, both included, into MODEL_DIR/profile/.

  Step n is the one after which n steps have been made. A run that starts behind `first` traces
  nothing; one that stops inside of the window keeps what was traced. Of several processes the first
  one traces.
  """

  def __init__(self, model_dir: str | pathlib.Path, first: int, last: int):
    """Describes the window.

    Args:
      model_dir: of the run.
      first: at least 1; 2 leaves out the step that compiles.
      last: at least `first`.

    Raises:
      ValueError: there is no such window.
    """
    if not 1 <= first <= last:
      raise ValueError(f'profile_steps={first}:{last} is not FIRST:LAST with 1 <= FIRST <= LAST.')
    self.first, self.last = first, last
    self.folder = pathlib.Path(model_dir) / FOLDER
    self._tracing = False

  @classmethod
  def parse(cls, model_dir: str | pathlib.Path, steps: str) -> 'ProfileWindow':
    """From '10:12', or '10' for one step.

    Raises:
      ValueError: `steps` is written otherwise.
    """
    match = re.fullmatch(r'(\d+)(?::(\d+))?', steps.strip())
    if not match:
      raise ValueError(f'profile_steps={steps!r} is not FIRST:LAST, such as 10:12.')
    return cls(model_dir, int(match[1]), int(match[2] or match[1]))

  def wrap(self, train_step: Callable[..., Any], made: int) -> Callable[..., Any]:
    """`train_step` that also begins and ends the trace; `made` steps lie behind its first call."""
    if not hosts.is_first():
      return train_step
    step = made

    def traced(*arguments: Any) -> Any:
      nonlocal step
      step += 1
      if step == self.first:
        jax.profiler.start_trace(str(self.folder))
        self._tracing = True
      with jax.profiler.StepTraceAnnotation('train', step_num=step):
        result = train_step(*arguments)
      if step == self.last:
        self._end(result)
      return result

    return traced

  def _end(self, pending: Any = None):
    """Ends the trace once `pending` is computed."""
    if self._tracing:
      jax.block_until_ready(pending)
      self._tracing = False
      jax.profiler.stop_trace()

  def __enter__(self) -> 'ProfileWindow':
    return self

  def __exit__(self, *unused: Any):
    self._end()
