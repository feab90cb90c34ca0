"""A model's log-probabilities of given targets, batch by batch."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def score_tokens(
  model: Any,
  params: Any,
  inputs: np.ndarray,
  targets: np.ndarray,
  *,
  batch_size: int,
  on_batch: Callable[[int], Any] = lambda count: None,
) -> tuple[np.ndarray, np.ndarray]:
  """Scores targets with a Depthformer.

  Args:
    model: `models.depthformer.DepthformerModel` (hashable; compiled once for each model and batch).
    params: its parameters.
    inputs: int32 [N, inputs_length].
    targets: int32 [N, targets_length], no padding.
    batch_size: rows at a time; the last batch is filled up and cut.
    on_batch: called with the number of rows done, for a progress bar.

  Returns:
    ln p(target) float32 and whether it was the level's most probable code, [N, targets_length].
  """
  log_probs, correct = [], []
  for start in range(0, len(inputs), batch_size):
    rows = slice(start, start + batch_size)
    number = len(inputs[rows])
    fill = ((0, batch_size - number), (0, 0))
    scores = _scores(
      model, params, np.pad(inputs[rows], fill, mode='edge'), np.pad(targets[rows], fill, 'edge')
    )
    log_probs.append(np.asarray(scores[0])[:number])
    correct.append(np.asarray(scores[1])[:number])
    on_batch(number)
  return np.concatenate(log_probs), np.concatenate(correct)


@functools.partial(jax.jit, static_argnums=0)
def _scores(model: Any, params: Any, inputs: jax.Array, targets: jax.Array) -> Any:
  return model.token_scores(params, inputs, targets)
