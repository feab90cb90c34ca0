"""A trained SpectroStream at work: audio of any length to codes and back, NumPy in and out.

`encode` and `decode` take whole clips, `encode_stream` and `decode_stream` clips of any length in
pieces; `streaming` has what is needed frame by frame.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import rvq, weights
from models.low_rank import LowRankCodebooks
from models.spec import LiveMusicSpec
from models.spectrostream import network
from models.spectrostream.blocks import BLOCK_SIZES, over_clips, windows
from models.spectrostream.config import SpectroStreamConfig
from models.spectrostream.inputs import as_audio, as_codes, check_levels
from models.spectrostream.stft import inverse_stft, stft

BUNDLED = pathlib.Path(__file__).parent / 'bundled'
_KIND = 'spectrostream'
_EXACT = r'^decoder/decoder_\d+/.*kernel$'  # Not rounded in files; see `SpectroStream.save`.


class SpectroStream:
  """One codec: its sizes, parameters and codebooks."""

  def __init__(
    self,
    config: SpectroStreamConfig,
    params: dict[str, Any],
    codebooks: np.ndarray | LowRankCodebooks,
    spec: LiveMusicSpec = LiveMusicSpec(),
    release: str | None = None,
  ):
    """Keeps what it is given.

    Args:
      config: widths.
      params: {'encoder': ..., 'decoder': ...}, float32.
      codebooks: [levels, codes, num_features] float32, or what gives such.
      spec: sample rate, frame rate, numbers of levels and codes.
      release: name of the official release that this is, if it is one.

    Raises:
      ValueError: the codebooks do not fit config and spec.
    """
    self._stored = codebooks
    if isinstance(codebooks, LowRankCodebooks):
      codebooks = codebooks.full
    expected = (spec.codec_levels, spec.codebook_size, config.num_features)
    if codebooks.shape != expected:
      raise ValueError(f'Codebooks have shape {codebooks.shape}; this codec needs {expected}.')
    self.config, self.spec, self.release = config, spec, release
    self.params = jax.tree.map(jnp.asarray, params)
    self.codebooks = jnp.asarray(codebooks)

  @classmethod
  def load(cls, name_or_path: str | pathlib.Path = 'tiny') -> 'SpectroStream':
    """Reads a codec.

    Args:
      name_or_path: a bundled codec's name; the path of a file that `save` wrote; a release's name,
        'ssv2_48k_stereo' or 'magenta-realtime-2', whose files lie in the asset directory; or a
        folder with the files of one release.

    Raises:
      FileNotFoundError: it is none of these, or files of the release are missing; names them.
      ValueError: a file holds something else, or is truncated.
    """
    path = BUNDLED / f'{name_or_path}.safetensors'
    path = path if path.is_file() else pathlib.Path(name_or_path).expanduser()
    if not path.is_file():
      return cls._load_release(str(name_or_path), path)
    tree, metadata = weights.load(path)
    if metadata.get('kind') != _KIND:
      raise ValueError(f'{path} holds {metadata.get("kind")!r}, not a {_KIND} codec.')
    quantizer = tree.pop('quantizer')
    low_rank = 'embedding' not in quantizer
    codebooks = LowRankCodebooks.from_tree(quantizer) if low_rank else quantizer['embedding']
    config = SpectroStreamConfig.from_dict(metadata['config'])
    spec = LiveMusicSpec.from_dict(metadata['spec'])
    return cls(config, tree, codebooks, spec, metadata.get('release'))

  @classmethod
  def _load_release(cls, name: str, path: pathlib.Path) -> 'SpectroStream':
    from models.spectrostream import official

    if name in official.RELEASES:
      return cls(*official.read(name), release=name)
    if path.is_dir():
      return cls(*official.read_folder(path))
    bundled = sorted(file.stem for file in BUNDLED.glob('*.safetensors'))
    raise FileNotFoundError(
      f'{name!r} is neither a bundled codec {bundled}, nor a released one {official.RELEASES}, nor '
      'a file or folder.'
    )

  def save(self, path: str | pathlib.Path, dtype: Any = np.float16, **facts: Any) -> pathlib.Path:
    """Writes a safetensors file of `dtype`; `facts` (JSON values) go into its description.

    The decoder's strided units stay as they are. Where channels carry the waveform, loud basses and
    soft trebles come out of the same sums, and what float16 rounds off the ones is louder than the
    others.
    """
    metadata = {
      **facts, 'kind': _KIND, 'config': self.config.to_dict(), 'spec': self.spec.to_dict()
    }  # fmt: skip
    if self.release:
      metadata['release'] = self.release
    return weights.save(path, self._tree(), metadata, dtype, _EXACT)

  def with_decoder(
    self, decoder: dict[str, Any], widths: tuple[int, ...] | None = None
  ) -> 'SpectroStream':
    """This codec, and its tokens, with another decoder.

    Args:
      decoder: its parameters.
      widths: its `SpectroStreamConfig.decoder_widths`; None where they are the same.
    """
    config = dataclasses.replace(self.config, decoder_widths=widths or self.config.decoder_widths)
    params = {**self.params, 'decoder': decoder}
    return SpectroStream(config, params, self._stored, self.spec, self.release)

  @functools.cached_property
  def content_hash(self) -> str:
    """What names these tokens: a release's name, else 16 hex digits over encoder and codebooks.

    The same after `save`. The decoder is left out: a better one for the same tokens leaves language
    models valid.
    """
    if self.release:
      return self.release
    tree = {name: value for name, value in self._tree().items() if name != 'decoder'}
    return weights.tree_hash(jax.tree.map(np.asarray, tree))

  def num_frames(self, num_samples: int) -> int:
    """Codec frames of a clip: ceil(num_samples / 1920)."""
    return -(-num_samples // self.spec.samples_per_frame)

  def latents(self, audio: np.ndarray, sample_rate: float | None = None) -> np.ndarray:
    """Audio -> latents [..., frames, num_features] float32, not quantized; else as `encode`."""
    clips, lead = self._clips(audio, sample_rate)
    blocks = self._latent_blocks([clips]) if len(clips) else []
    frames = self.num_frames(clips.shape[1])
    return _joined(blocks, [*lead, frames, self.config.num_features], np.float32)

  def encode(
    self,
    audio: np.ndarray,
    num_levels: int | None = None,
    sample_rate: float | None = None,
  ) -> np.ndarray:
    """Audio to codes.

    Args:
      audio: floats, nominally in -1..1: [..., n, 2], or mono as [..., n, 1] or [n].
      num_levels: levels to code; None is all of them.
      sample_rate: of the audio in Hz, which is resampled if it is not the spec's; None says that it
        is.

    Returns:
      [..., ceil(n / 1920), num_levels] int32: no frames for no samples, one frame for one. The last
      frame of a ragged clip counts as followed by silence.

    Raises:
      ValueError: the audio is refused (see `as_audio`), or num_levels is out of range.
    """
    levels = check_levels(num_levels, self.spec)
    clips, lead = self._clips(audio, sample_rate)
    blocks = self._code_blocks([clips], levels) if len(clips) else []
    return _joined(blocks, [*lead, self.num_frames(clips.shape[1]), levels], np.int32)

  def encode_stream(
    self, blocks: Iterable[np.ndarray], num_levels: int | None = None
  ) -> Iterator[np.ndarray]:
    """Codes of audio that comes in blocks, in constant memory.

    Args:
      blocks: of any lengths, each as `encode` takes it, at the spec's rate and with the same
        leading axes.
      num_levels: levels to code; None is all of them.

    Yields:
      [..., m, num_levels] int32. Laid end to end, they are the codes of the whole.

    Raises:
      ValueError: a block is refused (see `as_audio`), or num_levels is out of range.
    """
    levels = check_levels(num_levels, self.spec)
    return _with_lead(
      (self._clips(block) for block in blocks), lambda clips: self._code_blocks(clips, levels)
    )

  def decode(self, codes: np.ndarray) -> np.ndarray:
    """Codes to audio.

    Args:
      codes: [..., frames, k] ints, the first k levels, 1 <= k <= levels.

    Returns:
      [..., frames * 1920, 2] float32. The last frame is decoded as if silence (a zero latent)
      followed; it is not clipped to -1..1.

    Raises:
      ValueError: the codes are refused (see `as_codes`).
    """
    clips, lead = _flat(as_codes(codes, self.spec))
    blocks = self._audio_blocks([clips]) if len(clips) else []
    num_samples = clips.shape[1] * self.spec.samples_per_frame
    return _joined(blocks, [*lead, num_samples, self.spec.num_channels], np.float32)

  def decode_stream(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Audio of codes that come in blocks, in constant memory.

    Args:
      blocks: of any lengths, each as `decode` takes it, with the same leading axes and levels.

    Yields:
      [..., m * 1920, 2] float32. Laid end to end, they are the decoded whole.

    Raises:
      ValueError: a block is refused (see `as_codes`).
    """
    return _with_lead((_flat(as_codes(block, self.spec)) for block in blocks), self._audio_blocks)

  def _tree(self) -> dict[str, Any]:
    low_rank = isinstance(self._stored, LowRankCodebooks)
    quantizer = self._stored.tree() if low_rank else {'embedding': self._stored}
    return {**self.params, 'quantizer': quantizer}

  def _clips(
    self, audio: np.ndarray, sample_rate: float | None = None
  ) -> tuple[np.ndarray, tuple[int, ...]]:
    """Audio as it came -> (clips [B, n, 2], leading axes)."""
    return _flat(as_audio(audio, self.spec, sample_rate))

  def _latent_blocks(self, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Pieces [B, n, 2] of clips -> their latents [B, m, D], block after block."""
    hop = network.hop_size(self.spec)
    # One hop more than the block: its last STFT frame looks ahead.
    for window in windows(pieces, self.spec.samples_per_frame, hop, 0.0):
      hops = min(-(-window.count // hop), window.data.shape[1] // hop - 1)
      encode = functools.partial(_encode_block, self.params['encoder'], hops, hop)
      yield over_clips(encode, window.data)[:, window.kept]

  def _code_blocks(self, pieces: Iterable[np.ndarray], levels: int) -> Iterator[np.ndarray]:
    """Pieces [B, n, 2] of clips -> their codes [B, m, levels], block after block."""
    codebooks = self.codebooks[:levels]
    for latents in self._latent_blocks(pieces):
      yield over_clips(functools.partial(_quantize, codebooks), latents)

  def _audio_blocks(self, pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Pieces [B, n, k] of codes -> audio [B, m * 1920, 2], block after block."""
    size, hop = self.spec.samples_per_frame, network.hop_size(self.spec)
    decode = functools.partial(_decode_block, self.params['decoder'], self.codebooks, hop)
    # One frame more than the block: the decoder looks ahead. -1 stands for no frame.
    for window in windows(pieces, 1, 1, -1):
      audio = over_clips(decode, window.data)
      yield audio[:, window.kept.start * size : window.kept.stop * size]


def _flat(array: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
  """[..., n, c] -> ([B, n, c], leading axes)."""
  lead = array.shape[:-2]
  return array.reshape([math.prod(lead), *array.shape[-2:]]), lead


def _joined(blocks: Iterable[np.ndarray], shape: list[int], dtype: Any) -> np.ndarray:
  """Blocks [B, m, c] laid end to end, in `shape`; zeros of it if there are none."""
  blocks = list(blocks)
  return np.concatenate(blocks, axis=1).reshape(shape) if blocks else np.zeros(shape, dtype)


def _with_lead(
  pieces: Iterable[tuple[np.ndarray, tuple[int, ...]]],
  run: Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]],
) -> Iterator[np.ndarray]:
  """`run` over (pieces [B, n, c], leading axes), alike but for n; gives [..., m, c]."""
  first = None

  def clips():
    nonlocal first
    for piece, lead in pieces:
      axes = (*lead, piece.shape[-1])
      first = axes if first is None else first
      if axes != first:
        raise ValueError(
          f'A block has the axes {axes} besides its length, the first one has {first}; make them '
          'the same.'
        )
      yield piece

  for block in run(clips()):
    yield block.reshape([*first[:-1], *block.shape[1:]])


@functools.partial(jax.jit, static_argnums=2)
def _encode_block(encoder: dict[str, Any], hops: jax.Array, hop: int, samples: jax.Array):
  """Samples [b, block * 1920 + 480, 2], of which `hops` hops exist -> latents [b, block, D]."""
  in_turn = jax.default_backend() == 'cpu'
  return network.encode(encoder, stft(samples, hop)[:, :-1], hops, in_turn)


@jax.jit
def _quantize_padded(codebooks: jax.Array, latents: jax.Array) -> jax.Array:
  return rvq.quantize(latents, codebooks)


def _quantize(codebooks: jax.Array, latents: np.ndarray) -> np.ndarray:
  """`rvq.quantize` of [b, n, D] at one of the block sizes, so that few shapes are compiled."""
  size = next(size for size in BLOCK_SIZES if size >= latents.shape[1])
  padded = np.pad(latents, [(0, 0), (0, size - latents.shape[1]), (0, 0)])
  return np.asarray(_quantize_padded(codebooks, padded))[:, : latents.shape[1]]


@functools.partial(jax.jit, static_argnums=2)
def _decode_block(decoder: dict[str, Any], codebooks: jax.Array, hop: int, codes: jax.Array):
  """Codes [b, block + 1, k], -1 where there is no frame -> samples [b, block * 1920, 2]."""
  latents = rvq.dequantize(jnp.maximum(codes, 0), codebooks)
  latents = jnp.where(codes[..., :1] >= 0, latents, 0.0)
  return inverse_stft(network.decode(decoder, latents), hop)
