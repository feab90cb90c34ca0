"""Models against the first of a report, and continuations against what they continue."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation import codec_metrics, families, paired, rhythm, tonality
from evaluation.metric_table import CORPUS, HIGHER, NEITHER, Metric

SIGNIFICANT = 0.05


def compare_models(
  examples: Mapping[str, Any],
  figures: Mapping[str, Mapping[str, Mapping[str, float]]],
  tracks: Mapping[str, str],
  reference: Mapping[str, float],
  base: str,
  *,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Paired differences of every other model to the base.

  Args:
    examples: 'tracks' [N], and 'coarse' and 'overall' losses by model [N].
    figures: model -> clip (the same prompt, draw or recording for all) -> figures.
    tracks: clip -> what it goes back to, which is drawn.
    reference: mean of every figure over music A, for those that are to be near to it.
    base: name of the first model.
    seed: of draws.

  Returns:
    Rows {'model', 'key', 'label', 'difference', 'low', 'high', 'p', 'p_holm', 'num_tracks',
    'better': True, False or None where chance explains it}; p_holm is corrected over the rows of
    one model. Of figures that are to be near to the corpus, the distance is compared.
  """
  rows = []
  for model in figures:
    if model == base:
      continue
    own = []
    for key, label in (('coarse', 'Loss of the coarse levels'), ('overall', 'Loss of all levels')):
      values = examples[key]
      found = paired.paired_difference(values[base], values[model], examples['tracks'], seed=seed)
      own.append(_row(model, key, label, found, lower=True))
    shared = [clip for clip in figures[base] if clip in figures[model]]
    for metric in (metric for family in families.FAMILIES for metric in family.metrics):
      pair = [
        [_judged(metric, figures[name][clip], reference) for clip in shared]
        for name in (base, model)
      ]
      if metric.better == NEITHER or not np.isfinite(np.subtract(*pair)).any():
        continue
      groups = [tracks[clip] for clip in shared]
      found = paired.paired_difference(*pair, groups, seed=seed)
      label = f'{metric.label}, distance from music A' if metric.better == CORPUS else metric.label
      own.append(_row(model, metric.key, label, found, lower=metric.better != HIGHER,
                      digits=metric.digits + 1))  # fmt: skip
    corrected = paired.holm([row['p'] for row in own])
    for row, p in zip(own, corrected):
      row['p_holm'] = p
      # Without a correction that holds, a difference may be chance.
      row['better'] = row['better'] if p < SIGNIFICANT else None
    rows += own
  return rows


def _judged(metric: Metric, figures: Mapping[str, float], reference: Mapping[str, float]) -> float:
  value = figures.get(metric.key, float('nan'))
  return abs(value - reference.get(metric.key, np.nan)) if metric.better == CORPUS else value


def _row(
  model: str, key: str, label: str, found: paired.PairedDifference, *, lower: bool, digits: int = 3
) -> dict[str, Any]:
  return {
    'model': model, 'key': key, 'label': label, 'difference': found.difference, 'low': found.low,
    'high': found.high, 'p': found.p, 'num_tracks': found.num_groups, 'digits': digits,
    'better': bool((found.difference < 0) == lower),
  }  # fmt: skip


def continuity(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> dict[str, Any]:
  """How well continuations keep the tempo and the key of what they go on from.

  Args:
    pairs: figures of what was given and of the continuation.

  Returns:
    'tempo_kept': share within 4 % up to a factor of 2 or 3, as in MIREX's tempo task; 'key_score':
    mean weighted score of the key; 'num_clips'. NaN where nothing is known.
  """
  tempo = [
    rhythm.tempo_error(after['tempo_bpm'], before['tempo_bpm']) <= 0.04
    for before, after in pairs
    if np.isfinite(before['tempo_bpm']) and np.isfinite(after['tempo_bpm'])
  ]
  keys = [
    tonality.key_score(int(after['key']), int(before['key']))
    for before, after in pairs
    if np.isfinite(before['key']) and np.isfinite(after['key'])
  ]
  return {
    'tempo_kept': float(np.mean(tempo)) if tempo else float('nan'),
    'key_score': float(np.mean(keys)) if keys else float('nan'),
    'num_clips': len(pairs),
  }


def code_use(codes: Sequence[np.ndarray], codebook_size: int) -> dict[str, Any]:
  """Use of the codebooks by clips: a model that collapsed uses few codes.

  Args:
    codes: int [frames, levels] of each clip.
    codebook_size: codes of a level.

  Returns:
    'num_frames', 'distinct' (codes of level 0 that occur), 'perplexity' [levels].
  """
  joined = np.concatenate(codes)
  counts = np.stack([np.bincount(level, minlength=codebook_size) for level in joined.T])
  use = codec_metrics.codebook_use(counts)
  return {
    'num_frames': len(joined),
    'distinct': int(np.count_nonzero(counts[0])),
    'perplexity': use['perplexity'].tolist(),
  }
