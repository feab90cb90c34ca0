"""Convolutions and residual units of SpectroStream, as functions of explicit parameters.

Tensors are [batch, time, frequency, channels], kernels [time, frequency, in, out]. Strided
convolutions are written as stride-1 convolutions of folded tensors and transposed ones as stride-1
convolutions whose output is unfolded: the plain forms (and their gradients) dilate their input, for
which XLA has only a slow path on CPUs.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Params = dict[str, Any]
Stride = tuple[int, int]

# Channels that one vector of float32 holds on the CPUs at hand.
_VECTOR = 16


def elu(x: jax.Array) -> jax.Array:
  """x where positive, else exp(x) - 1."""
  return jnp.where(x > 0, x, jnp.exp(jnp.minimum(x, 0.0)) - 1.0)


def unit_kernel(stride: Stride) -> tuple[int, int]:
  """Kernel (time, frequency) of a residual unit's resampling convolution."""
  return max(3, 2 * stride[0]), max(3, 2 * stride[1])


def conv(
  layer: Params, x: jax.Array, stride: Stride = (1, 1), past: jax.Array | None = None
) -> jax.Array:
  """A convolution, causal in time but for what its stride needs, centred in frequency.

  Padding for kernel k and stride s: time max(k - s, 0) on the left and the rest of k - 1 on the
  right; frequency max(k - s, 0) in all, the smaller half on the left.

  Args:
    layer: {'conv': {'kernel': [kt, kf, in, out], 'bias': [out]}}.
    x: [B, T, F, in].
    stride: (time, frequency); where it is not 1, the kernel must be twice the stride.
    past: [B, kt - stride, F, in], the time steps before `x`; None stands for zeros.

  Returns:
    [B, ceil(T / stride), ceil(F / stride), out].
  """
  kernel, bias = layer['conv']['kernel'], layer['conv']['bias']
  if kernel.shape[:2] == (1, 1):
    return x @ kernel[0, 0] + bias
  padding = []
  for axis, (size, k, s) in enumerate(zip(x.shape[1:3], kernel.shape, stride, strict=False)):
    total = max(k - s, 0)
    left = total if axis == 0 else total // 2
    # Whole windows for ceil(size / s) outputs; for s > 1 whole blocks of s.
    needed = (-(-size // s) - 1) * s + k
    padding.append((left, needed - size - left))
  if past is not None:
    x, padding[0] = jnp.concatenate([past, x], axis=1), (0, padding[0][1])
  if stride != (1, 1):
    # With k = 2 s every output sees two whole blocks of s inputs: fold blocks into channels.
    (before, after), sides = padding
    x = _fold(_pad(x, [(0, after), sides]), stride)
    # Before the first frame are whole blocks, which are left to the convolution to pad: a wide one
    # that pads nothing itself takes XLA three times as long on CPUs.
    return _correlate(x, _fold_kernel(kernel, stride), before // stride[0]) + bias
  if kernel.shape[0] * kernel.shape[3] <= _VECTOR:
    y = _narrow_conv(kernel, _pad(x, [(0, 0), padding[1]])) + bias
    return y if past is None else y[:, past.shape[1] :]
  group = _bins_per_group(x.shape[2], kernel)
  if group == 1:
    return _correlate(_pad(x, padding), kernel) + bias
  # Narrow layers waste vector units: treat `group` neighbouring bins as channels of one.
  blocks = -(-(group + kernel.shape[1] - 1) // group)
  behind = (x.shape[2] // group + blocks - 1) * group - x.shape[2] - padding[1][0]
  x = _fold(_pad(x, [padding[0], (padding[1][0], behind)]), (1, group))
  y = _correlate(x, _banded_kernel(kernel, group, blocks))
  return jnp.reshape(y, [*y.shape[:2], y.shape[2] * group, len(bias)]) + bias


def conv_transposed(
  layer: Params, x: jax.Array, stride: Stride, past: jax.Array | None = None
) -> jax.Array:
  """A transposed convolution: zeros between inputs, then an unflipped correlation.

  Padding of the zero-stuffed input: time (k - 1, s - 1); frequency k + s - 2 in all, the larger
  half on the left.

  Args:
    layer: {'conv': {'kernel': [kt, kf, in, out], 'bias': [out]}}.
    x: [B, T, F, in].
    stride: (time, frequency); where it is not 1, the kernel must be twice the stride.
    past: [B, ceil(kt / stride) - 1, F, in], the time steps before `x`; None stands for zeros.

  Returns:
    [B, T * stride, F * stride, out].
  """
  kernel, bias = layer['conv']['kernel'], layer['conv']['bias']
  batch, frames, bins, _ = x.shape
  width = kernel.shape[3]
  # Time keeps the blocks before the end, frequency one more, of which the ends are cut off below.
  padding = [(kernel.shape[0] // stride[0] - 1, 0), (1, 1)]
  if past is not None:
    x, padding[0] = jnp.concatenate([past, x], axis=1), (0, 0)
  blocks = bins + 1 if stride[1] > 1 else bins
  phases = _correlate(_pad(x, padding), _phase_kernel(kernel, stride))
  phases = jnp.reshape(phases, [batch, frames, blocks, *stride, width])
  y = jnp.transpose(phases, [0, 1, 3, 2, 4, 5])
  y = jnp.reshape(y, [batch, frames * stride[0], blocks * stride[1], width])
  if stride[1] > 1:
    k, s = kernel.shape[1], stride[1]
    cut = k - 1 - -(-(k + s - 2) // 2)
    y = y[:, :, cut : cut + bins * s]
  return y + bias


def encode_unit(
  layer: Params, x: jax.Array, stride: Stride, num_frames: jax.Array | None = None
) -> jax.Array:
  """Residual unit of the encoder.

  Body: ELU, 3x3, ELU, strided convolution. Shortcut: average pooling, then 1x1 where the width
  changes.

  Args:
    layer: its parameters.
    x: [B, T, F, in].
    stride: (time, frequency).
    num_frames: frames of `x` that exist; the others count as the padding behind the end.
  """
  kt, kf = unit_kernel(stride)
  h = elu(conv(layer['conv2d_3x3'], elu(x)))
  if num_frames is not None and stride[0] > 1:
    real = (jnp.arange(x.shape[1]) < num_frames)[:, None, None]
    h, x = jnp.where(real, h, 0.0), jnp.where(real, x, 0.0)
  h = conv(layer[f'conv2d_{kt}x{kf}_a'], h, stride)
  return h + _project(layer, average_pool(x, stride))


def decode_unit(layer: Params, x: jax.Array, stride: Stride) -> jax.Array:
  """Residual unit of the decoder.

  Body: ELU, transposed convolution, ELU, 3x3. Shortcut: 1x1 where the width changes, then each
  element repeated.
  """
  kt, kf = unit_kernel(stride)
  h = conv_transposed(layer[f'conv2dtranspose_{kt}x{kf}'], elu(x), stride)
  h = conv(layer['conv2d_3x3'], elu(h))
  return h + repeat(_project(layer, x), stride)


def plain_unit(layer: Params, x: jax.Array, first: str, second: str) -> jax.Array:
  """Residual unit that keeps size and width; the two 3x3 layers are named in their order."""
  return x + conv(layer[second], elu(conv(layer[first], elu(x))))


def average_pool(x: jax.Array, stride: Stride) -> jax.Array:
  """Mean over windows of `stride`; frames missing at the end count as zeros."""
  if stride == (1, 1):
    return x
  st, sf = stride
  x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % st), (0, 0), (0, 0)])
  batch, frames, bins, width = x.shape
  return jnp.mean(jnp.reshape(x, [batch, frames // st, st, bins // sf, sf, width]), axis=(2, 4))


def repeat(x: jax.Array, stride: Stride) -> jax.Array:
  """Each element `stride` times along time and frequency."""
  st, sf = stride
  batch, frames, bins, width = x.shape
  x = jnp.broadcast_to(x[:, :, None, :, None], [batch, frames, st, bins, sf, width])
  return jnp.reshape(x, [batch, frames * st, bins * sf, width])


def _project(layer: Params, x: jax.Array) -> jax.Array:
  return conv(layer['shortcut_layer']['conv1x1'], x) if 'shortcut_layer' in layer else x


def _correlate(x: jax.Array, kernel: jax.Array, before: int = 0) -> jax.Array:
  """Correlation without padding but for `before` frames of zeros in front."""
  padding = [(before, 0), (0, 0)]
  return lax.conv_general_dilated(
    x, kernel, (1, 1), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _narrow_conv(kernel: jax.Array, x: jax.Array) -> jax.Array:
  """A causal convolution to very few channels: all time taps of an input at once, added later."""
  kt, kf, width, out = kernel.shape
  taps = jnp.transpose(kernel, [1, 2, 0, 3]).reshape([1, kf, width, kt * out])
  y = _correlate(x, taps)
  frames = y.shape[1]
  y = jnp.pad(y, [(0, 0), (kt - 1, 0), (0, 0), (0, 0)])
  return sum(y[:, i : i + frames, :, i * out : (i + 1) * out] for i in range(kt))


def _bins_per_group(bins: int, kernel: jax.Array) -> int:
  """Bins that make a layer of fewer than `_VECTOR` channels that wide, where they divide `bins`."""
  group = _VECTOR // max(kernel.shape[2:])
  return group if group > 1 and bins % group == 0 else 1


def _banded_kernel(kernel: jax.Array, group: int, blocks: int) -> jax.Array:
  """[kt, kf, in, out] -> [kt, blocks, group * in, group * out], zero where no tap reaches.

  Output bin g of a group sees input bin u of block b through tap b * group + u - g.
  """
  kt, kf, width, out = kernel.shape
  inputs = np.arange(blocks * group)
  taps = inputs[:, None] - np.arange(group)[None]
  reached = ((taps >= 0) & (taps < kf)).astype(np.float32)
  # [kt, inputs, g, in, out]
  banded = kernel[:, np.clip(taps, 0, kf - 1)] * reached[:, :, None, None]
  banded = jnp.reshape(banded, [kt, blocks, group, group, width, out])
  banded = jnp.transpose(banded, [0, 1, 2, 4, 3, 5])
  return jnp.reshape(banded, [kt, blocks, group * width, group * out])


def _pad(x: jax.Array, padding: list[tuple[int, int]]) -> jax.Array:
  # A negative amount on the right cuts off what no window reaches.
  inner = [(before, after, 0) for before, after in padding]
  return lax.pad(x, jnp.zeros([], x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])


def _fold(x: jax.Array, stride: Stride) -> jax.Array:
  """[B, T, F, C] -> [B, T / st, F / sf, st * sf * C]."""
  st, sf = stride
  batch, frames, bins, width = x.shape
  x = jnp.reshape(x, [batch, frames // st, st, bins // sf, sf, width])
  x = jnp.transpose(x, [0, 1, 3, 2, 4, 5])
  return jnp.reshape(x, [batch, frames // st, bins // sf, st * sf * width])


def _fold_kernel(kernel: jax.Array, stride: Stride) -> jax.Array:
  """The kernel that does on folded input what `kernel` does with `stride` on the plain one."""
  st, sf = stride
  kt, kf, width, out = kernel.shape
  kernel = jnp.reshape(kernel, [kt // st, st, kf // sf, sf, width, out])
  kernel = jnp.transpose(kernel, [0, 2, 1, 3, 4, 5])
  return jnp.reshape(kernel, [kt // st, kf // sf, st * sf * width, out])


def _phase_kernel(kernel: jax.Array, stride: Stride) -> jax.Array:
  """Kernel [kt / st, kf / sf, in, st * sf * out] that gives all phases of a transposed one.

  Along an axis with k = 2 s, output s p + r is w[2s - 1 - r] x[p] + w[s - 1 - r] x[p - 1]: the
  kernel in blocks of s, each block reversed.
  """
  st, sf = stride
  kt, kf, width, out = kernel.shape
  kernel = jnp.reshape(kernel, [kt // st, st, kf // sf, sf, width, out])[:, ::-1, :, ::-1]
  kernel = jnp.transpose(kernel, [0, 2, 4, 1, 3, 5])
  return jnp.reshape(kernel, [kt // st, kf // sf, width, st * sf * out])
