"""What a budget makes of the numbers of samples."""

import types

import pytest

from pipelines import evaluation_budget
from pipelines.evaluation_options import (
  Costs,
  EvaluationOptions,
  budget_sentences,
  expected_secs,
  fit_budget,
  parse_secs,
  scaled,
)
from pipelines.evaluation_progress import Stages

COSTS = Costs(excerpt=0.05, chunk=0.4, clip=0.6, decoding=0.05, fixed=8)
COUNTED = {'num_models': 1, 'chunk_secs': 2.0, 'num_anchors': 8}


@pytest.mark.parametrize(
  'text, secs', [('90', 90), ('90s', 90), ('2min', 120), ('1.5 h', 5400), ('3m', 180)]
)
def test_times(text, secs):
  assert parse_secs(text) == secs


@pytest.mark.parametrize('text', ['', '0s', '-2min', 'soon', '2 weeks', 'min'])
def test_no_times(text):
  with pytest.raises(ValueError, match='is no time such as'):
    parse_secs(text)


def test_expected_by_hand():
  options = EvaluationOptions(
    num_examples=10, context_secs=(0, 10), num_audio_tracks=1, num_audio_clips=2,
    num_reference_clips=3, num_audio_secs=10.0, codec_depths=(4, 16), num_prompts=1, num_seeds=2,
    num_continuations=1, stream_secs=20.0, num_transitions=1, num_memory_probes=2,
    num_live_chunks=5,
  )  # fmt: skip
  rows = 10 * (1 + 4 / 2)
  chunks = 3 * 5 + 10 + 12 + 4 + 5
  expected = 8 + rows * 0.05 + chunks * 0.4 + 3 * 0.6 + (2 * 9 + 3 + 7) * 0.6 + 10 * 4 * 0.05
  assert expected_secs(options, COSTS, **COUNTED) == pytest.approx(expected)


@pytest.mark.parametrize('secs', [60, 120, 240, 900])
def test_a_budget_is_filled_and_not_passed(secs):
  options, _ = fit_budget(EvaluationOptions(), COSTS, secs, **COUNTED)
  expected = expected_secs(options, COSTS, **COUNTED)
  assert 0.7 * secs < expected <= secs * 1.02


def test_a_budget_counts_from_where_the_command_began(monkeypatch):
  spec = types.SimpleNamespace(chunk_secs=2.0)
  bench = types.SimpleNamespace(options=EvaluationOptions(), spec=spec, sources=[None])
  monkeypatch.setattr(evaluation_budget, 'measure_costs', lambda bench: COSTS)
  monkeypatch.setattr(evaluation_budget, 'NUM_ANCHORS', 8)
  clock = types.SimpleNamespace(perf_counter=lambda: 1000.0)
  monkeypatch.setattr(evaluation_budget, 'time', clock)
  reserve = evaluation_budget._RESERVE

  def picked(**began):
    report = types.SimpleNamespace(budget=[])
    return evaluation_budget.Budget('300s', **began).pick(bench, report)

  def fitting(secs):
    return fit_budget(EvaluationOptions(), COSTS, secs, **COUNTED)[0]

  assert picked() == fitting(300 * reserve)
  assert picked(began=900.0) == fitting(300 * reserve - 100)
  assert picked().num_examples > picked(began=900.0).num_examples


def test_more_time_gives_more_samples_and_narrower_intervals():
  before = EvaluationOptions()
  few, share = fit_budget(before, COSTS, 40, **COUNTED)
  many, _ = fit_budget(before, COSTS, 600, **COUNTED)
  assert few.num_examples < before.num_examples < many.num_examples
  said = budget_sentences(40, share, few, before, 39)
  assert f'{few.num_examples} excerpts (usually 48)' in said[0]
  ratio = (48 / few.num_examples) ** 0.5
  assert f'{ratio:.1f} times wider' in said[1]


def test_the_smallest_report_says_that_it_takes_longer():
  before = EvaluationOptions()
  options, share = fit_budget(before, COSTS, 1, **COUNTED)
  assert options.num_examples == 8 and options.stream_secs == 0
  assert 'takes longer than the budget' in budget_sentences(1, share, options, before, 20)[-1]


def test_least_and_most():
  assert scaled(EvaluationOptions(), 16).stream_secs == 300
  assert scaled(EvaluationOptions(), 1) == EvaluationOptions(num_transitions=1)


def test_an_interrupted_run_says_that_it_goes_on(capsys):
  class Store:
    known, measured = 0, 7

  with pytest.raises(SystemExit) as ended, Stages({}, Store()).interruptible():
    raise KeyboardInterrupt
  assert ended.value.code == 130
  assert '7 new measurements are kept, the same command goes on' in capsys.readouterr().err
