"""Prompts as written -> embeddings."""

import os

import numpy as np
import pytest
import soundfile

from inference import prompts
from inference.prompts import (
  Prompt,
  PromptError,
  embed_prompts,
  parse_prompt,
  parse_prompts,
  weighted_mean,
)


class Style:
  """Text -> its length in dimension 0; audio -> its mean and its sample rate."""

  def embed_text(self, texts):
    return np.array([[len(text), 0, 0] for text in texts], np.float32)

  def embed_audio(self, audio, sample_rate):
    return np.array([0, audio.mean(), sample_rate], np.float32)


@pytest.mark.parametrize(
  'text, expected',
  [
    ('church organ', Prompt('church organ')),
    ('0.7:church organ', Prompt('church organ', weight=0.7)),
    (' .5 : drums ', Prompt('drums', weight=0.5)),
    ('0:drums', Prompt('drums', weight=0.0)),
    ('1:4:4 swing', Prompt('4:4 swing')),
    ('jazz: the slow kind', Prompt('jazz: the slow kind')),
    ('2:preset:mean', Prompt('mean', 'preset', 2.0)),
  ],
)
def test_parse(text, expected):
  assert parse_prompt(text) == expected


@pytest.mark.parametrize('name', ['loop.WAV', 'caf\udce9.wav'])
def test_parse_audio(tmp_path, name):
  path = tmp_path / name  # A name need not be UTF-8.
  soundfile.write(os.fsencode(path), np.zeros(10), 8000, format='WAV')
  film = tmp_path / 'film.mp4'
  assert parse_prompt(str(film)).kind == 'text'
  film.write_bytes(b'')
  assert parse_prompt(str(film)).kind == 'audio'
  assert parse_prompt(f'0.3:{path}') == Prompt(str(path), 'audio', 0.3)


@pytest.mark.parametrize(
  'text, reason',
  [
    ('', 'empty'),
    ('0.5:', 'empty'),
    ('0,7:drums', "begins with '0,7', which is not a weight; write one as 0.7"),
    ('70%:drums', "'70%', which is not a weight"),
    ('1e-3:drums', "'1e-3', which is not a weight"),
    ('nan:drums', "'nan', which is not a weight"),
    ('-0.5:drums', 'cannot be subtracted'),
    ('0.3:nowhere/loop.wav', 'there is none at nowhere/loop.wav'),
    ('song.m4a', 'there is none at song.m4a'),
    ('organ \udcff', r"'\\udcff' at character 7, which is not valid Unicode"),
    ('1' + 308 * '0' + '0:organ', 'a weight that no float64 holds'),
    ('organ\0', 'NUL'),
    ('x\0.wav', 'there is none'),
    ('0.5:' + 'x' * 501, '501 characters, longer than 500'),
    ('preset:', 'is empty'),
  ],
)
def test_errors_say_why(text, reason):
  with pytest.raises(PromptError, match=reason):
    parse_prompt(text)


def test_the_suffixes_are_those_that_the_corpus_is_read_by():
  from preprocessing import listing

  assert set(prompts.AUDIO_SUFFIXES) <= set(listing.SOUND_SUFFIXES)


def test_all_zero_and_none_are_refused():
  with pytest.raises(PromptError, match='weight 0'):
    parse_prompts(['0:drums', '0:bass'])
  with pytest.raises(PromptError, match='no prompt'):
    parse_prompts([])
  with pytest.raises(PromptError, match='weight 0'):
    weighted_mean(np.ones([2, 3]), [0, 0])
  with pytest.raises(PromptError, match='below 0'):
    weighted_mean(np.ones([2, 3]), [2, -1])


def test_mix_is_the_weighted_mean(tmp_path):
  path = tmp_path / 'loop.wav'
  soundfile.write(path, np.full([1000, 2], 0.5), 8000, subtype='FLOAT')
  mixed = embed_prompts(
    ['0.5:abcd', f'1.5:{path}', '2:preset:x'], Style(), presets={'x': [1, 1, 1]}
  )
  expected = (0.5 * np.array([4, 0, 0]) + 1.5 * np.array([0, 0.5, 8000]) + 2 * np.ones(3)) / 4
  np.testing.assert_allclose(mixed, expected, rtol=1e-6)
  assert mixed.dtype == np.float32


def test_unknown_preset_names_the_known_ones():
  with pytest.raises(PromptError, match="'y'.*'x'"):
    embed_prompts(['preset:y'], Style(), presets={'x': [1, 1, 1]})


def test_a_broken_audio_file_is_named(tmp_path):
  path = tmp_path / 'junk.wav'
  path.write_bytes(b'no audio' * 10)
  with pytest.raises(PromptError, match=r'junk\.wav cannot be decoded'):
    embed_prompts([str(path)], Style())


def test_weights_that_overflow_together_are_shares():
  large = '1' + 308 * '0'
  mixed = embed_prompts([f'{large}:abcd', f'{large}:ab'], Style())
  np.testing.assert_array_equal(mixed, [3, 0, 0])


def test_nan_never_becomes_a_style(tmp_path):
  path = tmp_path / 'loop.wav'
  audio = np.full([8000, 2], 0.5)
  audio[4000, 1] = np.nan
  soundfile.write(path, audio, 8000, subtype='FLOAT')
  with pytest.raises(PromptError, match=r'loop.wav holds NaN.* nan at 0.500 s \(sample 4000 of'):
    embed_prompts(['organ', str(path)], Style())
  soundfile.write(path, np.full([100, 2], 0.5), 8000, subtype='FLOAT')
  with pytest.raises(PromptError, match='0.0125 s of audio; at least 0.1 s'):
    embed_prompts([str(path)], Style())
  with pytest.raises(PromptError, match="The style of 'x' has NaN"):
    embed_prompts(['preset:x'], Style(), presets={'x': [1, np.nan, 1]})
  with pytest.raises(PromptError, match='A style of the mix has NaN'):
    weighted_mean(np.full([2, 3], np.inf), [1, 1])
  with pytest.raises(PromptError, match='not all finite'):
    weighted_mean(np.ones([2, 3]), [1, np.inf])


def test_silence_and_what_the_model_does_not_read_are_told(tmp_path):
  class Vocabulary:
    def num_chars_read(self, text):
      return min(len(text), 4)

    def knows(self, text):
      return text != '\u97f3'

  style = Style()
  style.vocabulary = Vocabulary()
  path = tmp_path / 'rest.wav'
  soundfile.write(path, np.zeros([8000, 1]), 8000)
  said = []
  embed_prompts([str(path), 'drums', '\u97f3', 'bass'], style, say=said.append)
  assert said == [
    f'The audio prompt {path} is silent (peak 0 of full scale 1). The style is that of silence.',
    "The style model reads the first 4 of 5 characters of 'drums'.",
    "The style model knows no word or letter of '\u97f3'; its style is arbitrary.",
  ]
