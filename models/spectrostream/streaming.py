"""SpectroStream as the audio comes: 40 ms in, 40 ms out, with a small state in between.

    encoder, decoder = StreamingEncoder(codec), StreamingDecoder(codec)
    for block in blocks:                          # [1920, 2], or any multiple of 1920 samples
      codes = encoder.step(block)                 # [1, 64]; none, [0, 64], after the first block
      audio = decoder.step(codes)                 # [1920, 2]; none after the first codes
    codes = encoder.flush()                       # the last frame; then decoder.flush()

Laid end to end, the results are those of `SpectroStream.encode` and `SpectroStream.decode`. They
come one frame late at either end: a latent looks 10 ms ahead, and a decoded frame needs the latent
after it. The pure functions underneath are in `steps`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from models import rvq
from models.spectrostream import network
from models.spectrostream.codec import SpectroStream
from models.spectrostream.inputs import as_audio, as_codes, check_levels
from models.spectrostream.steps import (
  Params,
  State,
  decode_step,
  decoder_state,
  encode_step,
  encoder_state,
)


class StreamingEncoder:
  """Codes one clip, or several side by side, block by block.

  Attributes:
    state: None before the first block, then as `encode_step` gives it. May be saved between steps,
      and set to go on from there.
  """

  def __init__(
    self, codec: SpectroStream, num_levels: int | None = None, batch_shape: tuple[int, ...] = ()
  ):
    """Keeps its arguments.

    Args:
      codec: whose codes.
      num_levels: levels to code; None is all of them.
      batch_shape: leading axes of every block.

    Raises:
      ValueError: `num_levels` is out of range.
    """
    self._levels = check_levels(num_levels, codec.spec)
    self._spec, self._params = codec.spec, codec.params['encoder']
    self._codebooks = codec.codebooks[: self._levels]
    self._lead = tuple(batch_shape)
    self.state: State | None = None

  def step(self, block: np.ndarray) -> np.ndarray:
    """Takes whole frames of audio and gives the codes that are due.

    Args:
      block: [*batch_shape, m * 1920, 2] floats, or [..., 1] if mono, with m >= 1.

    Returns:
      [*batch_shape, m, num_levels] int32, from the frame before the block up to the last but one in
      it; m - 1 frames the first time.

    Raises:
      ValueError: the audio is refused (see `as_audio`), has other leading axes, or is no whole
        number of frames.
    """
    audio, size = self._clips(block), self._spec.samples_per_frame
    if not audio.shape[1] or audio.shape[1] % size:
      raise ValueError(
        f'A block of {audio.shape[1]} samples is no whole number of frames of {size}; what is left '
        'at the end of a clip goes to flush.'
      )
    if self.state is None:
      self.state, audio = encoder_state(self._params, audio[:, :size]), audio[:, size:]
    return self._run(audio)

  def flush(self, rest: np.ndarray | None = None) -> np.ndarray:
    """Ends the clip and gives the frames still due; the next block starts another clip.

    Args:
      rest: [*batch_shape, m, channels], the last samples where they are no whole frame, m < 1920.

    Returns:
      [*batch_shape, 0 to 2, num_levels] int32; the last frame counts as followed by silence.

    Raises:
      ValueError: the audio is refused, has other leading axes, or is a whole frame or more.
    """
    channels, size = self._spec.num_channels, self._spec.samples_per_frame
    rest = self._clips(np.zeros([*self._lead, 0, channels], np.float32) if rest is None else rest)
    count = rest.shape[1]
    if count >= size:
      raise ValueError(f'rest holds {count} samples; give whole frames of {size} to step first.')
    # What is left, filled up to a frame, and a frame of silence to look ahead at.
    audio = np.pad(rest, [(0, 0), (0, 2 * size - count), (0, 0)])
    received = size + count
    if self.state is not None:
      audio = audio if count else audio[:, size:]
    elif count:
      self.state, audio = encoder_state(self._params, audio[:, :size]), audio[:, size:]
      received = count
    else:
      return self._run(rest)
    codes = self._run(audio, -(-received // network.hop_size(self._spec)))
    self.state = None
    return codes

  def _clips(self, audio: np.ndarray) -> np.ndarray:
    audio = as_audio(audio, self._spec)
    _check_lead(audio.shape[:-2], self._lead)
    return audio.reshape([math.prod(self._lead), *audio.shape[-2:]])

  def _run(self, audio: np.ndarray, hops: int | None = None) -> np.ndarray:
    if not audio.size:
      return np.zeros([*self._lead, 0, self._levels], np.int32)
    hops = audio.shape[1] // network.hop_size(self._spec) if hops is None else hops
    self.state, codes = _encode(self._params, self._codebooks, self.state, audio, hops)
    return np.asarray(codes).reshape([*self._lead, -1, self._levels])


class StreamingDecoder:
  """Decodes one clip, or several side by side, frame by frame.

  Attributes:
    state: None before the first codes, then as `decode_step` gives it. May be saved between steps,
      and set to go on from there.
  """

  def __init__(self, codec: SpectroStream, batch_shape: tuple[int, ...] = ()):
    """Keeps its arguments; `batch_shape` are the leading axes of all codes."""
    self._spec, self._params = codec.spec, codec.params['decoder']
    self._codebooks = codec.codebooks
    self._lead = tuple(batch_shape)
    self.state: State | None = None

  def step(self, codes: np.ndarray) -> np.ndarray:
    """Takes codes and gives the audio that is due.

    Args:
      codes: [*batch_shape, m, k] ints, the first k levels; k may change from step to step.

    Returns:
      [*batch_shape, m * 1920, 2] float32, from the frame before the codes up to the last but one of
      them; one frame less the first time.

    Raises:
      ValueError: the codes are refused (see `as_codes`) or have other leading axes.
    """
    codes = as_codes(codes, self._spec)
    _check_lead(codes.shape[:-2], self._lead)
    if not codes.size:
      return self._audio(np.zeros([0]))
    first = self.state is None
    if first:
      self.state = decoder_state(self._params, self._codebooks, math.prod(self._lead))
    codes = codes.reshape([math.prod(self._lead), *codes.shape[-2:]])
    self.state, audio = _decode(self._params, self._codebooks, self.state, codes)
    return self._audio(np.asarray(audio)[:, self._spec.samples_per_frame if first else 0 :])

  def flush(self) -> np.ndarray:
    """Ends the clip: its last frame, decoded as if silence followed; none if there were no codes.

    Returns:
      [*batch_shape, 1920 or 0, 2] float32. The next codes start another clip.
    """
    if self.state is None:
      return self._audio(np.zeros([0]))
    nothing = np.full([math.prod(self._lead), 1, 1], -1, np.int32)
    _, audio = _decode(self._params, self._codebooks, self.state, nothing)
    self.state = None
    return self._audio(np.asarray(audio))

  def _audio(self, audio: np.ndarray) -> np.ndarray:
    count = audio.shape[1] if audio.ndim > 1 else 0
    return audio.astype(np.float32).reshape([*self._lead, count, self._spec.num_channels])


def _check_lead(lead: tuple[int, ...], expected: tuple[int, ...]):
  if lead != expected:
    raise ValueError(
      f'The leading axes {lead} are not the batch_shape {expected} that this stream was made with.'
    )


@jax.jit
def _encode(
  encoder: Params, codebooks: jax.Array, state: State, samples: jax.Array, hops: jax.Array
) -> tuple[State, jax.Array]:
  state, latents = encode_step(encoder, state, samples, hops)
  return state, rvq.quantize(latents, codebooks)


@jax.jit
def _decode(
  decoder: Params, codebooks: jax.Array, state: State, codes: jax.Array
) -> tuple[State, jax.Array]:
  """Codes [B, m, k], -1 where there is no frame."""
  latents = rvq.dequantize(jnp.maximum(codes, 0), codebooks)
  return decode_step(decoder, state, jnp.where(codes[..., :1] >= 0, latents, 0.0))
