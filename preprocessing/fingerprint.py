"""Audio fingerprints: a sample of a recording's landmarks that survives coding, cuts and speed.

Landmarks in the manner of Wang (2003, "An Industrial-Strength Audio Search Algorithm"), made
independent of pitch and tempo as by Six and Leman (2014, "Panako") and Sonnleitner and Widmer
(2016, "Robust Quad-Based Audio Fingerprinting"): local maxima of the log spectrogram are joined to
quads, an anchor with three later peaks. What is hashed of a quad are the three intervals in half
semitones and the ratios of the three steps in time, which another speed, tempo or key leaves as
they are, and the anchor's pitch and the quad's length in steps so coarse that a change of a few
per cent seldom crosses one.

A recording keeps every landmark whose hash is below a fixed value, one of `SAMPLING`: the same
landmarks are kept of a song, of an excerpt of it and of a disc that holds it, and the number grows
with the length. Short recordings keep `LEAST` landmarks, by a higher limit that is kept with them.
`same_recordings` compares fingerprints.
"""

import base64
import dataclasses
import itertools

import numpy as np
import soxr
from scipy import ndimage

# Changes whenever another version would make other landmarks or another text of the same audio.
VERSION = 2

FRAME_SECS = 256 / 11_025
# One landmark of so many is kept, and of a short recording as many as this.
SAMPLING = 64
LEAST = 512
# The highest hash plus one: hashes have 40 bits.
NO_LIMIT = 2**40

_RATE = 11_025
_WINDOW = 1024
_HOP = 256
_LOW_HZ, _HIGH_HZ = 100, 4500
# A peak is the maximum of this many frames x bins around it: 0.26 s, 160 Hz.
_NEIGHBOURHOOD = (11, 15)
# A peak counts if fewer than `_PEAKS` stronger ones lie within half a second before or after it.
_PEAKS = 16
_PEAKS_FRAMES = round(0.5 * _RATE / _HOP)
# Peaks this far (natural log of magnitude) below the loudest of their chunk are noise.
_PEAK_RANGE = 9.0
_CHUNK_SECS = 30
# A peak is joined with all triples of the next six that lie 2 frames to 1.5 s later and within two
# octaves; they are looked for among the next 18.
_FAN_OUT = 6
_REACH = 18
_MIN_STEP, _MAX_STEP = 2, 64
_MAX_SEMITONES = 24
# What is hashed: intervals in half semitones, steps in fourths of the longest, the longest step in
# steps of a fourth (natural logarithm), the anchor's pitch in tritones.
_INTERVALS_PER_SEMITONE = 2
_RATIO_STEPS = 4
_LENGTH_STEP = 0.4
_ANCHOR_SEMITONES = 9
# The same landmark again and again (a loop) is kept so many times.
_MAX_REPEATS = 4
_HASH_BITS, _TIME_BITS = 40, 24
_PITCH_SCALE = 500  # Fractions of a semitone in 16 bits.


@dataclasses.dataclass(frozen=True)
class Fingerprint:
  """A sample of a recording's landmarks.

  Attributes:
    hashes: uint64 [n], rising, below `limit`.
    times: uint32 [n], frames of `FRAME_SECS`, rising among equal hashes.
    pitches: float32 [n], semitones above 100 Hz.
    limit: all landmarks with hashes below it are here (but for repeats).
  """

  hashes: np.ndarray
  times: np.ndarray
  pitches: np.ndarray
  limit: int = NO_LIMIT

  def encode(self) -> str:
    """Encodes as text, for a line of JSON: 10 bytes a landmark in base64."""
    keys = (self.hashes << np.uint64(_TIME_BITS)) | self.times.astype(np.uint64)
    pitches = np.round(self.pitches * _PITCH_SCALE)
    parts = (np.array([self.limit], '<u8'), keys.astype('<u8'), pitches.astype('<u2'))
    return base64.b64encode(b''.join(part.tobytes() for part in parts)).decode()

  @classmethod
  def decode(cls, text: str) -> 'Fingerprint':
    """Decodes what `encode` wrote; raises ValueError for other text."""
    content = base64.b64decode(text, validate=True)
    count, rest = divmod(len(content) - 8, 10)
    if count < 0 or rest:
      raise ValueError(f'A fingerprint of {len(content)} bytes is damaged: 8 + 10 n are expected.')
    keys = np.frombuffer(content, '<u8', count, 8)
    return cls(
      keys >> np.uint64(_TIME_BITS),
      (keys & np.uint64(2**_TIME_BITS - 1)).astype(np.uint32),
      (np.frombuffer(content, '<u2', count, 8 + 8 * count) / _PITCH_SCALE).astype(np.float32),
      int(np.frombuffer(content, '<u8', 1)[0]),
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
    peaks = np.concatenate(self._peaks) if self._peaks else np.zeros([0, 2])
    return _sample(*_landmarks(peaks))

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
  """(frame, semitones above 100 Hz) of the strongest local maxima of [samples] at 11025 Hz.

  Returns:
    float64 [n, 2] by time; frames are whole, pitches interpolated by a parabola.
  """
  window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
  frames = np.lib.stride_tricks.sliding_window_view(x, _WINDOW)[::_HOP] * window
  low, high = (round(hz / _RATE * _WINDOW) for hz in (_LOW_HZ, _HIGH_HZ))
  magnitude = np.abs(np.fft.rfft(frames, axis=1)[:, low - 1 : high + 1]).astype(np.float32)
  if not magnitude.size or not magnitude.max() > 1e-6:
    return np.zeros([0, 2])
  around = np.log(np.maximum(magnitude, 1e-9))
  level = around[:, 1:-1]
  highest = ndimage.maximum_filter(level, size=_NEIGHBOURHOOD)
  times, bins = np.nonzero((level == highest) & (level > level.max() - _PEAK_RANGE))
  kept = _strongest(times, level[times, bins])
  times, bins = times[kept], bins[kept]
  below, here, above = (around[times, bins + shift] for shift in range(3))
  bend = np.minimum(below - 2 * here + above, -1e-6)
  fraction = np.clip(0.5 * (below - above) / bend, -0.5, 0.5)
  hz = (bins + low + fraction) * (_RATE / _WINDOW)
  return np.stack([times, np.maximum(12 * np.log2(hz / _LOW_HZ), 0)], axis=1)


def _strongest(times: np.ndarray, levels: np.ndarray) -> np.ndarray:
  """Which peaks, by time, have fewer than `_PEAKS` stronger ones around them."""
  stronger = np.zeros(len(times), np.int64)
  for lag in range(1, len(times)):
    near = times[lag:] - times[:-lag] <= _PEAKS_FRAMES
    if not near.any():
      break
    later = levels[lag:] > levels[:-lag]
    stronger[:-lag] += near & later
    stronger[lag:] += near & ~later
  return stronger < _PEAKS


def _landmarks(peaks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Hashes (uint64 below `NO_LIMIT`), frames and pitches of all quads of peaks."""
  count = len(peaks)
  if not count:
    return np.zeros([0], np.uint64), np.zeros([0], np.uint32), np.zeros([0], np.float32)
  followers = np.minimum(np.arange(count)[:, None] + np.arange(1, _REACH + 1), count - 1)
  step, jump = np.moveaxis(peaks[followers] - peaks[:, None], 2, 0)
  fits = (step >= _MIN_STEP) & (step <= _MAX_STEP) & (np.abs(jump) <= _MAX_SEMITONES)
  # The rank of each fitting follower; the first `_FAN_OUT` of a peak count.
  fits &= np.cumsum(fits, axis=1) <= _FAN_OUT
  places = np.where(fits, np.cumsum(fits, axis=1) - 1, _FAN_OUT)
  chosen = np.full([count, _FAN_OUT + 1], -1)
  np.put_along_axis(chosen, places, np.where(fits, np.arange(_REACH), -1), axis=1)
  hashes, anchors = [], []
  for triple in itertools.combinations(range(_FAN_OUT), 3):
    rows = np.flatnonzero(chosen[:, triple[-1]] >= 0)
    columns = chosen[rows][:, triple]
    hashes.append(_hash(peaks[rows, 1], step[rows[:, None], columns], jump[rows[:, None], columns]))
    anchors.append(rows)
  rows = np.concatenate(anchors)
  return (
    np.concatenate(hashes), peaks[rows, 0].astype(np.uint32), peaks[rows, 1].astype(np.float32)
  )  # fmt: skip


def _hash(pitch: np.ndarray, step: np.ndarray, jump: np.ndarray) -> np.ndarray:
  """Hashes of quads: the anchors' pitches [n], steps [n, 3] and intervals [n, 3] of the others."""
  interval = np.floor(jump * _INTERVALS_PER_SEMITONE + 0.5)
  # By pitch, then by time: peaks of a chord change places in time with every coding.
  order = np.argsort(interval * 2 * _MAX_STEP + step, axis=1)
  interval, step = (np.take_along_axis(x, order, axis=1) for x in (interval, step))
  longest = step.max(axis=1)
  ratio = np.floor(step / longest[:, None] * _RATIO_STEPS + 0.5)
  length = np.floor(np.log(longest) / _LENGTH_STEP + 0.5)
  anchor = np.floor(pitch / _ANCHOR_SEMITONES + 0.5)
  value = np.zeros(len(pitch), np.uint64)
  for number in (*(interval.T + 128), *ratio.T, length, anchor):
    value = (value << np.uint64(8)) | number.astype(np.uint64)
  return _mixed(value) >> np.uint64(64 - _HASH_BITS)


def _mixed(x: np.ndarray) -> np.ndarray:
  """A bijection of 64-bit numbers without visible order (the finalizer of splitmix64)."""
  x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return x ^ (x >> np.uint64(31))


def _sample(hashes: np.ndarray, times: np.ndarray, pitches: np.ndarray) -> Fingerprint:
  """The landmarks below the limit, each hash at its first times."""
  limit = NO_LIMIT // SAMPLING
  kept = _without_repeats(np.flatnonzero(hashes < limit), hashes, times)
  if len(kept) < LEAST:
    limit = NO_LIMIT
    kept = _without_repeats(np.arange(len(hashes)), hashes, times)
    if len(kept) > LEAST:
      limit = int(hashes[kept[LEAST]])
      kept = kept[hashes[kept] < limit]
  return Fingerprint(hashes[kept], times[kept], pitches[kept], limit)


def _without_repeats(places: np.ndarray, hashes: np.ndarray, times: np.ndarray) -> np.ndarray:
  """Places by hash and time, each hash `_MAX_REPEATS` times at most."""
  places = places[np.lexsort((times[places], hashes[places]))]
  first = np.searchsorted(hashes[places], hashes[places])
  return places[np.arange(len(places)) - first < _MAX_REPEATS]
