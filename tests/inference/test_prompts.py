"""Prompts as written -> embeddings."""

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


def test_parse_audio(tmp_path):
  path = tmp_path / 'loop.WAV'
  soundfile.write(path, np.zeros(10), 8000, format='WAV')
  assert parse_prompt(f'0.3:{path}') == Prompt(str(path), 'audio', 0.3)


@pytest.mark.parametrize(
  'text, reason',
  [
    ('', 'empty'),
    ('0.5:', 'empty'),
    ('0,7:drums', "begins with '0,7', which is no weight; write one as 0.7"),
    ('70%:drums', "'70%', which is no weight"),
    ('1e-3:drums', "'1e-3', which is no weight"),
    ('nan:drums', "'nan', which is no weight"),
    ('-0.5:drums', 'cannot be subtracted'),
    ('0.3:nowhere/loop.wav', 'there is none at nowhere/loop.wav'),
    ('song.m4a', 'convert it to WAV'),
  ],
)
def test_errors_say_why(text, reason):
  with pytest.raises(PromptError, match=reason):
    parse_prompt(text)


def test_the_suffixes_are_those_that_the_corpus_is_read_by():
  from preprocessing import audio

  assert set(prompts.AUDIO_SUFFIXES) == set(audio.AUDIO_SUFFIXES)


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
  soundfile.write(path, np.full([100, 2], 0.5), 8000, subtype='FLOAT')
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
