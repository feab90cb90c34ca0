"""Does a tuned model play its catalog back? Continuations against every place of the catalog.

The model goes on from contexts of training tracks, greedily and sampled, with little and with much
context. Each continuation is laid beside every place of the training tracks, and two figures are
kept: the longest run of coarse tokens that are the same one after the other, and the largest share
of tokens that are the same in one place. Frames that only repeat the frame before them (silence, a
held tone) tell nothing: being the same there adds nothing, being another ends a run.

How much sameness is no copying is known before any tuning (`calibrate`): from held-out music of the
same catalog and from the base model's own continuations, neither of which can have learnt the
training tracks by heart. The verdict compares the tuned model's share of copies, from training
contexts and from held-out ones, with that of real held-out music: a model that has learnt little
else plays its training tracks whatever it is shown.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from evaluation.excerpts import TokenRecord
from models import tokens
from models.spec import LiveMusicSpec

GREEDY, SAMPLED = 'greedy', 'sampled'
_BLOCK = 1 << 16


@dataclasses.dataclass(frozen=True)
class GateOptions:
  """What is tried, and what counts as copying.

  Attributes:
    num_contexts: places of training tracks, and as many of held-out tracks.
    context_secs: how much of the music before the place is shown.
    modes: of decoding: 'greedy', 'sampled'.
    temperature: of the sampled continuations.
    top_k: of the sampled continuations.
    share: a continuation with so large a share of the same tokens in one place is a copy.
    quantile: of the calibration's longest runs; a longer run than that and `margin` is a copy.
    margin: tokens above the quantile.
    max_excess: the share of copies, from training or from held-out contexts, less the share that
      real held-out music has; the run is marked above it.
    seed: of places and sampling.

  Raises:
    ValueError: a value is out of range.
  """

  num_contexts: int = 12
  context_secs: tuple[float, ...] = (2, 5, 10)
  modes: tuple[str, ...] = (GREEDY, SAMPLED)
  temperature: float = 1.1
  top_k: int = 40
  share: float = 0.8
  quantile: float = 0.99
  margin: int = 4
  max_excess: float = 0.05
  seed: int = 0

  def __post_init__(self):
    if self.num_contexts < 1:
      raise ValueError(f'num_contexts={self.num_contexts} must be at least 1.')
    if not self.context_secs or min(self.context_secs) <= 0:
      raise ValueError(f'context_secs={self.context_secs} must be lengths above 0.')
    if not self.modes or set(self.modes) - {GREEDY, SAMPLED}:
      raise ValueError(f'modes={self.modes} must be of {GREEDY!r}, {SAMPLED!r}.')
    for name in ('share', 'quantile', 'max_excess'):
      if not 0 < getattr(self, name) <= 1:
        raise ValueError(f'{name}={getattr(self, name)} is not in (0, 1].')


@dataclasses.dataclass(frozen=True)
class CatalogIndex:
  """All coarse tokens of a catalog's training tracks, to look continuations up in.

  Attributes:
    codes: int32 [frames, levels], clip after clip.
    tells: bool [frames], False where a frame repeats the one before it.
    clips: (track_id, clip number, first frame, one past the last) of each clip.
  """

  codes: np.ndarray
  tells: np.ndarray
  clips: tuple[tuple[str, int, int, int], ...]

  @classmethod
  def of(cls, records: Sequence[TokenRecord], levels: int) -> 'CatalogIndex':
    """Raises ValueError where there is no record."""
    if not records:
      raise ValueError('There is no training record to compare with.')
    clips, parts, tells, frame = [], [], [], 0
    for number, record in enumerate(records):
      codes = np.asarray(record.codes[:, :levels], np.int32)
      clips.append((record.track_id, number, frame, frame + len(codes)))
      parts.append(codes)
      tells.append(np.r_[True, (codes[1:] != codes[:-1]).any(axis=1)])
      frame += len(codes)
    return cls(np.concatenate(parts), np.concatenate(tells), tuple(clips))

  def where(self, frame: int) -> tuple[str, int, int]:
    """(track_id, clip number, frame within the clip) of a frame of `codes`."""
    for track_id, number, first, last in self.clips:
      if first <= frame < last:
        return track_id, number, frame - first
    raise ValueError(f'frame={frame} is not in 0..{len(self.codes) - 1}.')


@dataclasses.dataclass(frozen=True)
class Match:
  """The catalog's nearest places to one continuation.

  Attributes:
    run: longest run of the same tokens, frame by frame and level by level.
    run_frame: place in the index of the continuation's first frame, for that run.
    share: largest share of the same tokens.
    share_frame: place in the index of the continuation's first frame, for that share.
  """

  run: int
  run_frame: int
  share: float
  share_frame: int


@dataclasses.dataclass(frozen=True)
class Probe:
  """A place to go on from.

  Attributes:
    record: number of the record.
    track_id: of the manifest.
    start: first frame of the continuation.
    context: int32 [<= context_frames, levels], all that stands before it.
    style: int32 [style_rvq_levels].
  """

  record: int
  track_id: str
  start: int
  context: np.ndarray
  style: np.ndarray


def find(codes: np.ndarray, index: CatalogIndex, *, skip: tuple[int, int] | None = None) -> Match:
  """Looks one continuation up.

  Args:
    codes: int32 [frames, levels].
    index: of the catalog.
    skip: places [first, last) that do not count, such as a real excerpt's own.

  Returns:
    The best of all places where the continuation lies within one clip; zeros where it fits none.
  """
  length, levels = codes.shape
  starts = [np.arange(first, last - length + 1) for _, _, first, last in index.clips]
  starts = np.concatenate(starts) if starts else np.zeros([0], int)
  if skip is not None:
    starts = starts[(starts < skip[0]) | (starts >= skip[1])]
  best = Match(0, 0, 0.0, 0)
  for block in range(0, len(starts), _BLOCK):
    places = starts[block : block + _BLOCK]
    run = np.zeros(len(places), np.int32)
    longest, same = run.copy(), run.copy()
    for frame in range(length):
      rows = places + frame
      equal, tells = index.codes[rows] == codes[frame], index.tells[rows]
      same += equal.sum(axis=1) * tells
      for level in range(levels):
        run = (run + tells) * equal[:, level]
        np.maximum(longest, run, out=longest)
    by_run, by_share = int(longest.argmax()), int(same.argmax())
    if longest[by_run] > best.run:
      best = dataclasses.replace(best, run=int(longest[by_run]), run_frame=int(places[by_run]))
    share = float(same[by_share]) / (length * levels)
    if share > best.share:
      best = dataclasses.replace(best, share=share, share_frame=int(places[by_share]))
  return best


def choose_probes(
  records: Sequence[TokenRecord], number: int, spec: LiveMusicSpec, seed: int
) -> list[Probe]:
  """Up to `number` places with a full context before and a chunk after them, tracks in turn.

  Clips too short for a full context give the place with the longest one.
  """
  rng = np.random.default_rng(seed)
  queues: dict[str, list[Probe]] = {}
  for position, record in enumerate(records):
    last = len(record.codes) - spec.chunk_frames
    starts = list(range(spec.context_frames, last + 1, spec.frame_rate)) or [last]
    for start in starts:
      if start > 0:
        queues.setdefault(record.track_id, []).append(_probe(position, record, start, spec))
  waiting = [[queue[i] for i in rng.permutation(len(queue))] for queue in queues.values()]
  chosen: list[Probe] = []
  while waiting and len(chosen) < number:
    chosen += [queue.pop() for queue in waiting[: number - len(chosen)]]
    waiting = [queue for queue in waiting if queue]
  return chosen


def _probe(position: int, record: TokenRecord, start: int, spec: LiveMusicSpec) -> Probe:
  centre = (start + spec.chunk_frames / 2) / spec.frame_rate
  window = min(int(centre / spec.style_window_secs), len(record.style_tokens) - 1)
  context = record.codes[max(0, start - spec.context_frames) : start]
  return Probe(position, record.track_id, start, context, record.style_tokens[window])


@dataclasses.dataclass(frozen=True)
class Continuation:
  """What a model played from a probe, and where the catalog has the like of it."""

  probe: Probe
  context_secs: float
  mode: str
  codes: np.ndarray
  match: Match


def continue_all(
  model: Any,
  params: Any,
  probes: Sequence[Probe],
  index: CatalogIndex,
  options: GateOptions,
  *,
  batch_size: int = 12,
  on_batch: Callable[[int], Any] = lambda count: None,
) -> list[Continuation]:
  """Goes on from every probe with every length of context in every mode, for one chunk.

  Args:
    model: `models.depthformer.DepthformerModel`.
    params: its parameters.
    probes: at least one.
    index: to look the continuations up in.
    options: what is tried.
    batch_size: rows at a time; the last batch is filled up and cut.
    on_batch: called with the number of continuations done, for a progress bar.
  """
  spec: LiveMusicSpec = model.spec
  found = []
  for mode in options.modes:
    for length in options.context_secs:
      frames = round(length * spec.frame_rate)
      rows = np.stack([
        tokens.encoder_inputs(probe.context[-frames:], probe.style, spec) for probe in probes
      ])  # fmt: skip
      for first in range(0, len(rows), batch_size):
        batch = rows[first : first + batch_size]
        number = len(batch)
        batch = np.pad(batch, ((0, batch_size - number), (0, 0)), mode='edge')
        key = jax.random.fold_in(jax.random.key(options.seed), len(found))
        ids = model.generate(
          params, batch, rng=key, temperature=0.0 if mode == GREEDY else options.temperature,
          top_k=options.top_k, guidance_weight=0.0,
        )  # fmt: skip
        codes = tokens.codec_codes(np.asarray(ids)[:number], spec)
        for probe, played in zip(probes[first : first + number], codes, strict=True):
          match = find(played[:, : spec.context_levels], index)
          found.append(Continuation(probe, length, mode, played, match))
        on_batch(number)
  return found


@dataclasses.dataclass(frozen=True)
class Calibration:
  """How much sameness is no copying, found before the runs that it judges.

  Attributes:
    run: longer runs are copies.
    share: so large a share, or a larger one, is a copy.
    quantile_run: the quantile that `run` rests on.
    held_out_runs: [least, median, most] of real held-out music against the training tracks.
    base_runs: the same of the base model's continuations.
    num_held_out: excerpts of real held-out music.
    num_base: continuations of the base.
    chance_rate: share of the real held-out excerpts that count as copies. The base does not count:
      it may have been tuned on this catalog before.
  """

  run: int
  share: float
  quantile_run: float
  held_out_runs: tuple[float, float, float]
  base_runs: tuple[float, float, float]
  num_held_out: int
  num_base: int
  chance_rate: float = 0.0

  def is_copy(self, match: Match) -> bool:
    return match.run > self.run or match.share >= self.share

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, values: dict[str, Any]) -> 'Calibration':
    return cls(**values)


def calibrate(
  base: Sequence[Continuation],
  held_out: Sequence[TokenRecord],
  index: CatalogIndex,
  spec: LiveMusicSpec,
  options: GateOptions,
  max_excerpts: int = 200,
) -> Calibration:
  """Thresholds from held-out music and the base's continuations.

  Args:
    base: continuations of the base model.
    held_out: records of tracks that are never trained on.
    index: of the training tracks.
    spec: token layout.
    options: quantile, margin and share.
    max_excerpts: chunks of held-out music that are looked up at most, evenly spread.
  """
  chunk, levels = spec.chunk_frames, spec.context_levels
  places = [
    (record, start)
    for record in held_out
    for start in range(0, len(record.codes) - chunk + 1, chunk)
  ]
  step = max(1, -(-len(places) // max_excerpts))
  real = [
    find(record.codes[start : start + chunk, :levels], index)
    for record, start in places[::step]
  ]
  played = [continuation.match for continuation in base]
  runs = [match.run for match in (*real, *played)]
  quantile = float(np.quantile(runs, options.quantile)) if runs else 0.0
  calibration = Calibration(
    run=int(np.ceil(quantile)) + options.margin,
    share=options.share,
    quantile_run=quantile,
    held_out_runs=_spread([match.run for match in real]),
    base_runs=_spread([match.run for match in played]),
    num_held_out=len(real),
    num_base=len(played),
  )
  copies = [calibration.is_copy(match) for match in real]
  return dataclasses.replace(calibration, chance_rate=float(np.mean(copies)) if copies else 0.0)


def _spread(values: Sequence[int]) -> tuple[float, float, float]:
  if not values:
    return (0.0, 0.0, 0.0)
  return float(min(values)), float(np.median(values)), float(max(values))


def judge(
  training: Sequence[Continuation],
  held_out: Sequence[Continuation],
  calibration: Calibration,
  options: GateOptions,
) -> dict[str, Any]:
  """The verdict on one model, as JSON values.

  Returns:
    'memorized': whether the run is over the threshold; 'training_rate' and 'held_out_rate' of
    copies; 'excess', the higher of them less `chance_rate`; 'groups': the figures by mode and
    context; 'text': one sentence.
  """
  rates = [_rate(rows, calibration) for rows in (training, held_out)]
  excess = max(rates) - calibration.chance_rate
  groups = [
    {'mode': mode, 'context_secs': secs, **_figures(mode, secs, training, held_out, calibration)}
    for mode in options.modes
    for secs in options.context_secs
  ]
  memorized = excess > options.max_excess
  text = (
    f'{100 * rates[0]:.0f} % of {len(training)} continuations of training music are copies (a run '
    f'of more than {calibration.run} tokens, or {100 * calibration.share:.0f} % of 2 s the same), '
    f'{100 * rates[1]:.0f} % of {len(held_out)} of held-out music; '
    f'{100 * (calibration.chance_rate + options.max_excess):.0f} % are borne.'
  )
  return {
    'memorized': bool(memorized),
    'text': text,
    'training_rate': rates[0],
    'held_out_rate': rates[1],
    'excess': excess,
    'max_excess': options.max_excess,
    'longest_run': max((c.match.run for c in training), default=0),
    'largest_share': max((c.match.share for c in training), default=0.0),
    'num_training': len(training),
    'num_held_out': len(held_out),
    'calibration': calibration.to_json(),
    'groups': groups,
  }


def _rate(rows: Sequence[Continuation], calibration: Calibration) -> float:
  return float(np.mean([calibration.is_copy(row.match) for row in rows])) if rows else 0.0


def _figures(
  mode: str,
  secs: float,
  training: Sequence[Continuation],
  held_out: Sequence[Continuation],
  calibration: Calibration,
) -> dict[str, float]:
  figures = {}
  for name, rows in (('training', training), ('held_out', held_out)):
    rows = [row for row in rows if (row.mode, row.context_secs) == (mode, secs)]
    figures[f'{name}_rate'] = _rate(rows, calibration)
    runs, shares = [row.match.run for row in rows], [row.match.share for row in rows]
    figures[f'{name}_median_run'] = float(np.median(runs)) if runs else 0.0
    figures[f'{name}_longest_run'] = float(max(runs, default=0))
    figures[f'{name}_largest_share'] = float(max(shares, default=0.0))
  return figures


def top_pairs(rows: Sequence[Continuation], number: int) -> list[Continuation]:
  """The continuations that are most like the catalog, of different probes where possible."""
  ordered = sorted(rows, key=lambda row: (-row.match.run, -row.match.share))
  chosen, seen = [], set()
  for row in ordered:
    place = (row.probe.record, row.probe.start)
    if place not in seen:
      seen.add(place)
      chosen.append(row)
  return chosen[:number]
