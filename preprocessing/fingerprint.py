"""Audio fingerprints: which files are the same recording in another coding, level, rate or cut.

Landmarks in the manner of Wang (2003, "An Industrial-Strength Audio Search Algorithm") with three
peaks each, as Six and Leman's Panako (2014) has them: local maxima of the log spectrogram are
joined to triples of nearby peaks, a triple's two time steps and three frequencies make a hash, and
two recordings are the same where many equal hashes lie at one time offset. Peaks are local, so
level does not matter; times are relative, so a trimmed start does not matter. Another performance
of a work, or another work of the same instruments, has other peaks.

A file keeps a sketch: the `SKETCH_SIZE` smallest hashes, a sample that every file draws alike.
"""

import base64
import dataclasses
import itertools

import numpy as np
import soxr
from scipy import ndimage

_RATE = 11_025
_WINDOW = 1024
_HOP = 256
_LOW_HZ, _HIGH_HZ = 100, 4500
# A peak is the maximum of this many frames x bins around it: 0.26 s, 160 Hz.
_NEIGHBOURHOOD = (11, 15)
_PEAKS_PER_SEC = 16
# Peaks this far (natural log of magnitude) below the loudest of their chunk are noise.
_PEAK_RANGE = 9.0
_CHUNK_SECS = 30
# A peak is joined with pairs of the next five that lie 2 frames to 1.5 s later, within 128 bins.
_FAN_OUT = 5
_MIN_STEP, _MAX_STEP = 2, 64
# Steps in time are hashed in units of so many frames: a cut between two frames moves peaks by one.
_STEP_FRAMES = 4
_MAX_BINS = 128
SKETCH_SIZE = 512
# Of 404 rendered tracks of 24 s and 28 recodings of four of them, pairs of one recording share
# 0.110 or more; other pairs, of the same composer and instruments, at most 0.034, but for one of
# beatless drones with 0.055 (docs/manifest.md).
MIN_SHARE = 0.08
MIN_HITS = 8
# Hashes that more recordings than this have in common (one drum loop) say nothing.
_MAX_RECORDINGS = 64
# Offsets may differ by a hop between two codings.
_OFFSET_SLACK = 1


@dataclasses.dataclass(frozen=True)
class Fingerprint:
  """A sample of a recording's landmarks.

  Attributes:
    hashes: uint64 [n], rising, n <= SKETCH_SIZE: the smallest of all.
    times: uint32 [n], spectrogram frames.
  """

  hashes: np.ndarray
  times: np.ndarray

  def encode(self) -> str:
    """As text, for a line of JSON."""
    content = self.hashes.astype('<u8').tobytes() + self.times.astype('<u4').tobytes()
    return base64.b64encode(content).decode()

  @classmethod
  def decode(cls, text: str) -> 'Fingerprint':
    """What `encode` wrote."""
    content = base64.b64decode(text)
    count = len(content) // 12
    return cls(
      np.frombuffer(content, '<u8', count), np.frombuffer(content, '<u4', count, 8 * count)
    )


class Fingerprinter:
  """Takes blocks of a recording in order and gives its fingerprint."""

  def __init__(self, sample_rate: int):
    self._resampler = soxr.ResampleStream(sample_rate, _RATE, 1, dtype='float32', quality='MQ')
    self._rest = np.zeros([0], np.float32)
    self._frames = 0
    self._peaks: list[np.ndarray] = []

  def add(self, block: np.ndarray):
    """Adds [n, channels] float32; the first two channels count."""
    middle = block[:, 0] if block.shape[1] == 1 else (block[:, 0] + block[:, 1]) / 2
    self._take(self._resampler.resample_chunk(np.ascontiguousarray(middle)))

  def fingerprint(self) -> Fingerprint:
    """Of all that was added; nothing can be added afterwards."""
    self._take(self._resampler.resample_chunk(np.zeros([0], np.float32), last=True))
    self._find(len(self._rest))
    peaks = np.concatenate(self._peaks) if self._peaks else np.zeros([0, 2], np.int64)
    return _sketch(*_landmarks(peaks))

  def _take(self, x: np.ndarray):
    self._rest = np.concatenate([self._rest, x])
    while len(self._rest) >= _CHUNK_SECS * _RATE + _WINDOW:
      self._find(_CHUNK_SECS * _RATE + _WINDOW)

  def _find(self, samples: int):
    """Finds the peaks of the first samples and keeps what the next frame begins with."""
    frames = (samples - _WINDOW) // _HOP + 1
    if frames <= 0:
      return
    peaks = spectral_peaks(self._rest[:samples])
    self._peaks.append(peaks + [[self._frames, 0]])
    self._frames += frames
    self._rest = self._rest[frames * _HOP :]


def fingerprint(x: np.ndarray, sample_rate: int) -> Fingerprint:
  """Fingerprint of a whole recording, [n, channels] float32."""
  maker = Fingerprinter(sample_rate)
  maker.add(np.asarray(x, np.float32))
  return maker.fingerprint()


def spectral_peaks(x: np.ndarray) -> np.ndarray:
  """(frame, bin) of the strongest local maxima: int64 [n, 2] of [samples] at 11025 Hz, by time."""
  window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
  frames = np.lib.stride_tricks.sliding_window_view(x, _WINDOW)[::_HOP] * window
  low, high = (round(hz / _RATE * _WINDOW) for hz in (_LOW_HZ, _HIGH_HZ))
  magnitude = np.abs(np.fft.rfft(frames, axis=1)[:, low:high]).astype(np.float32)
  if not magnitude.size or not magnitude.max() > 1e-6:
    return np.zeros([0, 2], np.int64)
  level = np.log(np.maximum(magnitude, 1e-9))
  highest = ndimage.maximum_filter(level, size=_NEIGHBOURHOOD)
  times, bins = np.nonzero((level == highest) & (level > level.max() - _PEAK_RANGE))
  second = times * _HOP // _RATE
  order = np.lexsort((-level[times, bins], second))
  rank = np.arange(len(order)) - np.searchsorted(second[order], second[order])
  kept = np.sort(order[rank < _PEAKS_PER_SEC])
  return np.stack([times[kept], bins[kept]], axis=1)


def _landmarks(peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Hashes (uint64) and times (uint32) of all triples of peaks."""
  count = len(peaks)
  # Candidates: the following peaks; twice the fan-out leaves enough after those that do not fit.
  reach = 3 * _FAN_OUT
  followers = np.minimum(np.arange(count)[:, None] + np.arange(1, reach + 1), count - 1)
  step = peaks[followers, 0] - peaks[:, :1] if count else np.zeros([0, reach])
  jump = peaks[followers, 1] - peaks[:, 1:] if count else step
  fits = (step >= _MIN_STEP) & (step <= _MAX_STEP) & (np.abs(jump) < _MAX_BINS)
  # The rank of each fitting follower; the first `_FAN_OUT` of a peak count.
  fits &= np.cumsum(fits, axis=1) <= _FAN_OUT
  places = np.where(fits, np.cumsum(fits, axis=1) - 1, _FAN_OUT)
  chosen = np.full([count, _FAN_OUT + 1], -1)
  np.put_along_axis(chosen, places, np.where(fits, followers, -1), axis=1)
  values, times = [], []
  for first, second in itertools.combinations(range(_FAN_OUT), 2):
    rows = np.flatnonzero((chosen[:, first] >= 0) & (chosen[:, second] >= 0))
    a, b, c = peaks[rows], peaks[chosen[rows, first]], peaks[chosen[rows, second]]
    value = np.zeros(len(rows), np.uint64)
    steps = [
      (later[:, 0] - earlier[:, 0] + _STEP_FRAMES // 2) // _STEP_FRAMES
      for earlier, later in ((a, b), (b, c))
    ]
    for number in (a[:, 1], b[:, 1], c[:, 1], *steps):
      value = (value << np.uint64(10)) | number.astype(np.uint64)
    values.append(value)
    times.append(a[:, 0].astype(np.uint32))
  return _mixed(np.concatenate(values)), np.concatenate(times)


def _mixed(x: np.ndarray) -> np.ndarray:
  """A bijection of 64-bit numbers without visible order (the finalizer of splitmix64)."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def _sketch(hashes: np.ndarray, times: np.ndarray) -> Fingerprint:
  unique, first = np.unique(hashes, return_index=True)
  return Fingerprint(unique[:SKETCH_SIZE], times[first[:SKETCH_SIZE]])


def same_recording_pairs(prints: list[Fingerprint]) -> list[tuple[int, int, float]]:
  """(i, j, share) with i < j of the recordings that are the same, or parts of one another.

  `share` is the part of the smaller sample of landmarks that both have at one offset in time.
  """
  if not prints:
    return []
  hashes = np.concatenate([found.hashes for found in prints])
  times = np.concatenate([found.times for found in prints]).astype(np.int64)
  owners = np.repeat(np.arange(len(prints)), [len(found.hashes) for found in prints])
  order = np.argsort(hashes, kind='stable')
  hashes, times, owners = hashes[order], times[order], owners[order]
  starts = np.flatnonzero(np.r_[True, hashes[1:] != hashes[:-1]])
  sizes = np.diff(np.r_[starts, len(hashes)])
  telling = np.repeat((sizes > 1) & (sizes <= _MAX_RECORDINGS), sizes)
  hashes, times, owners = hashes[telling], times[telling], owners[telling]
  votes = []
  for lag in range(1, _MAX_RECORDINGS):
    both = np.flatnonzero(hashes[lag:] == hashes[:-lag])
    if not len(both):
      break
    # The sort is stable and owners rise, so the first of a pair is the smaller number.
    offset = times[both + lag] - times[both]
    votes.append(np.stack([owners[both], owners[both + lag], offset], axis=1))
  if not votes:
    return []
  return list(_decide(prints, np.concatenate(votes)))


def _decide(prints: list[Fingerprint], votes: np.ndarray):
  """Of votes (i, j, offset), the pairs with enough of them at one offset."""
  votes, counts = np.unique(votes, axis=0, return_counts=True)
  pair = votes[:, 0] * len(prints) + votes[:, 1]
  total = counts.astype(np.int64).copy()
  for shift in range(1, _OFFSET_SLACK + 1):
    near = (pair[shift:] == pair[:-shift]) & (votes[shift:, 2] - votes[:-shift, 2] <= _OFFSET_SLACK)
    total[:-shift][near] += counts[shift:][near]
  order = np.lexsort((-total, pair))
  first = order[np.r_[True, pair[order][1:] != pair[order][:-1]]]
  for place in first[total[first] >= MIN_HITS]:
    i, j = int(votes[place, 0]), int(votes[place, 1])
    share = total[place] / _comparable(prints[i], prints[j])
    if share >= MIN_SHARE:
      yield i, j, float(share)


def _comparable(a: Fingerprint, b: Fingerprint) -> int:
  """Landmarks of the smaller sample among hashes that both samples reach up to."""
  full = [found.hashes[-1] for found in (a, b) if len(found.hashes) == SKETCH_SIZE]
  reach = min(full, default=np.uint64(2**64 - 1))
  return max(1, min(int(np.searchsorted(found.hashes, reach, 'right')) for found in (a, b)))
