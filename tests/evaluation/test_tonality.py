"""Pitch classes of tones, keys of scales, and MIREX's scores worked by hand."""

import numpy as np
import pytest
import scipy.stats

from evaluation import tonality

RATE = 16_000


def tones(semitones, secs=1.0):
  """A chord of tempered pitches, semitones from a' = 440 Hz, [samples, 2]."""
  t = np.arange(round(secs * RATE)) / RATE
  audio = sum(np.sin(2 * np.pi * 440 * 2 ** (n / 12) * t) for n in semitones)
  return (0.2 * np.stack([audio, audio], -1)).astype(np.float32)


@pytest.mark.parametrize('note', range(12))
def test_chroma_of_a_tone_is_its_pitch_class(note):
  frames = tonality.chroma(tones([note - 9]), RATE)  # a' is 9 semitones above c'.
  assert frames.mean(0)[note] > 0.99
  np.testing.assert_allclose(frames.sum(1), 1)


def test_chroma_of_a_chord():
  profile = tonality.chroma(tones([-9, -5, -2]), RATE).mean(0)  # C, E, G.
  np.testing.assert_allclose(profile[[0, 4, 7]], 1 / 3, atol=0.03)
  assert not tonality.chroma(np.zeros([RATE, 2]), RATE).any()


def cadence(tonic, minor=False):
  """I IV V I, a second each: no other key has these chords."""
  third = 3 if minor else 4
  chords = [(0, third, 7), (5, 5 + third, 12), (7, 11, 14), (0, third, 7)]
  return np.concatenate([tones([tonic + n - 9 for n in chord]) for chord in chords])


@pytest.mark.parametrize('tonic, minor', [(0, False), (2, False), (9, True), (6, True)])
def test_key_of_a_cadence(tonic, minor):
  found = tonality.tonality(np.concatenate([cadence(tonic, minor)] * 2), RATE)
  assert tonality.key_name(int(found['key'])) == tonality.key_name(tonic + 12 * minor)
  assert found['key_clarity'] > 0.7
  assert found['key_agreement'] >= 0.5


def test_key_correlations_are_scipys():
  profile = np.random.default_rng(0).uniform(size=12)
  found = tonality.key_correlations(profile)
  expected = scipy.stats.pearsonr(profile, np.roll(tonality.MINOR, 4)).statistic
  assert found[16] == pytest.approx(expected)
  assert np.argmax(tonality.key_correlations(np.roll(tonality.MAJOR, 7))) == 7
  assert not tonality.key_correlations(np.ones(12)).any()


def test_key_names():
  assert tonality.key_index('F# minor') == tonality.key_index('Gb minor') == 18
  assert tonality.key_index('Cb major') == 11
  with pytest.raises(ValueError, match="'H dur' is no key"):
    tonality.key_index('H dur')


@pytest.mark.parametrize(
  'estimate, truth, score',
  [
    ('C major', 'C major', 1), ('G major', 'C major', 0.5), ('F major', 'C major', 0.5),
    ('A minor', 'C major', 0.3), ('C major', 'A minor', 0.3), ('C minor', 'C major', 0.2),
    ('D major', 'C major', 0), ('E minor', 'C major', 0), ('D minor', 'A minor', 0.5),
  ],
)  # fmt: skip
def test_mirex_scores(estimate, truth, score):
  keys = tonality.key_index(estimate), tonality.key_index(truth)
  assert tonality.key_score(*keys) == score


def test_agreement_by_hand():
  c, g = np.array(tonality.MAJOR), np.roll(tonality.MAJOR, 7)
  # Whole: C (three parts of four); the parts score 1, 1, 1 and 0.5.
  frames = np.stack([c, c, c, g]).repeat(3, axis=0)
  assert tonality.key_agreement(frames, 3) == pytest.approx(3.5 / 4)
  assert np.isnan(tonality.key_agreement(frames[:5], 3))


def test_chroma_entropy_by_hand():
  assert tonality.chroma_entropy(np.ones(12)) == pytest.approx(1)
  assert tonality.chroma_entropy(np.eye(12)[3]) == 0
  half = np.array([0.5, 0.5] + [0] * 10)
  assert tonality.chroma_entropy(half) == pytest.approx(np.log(2) / np.log(12))


def test_noise_is_no_key():
  noise = 0.1 * np.random.default_rng(0).standard_normal([8 * RATE, 2]).astype(np.float32)
  found, music = tonality.tonality(noise, RATE), tonality.tonality(cadence(0), RATE)
  assert found['chroma_entropy'] > 0.95 > music['chroma_entropy']
  assert np.isnan(tonality.tonality(np.zeros([RATE, 2]), RATE)['key'])
