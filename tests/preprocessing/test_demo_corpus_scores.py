"""Composition: what the scores of the demo corpus contain."""

import collections

import numpy as np
import pytest

from preprocessing import composer, composer_styles, scores, synthesizer_drums
from preprocessing import synthesizer_instruments as instruments


def test_there_are_enough_styles_and_all_their_instruments_exist():
  assert len(composer_styles.STYLES) >= 12
  assert 2 <= len(composer_styles.UNSEEN_STYLES) <= 3
  assert set(composer_styles.UNSEEN_STYLES) < set(composer_styles.STYLES)
  for name in composer_styles.STYLES:
    style = composer_styles.style_named(name)
    for part in style.parts:
      for instrument in part.instruments:
        assert instrument in instruments.VOICES, (name, instrument)
    for kit in style.kits:
      assert kit in synthesizer_drums.KITS, (name, kit)
  assert set(instruments.MIDI_PROGRAMS) == set(instruments.VOICES)


def test_styles_differ_in_tempo_instruments_and_rhythm():
  styles = composer_styles.TABLE.values()
  line_ups = [frozenset(i for p in s.parts for i in p.instruments) | set(s.kits) for s in styles]
  for i, first in enumerate(line_ups):
    for second in line_ups[:i]:
      assert len(first & second) / len(first | second) < 0.5
  assert len({s.parts[0].patterns for s in styles}) == len(styles)
  tempos = [s.tempo for s in styles]
  assert min(low for low, _ in tempos) <= 65
  assert max(high for _, high in tempos) >= 170
  assert {s.beats_per_bar for s in styles} >= {2, 3, 4}


@pytest.mark.parametrize('style', composer_styles.STYLES)
def test_every_note_is_in_the_key_and_the_tempo_in_range(style):
  for seed in range(3):
    score = composer.compose(style, seed, 40)
    spec = composer_styles.style_named(style)
    assert spec.tempo[0] <= score.bpm <= spec.tempo[1]
    assert score.mode in spec.modes
    for part in score.parts:
      assert all(0 <= note.pitch <= 127 and 0 < note.velocity <= 1 for note in part.notes)
      if not part.is_drums:
        outside = {n.pitch % 12 for n in part.notes} - score.pitch_classes
        assert not outside, (part.instrument, outside)


@pytest.mark.parametrize('style', composer_styles.STYLES)
def test_same_seed_same_score_other_seed_other_score(style):
  assert composer.compose(style, 3, 20) == composer.compose(style, 3, 20)
  assert composer.compose(style, 3, 20).parts != composer.compose(style, 4, 20).parts


def test_a_longer_work_starts_as_the_shorter_one():
  short, long = (composer.compose('folk', 9, secs) for secs in (15, 45))
  last = 15 * short.bpm / 60 - short.beats_per_bar
  for first, second in zip(short.parts, long.parts):
    assert first.instrument == second.instrument
    assert [n for n in first.notes if n.start < last] == [n for n in second.notes if n.start < last]


@pytest.mark.parametrize('style', ['house', 'church organ', 'funk', 'gamelan', 'celtic jig'])
def test_sections_repeat_note_by_note(style):
  """The form is A A B A B: its fourth section is its second one again."""
  score = composer.compose(style, 5, 90)
  section_beats = score.beats_per_bar * len(composer_styles.TABLE[style].progressions[0])

  def section(part, index):
    start = index * section_beats
    inside = [n for n in part.notes if start <= n.start < start + section_beats - 1e-6]
    return [(round(n.start - start, 6), n.pitch, n.velocity) for n in inside]

  differences = 0
  for part in score.parts:
    # The last bar leans towards the next section's first chord, so it is left out.
    stop = section_beats - score.beats_per_bar
    first, second, other = (
      [event for event in section(part, index) if event[0] < stop] for index in (1, 3, 2)
    )
    assert first == second
    differences += first != other
  assert differences >= len(score.parts) / 2


def test_swing_moves_the_offbeats():
  score = composer.compose('jazz swing', 2, 30)
  ride = [n.start % 1 for n in score.parts[-1].notes if n.pitch == scores.DRUM_KEYS['ride']]
  counts = collections.Counter(round(x, 3) for x in ride)
  assert set(counts) == {0.0, 0.65}


def test_chords_and_scale_pitches_match_music_theory():
  names = {
    ('major', 0): {'C', 'E', 'G'}, ('major', 4): {'G', 'B', 'D'}, ('minor', 5): {'Ab', 'C', 'Eb'},
    ('dorian', 3): {'F', 'A', 'C'}, ('lydian', 1): {'D', 'F#', 'A'},
  }  # fmt: skip
  for (mode, root), expected in names.items():
    pitches = [scores.scale_pitch(0, mode, d) for d in scores.chord_degrees(root, 3)]
    assert {scores.PITCH_CLASSES[p % 12] for p in pitches} == expected
  assert scores.scale_pitch(9, 'minor', 0) == 69
  assert scores.scale_pitch(0, 'major', -1) == 59
  assert scores.scale_pitch(0, 'major pentatonic', 5) == 72
  assert [scores.near(p, 60) for p in (48, 65, 66, 90)] == [60, 65, 54, 54]


def test_bar_patterns_parse_to_spans():
  assert composer.parse_steps('0--.C.a-') == [
    (0.0, 0.375, '0'), (0.5, 0.625, 'C'), (0.75, 1.0, 'a')
  ]  # fmt: skip


def test_every_pattern_and_grid_uses_known_symbols():
  for style in composer_styles.TABLE.values():
    for part in style.parts:
      for pattern in part.patterns:
        allowed = set('x-.0a') if part.kind in ('melody', 'walk') else set('0123456789CPa-.')
        assert set(pattern) <= allowed, pattern
    for grid in (*style.grids, style.fill):
      for drum, pattern in grid.items():
        assert drum in scores.DRUM_KEYS
        assert set(pattern) <= set('Xxo.')
        assert len(pattern) in (4, 6, 16), pattern


def test_bad_arguments_name_the_way_out():
  with pytest.raises(ValueError, match="'polka' is not one of ambient, house"):
    composer.compose('polka', 0)
  with pytest.raises(ValueError, match='at least 2'):
    composer.compose('house', 0, 1.0)


def test_seeds_spread_over_keys_and_tempos():
  works = [composer.compose('house', seed, 4) for seed in range(60)]
  assert len({w.tonic for w in works}) == 12
  assert len({w.bpm for w in works}) >= 8
  assert np.std([w.parts[0].tone for w in works]) > 0.1
