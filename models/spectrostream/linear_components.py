"""Linear components of audio for a codec: principal ones, stage by stage, and how they are turned.

Each strided unit keeps the leading principal components of the blocks that it folds (a
Karhunen-Loeve transform fitted to audio, stage after stage), the latent those of each bin.
`linear_start` sets them as weights.
"""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from models.spec import LiveMusicSpec
from models.spectrostream import config as config_lib
from models.spectrostream import network
from models.spectrostream.stft import stft


@dataclasses.dataclass(frozen=True)
class LinearStart:
  """How much of each stage carries the spectrum.

  Attributes:
    carried: leading channels, per audio channel, after base_conv_first and encoder_0..encoder_6;
      the decoder's stages take the same numbers in reverse. A number above what the fold provides
      leaves channels idle.
    features: leading latents that carry the waveform.
    latent_scale: their scale, small enough that fine RVQ levels code them.
    input_gain: from spectrum to channels.
    crosstalk: factor on the random weights by which free channels read carried ones.
    output_crosstalk: factor on the free channels' random weights in the output layer.
    emphasis: how much softer bins count as much as louder ones. Errors of a bin weigh as its root
      mean square level to the power of minus `emphasis`: with 0 components keep as much energy as
      they can, with 1 the same share of each bin's.
  """

  carried: tuple[int, ...] = (2, 8, 8, 24, 40, 62, 88, 112)
  features: int = 120
  latent_scale: float = 0.3
  input_gain: float = 0.1
  crosstalk: float = 0.3
  output_crosstalk: float = 0.1
  emphasis: float = 0.0


@dataclasses.dataclass(frozen=True)
class Transform:
  """What one strided unit does: folded block [time * bins * in] @ matrix -> carried channels."""

  forward: np.ndarray
  backward: np.ndarray


@dataclasses.dataclass(frozen=True)
class Basis:
  """Flattened carried channels [bins * channels] @ analysis -> latents @ synthesis -> channels."""

  analysis: np.ndarray
  synthesis: np.ndarray


@dataclasses.dataclass(frozen=True)
class Carried:
  """All that the carried channels do: the transform of every unit, and the latent's basis."""

  transforms: list[Transform]
  basis: Basis


def fit(
  audio: np.ndarray, spec: LiveMusicSpec, start: LinearStart, old: Carried | None = None
) -> Carried:
  """Fits to audio; what is fitted is turned towards `old` where there is any."""
  spectrum = stft(jnp.asarray(audio, jnp.float32), network.hop_size(spec))
  x = np.asarray(network.split_channels(spectrum)) * start.input_gain
  weights = _bin_weights(x, start.emphasis)
  x = np.pad(x, [(0, 0), (0, 0), (0, 0), (0, start.carried[0] - 2)])
  # Components are chosen by what they hold of the weighted spectrum; the codec transforms the plain
  # one.
  weighted = x * weights[:, None]
  rank, transforms = 2, []
  for index, stride in enumerate(config_lib.ENCODER_STRIDES):
    if index == config_lib.SEPARATE_ENCODER_UNITS:
      x, weighted = (np.asarray(network.join_channels(part)) for part in (x, weighted))
      rank *= 2
    x, weighted = _blocks(x, stride), _blocks(weighted, stride)
    kept = start.carried[index + 1]
    rank = min(rank * stride[0] * stride[1], kept)
    basis = np.zeros([x.shape[-1], kept])
    basis[:, :rank] = _principal_components(weighted, rank)
    y = x @ basis
    gain = 1 / np.sqrt(np.square(y).mean((0, 1)).max() + 1e-12)
    if old is not None:
      before = old.transforms[index].forward
      gain = np.sqrt(np.square(before).sum(0).max())
      basis[:, :rank] = _turned(basis[:, :rank], before[:, np.abs(before).max(0) > 0])
      y = x @ basis
    transforms.append(Transform(gain * basis, basis / gain))
    x, weighted = (gain * y).astype(np.float32), (gain * weighted @ basis).astype(np.float32)
  metric = _metric(transforms, weights)
  basis = _latent_basis(x.reshape([-1, *metric.shape[:2]]), metric, start.features)
  return Carried(transforms, basis if old is None else _turned_basis(basis, old.basis))


def _turn(basis: np.ndarray, towards: np.ndarray) -> np.ndarray:
  """The rotation [k, k] that brings the first columns of `basis` [D, k] nearest to `towards`."""
  left, _, right = np.linalg.svd(basis.T @ towards, full_matrices=True)
  number = towards.shape[1]
  return np.concatenate([left[:, :number] @ right, left[:, number:]], axis=1)


def _turned(basis: np.ndarray, towards: np.ndarray) -> np.ndarray:
  """Orthonormal columns [D, k] that span what `basis` does, the first ones nearest to `towards`."""
  return basis @ _turn(basis, towards)


def _turned_basis(basis: Basis, towards: Basis) -> Basis:
  """The same projection, its first latents nearest to those of `towards` and at their scale."""
  number = towards.analysis.shape[1]
  turn = _turn(basis.analysis, towards.analysis)
  analysis = basis.analysis @ turn
  gain = np.linalg.norm(towards.analysis) / np.linalg.norm(analysis[:, :number])
  return Basis(gain * analysis, turn.T @ basis.synthesis / gain)


def _bin_weights(x: np.ndarray, emphasis: float) -> np.ndarray:
  """Weight of each bin's errors, 1 for the loudest; bins under -80 dB of it count as -80 dB.

  Levels are means over a tenth of an octave or more, so that no weight follows a single partial.

  Args:
    x: spectra [..., bins, 2].
    emphasis: see `LinearStart`.
  """
  bins = x.shape[-2]
  sums = np.concatenate([[0.0], np.cumsum(np.square(x, dtype=np.float64).mean(-1).sum((0, 1)))])
  index = np.arange(bins)
  radius = np.maximum(2, index // 20)
  low, high = np.maximum(0, index - radius), np.minimum(bins, index + radius + 1)
  level = np.sqrt((sums[high] - sums[low]) / (high - low))
  return np.maximum(level / max(level.max(), 1e-12), 1e-4) ** -emphasis


def _blocks(x: np.ndarray, stride: tuple[int, int]) -> np.ndarray:
  """[B, T, F, C] -> [B, T / st, F / sf, st * sf * C]."""
  (st, sf), (batch, frames, bins, width) = stride, x.shape
  x = x.reshape([batch, frames // st, st, bins // sf, sf, width]).transpose([0, 1, 3, 2, 4, 5])
  return x.reshape([batch, frames // st, bins // sf, st * sf * width])


def _metric(transforms: Sequence[Transform], weights: np.ndarray) -> np.ndarray:
  """[bins, D, D]: the weighted squared error that errors of the last unit's D channels make."""
  last = transforms[-1].backward.shape[1]
  x = np.eye(last).reshape([last, 1, 1, last])
  for index in reversed(range(len(transforms))):
    st, sf = config_lib.ENCODER_STRIDES[index]
    x = x @ transforms[index].backward.T
    batch, frames, bins, width = x.shape
    x = x.reshape([batch, frames, bins, st, sf, width // (st * sf)]).transpose([0, 1, 3, 2, 4, 5])
    x = x.reshape([batch, frames * st, bins * sf, -1])
    if index == config_lib.SEPARATE_ENCODER_UNITS:
      x = np.asarray(network.split_channels(x))
  # [last, 2 * frames, bins of the block, channels]; every block has weights of its own.
  x = x.reshape([last, -1, *x.shape[2:]])
  blocks = weights.reshape([-1, x.shape[2]])
  metric = np.zeros([len(blocks), last, last])
  for index, block in enumerate(blocks):
    heard = (x * block[:, None]).reshape([last, -1])
    metric[index] = heard @ heard.T
  return metric


def _latent_basis(x: np.ndarray, metric: np.ndarray, number: int) -> Basis:
  """The `number` components that leave the least error, each of one bin.

  A component of several bins would play high frequencies whenever the low ones that come with them
  in loud beats are there; free channels would have to take them away. With R the root of a bin's
  metric, its components are the principal ones V of x R: analysis R V, synthesis V^T R^-1.

  Args:
    x: [N, bins, D] carried channels.
    metric: [bins, D, D] of the errors of each bin.
    number: of components of all bins; the largest has a root mean square of 1.
  """
  _, bins, width = x.shape
  values, analyses, syntheses = [], [], []
  for channels, bin_metric in zip(np.moveaxis(x, 1, 0), metric, strict=True):
    root, inverse = _root(bin_metric)
    heard = (channels @ root).astype(np.float64)
    variances, components = np.linalg.eigh(heard.T @ heard / len(heard))
    values.append(variances)
    analyses.append(root @ components)
    syntheses.append(components.T @ inverse)
  largest = np.argsort(np.concatenate(values))[::-1][:number]
  analysis, synthesis = np.zeros([bins * width, number]), np.zeros([number, bins * width])
  for index, (where, which) in enumerate(zip(*np.divmod(largest, width), strict=True)):
    inside = slice(where * width, (where + 1) * width)
    analysis[inside, index] = analyses[where][:, which]
    synthesis[index, inside] = syntheses[where][which]
  level = np.sqrt(np.concatenate(values)[largest[0]] + 1e-12)
  return Basis(analysis / level, synthesis * level)


def _root(metric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The symmetric root of a positive matrix and its inverse, both 0 where the matrix is."""
  values, vectors = np.linalg.eigh(metric)
  held = values > 1e-9 * values.max()
  values = np.sqrt(np.where(held, values, 1.0))
  return (
    (vectors * np.where(held, values, 0.0)) @ vectors.T,
    (vectors * np.where(held, 1 / values, 0.0)) @ vectors.T,
  )


def _principal_components(x: np.ndarray, number: int) -> np.ndarray:
  """[..., D] -> [D, number]: leading eigenvectors of the second moment, largest first."""
  flat = x.reshape([-1, x.shape[-1]]).astype(np.float64)
  return np.linalg.eigh(flat.T @ flat)[1][:, ::-1][:, :number]


def widened(carried: Carried, old: LinearStart, new: LinearStart) -> Carried:
  """The same where there are more carried channels, which add nothing."""
  transforms = []
  for index, (stride, transform) in enumerate(
    zip(config_lib.ENCODER_STRIDES, carried.transforms, strict=True)
  ):
    sides = 2 if index == config_lib.SEPARATE_ENCODER_UNITS else 1
    shape = [stride[0] * stride[1] * sides, old.carried[index], old.carried[index + 1]]
    more = [(0, 0), (0, new.carried[index] - old.carried[index]), (0, 0)]
    forward, backward = (
      np.pad(matrix.reshape(shape), more).reshape([-1, shape[-1]])
      for matrix in (transform.forward, transform.backward)
    )
    transforms.append(Transform(forward, backward))
  last, more = old.carried[-1], (0, new.carried[-1] - old.carried[-1])
  analysis = carried.basis.analysis
  analysis = np.pad(analysis.reshape([-1, last, analysis.shape[1]]), [(0, 0), more, (0, 0)])
  synthesis = carried.basis.synthesis
  synthesis = np.pad(synthesis.reshape([len(synthesis), -1, last]), [(0, 0), (0, 0), more])
  basis = Basis(
    analysis.reshape([-1, analysis.shape[-1]]), synthesis.reshape([len(synthesis), -1])
  )
  return Carried(transforms, basis)
