"""The bundled style model: size, identity, retrieval and tokens on works it has not seen."""

import numpy as np
import pytest

from evaluation.retrieval import cosines, recall_at
from models import weights
from models.musiccoca import MusicCoCa
from preprocessing import demo_corpus

_STYLES = ('ambient', 'jazz swing', 'rock', 'bossa nova', 'chiptune', 'reggae', 'drum and bass')
_SECS = 11.0
_RATE = 16_000


@pytest.fixture(scope='module')
def model() -> MusicCoCa:
  return MusicCoCa.load('tiny')


@pytest.fixture(scope='module')
def works(model) -> tuple[list[str], np.ndarray]:
  """Captions and audio embeddings of one new work per style."""
  scores = [demo_corpus.compose(style, 987_654, _SECS) for style in _STYLES]
  clips = [demo_corpus.render(score, _RATE)[: 10 * _RATE] for score in scores]
  audio = model.embed_audio(np.stack(clips), _RATE)
  return [demo_corpus.caption(score) for score in scores], audio


def test_it_is_small_and_finite(model):
  from models.musiccoca.model import _BUNDLED

  path = _BUNDLED / 'tiny.safetensors'
  assert path.stat().st_size <= 12e6
  tree, metadata = weights.load(path)
  assert all(np.isfinite(x).all() for x in weights.flatten(tree).values())
  assert metadata['kind'] == 'musiccoca'
  assert model.codebooks.shape == (12, 1024, 768)
  assert model.card['held_out']['text_to_audio_recall_at_5'] >= 25 / 64


def test_captions_find_their_works(model, works):
  captions, audio = works
  assert recall_at(cosines(model.embed_text(captions), audio), 1) >= 6 / 7
  assert recall_at(cosines(audio, model.embed_text(captions)), 1) >= 6 / 7


def test_two_words_are_enough(model, works):
  prompts = ['ambient', 'slow jazz with piano', 'heavy metal', 'samba', '8-bit', 'dub', 'dnb']
  similarities = cosines(model.embed_text(prompts), works[1])
  assert (similarities.argmax(1) == np.arange(7)).sum() >= 6


def test_text_and_audio_live_in_one_cloud(model, works):
  captions, audio = works
  text = model.embed_text(captions)
  spread = np.square(audio - audio.mean(0)).sum()
  assert np.square(audio - text).sum() < spread
  norms = np.linalg.norm(np.concatenate([audio, text]), axis=1)
  assert norms.min() > 20 and norms.max() < 40, 'embeddings are not normalised'


def test_tokens_say_which_style_it_is(model, works):
  captions, audio = works
  of_audio, of_text = model.tokenize(audio), model.tokenize(model.embed_text(captions))
  assert of_audio.shape == of_text.shape == (7, 12)
  assert of_audio.min() >= 0 and of_audio.max() < 1024
  assert (of_audio[:, 0] == of_text[:, 0]).sum() >= 4
  # Two of the 17 styles may share a first code; with the second they part.
  assert len(np.unique(of_audio[:, :2], axis=0)) >= 6


def test_silence_is_a_legal_input(model):
  embedding = model.embed_audio(np.zeros(_RATE), _RATE)
  assert np.isfinite(embedding).all()
  assert model.tokenize(np.zeros(768)).shape == (12,)
