"""The memorization gate: its search against a slow one, its thresholds, its verdict."""

import dataclasses

import numpy as np
import pytest

from evaluation import memorization
from evaluation.excerpts import TokenRecord
from evaluation.memorization import CatalogIndex, Continuation, GateOptions, Match
from models.spec import LiveMusicSpec

SPEC = LiveMusicSpec(
  context_frames=100, context_levels=2, chunk_frames=50, target_levels=3, codec_levels=3,
  codebook_size=64, style_levels=2, style_offset=194, vocab_size=512, style_rvq_levels=2,
)  # fmt: skip
LEVELS = SPEC.context_levels


def _record(track, frames, seed, codes=64):
  rng = np.random.default_rng(seed)
  return TokenRecord(
    track, rng.integers(0, codes, [frames, 3]).astype(np.int32),
    rng.integers(0, 8, [-(-frames // 250), 2]).astype(np.int32),
  )  # fmt: skip


def _slow(codes, records, levels):
  """(longest run, largest share) by comparing place by place in plain Python."""
  longest, share = 0, 0.0
  for record in records:
    music = record.codes[:, :levels]
    for start in range(len(music) - len(codes) + 1):
      run = same = 0
      for frame in range(len(codes)):
        at = start + frame
        repeats = at > 0 and (music[at] == music[at - 1]).all()
        for level in range(levels):
          equal = music[at, level] == codes[frame, level]
          run = run + (not repeats) if equal else 0
          same += equal and not repeats
          longest = max(longest, run)
      share = max(share, same / codes.size)
  return longest, share


@pytest.mark.parametrize('seed', range(4))
def test_search_finds_what_a_slow_one_finds(seed):
  records = [_record('a', 90, seed, codes=3), _record('b', 61, seed + 100, codes=3)]
  index = CatalogIndex.of(records, LEVELS)
  codes = _record('c', 20, seed + 200, codes=3).codes[:, :LEVELS]
  match = memorization.find(codes, index)
  assert (match.run, match.share) == pytest.approx(_slow(codes, records, LEVELS))


def test_a_copy_is_found_where_it_is_and_silence_is_none():
  records = [_record('a', 200, 1), _record('b', 300, 2)]
  index = CatalogIndex.of(records, LEVELS)
  codes = records[1].codes[120:170, :LEVELS]
  match = memorization.find(codes, index)
  assert (match.run, match.share) == (50 * LEVELS, 1.0)
  assert index.where(match.run_frame) == ('b', 1, 120)
  first = 200 + 120
  other = memorization.find(codes, index, skip=(first, first + 1))
  assert other.run < 20 and other.share < 0.5
  silence = TokenRecord('s', np.zeros([200, 3], np.int32), np.zeros([1, 2], np.int32))
  quiet = CatalogIndex.of([silence], LEVELS)
  match = memorization.find(np.zeros([50, LEVELS], np.int32), quiet)
  assert match.run <= LEVELS and match.share <= 1 / 50


def test_music_shorter_than_a_chunk_matches_nothing():
  index = CatalogIndex.of([_record('a', 30, 1)], LEVELS)
  assert memorization.find(np.zeros([50, LEVELS], np.int32), index) == Match(0, 0, 0.0, 0)


def test_probes_take_the_tracks_in_turn_with_what_stands_before_them():
  records = [_record('a', 400, 1), _record('a', 400, 2), _record('b', 180, 3), _record('c', 80, 4)]
  probes = memorization.choose_probes(records, 6, SPEC, seed=0)
  assert [probe.track_id for probe in probes[:3]] == ['a', 'b', 'c']
  assert len(probes) == 6
  for probe in probes:
    codes = records[probe.record].codes
    assert len(codes) - probe.start >= SPEC.chunk_frames
    np.testing.assert_array_equal(probe.context, codes[max(0, probe.start - 100) : probe.start])
    if probe.track_id != 'c':
      assert len(probe.context) == SPEC.context_frames
  again = memorization.choose_probes(records, 6, SPEC, seed=0)
  assert [probe.start for probe in again] == [probe.start for probe in probes]


class _Parrot:
  """A model that plays a fixed row of token ids, whatever it is asked."""

  spec = SPEC

  def __init__(self, codes):
    self._ids = codes + SPEC.codec_offset + SPEC.codebook_size * np.arange(SPEC.target_levels)
    self.asked = []

  def generate(self, params, inputs, *, temperature, guidance_weight, **unused):
    del params
    masked = (np.asarray(inputs)[:, : SPEC.context_length] == SPEC.mask_id).sum(axis=1)
    self.asked.append((temperature, guidance_weight, masked.tolist()))
    return np.repeat(self._ids[None], len(inputs), axis=0)


def _judged(codes, options, records, held_out, from_held_out=None):
  index = CatalogIndex.of(records, LEVELS)
  base = _Parrot(_record('x', 50, 77).codes)
  probes = memorization.choose_probes(records, options.num_contexts, SPEC, 0)
  others = memorization.choose_probes(held_out, options.num_contexts, SPEC, 0)
  calibration = memorization.calibrate(
    memorization.continue_all(base, None, probes, index, options), held_out, index, SPEC, options
  )
  tuned = _Parrot(codes)
  training = memorization.continue_all(tuned, None, probes, index, options)
  other = _Parrot(_record('y', 50, 78).codes if from_held_out is None else from_held_out)
  unseen = memorization.continue_all(other, None, others, index, options)
  return calibration, memorization.judge(training, unseen, calibration, options), tuned


def test_a_parrot_is_marked_and_an_honest_model_is_not():
  options = GateOptions(num_contexts=4, context_secs=(1, 4))
  records = [_record(name, 300, number) for number, name in enumerate('abc')]
  held_out = [_record(name, 300, 50 + number) for number, name in enumerate('de')]
  calibration, verdict, parrot = _judged(records[2].codes[170:220], options, records, held_out)
  assert verdict['memorized'] and verdict['training_rate'] == 1.0
  assert verdict['longest_run'] == 50 * LEVELS and verdict['held_out_rate'] == 0.0
  assert 'copies' in verdict['text'] and len(verdict['groups']) == 4
  # Both modes, with 1 s and 4 s of context shown, without guidance.
  assert [(t, g) for t, g, _ in parrot.asked] == [(0.0, 0.0)] * 2 + [(1.1, 0.0)] * 2
  assert parrot.asked[0][2][0] == (100 - 25) * LEVELS and parrot.asked[1][2][0] == 0
  assert calibration.run < 30

  _, verdict, _ = _judged(_record('z', 50, 99).codes, options, records, held_out)
  assert not verdict['memorized'] and verdict['excess'] == 0


def test_training_music_played_from_every_context_is_marked():
  """What a model does that has learnt nothing but its training tracks."""
  options = GateOptions(num_contexts=4, context_secs=(1,))
  records = [_record(name, 300, number) for number, name in enumerate('abc')]
  held_out = [_record(name, 300, 50 + number) for number, name in enumerate('de')]
  codes, own = records[2].codes[170:220], _record('z', 50, 99).codes
  for from_training, from_held_out in ((codes, codes), (own, codes)):
    _, verdict, _ = _judged(from_training, options, records, held_out, from_held_out)
    assert verdict['memorized'] and verdict['held_out_rate'] == 1.0
    assert verdict['excess'] == 1.0


def test_a_catalog_that_shares_whole_passages_raises_what_is_borne():
  """Held-out tracks, one of which begins as a training track does: that much is no copying."""
  options = GateOptions(num_contexts=4, context_secs=(1,), quantile=0.5)
  records = [_record('a', 300, 1)]
  shared = np.array(_record('h', 200, 2).codes)
  shared[:50] = records[0].codes[50:100]
  held_out = [TokenRecord('h', shared, _record('h', 200, 2).style_tokens)]
  index = CatalogIndex.of(records, LEVELS)
  calibration = memorization.calibrate([], held_out, index, SPEC, options)
  assert calibration.chance_rate == 1 / 4
  # A base that knows the catalog already does not raise it.
  again = memorization.continue_all(
    _Parrot(shared[:50]), None, memorization.choose_probes(records, 4, SPEC, 0), index, options
  )
  assert memorization.calibrate(again, held_out, index, SPEC, options).chance_rate == 1 / 4
  probes = memorization.choose_probes(records, 4, SPEC, 0)
  copied = memorization.continue_all(_Parrot(shared[:50]), None, probes[:1], index, options)
  other = memorization.continue_all(
    _Parrot(_record('z', 50, 9).codes), None, probes, index, options
  )
  rows = copied[:1] + other[:3]
  verdict = memorization.judge(rows, [], calibration, options)
  assert verdict['training_rate'] == 1 / 4 and verdict['excess'] == 0
  assert not verdict['memorized'] and '30 % are borne' in verdict['text']


def test_thresholds_rest_on_music_that_was_not_trained_on():
  """A catalog that repeats itself from work to work raises the bar to its own level."""
  options = GateOptions(quantile=1.0, margin=2)
  records = [_record('a', 300, 1)]
  own = np.array(_record('h', 100, 2).codes)
  own[10:25] = records[0].codes[40:55]
  index = CatalogIndex.of(records, LEVELS)
  held_out = [TokenRecord('h', own, np.zeros([1, 2], np.int32))]
  calibration = memorization.calibrate([], held_out, index, SPEC, options)
  assert 15 * LEVELS <= calibration.quantile_run <= 15 * LEVELS + 2
  assert calibration.run == calibration.quantile_run + 2
  assert memorization.Calibration.from_json(calibration.to_json()) == calibration
  assert not calibration.is_copy(Match(calibration.run, 0, 0.5, 0))
  assert calibration.is_copy(Match(calibration.run + 1, 0, 0.5, 0))
  assert calibration.is_copy(Match(1, 0, 0.8, 0))


def test_pairs_to_hear_are_the_most_alike_of_different_places():
  probe = memorization.choose_probes([_record('a', 400, 1)], 3, SPEC, 0)
  rows = [
    Continuation(p, 5, mode, np.zeros([50, 3]), Match(run, 0, 0.1, 0))
    for p, mode, run in [(probe[0], 'greedy', 9), (probe[0], 'sampled', 8), (probe[1], 'greedy', 3)]
  ]
  assert [row.match.run for row in memorization.top_pairs(rows, 5)] == [9, 3]


@pytest.mark.parametrize(
  'options, message',
  [({'num_contexts': 0}, 'num_contexts=0'), ({'context_secs': ()}, 'context_secs'),
   ({'modes': ('beam',)}, "'greedy', 'sampled'"), ({'share': 1.5}, 'share=1.5')],
)  # fmt: skip
def test_options_out_of_range_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    GateOptions(**options)
  assert dataclasses.replace(GateOptions(), seed=3).seed == 3
