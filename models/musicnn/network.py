"""The forward pass of musicnn: log-mel patches -> pooled features, penultimate layer, tags.

Written from the published description (Pons et al., "End-to-end learning for music audio tagging at
scale", 2018) and checked against the published code: filters that are tall (timbre) and filters
that are long (rhythm), each followed by its maximum over frequency; three convolutions over time
with residuals; maximum and mean over time; two dense layers. Batch normalisation comes as one scale
and one shift for each channel.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Layers by name: bands of a tall filter, frames of a long one.
TALL = {'timbre_38': 38, 'timbre_67': 67}
LONG = {'rhythm_128': 128, 'rhythm_64': 64, 'rhythm_32': 32}
MIDDLE = ('middle_1', 'middle_2', 'middle_3')
# Frames of a tall filter and of those in the middle.
FRAMES = 7
_AROUND = FRAMES // 2
# With 16 filters or fewer XLA's convolutions on CPUs take 3 to 13 times as long as with 24.
_FEWEST = 24
# A filter that moves no pooled feature by more than this is left out; the features are about 1.
TOLERANCE = 1e-3
_LOUDEST = 7.0  # log10(1 + 10000 * mel power) of anything below full scale lies below.

Params = dict[str, Any]


def shapes(num_tags: int) -> dict[str, tuple[int, ...]]:
  """Name -> shape of every parameter of the published size (787,159 for 50 tags)."""
  tall, long, middle, dense, bands = 204, 51, 64, 200, 1
  first = tall * len(TALL) + long * len(LONG)
  pooled = 2 * (first + middle * len(MIDDLE))
  found: dict[str, tuple[int, ...]] = {}

  def norm(name: str, width: int):
    found[f'{name}/scale'] = found[f'{name}/shift'] = (width,)

  def layer(name: str, *kernel: int):
    found[f'{name}/kernel'], found[f'{name}/bias'] = kernel, kernel[-1:]
    norm(name, kernel[-1])

  norm('input', bands)
  for name, height in TALL.items():
    layer(name, FRAMES, height, tall)
  for name, length in LONG.items():
    layer(name, length, long)
  for place, name in enumerate(MIDDLE):
    layer(name, FRAMES, middle if place else first, middle)
  norm('pooled', pooled)
  layer('penultimate', pooled, dense)
  found['tags/kernel'], found['tags/bias'] = (dense, num_tags), (num_tags,)
  return found


def pruned(params: Params, tolerance: float = TOLERANCE) -> Params:
  """The same network without the tall and long filters that say nothing: `features` takes this.

  Weight decay has driven most filters of the published networks to 0, 180 of 204 in one layer
  exactly. What such a filter gives hardly depends on the input. A layer keeps the others, with
  'live', their places, and 'sign', the sign of their scale, which they are multiplied by.

  Args:
    params: tree of `shapes`.
    tolerance: most that leaving a filter out may move a pooled feature.
  """
  found, alive = dict(params), _alive_filters(params, tolerance)
  for name in (*TALL, *LONG):
    layer = params[name]
    # Live filters first, then dead ones up to the fewest.
    live = np.argsort(~alive[name], kind='stable')[: max(alive[name].sum(), _FEWEST)]
    sign = np.where(np.asarray(layer['scale'])[live] < 0, -1, 1).astype(np.float32)
    kernel = np.asarray(layer['kernel'])[..., live] * sign
    found[name] = {**layer, 'kernel': kernel, 'live': live, 'sign': sign}
  return found


def live_channels(params: Params, tolerance: float = TOLERANCE) -> np.ndarray:
  """Indices of the pooled features that depend on the input, int [N]; arguments of `pruned`."""
  alive = _alive_filters(params, tolerance)
  found = [alive[name] for name in (*TALL, *LONG)]
  before = np.zeros(len(params[MIDDLE[0]]['bias']), bool)
  for name in MIDDLE:
    before = before | (_sizes(params[name]) > 0)
    found.append(before)
  return np.flatnonzero(np.repeat(np.concatenate(found), 2))


def _alive_filters(params: Params, tolerance: float) -> dict[str, np.ndarray]:
  """Which tall and long filters can move a pooled feature by more than `tolerance`.

  A filter moves its channel by at most |scale| * sum |kernel| * the largest input; a channel moves
  its own two features, and through the first convolution over time those of its channels.
  """
  peak = np.abs(params['input']['scale'] * _LOUDEST) + np.abs(params['input']['shift'])
  gains = np.abs(params['pooled']['scale']).reshape(-1, 2).max(1)
  middle = params[MIDDLE[0]]
  paths = np.abs(middle['kernel']).sum(0) * np.abs(middle['scale'])
  widest = len(paths)
  after = (paths * gains[widest : widest + paths.shape[1]]).max(1)
  alive, start = {}, 0
  for name in (*TALL, *LONG):
    layer = params[name]
    reach = _sizes(layer) * np.abs(layer['scale']) * peak
    own = slice(start, start + len(reach))
    alive[name] = reach * np.maximum(gains[own], after[own]) > tolerance
    start += len(reach)
  return alive


def _sizes(layer: Params) -> np.ndarray:
  """Sum of the absolute values of each filter."""
  kernel = np.abs(np.asarray(layer['kernel']))
  return kernel.sum(tuple(range(kernel.ndim - 1)))


def features(params: Params, log_mels: jax.Array) -> dict[str, jax.Array]:
  """What the network makes of patches, in evaluation mode.

  Args:
    params: tree that `pruned` gives.
    log_mels: float32 [B, frames, 96].

  Returns:
    float32 'pooled' [B, 1506]: maximum and mean over time of each channel, normalised;
    'penultimate' [B, 200]; 'logits' [B, tags], whose sigmoid is the probability of each tag.
  """
  x = _normed(params['input'], log_mels)
  columns = [_tall(params[name], x) for name in TALL] + [_long(params[name], x) for name in LONG]
  first = jnp.concatenate(columns, -1)
  found, before = [first], None
  for name in MIDDLE:
    y = _over_time(params[name], found[-1])
    before = y if before is None else before + y
    found.append(before)
  channels = jnp.concatenate(found, -1)
  # Maximum and mean of each channel stand side by side.
  pooled = jnp.stack([channels.max(1), channels.mean(1)], -1).reshape(len(channels), -1)
  pooled = _normed(params['pooled'], pooled)
  dense = params['penultimate']
  penultimate = _normed(dense, jax.nn.relu(pooled @ dense['kernel'] + dense['bias']))
  logits = penultimate @ params['tags']['kernel'] + params['tags']['bias']
  return {'pooled': pooled, 'penultimate': penultimate, 'logits': logits}


def _normed(norm: Params, x: jax.Array) -> jax.Array:
  return x * norm['scale'] + norm['shift']


def _peak(layer: Params, products: jax.Array) -> jax.Array:
  """Normed ReLU of sums [B, frames, places, live filters] at the place where it is largest.

  ReLU and a positive scale keep the order, so the maximum may come first; a negative scale turns it
  round, which the sign of the filters makes up for. Filters that are not alive give 0 everywhere.
  """
  highest = layer['sign'] * products.max(2)
  sums = jnp.zeros([*highest.shape[:2], len(layer['bias'])]).at[..., layer['live']].set(highest)
  return _normed(layer, jax.nn.relu(sums + layer['bias']))


def _tall(layer: Params, x: jax.Array) -> jax.Array:
  """[B, frames, bands] -> [B, frames, filters]: 7 frames x many bands, then the highest place."""
  return _peak(layer, _convolved(x, layer['kernel'], [(_AROUND, _AROUND), (0, 0)]))


def _long(layer: Params, x: jax.Array) -> jax.Array:
  """[B, frames, bands] -> [B, frames, filters]: many frames of one band, then the highest band."""
  length = len(layer['kernel'])
  # As TensorFlow pads an even length: one more behind than before.
  around = ((length - 1) // 2, length // 2)
  return _peak(layer, _convolved(x, layer['kernel'][:, None], [around, (0, 0)]))


def _convolved(x: jax.Array, kernel: jax.Array, padding: list[tuple[int, int]]) -> jax.Array:
  """[B, frames, bands] by [frames, bands, filters] -> [B, frames, places, filters]."""
  return jax.lax.conv_general_dilated(
    x[..., None], kernel[:, :, None], (1, 1), padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def _over_time(layer: Params, x: jax.Array) -> jax.Array:
  """[B, frames, channels] -> [B, frames, 64]: 7 frames of all channels, ReLU, norm."""
  frames, kernel = x.shape[1], layer['kernel']
  padded = jnp.pad(x, [(0, 0), (_AROUND, _AROUND), (0, 0)])
  windows = jnp.concatenate([padded[:, i : i + frames] for i in range(FRAMES)], -1)
  products = windows @ kernel.reshape(-1, kernel.shape[2])
  return _normed(layer, jax.nn.relu(products + layer['bias']))
