"""T5X checkpoints of a Depthformer <-> own parameters and Adafactor state, exactly.

Names, shapes and layer order are Magenta RealTime v1's, so what is written here loads in v1's
runtime and in T5X, and what they wrote is read here; both of T5X's layouts are.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from models.depthformer import DepthformerConfig, from_v1, to_v1
from models.depthformer.parameters import leaves
from models.depthformer.sizes import sizes_from_v1
from models.spec import LiveMusicSpec
from training import t5x_layouts
from training.optimizers import AdafactorState, adafactor
from training.t5x_layouts import LAYOUTS, StoredState

__all__ = ['LAYOUTS', 'T5XCheckpoint', 'adafactor_state', 'is_t5x', 'read', 'write']

_PARAMS = 'target/'
_SLOTS = 'state/param_states/'
_STATISTICS = ('v', 'v_row', 'v_col')
_EMBEDDING = 'token_embedder/embedding'


@dataclasses.dataclass(frozen=True)
class T5XCheckpoint:
  """What a T5X checkpoint holds.

  Attributes:
    config: sizes of the model.
    spec: token layout.
    params: own tree of parameters.
    step: updates made.
    opt_state: Adafactor's statistics; None where there are none or they were not asked for.
    layout: one of `LAYOUTS`.
    folder: where it lies.
  """

  config: DepthformerConfig
  spec: LiveMusicSpec
  params: dict[str, Any]
  step: int
  opt_state: AdafactorState | None
  layout: str
  folder: pathlib.Path


def is_t5x(path: str | pathlib.Path) -> bool:
  """Whether `path` is a T5X checkpoint of a Depthformer (own runs are Orbax folders, too)."""
  try:
    return _PARAMS + _EMBEDDING in t5x_layouts.open_state(path).arrays
  except FileNotFoundError:
    return False


def read(
  path: str | pathlib.Path,
  *,
  config: DepthformerConfig | None = None,
  spec: LiveMusicSpec | None = None,
  dtype: Any = np.float32,
  with_optimizer: bool = False,
) -> T5XCheckpoint:
  """Reads a checkpoint of either layout.

  Args:
    path: a checkpoint folder, or a folder of checkpoint_<step> folders, whose newest is read.
    config: sizes; None to deduce them from the shapes.
    spec: token layout; None for v1's.
    dtype: of the parameters; None for the stored one.
    with_optimizer: also read Adafactor's statistics, if there are any.

  Raises:
    FileNotFoundError: there is no T5X checkpoint.
    ValueError: an array is missing, truncated, unknown, or does not fit the sizes; names the first,
      with the shape found and the one expected.
  """
  stored = t5x_layouts.open_state(path)
  if config is None:
    shapes = {n[len(_PARAMS) :]: i.shape for n, i in stored.arrays.items() if n.startswith(_PARAMS)}
    try:
      config, spec = sizes_from_v1(shapes, spec)
    except ValueError as error:
      raise ValueError(f'{stored.folder}: {error}') from error
  spec = spec or LiveMusicSpec()
  expected = _v1_shapes(config, spec)
  names = {_PARAMS + name: shape for name, shape in expected.items()}
  t5x_layouts.check_arrays(stored, names, lambda name: name.startswith(_PARAMS))
  _check_floating(stored, names)
  flat = stored.read(names)
  step = int(stored.read([t5x_layouts.STEP])[t5x_layouts.STEP])
  params = {name: flat.pop(_PARAMS + name) for name in expected}
  if dtype is not None:
    params = {name: value.astype(dtype, copy=False) for name, value in params.items()}
  return T5XCheckpoint(
    config=config,
    spec=spec,
    params=from_v1(params, config, spec),
    step=step,
    opt_state=_read_optimizer(stored, config, spec, step) if with_optimizer else None,
    layout=stored.layout,
    folder=stored.folder,
  )


def write(
  directory: str | pathlib.Path,
  params: Mapping[str, Any],
  config: DepthformerConfig,
  spec: LiveMusicSpec,
  *,
  step: int,
  opt_state: AdafactorState | None = None,
  layout: str = 't5x',
) -> pathlib.Path:
  """Writes `directory`/checkpoint_<step> in float32 and returns it.

  Args:
    directory: made if it does not exist.
    params: own tree.
    config: sizes.
    spec: token layout.
    step: updates made; T5X's learning rate and Adafactor's decay go on from it.
    opt_state: without it T5X restores the parameters and the step alone.
    layout: one of `LAYOUTS`.

  Raises:
    FileExistsError: there is such a checkpoint already.
    ValueError: the arrays do not fit the sizes, or the layout is unknown.
  """
  arrays = {
    _PARAMS + name: np.asarray(value, np.float32)
    for name, value in to_v1(params, config, spec).items()
  }
  if opt_state is not None:
    for slot in _STATISTICS:
      for name, value in to_v1(getattr(opt_state, slot), config, spec).items():
        arrays[f'{_SLOTS}{name}/{slot}'] = np.asarray(value, np.float32)
    for name in _v1_shapes(config, spec):
      arrays[f'{_SLOTS}{name}/m'] = np.zeros([1], np.float32)  # No momentum.
  for name, shape in _expected(config, spec, opt_state is not None).items():
    if arrays[name].shape != shape:
      raise ValueError(f'{name} has shape {arrays[name].shape}, T5X expects {shape}.')
  return t5x_layouts.write_state(directory, step, arrays, layout)


def adafactor_state(stored: Mapping[str, Any]) -> AdafactorState | None:
  """The Adafactor state among an optimizer's arrays as our own checkpoints name them, or None.

  Args:
    stored: {'v_row/encoder/layers/mlp/gate': array, 'count': ...}; names may stand below those of
      an enclosing transformation ('1/v_row/...').
  """
  from models import weights

  prefixes = {
    match[1] for name in stored if (match := re.match(r'((?:[^/]+/)*?)v_row/embedding$', name))
  }
  if len(prefixes) != 1:
    return None
  prefix = prefixes.pop()
  trees = {}
  for slot in _STATISTICS:
    start = f'{prefix}{slot}/'
    flat = {name[len(start) :]: v for name, v in stored.items() if name.startswith(start)}
    trees[slot] = weights.unflatten(flat)
  return AdafactorState(count=stored[f'{prefix}count'], **trees)


def _read_optimizer(
  stored: StoredState, config: DepthformerConfig, spec: LiveMusicSpec, step: int
) -> AdafactorState | None:
  if not any(name.startswith(_SLOTS) for name in stored.arrays):
    return None
  expected = {
    name: shape for name, shape in _expected(config, spec, True).items() if name.startswith(_SLOTS)
  }
  momentum = {name for name in expected if name.endswith('/m')}
  # Some versions of T5X leave the unused momentum out.
  expected = {n: s for n, s in expected.items() if n not in momentum or n in stored.arrays}
  t5x_layouts.check_arrays(stored, expected, lambda name: name.startswith(_SLOTS))
  flat = stored.read([name for name in expected if name not in momentum])
  trees = {}
  for slot in _STATISTICS:
    named = {name: flat.pop(f'{_SLOTS}{name}/{slot}') for name in _v1_shapes(config, spec)}
    trees[slot] = from_v1(named, config, spec, check_shapes=False)
  return AdafactorState(count=jax.numpy.int32(step), **trees)


def _v1_shapes(config: DepthformerConfig, spec: LiveMusicSpec) -> dict[str, tuple[int, ...]]:
  return {
    leaf.v1_name.format(i): leaf.shape
    for leaf in leaves(config, spec).values()
    for i in range(leaf.num_layers or 1)
  }


def _expected(
  config: DepthformerConfig, spec: LiveMusicSpec, with_optimizer: bool
) -> dict[str, tuple[int, ...]]:
  """Shapes of all arrays of T5X's train state, but the step."""
  shapes = _v1_shapes(config, spec)
  expected = {_PARAMS + name: shape for name, shape in shapes.items()}
  if with_optimizer:
    params = {name: jax.ShapeDtypeStruct(s, np.float32) for name, s in shapes.items()}
    state = jax.eval_shape(adafactor(0.0).init, params)
    for name in shapes:
      for slot in _STATISTICS:
        expected[f'{_SLOTS}{name}/{slot}'] = tuple(getattr(state, slot)[name].shape)
      expected[f'{_SLOTS}{name}/m'] = (1,)
  return expected


def _check_floating(stored: StoredState, names: Mapping[str, Any]):
  for name in names:
    if 'float' not in stored.arrays[name].dtype:
      raise ValueError(
        f'{stored.folder}: {name} is stored as {stored.arrays[name].dtype}; floats were expected '
        '(early T5X wrote bfloat16 as uint16; have T5X write it anew).'
      )
