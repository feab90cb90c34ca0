"""Fingerprints: the same recording in other codings is found, other music is not."""

import shutil
import subprocess

import numpy as np
import pytest
import soxr

from preprocessing import audio, fingerprint
from preprocessing.composer import compose
from preprocessing.synthesizer import render

RATE = 48_000
STYLES = ('jazz swing', 'house')
SECS = 14.0


@pytest.fixture(scope='module')
def works():
  """Two works of each of two styles: the same composer, instruments and tempo range."""
  return [
    np.asarray(render(compose(style, seed, SECS), RATE), np.float32)
    for style in STYLES
    for seed in (1, 2)
  ]


@pytest.fixture(scope='module')
def prints(works):
  return [fingerprint.fingerprint(x, RATE) for x in works]


def _resampled(x):
  return soxr.resample(x, RATE, 22_050), 22_050


CHANGES = {
  'gain': lambda x: (x * 10 ** (-15 / 20), RATE),
  'trimmed start': lambda x: (x[round(2.3371 * RATE) :], RATE),
  'trimmed end': lambda x: (x[: round(8.5 * RATE)], RATE),
  'silence before': lambda x: (np.pad(x, [(round(1.23 * RATE), 0), (0, 0)]), RATE),
  'resampled': _resampled,
  'mono': lambda x: (x.mean(axis=1, keepdims=True), RATE),
  '8 bits': lambda x: (np.round(x * 127) / 127, RATE),
  'noise at -40 dB': lambda x: (
    x + np.random.default_rng(0).normal(size=x.shape) * x.std() * 0.01, RATE
  ),
}  # fmt: skip


def _pairs_of(works, prints, changed):
  """Pairs among the works and changed versions of all of them."""
  found = fingerprint.same_recording_pairs(prints + changed)
  return {(i, j) for i, j, _ in found}


@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_recording_is_found_and_no_other(works, prints, change):
  changed = [fingerprint.fingerprint(*CHANGES[change](x)) for x in works]
  number = len(works)
  assert _pairs_of(works, prints, changed) == {(i, i + number) for i in range(number)}


@pytest.mark.parametrize('suffix', ['.mp3', '.ogg', '.opus'])
def test_lossy_codings(tmp_path, works, prints, suffix):
  changed = []
  for number in (0, 3):
    path = tmp_path / f'{number}{suffix}'
    audio.write_audio(path, works[number], RATE)
    changed.append(fingerprint.fingerprint(audio.read_audio(path), RATE))
  assert _pairs_of(works, prints, changed) == {(0, len(works)), (3, len(works) + 1)}


@pytest.mark.skipif(not shutil.which('ffmpeg'), reason='ffmpeg is not installed')
@pytest.mark.parametrize(
  'suffix, codec', [('.mp3', 'libmp3lame'), ('.opus', 'libopus'), ('.m4a', 'aac')]
)
@pytest.mark.parametrize('rate', ['32k', '96k'])
def test_bit_rates(tmp_path, works, prints, suffix, codec, rate):
  audio.write_audio(tmp_path / 'x.wav', works[0], RATE)
  target = tmp_path / f'y{suffix}'
  command = ['ffmpeg', '-nostdin', '-v', 'error', '-i', tmp_path / 'x.wav', '-c:a', codec]
  subprocess.run([*command, '-b:a', rate, target], check=True)
  coded = fingerprint.fingerprint(audio.read_audio(target), RATE)
  assert _pairs_of(works, prints, [coded]) == {(0, len(works))}


def test_everything_at_once(works, prints):
  """Trimmed, softer, resampled, and two changed versions against each other."""
  one = fingerprint.fingerprint(*_resampled(works[2][round(1.7 * RATE) :] * 0.3))
  two = fingerprint.fingerprint(works[2][round(0.311 * RATE) : 13 * RATE].mean(1)[:, None], RATE)
  number = len(works)
  pairs = _pairs_of(works, prints, [one, two])
  assert pairs == {(2, number), (2, number + 1), (number, number + 1)}


def test_an_excerpt_of_a_long_recording(works, prints):
  """The sketch of a long recording is thinner; an excerpt of it is found all the same."""
  long = np.concatenate([works[i][: 13 * RATE] for i in (1, 3, 0, 2)])
  whole = fingerprint.fingerprint(long, RATE)
  assert len(whole.hashes) == fingerprint.SKETCH_SIZE
  found = fingerprint.same_recording_pairs([whole, prints[2]])
  assert [(i, j) for i, j, _ in found] == [(0, 1)]


def test_blocks_of_any_length_give_the_same(works):
  x = np.concatenate(works[:3])
  whole = fingerprint.fingerprint(x, RATE)
  maker = fingerprint.Fingerprinter(RATE)
  for begin in range(0, len(x), 77_777):
    maker.add(x[begin : begin + 77_777])
  pieces = maker.fingerprint()
  shared = len(np.intersect1d(whole.hashes, pieces.hashes))
  assert shared > 0.97 * fingerprint.SKETCH_SIZE  # Resampling rounds.


def test_text_and_back(prints):
  for found in prints:
    again = fingerprint.Fingerprint.decode(found.encode())
    np.testing.assert_array_equal(again.hashes, found.hashes)
    np.testing.assert_array_equal(again.times, found.times)
    assert (np.diff(found.hashes.astype(float)) > 0).all()
    assert 100 < len(found.hashes) <= fingerprint.SKETCH_SIZE


def test_silence_noise_and_almost_nothing_match_nothing():
  rng = np.random.default_rng(0)
  signals = [np.zeros([RATE * 5, 2]), np.zeros([0, 1]), np.zeros([100, 1]), np.zeros([RATE * 5, 2])]
  signals += [rng.normal(size=[RATE * 5, 2]) * 0.1 for _ in range(4)]
  made = [fingerprint.fingerprint(x, RATE) for x in signals]
  assert [len(found.hashes) for found in made[:4]] == [0, 0, 0, 0]
  assert fingerprint.same_recording_pairs(made) == []
  assert fingerprint.same_recording_pairs([]) == []


def test_a_loop_that_everybody_uses_joins_nobody():
  """Hashes of more recordings than the limit say nothing."""
  rng = np.random.default_rng(1)
  loop = np.sort(rng.integers(0, 2**63, 300).astype(np.uint64))
  crowd = []
  for _ in range(80):
    own = rng.integers(0, 2**63, 200).astype(np.uint64)
    crowd.append(fingerprint.Fingerprint(np.unique(np.r_[loop, own]), np.arange(500, dtype='u4')))
  assert fingerprint.same_recording_pairs(crowd) == []
  assert len(fingerprint.same_recording_pairs(crowd[:3])) == 3
