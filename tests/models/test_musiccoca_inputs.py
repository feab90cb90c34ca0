"""What may go into a style model, by every door of it."""

import numpy as np
import pytest

from models.musiccoca import MusicCoCa, inputs
from models.musiccoca.inputs import StyleError

RATE = 8000


@pytest.fixture(scope='module')
def style():
  return MusicCoCa.load('tiny')


def audio(*spoiled):
  x = np.full([RATE, 2], 0.1, np.float32)
  for place, value in spoiled:
    x[place] = value
  return x


@pytest.mark.parametrize(
  'text, reason',
  [
    ('a\ud800b', r"'\\ud800' at character 2, which is not valid Unicode; write it in UTF-8"),
    ('caf\udce9', r"'\\udce9' at character 4"),
    ('a\0b', 'NUL character at character 2'),
    (' \n', 'is empty'),
    ('', 'is empty'),
    ('x' * 501, '501 characters, longer than 500'),
    (7, 'of type int'),
  ],
)
def test_texts_that_are_no_prompts(text, reason):
  with pytest.raises(StyleError, match=f'^The prompt .*{reason}'):
    inputs.check_prompt_text(text, 'The prompt')


def test_texts_that_are_prompts():
  for text in ('organ', 'x' * 500, 'café \U0001f3b9', 'two\nlines'):
    inputs.check_prompt_text(text, 'The prompt')


@pytest.mark.parametrize(
  'spoiled, reason',
  [
    ([((4000, 1), np.nan)], r'1 of 16000; the first is nan at 0.500 s \(sample 4000 of channel 2'),
    ([((5, 0), -np.inf), ((9, 0), np.nan)], r'2 of 16000; the first is -inf at 0.001 s \(sample 5'),
    ([((7, 0), 1e30)], 'a peak of 1e\\+30, 600 dB above full scale'),
    ([((7, 0), 101)], '40 dB above full scale; scale it to'),
  ],
)
def test_audio_that_says_nothing(spoiled, reason):
  with pytest.raises(StyleError, match=f'^loop.wav .*{reason}'):
    inputs.check_audio(audio(*spoiled), RATE, 'loop.wav')


def test_audio_has_a_least_length_and_silence_is_told():
  assert inputs.check_audio(audio(((7, 0), 100)), RATE, 'loop.wav') == []
  with pytest.raises(StyleError, match=r'has 0.0999 s of audio; at least 0.1 s'):
    inputs.check_audio(audio()[:799], RATE, 'loop.wav')
  with pytest.raises(StyleError, match='no samples'):
    inputs.check_audio(audio()[:0], RATE, 'loop.wav')
  assert inputs.check_audio(0 * audio(), RATE, 'loop.wav') == [
    'loop.wav is silent (peak 0 of full scale 1).'
  ]


def test_the_model_itself_takes_no_nan_and_no_surrogate(style):
  with pytest.raises(StyleError, match=r'first is nan at 0.500 s'):
    style.embed_audio(audio(((4000, 1), np.nan)), RATE)
  with pytest.raises(StyleError, match='not valid Unicode'):
    style.embed_text(['organ', 'a\udcff'])
  with pytest.raises(StyleError, match=r'in 1 of 2\); it is not a style'):
    style.tokenize(np.stack([np.zeros(768), np.full(768, np.nan)]))


def test_texts_that_are_cut_or_say_nothing_are_known(style):
  vocabulary = style.vocabulary
  for text in ('church organ', 'x'):
    assert vocabulary.num_chars_read(text) == len(text) and vocabulary.knows(text)
  long = '#&:' * 150
  assert vocabulary.num_chars_read(long) == 127
  assert not vocabulary.knows('\u97f3\u697d \u97f3')


def test_large_weights_do_not_overflow():
  np.testing.assert_array_equal(inputs.check_weights([1e308, 1e308]), [0.5, 0.5])
  np.testing.assert_array_equal(inputs.check_weights([5e-324, 5e-324]), [0.5, 0.5])
  np.testing.assert_allclose(inputs.check_weights([1e308, 1e-308]), [1, 0], atol=1e-300)
