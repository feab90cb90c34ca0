"""Does the output follow the prompt? Cosines in the style model's space.

The language model was trained on embeddings of this very space, so these figures say whether it
obeys its own input, not whether a listener would agree; an outside embedding is another matter.
"""

import numpy as np


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
