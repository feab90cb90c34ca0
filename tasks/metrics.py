"""SeqIO metrics of live music tasks."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def log_likelihood(targets: Sequence[Any], scores: Sequence[float]) -> dict[str, float]:
  """Mean log-probability of the targets in nats, per example and per token.

  Args:
    targets: ids of each example.
    scores: log p of each example's targets; a pair with intermediates beside them is taken too.
  """
  if isinstance(scores, tuple):
    scores = scores[0]
  total = float(np.sum(np.asarray(scores, np.float64)))
  return {
    'log_likelihood': total / len(targets),
    'log_likelihood_per_token': total / sum(len(ids) for ids in targets),
  }
