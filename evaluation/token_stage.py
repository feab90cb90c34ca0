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


MASKED, OTHERS = 'style masked', "another track's context"
Take = Callable[[Any, Callable[[], Any]], Any]


def _at_once(depends_on: Any, measure: Callable[[], Any]) -> Any:
  return measure()


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
  take: Take = _at_once,
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
    take: (name of the model, what measures it) -> the scores, perhaps kept from an earlier run.
  """
  scores = {UNIGRAM: score_unigram(training_counts, excerpts, spec)}
  for name, model, params in models:
    scores[name] = take(
      name,
      lambda model=model, params=params: score_model(
        model, params, excerpts, spec, context_secs=context_secs, batch_size=batch_size,
        on_batch=on_batch,
      ),
    )  # fmt: skip
  return assemble(scores, excerpts, spec, context_secs, seed)


def score_unigram(
  training_counts: np.ndarray, excerpts: Sequence[Excerpt], spec: LiveMusicSpec
) -> dict[str, Any]:
  """As `score_model`; an unigram knows no context."""
  table = token_losses.unigram_log_probs(training_counts[: spec.target_levels])
  codes = np.stack([excerpt.target for excerpt in excerpts])
  log_probs, correct = token_losses.score_unigram(table, codes)
  return _scores(log_probs, correct, spec)


def score_model(
  model: Any,
  params: Any,
  excerpts: Sequence[Excerpt],
  spec: LiveMusicSpec,
  *,
  context_secs: Sequence[float],
  batch_size: int,
  on_batch: Callable[[int], Any] = lambda count: None,
) -> dict[str, Any]:
  """Scores of one model as JSON values.

  Returns:
    'loss' and 'correct' [N][levels], means over frames; 'by_frame' [frames], coarse loss at each
    frame of the chunk; 'contexts' [secs][N / 2] and 'conditions' {name: [N / 2]}, coarse losses.
  """
  targets = excerpts_lib.decoder_targets(excerpts, spec)
  few = excerpts[: _half(len(excerpts))]

  def score(inputs: np.ndarray) -> Any:
    return score_tokens(
      model, params, inputs, targets[: len(inputs)], batch_size=batch_size, on_batch=on_batch
    )

  def coarse(**options: Any) -> list[float]:
    log_probs, _ = score(excerpts_lib.encoder_inputs(few, spec, **options))
    return _coarse(log_probs, spec).tolist()

  scores = _scores(*score(excerpts_lib.encoder_inputs(excerpts, spec)), spec)
  scores['contexts'] = [
    coarse(context_frames=round(secs * spec.frame_rate)) for secs in context_secs
  ]
  scores['conditions'] = {MASKED: coarse(style=False), OTHERS: coarse(wrong_context=True)}
  return scores


def assemble(
  scores: dict[str, dict[str, Any]],
  excerpts: Sequence[Excerpt],
  spec: LiveMusicSpec,
  context_secs: Sequence[float],
  seed: int = 0,
) -> dict[str, Any]:
  """The section, from the scores of the unigram and of each model."""
  tracks = [excerpt.track_id for excerpt in excerpts]
  loss = {name: np.array(values['loss']) for name, values in scores.items()}
  models = [name for name in scores if name != UNIGRAM]
  few = _half(len(excerpts))
  return {
    'rows': [
      token_losses.summarize_levels(
        name, loss[name], tracks, spec, correct=np.array(values['correct']), seed=seed
      ).to_json()
      for name, values in scores.items()
    ],
    'anchors': [UNIGRAM],
    'context_levels': spec.context_levels,
    'contexts': {
      'secs': list(context_secs),
      'rows': {name: [_mean(row) for row in scores[name]['contexts']] for name in models},
      'conditions': {
        name: {key: _mean(row) for key, row in scores[name]['conditions'].items()}
        for name in models
      },
      'anchors': {UNIGRAM: float(loss[UNIGRAM][:few, : spec.context_levels].mean())},
      'num_examples': few,
    },
    'positions': {
      'secs': [frame / spec.frame_rate for frame in range(spec.chunk_frames)],
      'rows': {name: scores[name]['by_frame'] for name in scores},
    },
    'examples': {
      'tracks': tracks,
      'coarse': {
        name: values[:, : spec.context_levels].mean(1).tolist() for name, values in loss.items()
      },
      'overall': {name: values.mean(1).tolist() for name, values in loss.items()},
    },
  }


def _scores(log_probs: np.ndarray, correct: np.ndarray, spec: LiveMusicSpec) -> dict[str, Any]:
  levels = spec.target_levels
  return {
    'loss': (-token_losses.per_level(log_probs, levels)).tolist(),
    'correct': token_losses.per_level(correct, levels).tolist(),
    'by_frame': token_losses.by_frame(log_probs, levels, spec.context_levels).tolist(),
  }


def num_rows(num_models: int, num_excerpts: int, num_contexts: int) -> int:
  """Rows that `measure_tokens` scores."""
  return num_models * (num_excerpts + (num_contexts + 2) * _half(num_excerpts))


def _half(number: int) -> int:
  return max(1, number // 2)


def _mean(values: Sequence[float]) -> float:
  return float(np.mean(values))


def _coarse(log_probs: np.ndarray, spec: LiveMusicSpec) -> np.ndarray:
  levels = -token_losses.per_level(log_probs, spec.target_levels)
  return levels[:, : spec.context_levels].mean(1)
