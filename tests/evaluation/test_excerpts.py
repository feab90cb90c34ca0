"""Which tokens are scored: contexts end where targets start, styles are those of the centre."""

import numpy as np
import pytest

from evaluation.excerpts import (
  Excerpt,
  TokenRecord,
  choose_excerpts,
  decoder_targets,
  encoder_inputs,
)
from models.spec import LiveMusicSpec

SPEC = LiveMusicSpec()


def make_record(track, frames):
  """Code of frame f, level l is (7 f + l) % 1024: any cut can be told from its values."""
  codes = (7 * np.arange(frames)[:, None] + np.arange(64)) % 1024
  windows = -(-frames // 250)
  styles = 10 * np.arange(windows)[:, None] + np.arange(12)
  return TokenRecord(track, codes.astype(np.int32), styles.astype(np.int32))


def test_cuts_and_styles():
  chosen = choose_excerpts([make_record('a', 750)], 100, SPEC)
  # Targets at 10, 12, ..., 28 s; their centres 11, 13, ..., 29 s lie in windows 1 and 2.
  assert len(chosen) == 10
  starts = sorted(int(e.target[0, 0]) for e in chosen)
  assert starts == sorted((7 * f) % 1024 for f in range(250, 701, 50))
  for excerpt in chosen:
    assert excerpt.context.shape == (250, 16)
    assert excerpt.target.shape == (50, 16)
    assert (excerpt.context[-1, 0] + 7) % 1024 == excerpt.target[0, 0]
    start = next(f for f in range(250, 701, 50) if (7 * f) % 1024 == excerpt.target[0, 0])
    assert excerpt.style[0] == 10 * int((start / 25 + 1) / 10)


def test_short_clips_give_their_last_chunk_and_shorter_ones_nothing():
  chosen = choose_excerpts([make_record('a', 100), make_record('b', 49)], 10, SPEC)
  assert [e.track_id for e in chosen] == ['a']
  assert len(chosen[0].context) == 50
  with pytest.raises(ValueError, match='as long as one chunk'):
    choose_excerpts([make_record('b', 49)], 10, SPEC)


def test_tracks_take_turns_and_the_seed_decides():
  records = [make_record('a', 750), make_record('b', 350), make_record('c', 750)]
  chosen = choose_excerpts(records, 7, SPEC, seed=1)
  assert [e.track_id for e in chosen] == ['a', 'b', 'c', 'a', 'b', 'c', 'a']
  again = choose_excerpts(records, 7, SPEC, seed=1)
  other = choose_excerpts(records, 7, SPEC, seed=2)
  assert all((x.target == y.target).all() for x, y in zip(chosen, again))
  assert any((x.target != y.target).any() for x, y in zip(chosen, other))


def test_inputs_by_condition():
  def excerpt(track, shift):
    return Excerpt(track, np.full([250, 16], shift), np.full([50, 16], shift), np.full(12, shift))

  pair = [excerpt('a', 1), excerpt('a', 2), excerpt('b', 3)]
  full = encoder_inputs(pair, SPEC)
  assert full.shape == (3, 1006)
  np.testing.assert_array_equal(full[0, :4], 2 + 1 + 1024 * np.arange(4))
  np.testing.assert_array_equal(full[1, -6:], 17_410 + 2 + 1024 * np.arange(6))
  short = encoder_inputs(pair, SPEC, context_frames=25)
  assert (short[:, :900] == 1).all()
  np.testing.assert_array_equal(short[:, 900:], full[:, 900:])
  assert (encoder_inputs(pair, SPEC, context_frames=0)[:, :1000] == 1).all()
  masked = encoder_inputs(pair, SPEC, style=False)
  assert (masked[:, 1000:] == 1).all()
  np.testing.assert_array_equal(masked[:, :1000], full[:, :1000])
  wrong = encoder_inputs(pair, SPEC, wrong_context=True)
  np.testing.assert_array_equal(wrong[:, 0], [2 + 3, 2 + 3, 2 + 1])  # of b, of b, of a
  np.testing.assert_array_equal(wrong[:, 1000:], full[:, 1000:])


def test_targets():
  record = make_record('a', 100)
  chosen = choose_excerpts([record], 1, SPEC)
  ids = decoder_targets(chosen, SPEC).reshape(50, 16)
  np.testing.assert_array_equal(ids - 2 - 1024 * np.arange(16), record.codes[50:, :16])
