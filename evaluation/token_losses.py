"""Cross-entropy and accuracy of codec tokens, per RVQ level, beside a unigram anchor.

Every row of the table, the anchor's too, goes through `per_level` and `summarize`: what differs is
only where the log-probabilities come from. All in nats.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from evaluation import bootstrap
from models.spec import LiveMusicSpec


def count_codes(
  codes: np.ndarray, codebook_size: int, counts: np.ndarray | None = None
) -> np.ndarray:
  """Counts the codes of each level.

  Args:
    codes: int [frames, levels] of the training set.
    codebook_size: codes per level.
    counts: what earlier calls returned, to add to; so a corpus is counted record by record.

  Returns:
    int64 counts [levels, codebook_size].
  """
  codes = np.asarray(codes)
  if codes.size and not 0 <= codes.min() <= codes.max() < codebook_size:
    raise ValueError(f'Codes {codes.min()}..{codes.max()} leave 0..{codebook_size - 1}.')
  if counts is None:
    counts = np.zeros([codes.shape[1], codebook_size], np.int64)
  return counts + np.stack([np.bincount(level, minlength=codebook_size) for level in codes.T])


def unigram_log_probs(counts: np.ndarray) -> np.ndarray:
  """ln((count + 1) / (total + codebook_size)) per level: float64 [levels, codebook_size]."""
  counts = np.asarray(counts, np.float64)
  return np.log((counts + 1) / (counts.sum(1, keepdims=True) + counts.shape[1]))


def score_unigram(table: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Scores target codes [N, frames, levels] with a table [levels, codebook_size].

  Returns:
    Log-probabilities float64 [N, frames * levels] and whether the level's most probable code was
    right, bool of that shape.
  """
  levels = np.arange(targets.shape[-1])
  log_probs = table[levels, targets]
  correct = targets == table.argmax(1)[levels]
  return log_probs.reshape(len(targets), -1), correct.reshape(len(targets), -1)


def per_level(values: np.ndarray, num_levels: int) -> np.ndarray:
  """Token values [N, frames * levels] (level-minor) -> their mean over frames, [N, levels]."""
  values = np.asarray(values, np.float64)
  return values.reshape(len(values), -1, num_levels).mean(1)


@dataclasses.dataclass(frozen=True)
class LevelTable:
  """One row of the token-loss table.

  Attributes:
    name: of the model or anchor.
    loss, low, high: float64 [levels], nats per token and the bounds of its interval.
    accuracy: float64 [levels], or None where it was not measured.
    coarse: (mean, low, high) over the levels of the context.
    overall: (mean, low, high) over all levels.
    num_examples, num_tracks: behind the figures.
  """

  name: str
  loss: np.ndarray
  low: np.ndarray
  high: np.ndarray
  accuracy: np.ndarray | None
  coarse: tuple[float, float, float]
  overall: tuple[float, float, float]
  num_examples: int
  num_tracks: int

  def to_json(self) -> dict:
    values = dataclasses.asdict(self)
    return {
      key: value.tolist() if isinstance(value, np.ndarray) else value
      for key, value in values.items()
    }


def summarize(
  name: str,
  log_probs: np.ndarray,
  tracks: Sequence[str],
  spec: LiveMusicSpec,
  *,
  correct: np.ndarray | None = None,
  seed: int = 0,
) -> LevelTable:
  """Log-probabilities of held-out targets -> one row, with intervals over tracks.

  Args:
    name: of the row.
    log_probs: [N, targets_length], ln p(target).
    tracks: the track of each example; the bootstrap draws tracks, not examples.
    spec: of the tokens.
    correct: [N, targets_length], whether the most probable code was the target.
    seed: of the bootstrap.
  """
  losses = -per_level(log_probs, spec.target_levels)
  right = None if correct is None else per_level(correct, spec.target_levels)
  return summarize_levels(name, losses, tracks, spec, correct=right, seed=seed)


def summarize_levels(
  name: str,
  losses: np.ndarray,
  tracks: Sequence[str],
  spec: LiveMusicSpec,
  *,
  correct: np.ndarray | None = None,
  seed: int = 0,
) -> LevelTable:
  """As `summarize`, of losses and shares of correct codes [N, levels], means over frames."""
  coarse, rest = losses[:, : spec.context_levels].mean(1), losses.mean(1)
  columns = np.column_stack([losses, coarse, rest])
  mean, low, high = bootstrap.mean_interval(columns, tracks, seed=seed)
  levels = slice(0, spec.target_levels)
  return LevelTable(
    name=name,
    loss=mean[levels],
    low=low[levels],
    high=high[levels],
    accuracy=None if correct is None else np.mean(correct, axis=0),
    coarse=(float(mean[-2]), float(low[-2]), float(high[-2])),
    overall=(float(mean[-1]), float(low[-1]), float(high[-1])),
    num_examples=len(losses),
    num_tracks=len(set(tracks)),
  )


def by_frame(log_probs: np.ndarray, num_levels: int, coarse_levels: int) -> np.ndarray:
  """Coarse loss at each frame of the chunk: [N, frames * levels] -> mean over N, [frames]."""
  values = -np.asarray(log_probs, np.float64).reshape(len(log_probs), -1, num_levels)
  return values[:, :, :coarse_levels].mean((0, 2))
