"""Which checkpoints of a run are its best, by a metric of metrics.jsonl."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

from training.checkpoint_folders import saved_steps
from training.metrics import values_by_step

_MODES = ('min', 'max')


@dataclasses.dataclass(frozen=True)
class KeepBest:
  """Keeps the best checkpoints beside the newest; the first two names are T5X's.

  A checkpoint counts if its own step was evaluated, so let the shorter of the two periods divide
  the other.

  Attributes:
    metric_name_to_monitor: stream and metric, such as 'training_eval/held_out/accuracy' or
      'train/loss'.
    metric_mode: 'min' where less is better, 'max' where more is.
    keep: how many of the best stay; 0 for none.
  """

  metric_name_to_monitor: str = 'training_eval/held_out/loss_per_nonpadding_target_token'
  metric_mode: str = 'min'
  keep: int = 1

  def __post_init__(self):
    if self.metric_mode not in _MODES:
      raise ValueError(f'metric_mode={self.metric_mode!r} is neither of {", ".join(_MODES)}.')
    if self.keep < 0:
      raise ValueError(f'keep={self.keep} best checkpoints: it must be at least 0.')

  def best_steps(self, model_dir: str | pathlib.Path, steps: Sequence[int]) -> dict[int, float]:
    """The best `keep` of `steps` that have the metric, best first, with its value.

    Of equal ones the earlier is better; values that are not finite do not count.
    """
    if not self.keep:
      return {}
    values = values_by_step(model_dir, self.metric_name_to_monitor)
    known = [step for step in steps if math.isfinite(values.get(step, math.nan))]
    sign = 1 if self.metric_mode == 'min' else -1
    known.sort(key=lambda step: (sign * values[step], step))
    return {step: values[step] for step in known[: self.keep]}

  def describe(self, model_dir: str | pathlib.Path) -> str:
    """Which checkpoint of MODEL_DIR is the best, in words."""
    best = self.best_steps(model_dir, saved_steps(model_dir))
    if not best:
      return f'no checkpoint has a value of {self.metric_name_to_monitor}.'
    step, value = next(iter(best.items()))
    return f'the best is checkpoint_{step}, by {self.metric_name_to_monitor} {value:.5g}.'
