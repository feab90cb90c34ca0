"""Words for what musicnn hears: the vocabulary, the choice of words, the cache."""

import numpy as np
import pytest

from models.musicnn import Musicnn
from preprocessing import captions, heard_tags, music_terms
from preprocessing.heard_tags import HeardWords, Tagger, words

RATE = 16_000


def hum(secs: float = 4.0) -> np.ndarray:
  """A soft low chord, alike for ever."""
  t = np.arange(round(secs * RATE)) / RATE
  return sum(0.1 * np.sin(2 * np.pi * f * t) for f in (110.0, 165.0, 220.5)).astype(np.float32)


def test_every_tag_of_both_networks_has_a_word():
  assert Tagger().tags == tuple(
    (name, tag) for name in ('msd', 'mtt') for tag in heard_tags.VOCABULARY[name]
  )
  kinds = {kind for network in heard_tags.VOCABULARY.values() for kind, _ in network.values()}
  assert kinds == {'style', 'instrument', 'mood', 'voice', 'no voice'}
  # The manifest's own rules read the words for voices as what they are.
  for network in heard_tags.VOCABULARY.values():
    for kind, word in network.values():
      if kind in ('voice', 'no voice'):
        expected = 'vocal' if kind == 'voice' else 'instrumental'
        assert music_terms.vocal_from('', [word]) == expected, word


def test_words_are_the_likeliest_of_each_kind():
  found = words({
    ('msd', 'ambient'): 0.2, ('mtt', 'ambient'): 0.5, ('msd', 'electronic'): 0.3,
    ('msd', 'chillout'): 0.11, ('msd', 'chill'): 0.25, ('msd', 'jazz'): 0.1, ('msd', 'pop'): 0.09,
    ('mtt', 'piano'): 0.6, ('mtt', 'beat'): 0.2, ('mtt', 'drums'): 0.1, ('mtt', 'harp'): 0.05,
    ('mtt', 'slow'): 0.4, ('msd', 'sad'): 0.3, ('mtt', 'soft'): 0.2,
    ('msd', 'instrumental'): 0.16, ('mtt', 'no vocals'): 0.05, ('mtt', 'vocal'): 0.1,
  })  # fmt: skip
  assert found == HeardWords(
    ('ambient', 'electronic', 'chillout'), ('piano', 'drums'), ('slow', 'sad'), '', 'instrumental'
  )
  assert found.caption() == (
    'ambient, electronic, chillout with piano and drums, slow and sad, instrumental'
  )
  facts = found.facts()
  assert facts.styles == found.styles and facts.vocal == 'instrumental'
  assert captions.phrases(facts.caption)[3:] == ['piano and drums', 'slow and sad', 'instrumental']


@pytest.mark.parametrize(
  ('probabilities', 'voice', 'vocal'),
  [
    ({('mtt', 'female'): 0.3, ('mtt', 'man'): 0.1}, 'female vocals', 'vocal'),
    ({('mtt', 'female'): 0.3, ('mtt', 'man'): 0.25}, 'vocals', 'vocal'),
    ({('mtt', 'singing'): 0.3, ('msd', 'male vocalists'): 0.12}, 'male vocals', 'vocal'),
    ({('mtt', 'singing'): 0.3, ('msd', 'male vocalists'): 0.05}, 'vocals', 'vocal'),
    ({('mtt', 'choral'): 0.4, ('mtt', 'female'): 0.2}, 'choir', 'vocal'),
    ({('mtt', 'voice'): 0.2, ('mtt', 'no voice'): 0.19}, '', ''),
    ({('mtt', 'voice'): 0.05}, '', ''),
    ({('mtt', 'no voice'): 0.05}, '', ''),
    ({('msd', 'instrumental'): 0.2, ('mtt', 'voice'): 0.1}, '', 'instrumental'),
  ],
)
def test_a_voice_is_named_where_it_is_clear(probabilities, voice, vocal):
  found = words(probabilities)
  assert (found.voice, found.vocal) == (voice, vocal)


def test_of_opposite_moods_the_likelier_is_kept():
  tags = {('mtt', 'slow'): 0.2, ('mtt', 'fast'): 0.3, ('mtt', 'soft'): 0.15, ('mtt', 'loud'): 0.12,
          ('msd', 'sad'): 0.11}  # fmt: skip
  assert words(tags).moods == ('fast', 'soft')
  assert words({**tags, ('mtt', 'soft'): 0.0}).moods == ('fast', 'loud')


def test_nothing_likely_is_no_caption():
  found = words({('msd', 'rock'): 0.09})
  assert found == HeardWords() and found.caption() == '' and found.facts().is_empty
  assert words({('msd', 'rock'): 0.09}, least=0.05).caption() == 'rock'
  assert words({('mtt', 'sitar'): 0.3}).caption() == 'music with sitar'
  with pytest.raises(KeyError, match='polka'):
    words({('msd', 'polka'): 1.0})


def test_probabilities_are_means_over_patches_of_both_networks(tmp_path):
  tagger = Tagger(tmp_path)
  found = tagger.probabilities(hum(7.0), RATE)
  for place, name in enumerate(('msd', 'mtt')):
    patches = Musicnn.load(name).hear(hum(7.0), RATE).probabilities
    assert len(patches) == 2
    np.testing.assert_allclose(found[50 * place :][:50], patches.mean(0), atol=1e-6)
  assert tagger.words(hum(7.0), RATE) == words(dict(zip(tagger.tags, found)))
  assert 'ambient' in tagger.words(hum(7.0), RATE).styles


def test_what_was_heard_is_kept_by_content(tmp_path, monkeypatch):
  first = Tagger(tmp_path).probabilities(hum(), RATE)
  stereo = np.stack([hum(), hum()], -1)
  monkeypatch.setattr(Musicnn, 'hear', lambda *_: 1 / 0)
  np.testing.assert_array_equal(Tagger(tmp_path).probabilities(hum(), RATE), first)
  for other in ((hum() * 0.5, RATE), (hum(), 22_050), (stereo, RATE)):
    with pytest.raises(ZeroDivisionError):
      Tagger(tmp_path).probabilities(*other)
  with pytest.raises(ZeroDivisionError):
    Tagger().probabilities(hum(), RATE)
