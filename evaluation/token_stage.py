"""Token losses of several models beside the unigram anchor, all on the same held-out excerpts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evaluation import excerpts as excerpts_lib
from evaluation import token_losses
from evaluation.excerpts import Excerpt
from evaluation.token_scoring import score_tokens
from models.spec import LiveMusicSpec

UNIGRAM = 'unigram'


def measure_tokens(
  models: Sequence[tuple[str, Any, Any]],
  training_counts: np.ndarray,
  excerpts: Sequence[Excerpt],
  spec: LiveMusicSpec,
  *,
  context_secs: Sequence[float],
  batch_size: int,
  seed: int = 0,
  on_batch: Callable[[int], Any] = lambda count: None,
) -> dict[str, Any]:
  """The `token_losses` of a report.

  Args:
    models: (name, model, params) each.
    training_counts: how often each code occurs in the training set, [>= target_levels,
      codebook_size] (see `token_losses.count_codes`), for the unigram.
    excerpts: held-out targets. The first half also serves the comparison of contexts.
    spec: token layout of all models.
    context_secs: contexts to compare; the full one is the last.
    batch_size: excerpts at a time.
    seed: of the bootstrap.
    on_batch: called with the number of rows done; `num_rows` says how many there will be.
  """
  tracks = [excerpt.track_id for excerpt in excerpts]
  codes = np.stack([excerpt.target for excerpt in excerpts])
  targets = excerpts_lib.decoder_targets(excerpts, spec)
  table = token_losses.unigram_log_probs(training_counts[: spec.target_levels])
  log_probs, correct = token_losses.score_unigram(table, codes)
  rows = [token_losses.summarize(UNIGRAM, log_probs, tracks, spec, correct=correct, seed=seed)]
  few = excerpts[: _half(len(excerpts))]
  coarse: dict[str, list[float]] = {}
  conditions: dict[str, dict[str, float]] = {}
  for name, model, params in models:

    def score(inputs: np.ndarray, model: Any = model, params: Any = params) -> Any:
      return score_tokens(
        model, params, inputs, targets[: len(inputs)], batch_size=batch_size, on_batch=on_batch
      )

    log_probs, correct = score(excerpts_lib.encoder_inputs(excerpts, spec))
    rows.append(token_losses.summarize(name, log_probs, tracks, spec, correct=correct, seed=seed))
    coarse[name] = []
    for secs in context_secs:
      frames = round(secs * spec.frame_rate)
      shown = excerpts_lib.encoder_inputs(few, spec, context_frames=frames)
      coarse[name].append(_coarse(score(shown)[0], spec))
    conditions[name] = {
      'style masked': _coarse(score(excerpts_lib.encoder_inputs(few, spec, style=False))[0], spec),
      "another track's context": _coarse(
        score(excerpts_lib.encoder_inputs(few, spec, wrong_context=True))[0], spec
      ),
    }
  few_unigram, _ = token_losses.score_unigram(table, codes[: len(few)])
  return {
    'rows': [row.to_json() for row in rows],
    'anchors': [UNIGRAM],
    'context_levels': spec.context_levels,
    'contexts': {
      'secs': list(context_secs),
      'rows': coarse,
      'conditions': conditions,
      'anchors': {UNIGRAM: _coarse(few_unigram, spec)},
      'num_examples': len(few),
    },
  }


def num_rows(num_models: int, num_excerpts: int, num_contexts: int) -> int:
  """Rows that `measure_tokens` scores."""
  return num_models * (num_excerpts + (num_contexts + 2) * _half(num_excerpts))


def _half(number: int) -> int:
  return max(1, number // 2)


def _coarse(log_probs: np.ndarray, spec: LiveMusicSpec) -> float:
  levels = -token_losses.per_level(log_probs, spec.target_levels)
  return float(levels[:, : spec.context_levels].mean())
