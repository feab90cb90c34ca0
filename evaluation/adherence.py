"""Does the output follow the prompt? Cosines of outputs to prompts, in one space or another.

In the style model's space, on which the language model was trained, they say whether it obeys its
own input; in the space of a network from outside whether it sounds like the music that the prompt
describes. A space is believed where it tells the recordings that prompts describe from each other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RECORDINGS = 'the recordings that the prompts describe'
SWAPPED = 'the same, one prompt on'


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Cosine of embeddings [..., D] and [..., D]; 0 where one of them is zero."""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  norm = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
  return np.sum(a * b, -1) / np.where(norm > 0, norm, 1)


def prompt_match(outputs: np.ndarray, prompts: np.ndarray) -> dict[str, float]:
  """How outputs [N, D] match their own prompts [N, D] among all prompts.

  Returns:
    'own': mean cosine of an output to its prompt; 'other': to the other prompts; 'margin': their
    difference; 'top1': share of outputs whose nearest prompt is their own (chance 1 / N). With a
    single prompt 'other', 'margin' and 'top1' are NaN.
  """
  outputs, prompts = np.asarray(outputs), np.asarray(prompts)
  if outputs.shape != prompts.shape or outputs.ndim != 2:
    raise ValueError(f'{outputs.shape} outputs do not pair with {prompts.shape} prompts.')
  table = cosine(outputs[:, None], prompts[None])
  own = np.diag(table)
  number = len(table)
  if number == 1:
    return {'own': float(own[0]), 'other': np.nan, 'margin': np.nan, 'top1': np.nan}
  other = (table.sum() - own.sum()) / (number * (number - 1))
  return {
    'own': float(own.mean()),
    'other': float(other),
    'margin': float(own.mean() - other),
    'top1': float(np.mean(table.argmax(1) == np.arange(number))),
  }


def match_table(
  played: Mapping[str, np.ndarray], prompts: np.ndarray, recordings: np.ndarray | None
) -> dict[str, Any]:
  """How models match prompts in one space, beside recordings that do and do not.

  Args:
    played: model -> embeddings [N, D] of what it played from each prompt.
    prompts: embeddings [N, D].
    recordings: embeddings [N, D] of the music that each prompt describes, but not of the very clip
      that a prompt was made of; None where there is none.

  Returns:
    {'rows': [{'name', 'kind', and what `prompt_match` gives}], 'ordered': whether the recordings
    match their own prompts better than the next ones; None where that cannot be told}.
  """
  rows = [
    {'name': name, 'kind': 'model', **prompt_match(outputs, prompts)}
    for name, outputs in played.items()
  ]
  ordered = None
  if recordings is not None:
    own = prompt_match(recordings, prompts)
    rows.append({'name': RECORDINGS, 'kind': 'anchor', **own})
    if len(recordings) > 1:
      swapped = prompt_match(np.roll(recordings, 1, axis=0), prompts)
      rows.append({'name': SWAPPED, 'kind': 'anchor', **swapped})
      ordered = bool(own['margin'] > swapped['margin'])
  return {'rows': rows, 'ordered': ordered}


def believed(spaces: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The first space that orders its anchors; else the first that has none; else the first."""
  for wanted in (True, None):
    found = next((space for space in spaces if space['ordered'] is wanted), None)
    if found is not None:
      return found
  return spaces[0]


def transition_weights(num_steps: int) -> np.ndarray:
  """Share of the second prompt at each step: 0, ..., 1 evenly; at least 2 steps."""
  if num_steps < 2:
    raise ValueError(f'num_steps={num_steps}: a transition has 2 at least.')
  return np.linspace(0, 1, num_steps)


def mixed_prompts(first: np.ndarray, second: np.ndarray, num_steps: int) -> np.ndarray:
  """Embeddings [num_steps, D] from one prompt to the other, mixed linearly."""
  weights = transition_weights(num_steps)[:, None]
  return (1 - weights) * np.asarray(first, np.float64) + weights * np.asarray(second, np.float64)


def transition_curve(
  outputs: np.ndarray, first: np.ndarray, second: np.ndarray
) -> dict[str, list[float]]:
  """How an output follows a prompt that turns from one into another.

  Args:
    outputs: embeddings [steps, D] of what was played at each step.
    first, second: prompts [D]; step s was asked for with `mixed_prompts`.

  Returns:
    Cosines by step: 'to_first', 'to_second', 'to_asked' (the mixture of that step).
  """
  outputs = np.asarray(outputs, np.float64)
  asked = mixed_prompts(first, second, len(outputs))
  return {
    'to_first': cosine(outputs, np.broadcast_to(first, outputs.shape)).tolist(),
    'to_second': cosine(outputs, np.broadcast_to(second, outputs.shape)).tolist(),
    'to_asked': cosine(outputs, asked).tolist(),
  }


def transition_gain(curve: dict[str, list[float]]) -> float:
  """How far a transition went: rise of (to_second - to_first) from the first step to the last.

  0 for an output that ignores its prompt; twice 1 minus the prompts' own cosine at the most.
  """
  lead = np.asarray(curve['to_second']) - np.asarray(curve['to_first'])
  return float(lead[-1] - lead[0])
