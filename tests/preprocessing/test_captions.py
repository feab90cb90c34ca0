"""Caption variants: what they say is true of the track."""

import numpy as np
import pytest

from preprocessing import captions
from preprocessing.captions import CaptionFacts

_FACTS = CaptionFacts(
  'Relaxed swing jazz with saxophone, grand piano and upright bass, slow at 84 bpm in F major',
  ('swing jazz',), ('saxophone', 'grand piano', 'upright bass'), 84, 'F major',
)  # fmt: skip


def _variants(facts: CaptionFacts, count: int = 400) -> list[str]:
  return [captions.caption_variant(facts, np.random.default_rng([0, i])) for i in range(count)]


def test_variants_are_drawn_from_the_rng_alone():
  assert _variants(_FACTS, 30) == _variants(_FACTS, 30)
  assert len(set(_variants(_FACTS))) > 100


def test_variants_name_the_style_or_an_instrument_in_some_words():
  known = ['swing jazz', 'saxophone', 'piano', 'bass', '84 bpm', 'f major', 'music']
  for term in ('swing jazz', 'saxophone', 'grand piano', 'upright bass'):
    known += captions.SYNONYMS[term]
  for text in _variants(_FACTS):
    assert any(word in text.lower() for word in known), text


def test_there_are_whole_captions_styles_alone_and_short_phrases():
  texts = _variants(_FACTS)
  assert _FACTS.caption in texts
  assert 'swing jazz' in texts
  assert 'jazz' in texts, 'a synonym alone'
  assert any(text.endswith('swing jazz with grand piano') for text in texts)


def test_phrases_split_at_punctuation_and_with():
  assert captions.phrases('Warm funk with clavinet, bass; E dorian (96 bpm)') == [
    'Warm funk', 'clavinet', 'bass', 'E dorian', '96 bpm',
  ]  # fmt: skip


@pytest.mark.parametrize(
  'bpm, word', [(60, 'very slow'), (84, 'slow'), (100, 'mid-tempo'), (130, 'upbeat'), (175, 'fast')]
)
def test_tempo_words(bpm, word):
  assert word in captions.tempo_words(bpm)


def test_vocals_and_traditions_are_said():
  facts = CaptionFacts(styles=('gwo ka',), vocal='instrumental', tradition='Guadeloupean')
  texts = set(_variants(facts))
  assert {'instrumental gwo ka', 'Guadeloupean music'} <= texts
  sung = set(_variants(CaptionFacts(styles=('folk',), vocal='vocal')))
  assert 'folk with vocals' in sung and not any('instrumental' in text for text in sung)


@pytest.mark.parametrize(
  'caption, expected',
  [
    ('Slow jazz at 84 bpm in F# minor', (84.0, 'F# minor')),
    ('House (127.5 BPM), A harmonic minor; Grand piano', (127.5, 'A harmonic minor')),
    ('Take 5, a major work of B minors', (None, '')),
  ],
)
def test_tempo_and_key_are_read_from_captions(caption, expected):
  assert captions.tempo_and_key(caption) == expected


def test_partial_facts_and_none():
  assert set(_variants(CaptionFacts(styles=('gamelan',)), 200)) >= {'gamelan', 'gamelan music'}
  only = set(_variants(CaptionFacts(instruments=('kazoo',)), 100))
  assert only == {'kazoo', 'music with kazoo', 'kazoo music'}
  assert set(_variants(CaptionFacts('A song'), 50)) == {'A song'}
  with pytest.raises(ValueError, match='cannot be captioned'):
    captions.caption_variant(CaptionFacts(), np.random.default_rng(0))


def test_whole_caption_falls_back_to_tags():
  assert captions.whole_caption(CaptionFacts('', ('Rock',), ('drums', 'bass'))) == (
    'Rock, drums, bass'
  )
