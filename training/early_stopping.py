"""When to stop a run by its own evaluations: no gain any more, or the loss runs away.

Everything is read from metrics.jsonl, so that a run that is started again decides as it would have
without the interruption.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from models.figures import apart
from training.metrics import values_by_step

HELD_OUT = 'training_eval/held_out/loss_per_nonpadding_target_token'


@dataclasses.dataclass(frozen=True)
class StoppingRule:
  """What ends a run.

  Attributes:
    patience: evaluations without a new lowest value; 0 never ends a run for that.
    min_gain: by how much a value must lie below the lowest to count as new.
    max_worsening: a value so far above the lowest, or one that is not finite, ends the run at once;
      0 turns the guard off.

  Raises:
    ValueError: a value is negative.
  """

  patience: int = 4
  min_gain: float = 0.0
  max_worsening: float = 0.5

  def __post_init__(self):
    for name, value in dataclasses.asdict(self).items():
      if not value >= 0:
        raise ValueError(f'{name}={value} must be at least 0.')

  def why_stop(self, values: Mapping[int, float]) -> str | None:
    """Why a run with these values (step -> value) should end, in words, or None."""
    lowest, lowest_step, without_gain = math.inf, None, 0
    for step in sorted(values):
      value = values[step]
      above = value - lowest
      if self.max_worsening and (not math.isfinite(value) or above > self.max_worsening):
        before = '' if lowest_step is None else (
          f', {lowest:.4f} at step {lowest_step}'
        )  # fmt: skip
        return f'it diverges: the held-out loss is {apart(value, lowest, 4)} at step {step}{before}'
      if value < lowest - self.min_gain:
        lowest, lowest_step, without_gain = value, step, 0
      else:
        without_gain += 1
      if self.patience and without_gain >= self.patience:
        return (
          f'the held-out loss has not fallen below {lowest:.4f} (step {lowest_step}) in '
          f'{without_gain} evaluations'
        )
    return None


class EarlyStopping:
  """Evaluator that measures nothing and ends the run by a rule; stands behind the others."""

  name = 'training_eval/early_stopping'

  def __init__(
    self, model_dir: str, *, metric: str = HELD_OUT, patience: int = 4, min_gain: float = 0.0,
    max_worsening: float = 0.5,
  ):  # fmt: skip
    """Watches a metric of MODEL_DIR/metrics.jsonl; see `StoppingRule`."""
    self._model_dir, self._metric = pathlib.Path(model_dir), metric
    self._rule = StoppingRule(patience, min_gain, max_worsening)

  def __call__(self, state: Any) -> Iterable[tuple[str, float]]:
    del state
    return ()

  @property
  def stop_reason(self) -> str | None:
    """Why to stop now, or None."""
    return self._rule.why_stop(values_by_step(self._model_dir, self._metric))
