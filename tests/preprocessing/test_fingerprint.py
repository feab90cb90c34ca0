"""Fingerprints: a recording in other codings, cuts and speeds is found, other music is not."""

import dataclasses
import shutil
import subprocess

import numpy as np
import pytest
import soxr

from benchmarks import duplicates
from preprocessing import audio, fingerprint, same_recordings
from preprocessing.composer import compose
from preprocessing.synthesizer import render

RATE = 48_000
SMALL_RATE = 11_025
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


def _speed(x, factor):
  """Tempo and pitch together, as of a tape."""
  return soxr.resample(x, round(RATE * factor), RATE), RATE


def _tempo(x, factor):
  """Tempo without pitch, by FFmpeg's filter."""
  return duplicates.at_tempo(x, factor), RATE


def _pitch(x, semitones):
  """Pitch without tempo."""
  factor = 2 ** (semitones / 12)
  return _speed(_tempo(x, 1 / factor)[0], factor)


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
  'speed 0.95': lambda x: _speed(x, 0.95),
  'speed 0.99': lambda x: _speed(x, 0.99),
  'speed 1.01': lambda x: _speed(x, 1.01),
  'speed 1.05': lambda x: _speed(x, 1.05),
  'tempo 0.97': lambda x: _tempo(x, 0.97),
  'tempo 1.05': lambda x: _tempo(x, 1.05),
  'pitch -2': lambda x: _pitch(x, -2),
  'pitch +1': lambda x: _pitch(x, 1),
}  # fmt: skip


def _pairs(prints):
  """(i, j, share) of what is joined."""
  return [(i, j, match.share) for i, j, match in same_recordings.same_recordings(prints)]


def _pairs_of(works, prints, changed):
  """Pairs among the works and changed versions of all of them."""
  found = _pairs(prints + changed)
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


@pytest.fixture(scope='module')
def small(works):
  """The works as [n, 1] at the rate at which landmarks are looked for."""
  return [soxr.resample(x.mean(axis=1, keepdims=True), RATE, SMALL_RATE) for x in works]


def test_songs_in_a_long_recording(small, prints):
  """A disc holds its songs wherever they come; a song of another disc is not in it."""
  # Fillers: the same works at speeds that are not searched.
  fillers = [
    soxr.resample(x, round(SMALL_RATE * factor), SMALL_RATE)
    for factor in (0.61, 0.7, 0.8, 1.25)
    for x in small
  ]
  parts = [*fillers[:9], *small[:3], *fillers[9:], small[0][: 2 * SMALL_RATE]]
  disc = fingerprint.fingerprint(np.concatenate(parts), SMALL_RATE)
  assert disc.limit == fingerprint.NO_LIMIT // fingerprint.SAMPLING
  found = _pairs([disc, *prints])
  assert [(i, j) for i, j, _ in found] == [(0, 1), (0, 2), (0, 3)]
  found = _pairs([*prints, disc])
  assert [(i, j) for i, j, _ in found] == [(0, 4), (1, 4), (2, 4)]


def test_a_long_recording_keeps_the_landmarks_of_its_parts(small):
  """Their number grows with the length: the same ones are kept of a part and of the whole."""
  long = fingerprint.fingerprint(np.concatenate([*small, *small[::-1], *small]), SMALL_RATE)
  limit = fingerprint.NO_LIMIT // fingerprint.SAMPLING
  assert long.limit == limit and len(long.hashes) > fingerprint.LEAST
  part = fingerprint.fingerprint(small[0], SMALL_RATE)
  low = np.searchsorted(part.hashes, limit)
  early = long.times < len(small[0]) / SMALL_RATE / fingerprint.FRAME_SECS - 64
  assert 20 < low <= np.count_nonzero(early) + 10
  kept = np.isin(part.hashes[:low], long.hashes)
  assert kept.mean() > 0.9  # But for those of the last second and of the chunk's loudest.


@pytest.mark.parametrize(
  'change, kind, tempo, semitones',
  [
    ('trimmed start', 'equal', 1.0, 0.0),
    ('speed 1.05', 'speed', 1.05, 12 * np.log2(1.05)),
    ('tempo 0.97', 'tempo', 0.97, 0.0),
    ('pitch -2', 'pitch', 1.0, -2.0),
  ],
)
def test_what_differs_is_said(works, prints, change, kind, tempo, semitones):
  changed = fingerprint.fingerprint(*CHANGES[change](works[1]))
  ((_, _, found),) = same_recordings.same_recordings([prints[1], changed])
  assert found.change == kind and found.hits >= same_recordings.MIN_HITS
  assert found.tempo == pytest.approx(tempo, abs=0.002)
  assert found.semitones == pytest.approx(semitones, abs=0.05)
  whole = 0.83 if change == 'trimmed start' else 1.0
  assert found.parts == (pytest.approx(whole, abs=0.1), pytest.approx(1.0, abs=0.1))


def test_blocks_of_any_length_give_the_same(works):
  x = np.concatenate(works[:3])
  whole = fingerprint.fingerprint(x, RATE)
  maker = fingerprint.Fingerprinter(RATE)
  for begin in range(0, len(x), 77_777):
    maker.add(x[begin : begin + 77_777])
  pieces = maker.fingerprint()
  shared = len(np.intersect1d(whole.hashes, pieces.hashes))
  assert shared > 0.97 * len(np.unique(whole.hashes))  # Resampling rounds.


def test_text_and_back(prints):
  for found in prints:
    text = found.encode()
    assert len(text) <= (8 + 10 * len(found.hashes)) * 4 / 3 + 4
    again = fingerprint.Fingerprint.decode(text)
    np.testing.assert_array_equal(again.hashes, found.hashes)
    np.testing.assert_array_equal(again.times, found.times)
    np.testing.assert_allclose(again.pitches, found.pitches, atol=0.001)
    assert again.limit == found.limit > found.hashes.max()
    assert (np.diff(found.hashes.astype(float)) >= 0).all()
    assert 100 < len(found.hashes) <= fingerprint.LEAST


@pytest.mark.parametrize('text', ['AAAA', 'x', 'AAAAAAAAAAAA' * 3])
def test_damaged_text_is_refused(text):
  with pytest.raises(ValueError):
    fingerprint.Fingerprint.decode(text)


def test_silence_noise_and_almost_nothing_match_nothing():
  rng = np.random.default_rng(0)
  signals = [np.zeros([RATE * 5, 2]), np.zeros([0, 1]), np.zeros([100, 1]), np.zeros([RATE * 5, 2])]
  signals += [rng.normal(size=[RATE * 5, 2]) * 0.1 for _ in range(4)]
  made = [fingerprint.fingerprint(x, RATE) for x in signals]
  assert [len(found.hashes) for found in made[:4]] == [0, 0, 0, 0]
  assert _pairs(made) == []
  assert _pairs([]) == []


def _print_of(hashes, offset=0, pitch=20.0):
  order = np.argsort(hashes)
  times = np.arange(0, 8 * len(hashes), 8, dtype=np.uint32) + np.uint32(offset)
  return fingerprint.Fingerprint(
    hashes[order], times[order], np.full(len(hashes), pitch, np.float32)
  )


def _hashes(seed, number):
  rng = np.random.default_rng(seed)
  return rng.integers(0, fingerprint.NO_LIMIT, number).astype(np.uint64)


def test_a_loop_that_everybody_uses_joins_nobody(monkeypatch):
  """Hashes that are found more often than the limit say nothing, neither for nor against."""
  monkeypatch.setattr(same_recordings, 'MAX_HOLDERS', 64)
  loop = _hashes(1, 300)
  crowd = [_print_of(np.r_[loop, _hashes(seed, 200)]) for seed in range(2, 82)]
  assert _pairs(crowd) == []
  pairs = _pairs(crowd[:3])
  assert pairs == [(0, 1, 0.6), (0, 2, 0.6), (1, 2, 0.6)]
  # Half of the rest of one of them in another one.
  own = crowd[0].hashes[~np.isin(crowd[0].hashes, loop)][:100]
  copy = _print_of(np.r_[loop, own, _hashes(100, 100)])
  times = np.zeros(500, np.uint32)
  times[np.isin(copy.hashes, own)] = crowd[0].times[np.isin(crowd[0].hashes, own)]
  copy = dataclasses.replace(copy, times=times)
  assert _pairs([*crowd, copy]) == [(0, 80, 0.5)]


def test_blocks_find_what_one_block_finds(monkeypatch):
  """Any number of pairs a block, down to a recording each."""
  common = [_hashes(seed, 100) for seed in range(5)]
  prints = [
    _print_of(np.r_[common[number % 5], common[(number + 1) % 5], _hashes(10 + number, 300)])
    for number in range(20)
  ]
  whole = _pairs(prints)
  # Both parts in common with the three others of its number, one with eight of the next numbers.
  assert len(whole) == 20 * (3 + 8) // 2
  for block in (1, 700):
    monkeypatch.setattr(same_recordings, '_BLOCK', block)
    assert _pairs(prints) == whole


def test_what_cannot_be_compared_is_known(monkeypatch):
  """Too few landmarks, and landmarks that are in too many recordings."""
  monkeypatch.setattr(same_recordings, 'MAX_HOLDERS', 64)
  loop = _hashes(1, 300)
  crowd = [_print_of(np.r_[loop, _hashes(seed, 99)]) for seed in range(2, 72)]
  others = [_print_of(_hashes(100, 19)), _print_of(_hashes(101, 20)), _print_of(_hashes(102, 0))]
  few, common = same_recordings.hard_to_compare([*others, *crowd])
  assert (few, common) == ([0, 2], [*range(3, 73)])
  assert same_recordings.hard_to_compare(crowd[:60]) == ([], [])
  assert same_recordings.hard_to_compare([]) == ([], [])


def test_two_discs_with_one_song_in_common():
  """Only a tenth of either is the same; the share is that of the common part."""
  song = _hashes(0, 1500)
  discs = [
    _print_of(np.r_[_hashes(before, before), song, _hashes(before + 1, 12_000 - before)])
    for before in (3000, 9000)
  ]
  ((i, j, match),) = same_recordings.same_recordings(discs)
  assert (i, j) == (0, 1) and match.share > 0.9
  assert match.parts == (pytest.approx(1500 / 13_500, abs=0.01),) * 2
