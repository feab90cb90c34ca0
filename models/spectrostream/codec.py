"""A trained SpectroStream at work: audio of any length to codes and back, NumPy in and out.

Long clips run through blocks of a fixed size that overlap by what a latent or a sample depends on,
so memory stays constant, nothing is compiled anew for another length, and the result is that of one
pass.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import rvq, weights
from models.spec import LiveMusicSpec
from models.spectrostream import network
from models.spectrostream.config import TIME_STRIDE, SpectroStreamConfig
from models.spectrostream.stft import inverse_stft, stft

BUNDLED = pathlib.Path(__file__).parent / 'bundled'
_KIND = 'spectrostream'
# Latent frames before a frame that its value can depend on: 54 STFT frames through the encoder, 54
# and one of overlap-add through the decoder, at 4 to a latent.
CONTEXT_FRAMES = 15
# Latent frames in one block: the smallest that holds the whole clip, or the largest.
_BLOCK_SIZES = (32, 80, 208)


class SpectroStream:
  """One codec: its sizes, parameters and codebooks."""

  def __init__(
    self,
    config: SpectroStreamConfig,
    params: dict[str, Any],
    codebooks: np.ndarray,
    spec: LiveMusicSpec = LiveMusicSpec(),
  ):
    """Keeps what it is given.

    Args:
      config: widths.
      params: {'encoder': ..., 'decoder': ...}, float32.
      codebooks: [levels, codes, num_features] float32.
      spec: sample rate, frame rate, numbers of levels and codes.

    Raises:
      ValueError: the codebooks do not fit config and spec.
    """
    expected = (spec.codec_levels, spec.codebook_size, config.num_features)
    if codebooks.shape != expected:
      raise ValueError(f'Codebooks have shape {codebooks.shape}; this codec needs {expected}.')
    self.config, self.spec = config, spec
    self.params = jax.tree.map(jnp.asarray, params)
    self.codebooks = jnp.asarray(codebooks)

  @classmethod
  def load(cls, name_or_path: str | pathlib.Path = 'tiny') -> 'SpectroStream':
    """Reads a bundled codec by its name, or one that `save` wrote by its path.

    Raises:
      FileNotFoundError: it is neither; names the bundled ones.
      ValueError: the file holds something else, or is truncated.
    """
    path = BUNDLED / f'{name_or_path}.safetensors'
    if not path.is_file():
      path = pathlib.Path(name_or_path)
    if not path.is_file():
      bundled = sorted(file.stem for file in BUNDLED.glob('*.safetensors'))
      raise FileNotFoundError(f'{name_or_path!r} is neither a bundled codec {bundled} nor a file.')
    tree, metadata = weights.load(path)
    if metadata.get('kind') != _KIND:
      raise ValueError(f'{path} holds {metadata.get("kind")!r}, not a {_KIND} codec.')
    codebooks = tree.pop('quantizer')['embedding']
    config = SpectroStreamConfig.from_dict(metadata['config'])
    return cls(config, tree, codebooks, LiveMusicSpec.from_dict(metadata['spec']))

  def save(self, path: str | pathlib.Path, **facts: Any) -> pathlib.Path:
    """Writes a safetensors file in float16; `facts` (JSON values) go into its description."""
    metadata = {
      **facts, 'kind': _KIND, 'config': self.config.to_dict(), 'spec': self.spec.to_dict()
    }  # fmt: skip
    return weights.save(path, self._tree(), metadata)

  @functools.cached_property
  def content_hash(self) -> str:
    """16 hex digits that name these tokens: encoder and codebooks; the same after `save`.

    The decoder is left out: a better one for the same tokens leaves language models valid.
    """
    tree = {name: value for name, value in self._tree().items() if name != 'decoder'}
    return weights.tree_hash(jax.tree.map(np.asarray, tree))

  def num_frames(self, num_samples: int) -> int:
    """Codec frames of a clip: ceil(num_samples / 1920)."""
    return -(-num_samples // self.spec.samples_per_frame)

  def latents(self, audio: np.ndarray) -> np.ndarray:
    """Audio [..., n, 2] -> latents [..., frames, num_features] float32, not quantized."""
    empty = np.zeros([0, self.config.num_features], np.float32)
    return self._over_clips(audio, lambda latents: latents, empty)

  def encode(self, audio: np.ndarray, num_levels: int | None = None) -> np.ndarray:
    """Audio to codes.

    Args:
      audio: [..., n, 2] or mono [..., n, 1], at the spec's sample rate, nominally in -1..1.
      num_levels: levels to code; None is all of them.

    Returns:
      [..., ceil(n / 1920), num_levels] int32. The last frame of a ragged clip counts as followed by
      silence.

    Raises:
      ValueError: the shape does not fit, a value is not finite, or num_levels is out of range.
    """
    levels = self.spec.codec_levels if num_levels is None else num_levels
    if not 1 <= levels <= self.spec.codec_levels:
      raise ValueError(f'num_levels={levels} is not in 1..{self.spec.codec_levels}.')
    codebooks = self.codebooks[:levels]
    empty = np.zeros([0, levels], np.int32)
    return self._over_clips(audio, lambda latents: _quantize(latents, codebooks), empty)

  def decode(self, codes: np.ndarray) -> np.ndarray:
    """Codes to audio.

    Args:
      codes: [..., frames, k] ints, the first k levels, 1 <= k <= levels.

    Returns:
      [..., frames * 1920, 2] float32. The last frame is decoded as if silence (a zero latent)
      followed; it is not clipped to -1..1.

    Raises:
      ValueError: the shape does not fit or a code is out of range.
    """
    codes = np.asarray(codes)
    if codes.ndim < 2 or not 1 <= codes.shape[-1] <= self.spec.codec_levels:
      raise ValueError(
        f'Codes of shape {codes.shape} must be [..., frames, 1..{self.spec.codec_levels}].'
      )
    if codes.size and not (codes.min() >= 0 and codes.max() < self.spec.codebook_size):
      raise ValueError(
        f'Codes {codes.min()}..{codes.max()} are not within 0..{self.spec.codebook_size - 1}.'
      )
    clips = codes.reshape([math.prod(codes.shape[:-2]), *codes.shape[-2:]]).astype(np.int32)
    num_samples = codes.shape[-2] * self.spec.samples_per_frame
    audio = np.zeros([len(clips), num_samples, self.spec.num_channels], np.float32)
    for clip, output in zip(clips, audio, strict=True):
      self._decode_clip(clip, output)
    return audio.reshape([*codes.shape[:-2], *audio.shape[1:]])

  def _tree(self) -> dict[str, Any]:
    return {**self.params, 'quantizer': {'embedding': self.codebooks}}

  def _over_clips(
    self, audio: np.ndarray, finish: Callable[[np.ndarray], np.ndarray], empty: np.ndarray
  ) -> np.ndarray:
    """Audio [..., n, channels] -> `finish` of the latents of every clip, [..., frames, width].

    `empty` [0, width] is the result of no frames.
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim < 2 or audio.shape[-1] not in (1, self.spec.num_channels):
      raise ValueError(
        f'Audio of shape {audio.shape} must be [..., samples, {self.spec.num_channels} or 1].'
      )
    if not np.isfinite(audio).all():
      raise ValueError('The audio holds NaN or infinite samples.')
    clips = audio.reshape([math.prod(audio.shape[:-2]), *audio.shape[-2:]])
    clips = np.broadcast_to(clips, [*clips.shape[:2], self.spec.num_channels])
    blocks = [finish(block) for clip in clips for block in self._encode_clip(clip)]
    frames = self.num_frames(audio.shape[-2])
    return np.concatenate([empty, *blocks]).reshape([*audio.shape[:-2], frames, empty.shape[1]])

  def _encode_clip(self, clip: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the latents [<= block, D] of one clip, block after block."""
    step, hop = self.spec.samples_per_frame, network.hop_size(self.spec)
    total_hops = -(-len(clip) // hop)
    for start, first, last, block in _blocks(self.num_frames(len(clip))):
      # One hop more than the block: its last STFT frame looks ahead.
      samples = np.zeros([1, block * step + hop, clip.shape[1]], np.float32)
      piece = clip[start * step : start * step + samples.shape[1]]
      samples[0, : len(piece)] = piece
      hops = min(total_hops - start * TIME_STRIDE, block * TIME_STRIDE)
      latents = _encode_block(self.params['encoder'], samples, hops, hop)
      # Cut on the host: a slice on the device would be compiled for every size.
      yield np.asarray(latents)[first - start : last - start]

  def _decode_clip(self, codes: np.ndarray, output: np.ndarray):
    """Decodes codes [frames, k] into `output` [frames * 1920, 2]."""
    step, hop = self.spec.samples_per_frame, network.hop_size(self.spec)
    for start, first, last, block in _blocks(len(codes)):
      # One frame more than the block: the decoder looks ahead. -1 stands for no frame.
      window = np.full([block + 1, codes.shape[1]], -1, np.int32)
      piece = codes[start : start + block + 1]
      window[: len(piece)] = piece
      audio = np.asarray(_decode_block(self.params['decoder'], self.codebooks, window, hop))
      output[first * step : last * step] = audio[(first - start) * step : (last - start) * step]


def _blocks(num_frames: int) -> Iterator[tuple[int, int, int, int]]:
  """(first frame read, first frame kept, end of the kept, size) of overlapping blocks."""
  block = next((size for size in _BLOCK_SIZES if size >= num_frames), _BLOCK_SIZES[-1])
  first = 0
  while first < num_frames:
    start = max(0, first - CONTEXT_FRAMES)
    last = min(start + block, num_frames)
    yield start, first, last, block
    first = last


@functools.partial(jax.jit, static_argnums=3)
def _encode_block(encoder: dict[str, Any], samples: jax.Array, hops: jax.Array, hop: int):
  """Samples [1, block * 1920 + 480, 2], of which `hops` hops exist -> latents [block, D]."""
  return network.encode(encoder, stft(samples, hop)[:, :-1], hops)[0]


@jax.jit
def _quantize_padded(latents: jax.Array, codebooks: jax.Array) -> jax.Array:
  return rvq.quantize(latents, codebooks)


def _quantize(latents: np.ndarray, codebooks: jax.Array) -> np.ndarray:
  """`rvq.quantize` of [n, D] at one of the block sizes, so that few shapes are compiled."""
  size = next(size for size in _BLOCK_SIZES if size >= len(latents))
  padded = np.zeros([size, latents.shape[1]], np.float32)
  padded[: len(latents)] = latents
  return np.asarray(_quantize_padded(padded, codebooks))[: len(latents)]


@functools.partial(jax.jit, static_argnums=3)
def _decode_block(decoder: dict[str, Any], codebooks: jax.Array, codes: jax.Array, hop: int):
  """Codes [block + 1, k], -1 where there is no frame -> samples [block * 1920, 2]."""
  latents = rvq.dequantize(jnp.maximum(codes, 0), codebooks)
  latents = jnp.where(codes[:, :1] >= 0, latents, 0.0)
  return inverse_stft(network.decode(decoder, latents[None]), hop)[0]
