"""The token layout against ids worked out by hand from the vocabulary table."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import tokens
from models.spec import LiveMusicSpec

SPEC = LiveMusicSpec()


def test_known_ids():
  assert tokens.codec_ids(np.array([0, 0]), SPEC).tolist() == [2, 1026]
  assert tokens.codec_ids(np.full(16, 1023), SPEC)[-1] == 16_385
  assert tokens.style_ids(np.zeros(12, int), SPEC).tolist() == [
    17_410, 18_434, 19_458, 20_482, 21_506, 22_530,
  ]  # fmt: skip
  assert tokens.style_ids(np.full(12, 1023), SPEC)[-1] == 23_553
  assert tokens.style_ids(None, SPEC).tolist() == [1] * 6


@given(st.integers(0, 2**31), st.integers(1, 16))
def test_codes_survive_the_round_trip(seed, levels):
  codes = np.random.default_rng(seed).integers(0, 1024, [3, levels])
  np.testing.assert_array_equal(tokens.codec_codes(tokens.codec_ids(codes, SPEC), SPEC), codes)


def test_wrong_level_and_wrong_code_are_refused():
  with pytest.raises(ValueError, match=r'Id 2 at \(0, 1\) is not of level 1 \(1026\.\.2049\)'):
    tokens.codec_codes(np.array([[2, 2]]), SPEC)
  with pytest.raises(ValueError, match=r'Code 1024 is not in 0\.\.1023'):
    tokens.codec_ids(np.array([1024]), SPEC)
  with pytest.raises(ValueError, match=r'Id 1 at'):
    tokens.codec_codes(np.array([1]), SPEC)


def test_context_is_filled_on_the_left():
  codes = np.arange(3 * 16).reshape(3, 16)
  ids = tokens.context_ids(codes, SPEC).reshape(250, 4)
  assert (ids[:247] == 1).all()
  np.testing.assert_array_equal(ids[247], 2 + np.arange(4) * 1025)
  # Of a longer past only the newest 250 frames remain.
  long = np.tile(np.arange(300)[:, None], [1, 16])
  assert tokens.context_ids(long, SPEC)[0] == 2 + 50
  # Frames that a running session does not have yet are -1.
  codes[0] = -1
  ids = tokens.context_ids(codes, SPEC).reshape(250, 4)
  assert (ids[247] == 1).all()
  assert ids[248, 0] == 2 + 16


def test_encoder_inputs_and_targets():
  codes = np.zeros([250, 64], int)
  inputs = tokens.encoder_inputs(codes, np.zeros(12, int), SPEC)
  assert inputs.shape == (1006,)
  assert inputs[1000] == 17_410
  masked = tokens.mask_style(inputs, SPEC)
  assert (masked[1000:] == 1).all()
  assert (masked[:1000] == inputs[:1000]).all()
  targets = tokens.decoder_targets(codes[:50], SPEC)
  assert targets.shape == (800,)
  assert targets[15] == 2 + 15 * 1024
