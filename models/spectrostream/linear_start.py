"""A closed-form start that already transmits the waveform: principal components, stage by stage.

From random parameters a small codec learns magnitudes fast but phases hardly at all. Here some
channels of every stage are set to carry the spectrum linearly: each strided unit keeps the leading
principal components of the blocks that it folds (a Karhunen-Loeve transform fitted to audio, stage
after stage), the last one those of each bin; the decoder applies the transposes.
Between the units these channels ride on a constant of `_OFFSET`, so that ELU passes them
unchanged; a constant channel of the decoder takes it away again. The outputs concerned are marked
as not trainable: gradient steps on such chains of offsets make them worse. All other channels stay
free, read the carried ones softly and without their offset, so that ELU bends what they hear, and
learn what is not linear. Among themselves they start at unit gain, however few they are: else
their signal fades from stage to stage, and training stands still.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models.spec import LiveMusicSpec
from models.spectrostream import config as config_lib
from models.spectrostream import network
from models.spectrostream.config import SpectroStreamConfig
from models.spectrostream.linear_components import (
  Basis,
  Carried,
  LinearStart,
  Transform,
  fit,
  widened,
)

Tree = dict[str, Any]
_OFFSET = 3.0


def linear_start(
  params: Tree,
  config: SpectroStreamConfig,
  spec: LiveMusicSpec,
  audio: np.ndarray,
  start: LinearStart,
) -> tuple[Tree, Tree]:
  """Sets the carried channels of random parameters.

  Args:
    params: as `network.init_params` gives them; not changed.
    config: their widths.
    spec: sample and frame rate.
    audio: [B, n, 2] float32, n a whole number of latent frames; what the components are fitted to.
    start: see there.

  Returns:
    (params, trainable): float32 trees of the same structure; `trainable` is 0 where a parameter
    must stay as it is and 1 elsewhere.

  Raises:
    ValueError: the numbers of `start` do not fit the widths.
  """
  _check(config, start)
  return _set(params, config, start, fit(audio, spec, start))


def linear_refit(
  params: Tree,
  config: SpectroStreamConfig,
  spec: LiveMusicSpec,
  audio: np.ndarray,
  start: LinearStart,
  old: tuple[Tree, SpectroStreamConfig, LinearStart] | None = None,
) -> tuple[Tree, Tree]:
  """Fits the carried channels of a trained codec to other audio; free channels keep their weights.

  The components that hold the most of the new audio span a space, within which any rotation carries
  the same. The one nearest to the old components is taken (orthogonal Procrustes, Schoenemann
  1966), with their scales, so that free channels go on hearing about what they have learnt to read.

  Args:
    params: of a codec that began with `linear_start`; not changed.
    config: their widths.
    spec: sample and frame rate.
    audio: see `linear_start`.
    start: how many channels are carried from now on.
    old: (parameters, widths, linear start) of the smaller codec that `params` grew from, see
      `growing.grow`; None where it did not grow.

  Returns:
    (params, trainable) as `linear_start` does.

  Raises:
    ValueError: the numbers of `start` do not fit the widths, or the trained codec did not begin
      with those of its own start.
  """
  _check(config, start)
  trained = old or (params, config, start)
  before = widened(_read(*trained), trained[2], start)
  fitted, trainable = _set(params, config, start, fit(audio, spec, start, before))
  merged = jax.tree.map(
    lambda old, new, free: jnp.where(free > 0, old, new), params, fitted, trainable
  )
  return merged, trainable


def _set(
  params: Tree, config: SpectroStreamConfig, start: LinearStart, carried: Carried
) -> tuple[Tree, Tree]:
  layers = _Layers(params)
  _set_encoder(layers, config, start, carried.transforms, carried.basis)
  _set_decoder(layers, config, start, carried.transforms, carried.basis)
  return jax.tree.map(jnp.asarray, layers.params), jax.tree.map(jnp.asarray, layers.trainable)


def _read(params: Tree, config: SpectroStreamConfig, start: LinearStart) -> Carried:
  """What the carried channels of a codec do: the inverse of `_set`."""
  layers, transforms, carried = _Layers(params), [], start.carried
  width = config.encoder_widths[0]
  for index, (st, sf) in enumerate(config_lib.ENCODER_STRIDES):
    unit, inputs, outs = f'encoder/encoder_{index}', np.arange(carried[index]), carried[index + 1]
    if index == config_lib.SEPARATE_ENCODER_UNITS:
      inputs, width = np.concatenate([inputs, width + inputs]), 2 * width
    kt, kf = network.unit_kernel((st, sf))
    kernel, _ = layers[f'{unit}/conv2d_{kt}x{kf}_a']
    early, low = max(kt - st, 0), max(kf - sf, 0) // 2
    weights = kernel[early : early + st, low : low + sf, inputs, :outs].astype(np.float64)
    if not layers.has(f'{unit}/shortcut_layer'):
      weights[:, :, np.arange(outs), np.arange(outs)] += 1 / (st * sf)
    forward = weights.reshape([-1, outs])
    # Of orthogonal columns the pseudoinverse is the transpose, each row over its squared length.
    lengths = np.square(forward).sum(0)
    backward = forward / np.where(lengths > 1e-12, lengths, 1.0)
    transforms.append(Transform(forward, backward))
    width = config.encoder_widths[index + 1]
  kernel, _ = layers['encoder/output_convs/conv1x1_last']
  flat = _flat_indices(kernel.shape[2] // width, width, carried[-1])
  analysis = kernel[0, 0, flat, : start.features].astype(np.float64) / start.latent_scale
  kernel, _ = layers['decoder/input_layer/conv1x1_first']
  width = config.decoder_widths[0]
  flat = _flat_indices(kernel.shape[3] // width, width, carried[-1])
  synthesis = kernel[0, 0, : start.features, flat].T.astype(np.float64) * start.latent_scale
  if not np.allclose(synthesis @ analysis, np.eye(start.features), atol=0.05):
    raise ValueError(
      f'These parameters did not begin with the linear start carried={carried}, '
      f'features={start.features}: give the one of their recipe.'
    )
  return Carried(transforms, Basis(analysis, synthesis))


def _check(config: SpectroStreamConfig, start: LinearStart):
  carried, widths = start.carried, config.encoder_widths
  # The decoder's stages in the encoder's order; decoder_widths[1] holds both channels. One channel
  # of each is the constant.
  decoder = [config.decoder_widths[0], config.decoder_widths[1] // 2, *config.decoder_widths[2:]]
  room = [width - 1 for width in reversed(decoder)]
  for index, limits in enumerate(zip(widths, room, strict=True)):
    if not 1 <= carried[index] <= min(limits):
      raise ValueError(f'carried[{index}]={carried[index]} is not in 1..{min(limits)}.')
  # A unit that keeps its width has no projection: what its shortcut brings must itself be carried.
  for index in range(len(config_lib.ENCODER_STRIDES)):
    inside = widths[index] * (2 if index == config_lib.SEPARATE_ENCODER_UNITS else 1)
    if inside == widths[index + 1] and carried[index] < carried[index + 1]:
      raise ValueError(f'encoder_{index} keeps its width, so carried must not grow: {carried}.')
  for index, stage in enumerate(reversed(range(len(config_lib.ENCODER_STRIDES)))):
    inside = config.decoder_widths[index] // (2 if index == config_lib.JOINT_DECODER_UNITS else 1)
    if inside == config.decoder_widths[index + 1] and (
      index < config_lib.JOINT_DECODER_UNITS or carried[stage + 1] < carried[stage]
    ):
      raise ValueError(f'decoder_{index} keeps its width, which {carried} cannot pass through.')
  if not 1 <= start.features <= config.num_features:
    raise ValueError(f'features={start.features} is not in 1..{config.num_features}.')


class _Layers:
  """Writable parameters, and which of them may be trained."""

  def __init__(self, params: Tree):
    self.params = jax.tree.map(np.array, params)
    self.trainable = jax.tree.map(np.ones_like, self.params)

  def __getitem__(self, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(kernel, bias) of a layer, to be written to."""
    layer = _at(self.params, name)
    return layer['kernel'], layer['bias']

  def has(self, name: str) -> bool:
    node = self.params
    for part in name.split('/'):
      if part not in node:
        return False
      node = node[part]
    return True

  def clear(self, name: str, outputs: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Zeros these outputs of a layer, takes them out of training, gives (kernel, bias)."""
    kernel, bias = self[name]
    trainable = _at(self.trainable, name)
    for array in (kernel, bias, trainable['kernel'], trainable['bias']):
      array[..., np.asarray(outputs, int)] = 0
    return kernel, bias


def _at(tree: Tree, name: str) -> Tree:
  for part in name.split('/'):
    tree = tree[part]
  return tree['conv']


def _set_encoder(
  layers: _Layers,
  config: SpectroStreamConfig,
  start: LinearStart,
  transforms: list[Transform],
  basis: Basis,
):
  carried, quiet = start.carried, start.crosstalk
  kernel, bias = layers.clear('encoder/base_conv_first', range(carried[0]))
  _, centre = _centre(kernel)
  kernel[-1, centre, [0, 1], [0, 1]] = start.input_gain
  bias[: carried[0]] = _OFFSET

  width = config.encoder_widths[0]
  for index, (stride, transform) in enumerate(
    zip(config_lib.ENCODER_STRIDES, transforms, strict=True)
  ):
    st, sf = stride
    unit, inputs, outs = f'encoder/encoder_{index}', np.arange(carried[index]), carried[index + 1]
    if index == config_lib.SEPARATE_ENCODER_UNITS:
      inputs, width = np.concatenate([inputs, width + inputs]), 2 * width
    kernel, bias = layers.clear(f'{unit}/conv2d_3x3', inputs)
    _listen(kernel, bias, inputs, quiet)
    kernel[-1, 1, inputs, inputs] = 1

    kt, kf = network.unit_kernel(stride)
    weights = transform.forward.reshape([st, sf, len(inputs), outs]).copy()
    projected = layers.has(f'{unit}/shortcut_layer')
    if not projected:  # The shortcut already brings the block's mean.
      weights[:, :, np.arange(outs), np.arange(outs)] -= 1 / (st * sf)
    kernel, bias = layers.clear(f'{unit}/conv2d_{kt}x{kf}_a', range(outs))
    _listen(kernel, bias, inputs, quiet)
    early, low = max(kt - st, 0), max(kf - sf, 0) // 2
    for a in range(st):
      for b in range(sf):
        kernel[early + a, low + b, inputs, :outs] = weights[a, b]
    bias[:outs] = _OFFSET * (projected - weights.sum((0, 1, 2)))
    if projected:
      kernel, projection_bias = layers.clear(f'{unit}/shortcut_layer/conv1x1', range(outs))
      _listen(kernel, projection_bias, inputs, quiet)
    width = config.encoder_widths[index + 1]
  _set_encoder_output(layers, start, basis, width)


def _set_encoder_output(layers: _Layers, start: LinearStart, basis: Basis, width: int):
  """The bottleneck leaves carried channels alone; the first latents are their components."""
  outs = start.carried[-1]
  layers.clear('encoder/bottleneck/conv2d_3x3_a', range(outs))
  _listen(*layers['encoder/bottleneck/conv2d_3x3'], np.arange(outs), start.crosstalk)
  matrix = start.latent_scale * basis.analysis
  flat = _flat_indices(len(matrix) // outs, width, outs)
  name = 'encoder/output_convs'
  kernel, bias = layers.clear(f'{name}/conv1x1_last', range(start.features))
  # Other latents see the carried channels through the branch only, which need not be linear.
  _listen(kernel, bias, flat, 0.0)
  kernel[0, 0, flat, : start.features] = matrix
  bias[: start.features] = -_OFFSET * matrix.sum(0)
  _listen(*layers[f'{name}/shortcut_layer/conv1x1_b1'], flat, start.crosstalk)
  layers.clear(f'{name}/shortcut_layer/conv1x1_b2', range(start.features))


def _set_decoder(
  layers: _Layers,
  config: SpectroStreamConfig,
  start: LinearStart,
  transforms: list[Transform],
  basis: Basis,
):
  width = config.decoder_widths[0]
  _set_decoder_input(layers, start, basis, width)
  for index, stride in enumerate(config_lib.DECODER_STRIDES):
    stage = len(transforms) - 1 - index
    out_width = config.decoder_widths[index + 1]
    outs, constants = np.arange(start.carried[stage]), np.array([out_width - 1])
    if index < config_lib.JOINT_DECODER_UNITS:
      outs = np.concatenate([outs, out_width // 2 + outs])
      constants = np.array([out_width // 2 - 1, out_width - 1])
    matrix = transforms[stage].backward.reshape([*stride, len(outs), start.carried[stage + 1]])
    _set_decode_unit(layers, index, matrix.transpose([0, 1, 3, 2]), width, outs, constants, start)
    width = out_width // (2 if index < config_lib.JOINT_DECODER_UNITS else 1)

  name = 'decoder/output_layer/base_conv_last'
  kernel, bias = layers[name]
  trainable = _at(layers.trainable, name)
  kernel *= start.output_crosstalk
  _, centre = _centre(kernel)
  kernel[:, :, : start.carried[0]] = 0
  kernel[-1, centre, [0, 1], [0, 1]] = 1 / start.input_gain
  bias[:] = -_OFFSET / start.input_gain
  trainable['kernel'][:, :, : start.carried[0]] = 0
  trainable['bias'][:] = 0


def _set_decoder_input(layers: _Layers, start: LinearStart, basis: Basis, width: int):
  """Latents to carried channels of the first stage; the last channel of each bin is constant 1."""
  carried = start.carried[-1]
  bins = len(basis.analysis) // carried
  flat, constant = _flat_indices(bins, width, carried), _flat_indices(bins, width, 1) + width - 1
  fixed = np.concatenate([flat, constant])
  kernel, bias = layers.clear('decoder/input_layer/conv1x1_first', fixed)
  kernel[0, 0, : start.features, flat] = basis.synthesis.T / start.latent_scale
  bias[flat], bias[constant] = _OFFSET, 1.0
  layers.clear('decoder/input_layer/shortcut_layer/conv1x1_b2', fixed)
  unit = 'decoder/input_layers_residual_unit'
  layers.clear(f'{unit}/conv2d_3x3', [*range(carried), width - 1])
  inputs = np.arange(carried)
  _listen(*layers[f'{unit}/conv2d_3x3_a'], inputs, start.crosstalk, np.array([width - 1]))


def _set_decode_unit(
  layers: _Layers,
  index: int,
  matrix: np.ndarray,
  width: int,
  outs: np.ndarray,
  constants: np.ndarray,
  start: LinearStart,
):
  """One unit: carried channels times matrix [st, sf, in, out], less the offset.

  Args:
    layers: to write to.
    index: of the unit.
    matrix: see above.
    width: channels that come in; the last is constant 1.
    outs: channels that go out.
    constants: channels that carry the constant on.
    start: see there.
  """
  st, sf, carried, _ = matrix.shape
  unit, fixed = f'decoder/decoder_{index}', np.concatenate([outs, constants])
  projected, quiet = layers.has(f'{unit}/shortcut_layer'), start.crosstalk
  weights = matrix.copy()
  if not projected:  # The shortcut already repeats the input.
    weights[:, :, np.arange(len(outs)), np.arange(len(outs))] -= 1
  kt, kf = network.unit_kernel((st, sf))
  kernel, bias = layers.clear(f'{unit}/conv2dtranspose_{kt}x{kf}', fixed)
  inputs, constant = np.arange(carried), np.array([width - 1])
  _listen(kernel, bias, inputs, quiet, constant)
  # The decoder runs one latent behind: its first unit reads the latent before.
  late = kt - 1 - (st if index == 0 else 0)
  high = kf - 1 if sf > kf - 1 else -(-(kf + sf - 2) // 2)
  for a in range(st):
    for b in range(sf):
      kernel[late - a, high - b, :carried, outs] = weights[a, b].T
      kernel[late - a, high - b, width - 1, outs] = -_OFFSET * weights[a, b].sum(0)
  bias[outs], bias[constants] = _OFFSET, 1.0

  kernel, bias = layers.clear(f'{unit}/conv2d_3x3', fixed)
  _listen(kernel, bias, outs, quiet, constants)
  kernel[-1, 1, outs, outs] = 1
  if projected:
    kernel[-1, 1, constants, constants] = 1
    _listen(*layers.clear(f'{unit}/shortcut_layer/conv1x1', fixed), inputs, quiet, constant)
  else:
    bias[outs] = -_OFFSET


def _listen(
  kernel: np.ndarray,
  bias: np.ndarray,
  carried: np.ndarray,
  crosstalk: float,
  constants: np.ndarray | tuple = (),
):
  """What free outputs take from carried inputs, from constant ones and from free ones; in place.

  Args:
    kernel: [kt, kf, in, out] random weights, 0 to all outputs that are not free.
    bias: [out].
    carried: inputs that ride on `_OFFSET`, heard times `crosstalk`, their offset taken away.
    crosstalk: see `LinearStart`.
    constants: inputs that are 1, not heard.
  """
  width = kernel.shape[2]
  free = np.setdiff1d(np.arange(width), np.concatenate([carried, constants]))
  kernel[:, :, carried] *= crosstalk
  kernel[:, :, np.asarray(constants, int)] = 0
  kernel[:, :, free] *= np.sqrt(width / max(len(free), 1))
  bias -= _OFFSET * kernel[:, :, carried].sum((0, 1, 2))


def _flat_indices(bins: int, width: int, channels: int) -> np.ndarray:
  """Positions of the first `channels` of `width` in a bin-major flattened [bins, width]."""
  return (width * np.arange(bins)[:, None] + np.arange(channels)).reshape(-1)


def _centre(kernel: np.ndarray) -> tuple[int, int]:
  return kernel.shape[0] - 1, (kernel.shape[1] - 1) // 2
