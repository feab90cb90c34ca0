"""Voices and traditions by the words of tags."""

import pytest

from preprocessing import music_terms


@pytest.mark.parametrize(
  'said, words, language, lyrics, expected',
  [
    ('yes', (), '', False, 'vocal'),
    ('0', ('choir',), '', False, 'instrumental'),
    ('', ('Jazz', 'female vocals'), '', False, 'vocal'),
    ('', ('Rock', 'Instrumental'), '', True, 'instrumental'),
    ('', ('tenor saxophone', 'drums'), '', False, ''),
    ('', ('tenor',), '', False, 'vocal'),
    ('', ('Rock', 'guitar'), '', False, ''),
    ('', ('Rock',), 'por', False, 'vocal'),
    ('', ('Rock',), 'zxx', True, 'instrumental'),
    ('', (), '', True, 'vocal'),
    ('unknown', (), '', False, ''),
    ('male choir', (), '', False, 'vocal'),
  ],
)
def test_vocal(said, words, language, lyrics, expected):
  assert music_terms.vocal_from(said, words, language, lyrics) == expected


@pytest.mark.parametrize(
  'words, expected',
  [
    (('Hindustani classical', 'sitar'), 'Hindustani'),
    (('Carnatic',), 'Carnatic'),
    (('folk', 'kora'), 'Mande'),
    (('Bossa Nova',), 'Brazilian'),
    (('World', 'oud', 'riq'), 'Arabic'),
    (('Baroque', 'harpsichord'), 'Western classical'),
    (('klezmer', 'tango'), ''),
    (('rock', 'choir'), ''),
    (('Sazerac',), ''),
    ((), ''),
  ],
)
def test_tradition(words, expected):
  assert music_terms.tradition_from(words) == expected


def test_every_tradition_is_found_by_its_own_words():
  for name, words in music_terms.TRADITIONS.items():
    for word in words:
      found = music_terms.tradition_from([word])
      assert found in (name, '') and (found or len(words) > 1)
