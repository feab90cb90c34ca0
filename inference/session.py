"""A live session: style in, 2 s of audio out, chunk after chunk, with its own context.

The system of Magenta RealTime v1: the last 10 s of codes and the style go in, the next 2 s of
codes come out, and consecutive chunks overlap by one codec frame under an equal-power crossfade.
What differs on purpose: the sampler is confined to the ids of each level, so no id is ever folded
into another level; the key of a chunk folds the chunk's index into the session's seed, so that
neighbouring seeds share no chunk; context arrays are never edited in place.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from inference.prompts import AudioReader, embed_prompts, read_audio_file
from inference.sampling import SamplingOptions, check_seed
from models import tokens
from models.musiccoca.inputs import check_audio, check_embeddings, check_finite
from models.spec import LiveMusicSpec

UNKNOWN = -1  # A context code that is not there yet.
_DEFAULTS = SamplingOptions()
# The codec looks a few frames back: what primes the context is encoded with this margin.
_PRIMING_MARGIN_SECS = 1


@dataclasses.dataclass(frozen=True)
class SessionState:
  """All that the next chunk depends on besides the models and the sampling options.

  Attributes:
    context: int32 [context_frames, target_levels], oldest frame first; -1 where nothing is known.
    tail: float32 [samples_per_frame, channels]; the audio of the newest context frame as decoded
      (or heard) last time, which the next chunk fades out of.
    chunk_index: chunks made so far.
    seed: of the session.
    style: float32 [style_dim] embedding, or None for no style.
  """

  context: np.ndarray
  tail: np.ndarray
  chunk_index: int
  seed: int
  style: np.ndarray | None = None

  @classmethod
  def initial(cls, spec: LiveMusicSpec, seed: int, style: np.ndarray | None = None):
    """Silence behind, nothing known."""
    return cls(
      context=np.full([spec.context_frames, spec.target_levels], UNKNOWN, np.int32),
      tail=np.zeros([spec.samples_per_frame, spec.num_channels], np.float32),
      chunk_index=0,
      seed=seed,
      style=style,
    )

  def save(self, path: str | pathlib.Path):
    """Writes the state to an .npz file."""
    header = {'chunk_index': self.chunk_index, 'seed': self.seed}
    arrays = {'context': self.context, 'tail': self.tail, 'header': np.array(json.dumps(header))}
    if self.style is not None:
      arrays['style'] = self.style
    with open(path, 'wb') as file:
      np.savez(file, **arrays)

  @classmethod
  def load(cls, path: str | pathlib.Path) -> 'SessionState':
    """Reads what `save` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or not a saved session.
    """
    try:
      with np.load(path) as file:
        state = cls(
          context=file['context'],
          tail=file['tail'],
          style=file.get('style'),
          **json.loads(str(file['header'])),
        )
      check_seed(state.seed)
      check_finite(state.tail, 'The newest frame')
      if state.style is not None:
        check_embeddings(state.style)
    except FileNotFoundError:
      raise
    except Exception as error:  # Damage shows in many ways.
      raise ValueError(
        f'{path} is not a complete session that `SessionState.save` wrote ({error}); start anew.'
      ) from error
    return state


def crossfade_ramp(num_samples: int) -> np.ndarray:
  """sin(pi/2 k/n), k = 0..n-1, float32 [n, 1]: the new chunk's gain; reversed, the old one's."""
  return np.sin(np.pi / 2 * np.arange(num_samples) / num_samples).astype(np.float32)[:, None]


def crossfade(tail: np.ndarray, audio: np.ndarray) -> np.ndarray:
  """`audio` [n, channels] whose first len(tail) samples fade in over `tail`, at equal power."""
  ramp = crossfade_ramp(len(tail))
  mixed = np.array(audio, np.float32)
  mixed[: len(tail)] = mixed[: len(tail)] * ramp + tail * ramp[::-1]
  return mixed


def push_context(context: np.ndarray, codes: np.ndarray) -> np.ndarray:
  """The last len(context) frames of context ++ codes, a new array."""
  joined = np.concatenate([context, np.asarray(codes, np.int32)[:, : context.shape[1]]])
  return joined[-len(context) :]


class LiveSession:
  """Streams audio from a bundle; `state` can be read, saved and set between chunks.

  Example:
    session = LiveSession(load_bundle('tiny'), seed=7)
    session.set_style(['0.7:church organ', '0.3:rain'])
    audio = np.concatenate([session.next_chunk() for _ in range(10)])
  """

  def __init__(
    self,
    bundle: Any,
    codec: Any = None,
    style: Any = None,
    *,
    temperature: float = _DEFAULTS.temperature,
    top_k: int = _DEFAULTS.top_k,
    guidance_weight: float = _DEFAULTS.guidance_weight,
    seed: int = 0,
    read_audio: AudioReader = read_audio_file,
  ):
    """Checks that the three models belong together and starts cold.

    Args:
      bundle: `models.bundle.Bundle`.
      codec, style: the codec and the style model; by default those that the bundle names.
      temperature, top_k, guidance_weight: see `SamplingOptions`.
      seed: the same seed, style and calls give the same audio.
      read_audio: how audio prompts are read.

    Raises:
      ValueError: the bundle's tokens belong to another codec or style model, or a sampling option
        or the seed is out of range.
    """
    from models.bundle import check_tokens

    check_seed(seed)
    self.bundle = bundle
    self.codec = _load_codec(bundle) if codec is None else codec
    self.style_model = _load_style(bundle) if style is None else style
    check_tokens(bundle, self.codec, self.style_model)
    self.spec: LiveMusicSpec = bundle.spec
    self.sampling = SamplingOptions(temperature, top_k, guidance_weight)
    if top_k > self.spec.vocab_size:
      raise ValueError(f'top_k={top_k} is not in 0..{self.spec.vocab_size} (0 allows all).')
    self._read_audio = read_audio
    self.state = SessionState.initial(self.spec, seed)

  def reset(self, seed: int | None = None):
    """Forgets what was played; keeps the style. `seed` replaces the session's seed."""
    seed = self.state.seed if seed is None else check_seed(seed)
    self.state = SessionState.initial(self.spec, seed, self.state.style)

  def set_style(self, style: np.ndarray | str | Sequence[Any] | None):
    """Sets the style from the next chunk on.

    Args:
      style: an embedding [style_dim]; or prompts (see `inference.prompts`), one or several; or
        None for no style.

    Raises:
      ValueError: a prompt cannot be used, or the embedding has another shape or is not finite.
    """
    if isinstance(style, str):
      style = [style]
    if style is not None and not isinstance(style, np.ndarray):
      style = embed_prompts(
        style, self.style_model, presets=self.bundle.presets, read_audio=self._read_audio
      )
    if style is not None and style.shape != (self.spec.style_dim,):
      raise ValueError(f'A style embedding has shape ({self.spec.style_dim},), not {style.shape}.')
    if style is not None:
      check_embeddings(style)
    self.state = dataclasses.replace(self.state, style=style)

  def continue_audio(self, audio: np.ndarray) -> np.ndarray:
    """Goes on from given audio: its last seconds become the context.

    Args:
      audio: float [samples, channels] at the spec's sample rate, at least one codec frame.

    Returns:
      The audio to play before the next chunk: the given one less what does not fill a codec frame
      and less its last frame, which the next chunk begins with (crossfaded out of the original).

    Raises:
      ValueError: the audio has another number of channels, is shorter than one frame, has samples
        that are not finite, or is far beyond full scale.
    """
    spec = self.spec
    frame = spec.samples_per_frame
    num_frames = len(audio) // frame
    if audio.ndim != 2 or audio.shape[1] != spec.num_channels or not num_frames:
      raise ValueError(
        f'Audio of shape {audio.shape} cannot be continued; it takes [samples, '
        f'{spec.num_channels}] with at least {frame} samples.'
      )
    check_audio(audio, spec.sample_rate, 'The audio to go on from', 1 / spec.frame_rate)
    audio = np.asarray(audio[: num_frames * frame], np.float32)
    primed = spec.context_frames + _PRIMING_MARGIN_SECS * spec.frame_rate
    codes = np.asarray(self.codec.encode(audio[-primed * frame :]))[: min(num_frames, primed)]
    empty = SessionState.initial(spec, self.state.seed).context
    self.state = dataclasses.replace(
      self.state, context=push_context(empty, codes), tail=audio[-frame:].copy()
    )
    return audio[:-frame]

  def next_tokens(self) -> np.ndarray:
    """The next chunk's codes, int32 [chunk_frames, target_levels]; leaves the state as it is."""
    spec = self.spec
    style_tokens = None
    if self.state.style is not None:
      style_tokens = np.asarray(self.style_model.tokenize(self.state.style))
    inputs = tokens.encoder_inputs(self.state.context, style_tokens, spec)
    key = jax.random.fold_in(jax.random.key(self.state.seed), self.state.chunk_index)
    ids = self.bundle.model.generate(
      self.bundle.params,
      inputs[None],
      rng=key,
      temperature=self.sampling.temperature,
      top_k=self.sampling.top_k,
      guidance_weight=self.sampling.guidance_weight,
    )
    return tokens.codec_codes(np.asarray(ids)[0], spec)

  def next_chunk(self) -> np.ndarray:
    """Generates, decodes and crossfades the next chunk: float32 [chunk_samples, channels].

    The audio lags the codes by one frame: the newest frame is held back for the crossfade. The
    first chunk of a cold session fades in from silence.
    """
    spec, state = self.spec, self.state
    codes = self.next_tokens()
    last_frame = np.maximum(state.context[-1:], 0)
    audio = np.asarray(self.codec.decode(np.concatenate([last_frame, codes])), np.float32)
    chunk = crossfade(state.tail, audio[: spec.chunk_samples])
    self.state = dataclasses.replace(
      state,
      context=push_context(state.context, codes),
      tail=audio[spec.chunk_samples :],
      chunk_index=state.chunk_index + 1,
    )
    return chunk


def _load_codec(bundle: Any) -> Any:
  from models.spectrostream import SpectroStream

  return SpectroStream.load(bundle.codec_name)


def _load_style(bundle: Any) -> Any:
  from models.musiccoca import MusicCoCa

  return MusicCoCa.load(bundle.style_name)
