"""Held-out excerpts to score: which targets, with which context and style.

Every excerpt is fixed by (records, number, seed), so that all models of a report, and the anchors,
are scored on the same tokens. The style is that of the 10 s window that holds the target's centre,
as in training.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from models import tokens
from models.spec import LiveMusicSpec


@dataclasses.dataclass(frozen=True)
class TokenRecord:
  """Tokens of one clip.

  Attributes:
    track_id: of the manifest.
    codes: int32 [frames, >= target_levels].
    style_tokens: int32 [windows, style_rvq_levels], one row for each 10 s.
  """

  track_id: str
  codes: np.ndarray
  style_tokens: np.ndarray


@dataclasses.dataclass(frozen=True)
class Excerpt:
  """One target of `chunk_frames` frames.

  Attributes:
    track_id: of the manifest.
    context: int32 [<= context_frames, levels], the frames before the target.
    target: int32 [chunk_frames, target_levels].
    style: int32 [style_rvq_levels].
  """

  track_id: str
  context: np.ndarray
  target: np.ndarray
  style: np.ndarray


def choose_excerpts(
  records: Sequence[TokenRecord], number: int, spec: LiveMusicSpec, seed: int = 0
) -> list[Excerpt]:
  """Up to `number` excerpts, taken from the tracks in turn.

  Candidates are targets on the grid of chunks that have a full context before them; a clip too
  short for one gives its last chunk. Clips shorter than a chunk give nothing.

  Raises:
    ValueError: no clip is as long as a chunk.
  """
  rng = np.random.default_rng(seed)
  by_track: dict[str, list[Excerpt]] = {}
  for record in records:
    last = len(record.codes) - spec.chunk_frames
    starts = list(range(spec.context_frames, last + 1, spec.chunk_frames)) or [last]
    cut = [_cut(record, start, spec) for start in starts if start >= 0]
    by_track.setdefault(record.track_id, []).extend(cut)
  queues = [[queue[i] for i in rng.permutation(len(queue))] for queue in by_track.values() if queue]
  if not queues:
    raise ValueError(f'No clip is as long as one chunk of {spec.chunk_frames} frames.')
  chosen: list[Excerpt] = []
  while queues and len(chosen) < number:
    chosen.extend(queue.pop() for queue in queues[: number - len(chosen)])
    queues = [queue for queue in queues if queue]
  return chosen


def encoder_inputs(
  excerpts: Sequence[Excerpt],
  spec: LiveMusicSpec,
  *,
  context_frames: int | None = None,
  style: bool = True,
  wrong_context: bool = False,
) -> np.ndarray:
  """Encoder ids int32 [N, inputs_length] of excerpts.

  Args:
    excerpts: at least one.
    spec: token layout.
    context_frames: how much of the context is shown; None for all.
    style: False masks the style.
    wrong_context: take each context from an excerpt of another track (the next in order that
      has one); with a single track, from another excerpt.
  """
  rows = []
  for index, excerpt in enumerate(excerpts):
    source = _of_another_track(excerpts, index) if wrong_context else excerpt
    shown = len(source.context) if context_frames is None else context_frames
    context = source.context[len(source.context) - min(shown, len(source.context)) :]
    rows.append(tokens.encoder_inputs(context, excerpt.style if style else None, spec))
  return np.stack(rows)


def decoder_targets(excerpts: Sequence[Excerpt], spec: LiveMusicSpec) -> np.ndarray:
  """Target ids int32 [N, targets_length]."""
  return np.stack([tokens.decoder_targets(excerpt.target, spec) for excerpt in excerpts])


def _cut(record: TokenRecord, start: int, spec: LiveMusicSpec) -> Excerpt:
  codes = record.codes[:, : spec.target_levels]
  centre_secs = (start + spec.chunk_frames / 2) / spec.frame_rate
  window = min(int(centre_secs / spec.style_window_secs), len(record.style_tokens) - 1)
  return Excerpt(
    track_id=record.track_id,
    context=codes[max(0, start - spec.context_frames) : start],
    target=codes[start : start + spec.chunk_frames],
    style=record.style_tokens[window],
  )


def _of_another_track(excerpts: Sequence[Excerpt], index: int) -> Excerpt:
  following = [*excerpts[index + 1 :], *excerpts[:index]] or [excerpts[index]]
  own = excerpts[index].track_id
  return next((other for other in following if other.track_id != own), following[0])
