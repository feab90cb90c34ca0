"""musicnn's published variables under this package's names, batch normalisation folded."""

from collections.abc import Mapping

import numpy as np

from models import weights
from models.musicnn import network

# As TensorFlow 1 numbered the layers, in the order in which they were made.
_CONVOLUTIONS = (*network.TALL, *network.LONG, *network.MIDDLE)
_DENSE = ('penultimate', 'tags')
_NORMS = ('input', *_CONVOLUTIONS, 'pooled', 'penultimate')
_EPSILON = 1e-3  # Of batch normalisation, TensorFlow's default.


def from_variables(variables: Mapping[str, np.ndarray], num_tags: int) -> weights.Tree:
  """Tree of `network.shapes` from the variables of a published checkpoint.

  Batch normalisation becomes scale = gamma / sqrt(variance + 0.001) and
  shift = beta - scale * mean, in float64.

  Args:
    variables: 'conv2d_3/kernel' -> array, as in the checkpoint; others, such as the optimizer's,
      are ignored.
    num_tags: outputs.

  Raises:
    ValueError: a variable is missing or of another shape; names it.
  """

  def take(name: str) -> np.ndarray:
    if name not in variables:
      raise ValueError(
        f'The checkpoint lacks the variable {name!r}. Expected musicnn 0.1.0, MSD_musicnn or '
        'MTT_musicnn.'
      )
    return np.asarray(variables[name], np.float64)

  flat: dict[str, np.ndarray] = {}
  for kind, names in (('conv2d', _CONVOLUTIONS), ('dense', _DENSE)):
    for number, name in enumerate(names):
      layer = _numbered(kind, number)
      flat[f'{name}/kernel'] = take(f'{layer}/kernel')
      flat[f'{name}/bias'] = take(f'{layer}/bias')
  for number, name in enumerate(_NORMS):
    layer = _numbered('batch_normalization', number)
    scale = take(f'{layer}/gamma') / np.sqrt(take(f'{layer}/moving_variance') + _EPSILON)
    flat[f'{name}/scale'] = scale
    flat[f'{name}/shift'] = take(f'{layer}/beta') - scale * take(f'{layer}/moving_mean')
  for name, shape in network.shapes(num_tags).items():
    # Kernels of convolutions have an axis of one input channel, and long ones one of one band.
    squeezed = flat[name].squeeze() if name.endswith('/kernel') else flat[name]
    if squeezed.shape != shape:
      raise ValueError(f'{name} has the shape {flat[name].shape}; musicnn has {shape}.')
    flat[name] = squeezed.astype(np.float32)
  return weights.unflatten(flat)


def _numbered(kind: str, number: int) -> str:
  return f'{kind}_{number}' if number else kind
