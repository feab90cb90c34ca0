"""Whatever is a prompt or lies in its file: a finite style, or a refusal that says why."""

import io

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from inference.prompts import PromptError, embed_prompts, parse_prompt
from pipelines.generate import read_prompt_audio
from tests.fuzz.mutations import mutations, settings

TEXTS = (b'0.7:church organ', b'1e308:drums', b'99999999:preset:mean', b'0:slow jazz, 4:4',
         b'caf\xe9', 'café \U0001f3b9'.encode(), b'loop.wav', b'.5:x')  # fmt: skip


class Style:
  """A style model that adds what it is given, as float32, and knows no better."""

  def embed_text(self, texts):
    return np.float32([[len(text.encode()), 1] for text in texts])

  def embed_audio(self, audio, sample_rate):
    with np.errstate(all='ignore'):
      return np.float32([np.square(np.float32(audio)).mean(), sample_rate])


@given(st.lists(
  st.sampled_from(TEXTS).flatmap(lambda text: mutations(text, head=len(text))), max_size=3
))  # fmt: skip
@settings(80)
def test_any_argument_is_a_finite_style_or_refused(damaged):
  texts = [prompt.data.decode(errors='surrogateescape') for prompt in damaged]
  try:
    for text in texts:
      prompt = parse_prompt(text)
      assert 0 <= prompt.weight < np.inf and prompt.content.strip()
    style = embed_prompts(texts, Style(), presets={'mean': np.ones(2)}, say=lambda _: None)
  except PromptError as error:
    assert len(str(error)) > 20
    return
  assert np.isfinite(style).all()


def wave(subtype):
  file = io.BytesIO()
  audio = np.linspace(-0.5, 0.5, 1600).reshape(800, 2)
  soundfile.write(file, audio, 8000, format='WAV', subtype=subtype)
  return file.getvalue()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('prompts')


@given(data=st.data())
@settings(80)
def test_any_file_is_a_finite_style_or_refused_by_name(folder, data):
  damaged = data.draw(mutations(data.draw(st.sampled_from([wave('FLOAT'), wave('PCM_16')]))))
  path = folder / 'loop.wav'
  path.write_bytes(damaged.data)
  try:
    style = embed_prompts([str(path)], Style(), read_audio=read_prompt_audio, say=lambda _: None)
  except PromptError as error:
    assert 'loop.wav' in str(error)
    return
  assert np.isfinite(style).all()
