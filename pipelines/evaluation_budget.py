"""A time budget: finds out how fast this machine is, then picks how much is measured."""

import time
from typing import Any

import numpy as np

from evaluation import embeddings, excerpts, families
from evaluation.report import Report
from evaluation.token_scoring import score_tokens
from models.musicnn import Musicnn
from pipelines.evaluation_clips import NUM_ANCHORS, Bench, open_session
from pipelines.evaluation_options import (
  Costs,
  EvaluationOptions,
  budget_sentences,
  expected_secs,
  fit_budget,
  parse_secs,
)

# Drawing the page and what is compiled on the way take as long as measuring so many clips; and room
# for what is not counted.
_FIXED_CLIPS, _RESERVE = 50, 0.75


class Budget:
  """Time that a report may take, counted from the start of its command.

  Attributes:
    secs: seconds of the budget; None for none.
  """

  def __init__(self, text: str | None, began: float | None = None):
    """Starts to count.

    Args:
      text: a time such as '2min'; None for no budget.
      began: `time.perf_counter()` where the command began, so that imports count; None: now.

    Raises:
      ValueError: the text is not a time.
    """
    self.secs = None if text is None else parse_secs(text)
    self._start = time.perf_counter() if began is None else began

  def pick(self, bench: Bench, report: Report) -> EvaluationOptions:
    """The options of the bench, with counts that fit into what is left; said in `report.budget`."""
    before = bench.options
    if self.secs is None:
      return before
    costs = measure_costs(bench)
    left = self.secs * _RESERVE - (time.perf_counter() - self._start)
    counted = {
      'num_models': len(bench.sources), 'chunk_secs': bench.spec.chunk_secs,
      'num_anchors': NUM_ANCHORS,
    }  # fmt: skip
    options, share = fit_budget(before, costs, left, **counted)
    expected = expected_secs(options, costs, **counted)
    report.budget = budget_sentences(self.secs, share, options, before, expected)
    for line in report.budget:
      print(f'  {line}')
    return options


def measure_costs(bench: Bench) -> Costs:
  """Seconds of the parts of a report, once compiled: one batch, one chunk, one clip."""
  spec, options = bench.spec, bench.options
  source = bench.sources[0].bundle
  record = next(iter(bench.data.held_out_records()))
  one = excerpts.choose_excerpts([record], 1, spec, options.seed) * options.batch_size
  inputs = excerpts.encoder_inputs(one, spec)
  targets = excerpts.decoder_targets(one, spec)

  def batch():
    score_tokens(source.model, source.params, inputs, targets, batch_size=options.batch_size)

  session = open_session(bench.sources[0], bench, options.seed)
  chunk = _second_time(session.next_chunk)
  samples = round(options.num_audio_secs * spec.sample_rate)
  noise = np.random.default_rng(0).normal(0, 0.1, [samples, spec.num_channels])
  audio = noise.astype(np.float32)
  clip = _second_time(lambda: families.measure(audio, spec.sample_rate, spec.chunk_samples), 1)
  network = Musicnn.load(embeddings.MUSICNN)
  heard = _second_time(lambda: embeddings.musicnn(audio, spec.sample_rate, network))
  codes = np.zeros([spec.chunk_frames, spec.target_levels], np.int32)
  decode = _second_time(lambda: bench.codec.decode(codes)) / spec.chunk_secs
  return Costs(
    excerpt=_second_time(batch) / options.batch_size,
    chunk=chunk,
    # The other embeddings cost about half of the figures; anchors are decoded or encoded.
    clip=1.5 * clip + heard + decode * options.num_audio_secs / 2,
    decoding=decode,
    fixed=_FIXED_CLIPS * clip,
  )


def _second_time(run: Any, warm_up: int = 1) -> float:
  """Wall seconds of a call after others have compiled what there is to compile."""
  for _ in range(warm_up):
    run()
  start = time.perf_counter()
  run()
  return time.perf_counter() - start
