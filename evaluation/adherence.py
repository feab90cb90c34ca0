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
