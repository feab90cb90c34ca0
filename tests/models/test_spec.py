"""The numbers of Magenta RealTime v1, and what a wrong one says."""

import pytest

from models.spec import LiveMusicSpec


def test_defaults_are_magenta_rt_v1():
  spec = LiveMusicSpec()
  assert (spec.inputs_length, spec.targets_length, spec.context_length) == (1006, 800, 1000)
  assert (spec.context_secs, spec.chunk_secs) == (10.0, 2.0)
  assert (spec.samples_per_frame, spec.chunk_samples) == (1920, 96_000)
  # The last used id, rounded up: 12 style levels have room, 6 are used.
  unpadded = spec.style_offset + spec.style_rvq_levels * spec.codebook_size
  assert unpadded == 29_698
  assert spec.vocab_size == -(-unpadded // 128) * 128


def test_round_trip_and_unknown_field():
  spec = LiveMusicSpec(chunk_frames=25)
  assert LiveMusicSpec.from_dict(spec.to_dict()) == spec
  with pytest.raises(ValueError, match="'chunk_secs'"):
    LiveMusicSpec.from_dict({'chunk_secs': 2.0})


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('style_levels', 13, r'style_levels=13 is not in 0\.\.12'),
    ('context_levels', 17, r'context_levels=17 is not in 1\.\.16'),
    ('target_levels', 65, r'target_levels=65 is not in 1\.\.64'),
    ('frame_rate', 7, r'frame_rate=7 does not divide'),
    ('style_offset', 16_000, r'inside the codec ids'),
    ('vocab_size', 20_000, r'too small'),
  ],
)
def test_bad_values_are_named(field, value, message):
  with pytest.raises(ValueError, match=message):
    LiveMusicSpec(**{field: value})
