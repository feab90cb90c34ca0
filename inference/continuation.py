"""From one chunk to the next, as pure functions: what goes into the model, what follows from it.

Beside the session's own state stands what the model hears instead when a loop is injected: its own
output mixed with the loop, encoded anew, as Magenta RealTime's injection does it. The conditioned
row hears the mix, the unconditioned one the model's own output alone, so guidance drives towards
the loop. Only codes of the newest chunk are made anew: what was mixed before stays as it was heard.
"""

import dataclasses
from typing import Any

import numpy as np

from inference.batching import ChunkRequest
from inference.sampling import SamplingOptions
from inference.session import SessionState, crossfade, push_context
from models import tokens
from models.spec import LiveMusicSpec

# The codec looks a few frames back: new codes are encoded with this margin.
_MARGIN_SECS = 1


@dataclasses.dataclass(frozen=True)
class Loop:
  """An injected loop.

  Attributes:
    audio: float32 [samples, channels] at the spec's rate; it repeats.
    start: place in the stream where it began.
    amount: its share of what the model hears, 0..1.
  """

  audio: np.ndarray
  start: int
  amount: float

  def between(self, start: int, end: int) -> np.ndarray:
    """Samples start..end of the stream; silence before the loop's own start."""
    places = np.arange(start, end) - self.start
    heard = self.audio[places % len(self.audio)]
    return np.where(places[:, None] >= 0, heard, 0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Continuation:
  """All that the next chunk depends on besides style, sampling and loop.

  Attributes:
    state: of the session.
    end: place in the stream of the next chunk's first sample.
    heard: context as the model is to hear it, int32 [context_frames, target_levels]; None where
      that is its own output.
    recent: float32 [samples, channels], the audio before `end`, as far as encoding needs it.
  """

  state: SessionState
  end: int
  heard: np.ndarray | None
  recent: np.ndarray

  @classmethod
  def initial(cls, spec: LiveMusicSpec, seed: int) -> 'Continuation':
    """Silence behind, at the start of the stream."""
    recent = np.zeros([0, spec.num_channels], np.float32)
    return cls(SessionState.initial(spec, seed), 0, None, recent)

  def restarted(self, spec: LiveMusicSpec, seed: int) -> 'Continuation':
    """Forgets what was played. The stream goes on here: the new start fades out of the old end."""
    state = dataclasses.replace(SessionState.initial(spec, seed), tail=self.state.tail)
    recent = np.zeros([0, spec.num_channels], np.float32)
    return Continuation(state, self.end, None, recent)


def with_loop(
  before: Continuation, loop: Loop | None, codec: Any, spec: LiveMusicSpec
) -> Continuation:
  """`before`, hearing the loop over its newest chunk; or itself where there is none.

  A loop that ends is pushed out of what is heard by the model's own frames, as any context is.

  Args:
    before: where the stream stands.
    loop: what is injected.
    codec: encodes what is heard.
    spec: sizes.
  """
  if loop is None:
    return before
  frame = spec.samples_per_frame
  # The tail is the audio of the newest context frame, which has not been played yet.
  own = np.concatenate([before.recent, before.state.tail])
  end = before.end + frame
  share = loop.amount
  mixed = (1 - share) * own + share * loop.between(end - len(own), end)
  num_frames = min(spec.chunk_frames, len(mixed) // frame)
  whole = mixed[-(len(mixed) // frame * frame) :]
  codes = np.asarray(codec.encode(whole, spec.target_levels))
  base = before.state.context if before.heard is None else before.heard
  heard = np.array(base)
  heard[len(heard) - num_frames :] = codes[-num_frames:]
  return dataclasses.replace(before, heard=heard)


def request_for(
  before: Continuation,
  style_tokens: np.ndarray | None,
  sampling: SamplingOptions,
  spec: LiveMusicSpec,
) -> ChunkRequest:
  """What the chunk after `before` is made from."""
  state = before.state
  own = tokens.encoder_inputs(state.context, style_tokens, spec)
  heard = own
  if before.heard is not None:
    heard = tokens.encoder_inputs(before.heard, style_tokens, spec)
  return ChunkRequest(
    inputs=heard,
    unconditional_inputs=tokens.mask_style(own, spec),
    last_frame=np.maximum(state.context[-1:], 0),
    seed=state.seed,
    chunk_index=state.chunk_index,
    sampling=sampling,
  )


def advanced(
  before: Continuation, codes: np.ndarray, audio: np.ndarray, spec: LiveMusicSpec
) -> tuple[np.ndarray, Continuation]:
  """The next chunk of sound, float32 [chunk_samples, channels], and where the stream stands then.

  Args:
    before: what the chunk was made from.
    codes: int32 [chunk_frames, target_levels].
    audio: float32 [chunk_samples + samples_per_frame, channels], decoded.
    spec: sizes.
  """
  state, size = before.state, spec.chunk_samples
  chunk = crossfade(state.tail, audio[:size])
  context = push_context(state.context, codes)
  heard = None if before.heard is None else push_context(before.heard, codes)
  if heard is not None and np.array_equal(heard, context):
    heard = None
  kept = size + _MARGIN_SECS * spec.sample_rate
  after = Continuation(
    state=dataclasses.replace(
      state,
      context=context,
      tail=audio[size:].copy(),
      chunk_index=state.chunk_index + 1,
    ),
    end=before.end + size,
    heard=heard,
    recent=np.concatenate([before.recent, chunk])[-kept:],
  )
  return chunk, after
