"""What a player is set to: weights from places, and one settings after the other."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import mix
from inference.protocol import ProtocolError
from inference.styles import mixed_style

unit = st.floats(0, 1)


@given(st.lists(st.tuples(unit, unit), min_size=1, max_size=6), unit, unit)
def test_pad_weights_are_shares_and_the_nearest_has_the_largest(places, x, y):
  weights = mix.pad_weights(places, (x, y))
  assert np.isclose(sum(weights), 1) and min(weights) >= 0
  distances = np.hypot(*(np.array(places) - (x, y)).T)
  assert weights[int(np.argmin(distances))] >= max(weights) - 1e-9


def test_pad_weights_by_hand():
  places = [(0.0, 0.0), (1.0, 0.0)]
  assert mix.pad_weights(places, (0.5, 0.3)) == (0.5, 0.5)
  # Twice as far, an eighth of the weight.
  np.testing.assert_allclose(mix.pad_weights(places, (1 / 3, 0.0)), [8 / 9, 1 / 9])
  assert mix.pad_weights(places, (0.01, 0.0)) == (1.0, 0.0)
  assert mix.pad_weights([], (0.5, 0.5)) == ()


def test_settings_follow_messages():
  first = mix.Settings(prompts=mix.on_a_ring(['organ', 'preset:mean', 'drums']))
  assert first.weights == (1, 0, 0) and first.prompts[1].kind == 'preset'
  np.testing.assert_allclose((first.prompts[0].x, first.prompts[0].y), (0.5, 0.14))
  at = {'x': first.prompts[2].x, 'y': first.prompts[2].y}
  moved = mix.changed(first, {'type': 'cursor', **at})
  assert moved.weights == (0, 0, 1) and moved.version == 1 and moved.cursor == tuple(at.values())
  slid = mix.changed(moved, {'type': 'weights', 'weights': [0.2, 0, 0.5]})
  assert slid.weights == (0.2, 0, 0.5) and slid.cursor is None
  seeded = mix.changed(slid, {'type': 'sampling', 'temperature': 0.7, 'seed': 5})
  assert seeded.sampling.temperature == 0.7 and seeded.sampling.top_k == 40 and seeded.seed == 5
  assert mix.changed(seeded, {'type': 'reset', 'seed': 9}).seed == 9
  assert mix.changed(seeded, {'type': 'buffer', 'secs': 3.0}).buffer_secs == 3
  with pytest.raises(ProtocolError, match='2 weights were sent; there are 3 prompts'):
    mix.changed(first, {'type': 'weights', 'weights': [1, 2]})
  with pytest.raises(ProtocolError, match='at most 6'):
    mix.on_a_ring(['x'] * 7)
  with pytest.raises(ProtocolError, match='temperature=1e-09 is not 0 and below 0.001'):
    mix.changed(first, {'type': 'sampling', 'temperature': 1e-9})


def test_prompts_are_written_as_for_generate(tmp_path):
  prompts = mix.on_a_ring(['0.7:organ', 'drums', '0:preset:mean'])
  assert [(p.kind, p.content, p.weight) for p in prompts] == [
    ('text', 'organ', 0.7), ('text', 'drums', 1.0), ('preset', 'mean', 0.0)
  ]  # fmt: skip
  (tmp_path / 'loop.wav').write_text('')
  for text, reason in (
    (str(tmp_path / 'loop.wav'), 'drop the file on the page'),
    ('3:organ', r'weight 3, which is not in 0\.\.2'),
    ('organ \udcff', 'not valid Unicode'),
    ('', 'is empty'),
    ('-1:organ', 'cannot be subtracted'),
  ):
    with pytest.raises(ValueError, match=reason):
      mix.on_a_ring([text])


def test_a_mix_is_the_weighted_mean_of_what_has_weight():
  prompts = (mix.MixPrompt('text', 'a', 3.0), mix.MixPrompt('text', 'b', 1.0),
             mix.MixPrompt('audio', 'gone', 0.0))  # fmt: skip
  values = {'a': np.float32([2, 0]), 'b': np.float32([0, 4])}
  style = mixed_style(mix.Settings(prompts=prompts), lambda kind, content: values[content])
  np.testing.assert_allclose(style, [1.5, 1.0])
  assert mixed_style(mix.Settings(), lambda *_: None) is None
