"""Magenta RealTime 1's SpectroStream: TensorFlow SavedModels, read and held against themselves.

Three folders, `encoder`, `decoder`, `quantizer`. Encoder and decoder are called with [B, n, 2] and
[B, frames, D]; every layer keeps its kernel twice, as it was trained (with a gain, as weight
normalisation has it) and rescaled, which is the one in use. Kernels of transposed convolutions are
those of the gradient of a convolution: [kt, kf, out, in], and reversed along time and frequency.
The quantizer has one [D, codes] table a level.

How variables are stored is known at second hand only, so each is looked for by its name, else by
its shape and place, and the result must compute what the SavedModel computes.
"""

import itertools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import rvq, weights
from models.spec import LiveMusicSpec
from models.spectrostream import network, steps
from models.spectrostream.config import SpectroStreamConfig
from models.spectrostream.stft import inverse_stft, stft

Arrays = dict[str, np.ndarray]
Variables = list[tuple[str, np.ndarray]]
# Path segments that say nothing of the layer.
_WRAPPERS = {'weight_norm', 'rescaled', 'conv'}
# Layers whose names differ: version 2's, as this package has them, and version 1's.
_RENAMED = {
  'encoder/output_convs/conv1x1_last': 'bottleneck/conv1x1_last/conv1x1',
  'encoder/output_convs/shortcut_layer/conv1x1_b1': 'bottleneck/conv1x1_last/conv1x1_a',
  'encoder/output_convs/shortcut_layer/conv1x1_b2': 'bottleneck/conv1x1_last/conv1x1_b',
  'decoder/input_layer/conv1x1_first': 'input_layer/conv1x1_first/conv1x1',
  'decoder/input_layer/shortcut_layer/conv1x1_b1': 'input_layer/conv1x1_first/conv1x1_a',
  'decoder/input_layer/shortcut_layer/conv1x1_b2': 'input_layer/conv1x1_first/conv1x1_b',
  'decoder/input_layers_residual_unit/conv2d_3x3_a': 'input_layer/conv2d_3x3_a',
  'decoder/input_layers_residual_unit/conv2d_3x3': 'input_layer/conv2d_3x3',
  'decoder/output_layer/base_conv_last': 'input_layer/base_conv_last',
}
_BODIES = ('conv1x1_first', 'conv1x1_last')
# Largest difference from what a SavedModel computes, relative to the largest value.
_TOLERANCE = 1e-3
_PROBE_FRAMES = 5


def read(folder: pathlib.Path, config: Any = None) -> Arrays:
  """Arrays of a codec under this package's names, from the SavedModels in `folder`.

  Args:
    folder: holds `encoder`, `decoder` and `quantizer`.
    config: widths, for variables that have no telling names; None is the released size.

  Raises:
    ValueError: a layer has no variable, or ours and theirs disagree; names the first layer.
  """
  import tensorflow as tf

  modules = {
    part: tf.saved_model.load(str(folder / part)) for part in ('encoder', 'decoder', 'quantizer')
  }
  codebooks = _codebooks(modules['quantizer'], str(folder / 'quantizer'))
  _check_codes(modules['quantizer'], codebooks, str(folder / 'quantizer'))
  shapes = network.kernel_shapes(config or SpectroStreamConfig.real(), LiveMusicSpec())
  flat: Arrays = {'quantizer/embedding': codebooks}
  for part in ('encoder', 'decoder'):
    of_part = {layer: shape for layer, shape in shapes.items() if layer.startswith(part)}
    probe = _probe(part, codebooks.shape[2])
    flat |= _read_part(part, modules[part], of_part, probe, str(folder / part))
  return flat


def _read_part(
  part: str, module: Any, shapes: network.Shapes, probe: np.ndarray, source: str
) -> Arrays:
  """Encoder or decoder: the first way to lay out its variables that computes what it computes."""
  found = _variables(module)
  theirs = _call(module, probe)
  first = None
  for flat in _layouts(found, shapes, source):
    params = weights.unflatten(flat)[part]
    ours = np.asarray(_COMPUTE[part](params, probe))
    if ours.shape != theirs.shape:
      raise ValueError(
        f'{source} gives {theirs.shape} for an input of {probe.shape}; a SpectroStream {part} of '
        f'these variables gives {ours.shape}.'
      )
    # The first hop of decoded audio overlaps with nothing: it depends on how one starts.
    skipped = 0 if part == 'encoder' else ours.shape[1] // (4 * _PROBE_FRAMES)
    error = np.abs(ours - theirs)[:, skipped:].max() / np.abs(theirs).max()
    if error < _TOLERANCE:
      return flat
    first = first or (params, float(error))
  if first is None:
    raise ValueError(f'{source}: the kernels and biases of its layers do not fit each other.')
  params, error = first
  raise ValueError(
    f'{source}: what this package computes from its variables differs from what it computes itself '
    f'by {error:.1e} of the largest value (tolerance {_TOLERANCE:g}). '
    + _first_disagreement(part, params, module, probe)
  )


def _probe(part: str, num_features: int) -> np.ndarray:
  """A short input: noise at -20 dB, or latents; the same every time."""
  spec = LiveMusicSpec()
  samples = [_PROBE_FRAMES * spec.samples_per_frame, spec.num_channels]
  shape, scale = (samples, 0.1) if part == 'encoder' else ([_PROBE_FRAMES, num_features], 1.0)
  return scale * np.random.default_rng(0).standard_normal([1, *shape], np.float32)


def _encoded(encoder: Any, audio: jax.Array) -> jax.Array:
  return network.encode(encoder, stft(audio, network.hop_size(LiveMusicSpec())))


def _decoded(decoder: Any, latents: jax.Array) -> jax.Array:
  latents = jnp.pad(latents, [(0, 0), (0, 1), (0, 0)])
  return inverse_stft(network.decode(decoder, latents), network.hop_size(LiveMusicSpec()))


_COMPUTE = {'encoder': jax.jit(_encoded), 'decoder': jax.jit(_decoded)}


# Variables.


def _variables(module: Any) -> Variables:
  """(name, value) of everything that a SavedModel stores, in its order."""
  variables = getattr(module, 'variables', None)
  if variables is None:
    functions = list(getattr(module, 'signatures', {}).values())
    functions += module.__call__.concrete_functions if callable(module) else []
    variables = [variable for function in functions for variable in function.variables]
  unique = {id(variable): variable for variable in variables}.values()
  return [(variable.name.split(':')[0], np.asarray(variable.numpy())) for variable in unique]


def _layouts(found: Variables, shapes: network.Shapes, source: str) -> Iterator[Arrays]:
  """Ways to fill the layers from variables, the likeliest first."""
  named = {layer: _by_name(found, layer) for layer in shapes}
  if all(named.values()):
    yield from _turned(named)
    return
  missing = [layer for layer, pair in named.items() if not pair]
  # The two 1x1 bodies have the shapes of layers in their branches, and may stand after those.
  bodies = [layer for layer in missing if layer.endswith(_BODIES)]
  orders = (missing, [layer for layer in missing if layer not in bodies] + bodies)
  for pick, order in itertools.product(_PICKS, orders):
    pairs = named | _by_place(found, {layer: shapes[layer] for layer in order}, pick, source)
    yield from _turned(pairs)


def _turned(pairs: dict[str, Any]) -> Iterator[Arrays]:
  """(kernel, bias) of every layer, transposed kernels in each way that fits their biases."""
  for turn in _TURNS:
    flat, fits = {}, True
    for layer, (kernel, bias) in pairs.items():
      kernel = turn(kernel) if 'transpose' in layer else kernel
      fits = fits and kernel.shape[-1:] == bias.shape
      flat[f'{layer}/conv/kernel'] = np.ascontiguousarray(kernel, np.float32)
      flat[f'{layer}/conv/bias'] = np.asarray(bias, np.float32)
    if fits:
      yield flat


# How a transposed convolution's kernel may lie: as TensorFlow has it, else as this package has.
_TURNS = (
  lambda kernel: kernel[::-1, ::-1].swapaxes(2, 3),
  lambda kernel: kernel,
)
# Which of several variables of one shape, where there are more than layers: the first or the last
# ones, or one out of each group.
_PICKS = (
  lambda candidates, number: candidates[:number],
  lambda candidates, number: candidates[-number:],
  lambda candidates, number: candidates[:: max(1, len(candidates) // number)][:number],
  lambda candidates, number: candidates[::-1][:: max(1, len(candidates) // number)][:number][::-1],
)


def _by_name(found: Variables, layer: str) -> tuple[np.ndarray, np.ndarray] | None:
  """(kernel, bias) of a layer whose variables bear its name."""
  own = layer.split('/', 1)[1]
  names = {own, own.replace('shortcut_layer', 'shortcut'), _RENAMED.get(layer, own)}
  paths = [tuple(name.split('/')) for name in names]
  kinds: dict[str, np.ndarray] = {}
  for name, value in found:
    *segments, kind = name.split('/')
    path = tuple(part for part in segments if part not in _WRAPPERS)
    if any(path[-len(wanted) :] == wanted for wanted in paths):
      kinds['rescaled' if 'rescaled' in segments else kind] = value
  if 'bias' not in kinds or not {'kernel', 'rescaled'} & set(kinds):
    return None
  if 'rescaled' in kinds:
    return kinds['rescaled'], kinds['bias']
  if 'g' not in kinds:
    return kinds['kernel'], kinds['bias']
  out = 2 if 'transpose' in layer else 3
  kernel, gain_shape = kinds['kernel'], [1, 1, 1, 1]
  gain_shape[out] = -1
  norm = np.sqrt(np.square(kernel).sum(tuple({0, 1, 2, 3} - {out}), keepdims=True))
  return kernel * kinds['g'].reshape(gain_shape) / norm, kinds['bias']


def _by_place(
  found: Variables, shapes: network.Shapes, pick: Callable[[list[int], int], list[int]], source: str
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """(kernel, bias) of layers by the shape and order of variables; a bias follows its kernel."""
  kernels: dict[str, int] = {}
  classes: dict[tuple[int, ...], list[str]] = {}
  for layer, shape in shapes.items():
    stored = (*shape[:2], *shape[:1:-1]) if 'transpose' in layer else shape
    classes.setdefault(stored, []).append(layer)
  for shape, layers in classes.items():
    candidates = [index for index, (_, value) in enumerate(found) if value.shape == shape]
    if len(candidates) < len(layers):
      raise ValueError(
        f'{source} has {len(candidates)} variables of shape {shape} for {len(layers)} layers: '
        f'{", ".join(layers)}.'
      )
    kernels |= dict(zip(layers, pick(candidates, len(layers)), strict=True))
  pairs = {}
  for layer, index in kernels.items():
    width = shapes[layer][3:]
    biases = [i for i, (_, value) in enumerate(found) if value.shape == width]
    if not biases:
      raise ValueError(f'{source} has no variable of shape {width} for the bias of {layer}.')
    nearest = min(biases, key=lambda i: (i < index, abs(i - index)))
    pairs[layer] = found[index][1], found[nearest][1]
  return pairs


# The quantizer.


def _codebooks(module: Any, source: str) -> np.ndarray:
  """[levels, codes, D] from one [D, codes] table a level."""
  quantizers = getattr(module, '_quantizers', None)
  if quantizers is not None:
    tables = [np.asarray(quantizer.embeddings.numpy()) for quantizer in quantizers]
  else:
    tables = [value for name, value in _variables(module) if 'embedding' in name]
  shapes = sorted({table.shape for table in tables})
  if len(shapes) != 1 or len(shapes[0]) != 2:
    raise ValueError(
      f'{source} must hold one [D, codes] table a level; it holds {len(tables)} of shapes {shapes}.'
    )
  return np.stack([table.T for table in tables]).astype(np.float32)


def _check_codes(module: Any, codebooks: np.ndarray, source: str):
  """Holds our codes of random latents against the quantizer's own."""
  encode = getattr(module, 'inference_encoding_with_tf_function', None)
  if encode is None:
    return
  latents = np.random.default_rng(0).standard_normal([1, 64, codebooks.shape[2]], np.float32)
  latents *= codebooks.std() * math.sqrt(len(codebooks))
  theirs = np.asarray(encode(latents, num_quantizers=len(codebooks))[0]).transpose([1, 2, 0])
  ours = np.asarray(rvq.quantize(latents, jnp.asarray(codebooks)))
  # A tie that rounding decides changes all deeper levels of that frame.
  agreed = np.mean(ours == theirs, axis=(0, 1))
  if agreed.min() < 0.9:
    level = int(np.argmax(agreed < 0.9))
    raise ValueError(
      f'{source}: of 64 random latents, {agreed[level]:.0%} get the same code of level {level} '
      'from its tables by this package as from itself.'
    )


# Where something disagrees.


class _Recorder(steps.Memory):
  """Keeps what every convolution gives."""

  def __init__(self):
    super().__init__()
    self.outputs: dict[str, jax.Array] = {}

  def conv(self, params: Any, name: str, *args: Any) -> jax.Array:
    self.outputs[name] = super().conv(params, name, *args)
    return self.outputs[name]

  def conv_transposed(self, params: Any, name: str, *args: Any) -> jax.Array:
    self.outputs[name] = super().conv_transposed(params, name, *args)
    return self.outputs[name]


def _layer_outputs(part: str, params: Any, probe: np.ndarray) -> dict[str, np.ndarray]:
  """What each layer gives for the probe, in the order of the signal."""
  recorder = _Recorder()
  if part == 'encoder':
    spectrum = stft(jnp.asarray(probe), network.hop_size(LiveMusicSpec()))
    latents = steps.encode_frames(params, spectrum, recorder, None)
    outputs = recorder.outputs | {'output_convs': latents}
  else:
    latents = jnp.pad(jnp.asarray(probe), [(0, 0), (0, 1), (0, 0)])
    steps.decode_frames(params, latents, recorder)
    outputs = {'input_layer': network.decoder_input(params, latents)} | recorder.outputs
  return {name: np.asarray(value) for name, value in outputs.items()}


def _first_disagreement(part: str, params: Any, module: Any, probe: np.ndarray) -> str:
  """Names the first layer whose output no tensor in the SavedModel's graph has.

  Tensors are compared as sets of values, so that their layout does not matter.
  """
  theirs: dict[int, list[np.ndarray]] = {}
  for value in _graph_values(module, probe):
    theirs.setdefault(value.size, []).append(np.sort(value, axis=None))
  agreed = 'the input'
  for name, value in _layer_outputs(part, params, probe).items():
    # Both audio channels at once, or the first of them.
    some = [np.sort(value, axis=None), np.sort(value[:1], axis=None)]
    if not any(
      np.abs(ours - other).max() < _TOLERANCE * np.abs(ours).max()
      for ours in some for other in theirs.get(ours.size, [])
    ):  # fmt: skip
      return f'The first layer that disagrees is {part}/{name}; up to {agreed} both are the same.'
    agreed = f'{part}/{name}'
  return 'All layers agree; what differs comes after the last of them.'


def _graph_values(module: Any, probe: np.ndarray) -> list[np.ndarray]:
  """Every float tensor of three axes or more that the SavedModel computes from the probe."""
  import tensorflow as tf
  from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

  call = tf.function(lambda x: _invoke(module, x))
  frozen = convert_variables_to_constants_v2(
    call.get_concrete_function(tf.TensorSpec(probe.shape, tf.float32))
  )
  tensors = [
    tensor
    for operation in frozen.graph.get_operations() for tensor in operation.outputs
    if tensor.dtype == tf.float32 and (tensor.shape.rank or 0) >= 3
  ]  # fmt: skip
  values = frozen.prune(frozen.inputs, tensors)(tf.constant(probe))
  return [np.asarray(value) for value in values]


def _call(module: Any, x: np.ndarray) -> np.ndarray:
  import tensorflow as tf

  return np.asarray(_invoke(module, tf.constant(x)))


def _invoke(module: Any, x: Any) -> Any:
  """The one output of a SavedModel that has one input, called or by its signature."""
  import tensorflow as tf

  if callable(module):
    return tf.nest.flatten(module(x))[0]
  signature = next(iter(module.signatures.values()))
  (name,) = signature.structured_input_signature[1]
  return next(iter(signature(**{name: x}).values()))
