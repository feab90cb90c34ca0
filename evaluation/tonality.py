"""Pitch classes and key: chroma, templates of keys, how well parts of a recording agree."""

import numpy as np

from evaluation import spectra

PITCH_CLASSES = ('C', 'C#', 'D', 'Eb', 'E', 'F', 'F#', 'G', 'Ab', 'A', 'Bb', 'B')
# Probe-tone ratings of Krumhansl and Kessler (1982), from the tonic up.
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)
_WINDOW_SECS = 0.18
_LOWEST_HZ, _HIGHEST_HZ = 55.0, 2100.0
_A4_HZ = 440.0
_PART_SECS = 5.0
# Weights of MIREX's key task: same, a fifth apart, relative, parallel.
_FIFTH, _RELATIVE, _PARALLEL = 0.5, 0.3, 0.2


def chroma(audio: np.ndarray, sample_rate: int, hop_secs: float = 0.1) -> np.ndarray:
  """Audio [samples, channels] -> pitch-class profile [frames, 12] from C up, each row summing to 1.

  Magnitudes between 55 and 2100 Hz in windows of 0.18 s, taken to the nearest pitch of the tempered
  scale (a' = 440 Hz), under a root that keeps loud partials from drowning the rest. Only spectral
  peaks count, so that broad noise has no pitch of its own. Silent frames are rows of zeros.
  """
  window = 2 * round(_WINDOW_SECS * sample_rate / 2)
  magnitude = spectra.magnitudes(audio.mean(1), window, round(hop_secs * sample_rate))
  bins = np.arange(magnitude.shape[1]) * sample_rate / window
  used = np.flatnonzero((bins >= _LOWEST_HZ) & (bins <= _HIGHEST_HZ))
  here = magnitude[:, used]
  peaks = (here > magnitude[:, used - 1]) & (here >= magnitude[:, used + 1])
  classes = np.round(69 + 12 * np.log2(bins[used] / _A4_HZ)).astype(int) % 12
  weights = np.where(peaks & (here > 1e-5), np.sqrt(here), 0)
  profile = weights.astype(np.float64) @ np.eye(12)[classes]
  total = profile.sum(1, keepdims=True)
  return profile / np.where(total > 0, total, 1)


def key_correlations(profile: np.ndarray) -> np.ndarray:
  """Pearson correlation of a pitch-class profile [12] with 24 keys: C..B major, then C..B minor.

  Zeros where the profile is flat: no key is nearer than another.
  """
  profile = np.asarray(profile, np.float64)
  if np.ptp(profile) < 1e-12:
    return np.zeros(24)
  templates = [np.roll(kind, tonic) for kind in (MAJOR, MINOR) for tonic in range(12)]
  return np.array([np.corrcoef(profile, template)[0, 1] for template in templates])


def key_name(key: int) -> str:
  """'F# minor' of an index into `key_correlations`."""
  return f'{PITCH_CLASSES[key % 12]} {"minor" if key >= 12 else "major"}'


def key_index(name: str) -> int:
  """The index of 'F# minor'; flats and sharps alike.

  Raises:
    ValueError: it is no major or minor key.
  """
  tonic, _, mode = name.partition(' ')
  natural = dict(zip('CDEFGAB', (0, 2, 4, 5, 7, 9, 11)))
  if tonic[:1] not in natural or tonic[1:] not in ('', '#', 'b') or mode not in ('major', 'minor'):
    raise ValueError(f"{name!r} is no key such as 'C major' or 'F# minor'.")
  shift = {'': 0, '#': 1, 'b': -1}[tonic[1:]]
  return (natural[tonic[0]] + shift) % 12 + 12 * (mode == 'minor')


def key_score(estimate: int, truth: int) -> float:
  """MIREX's weighted score of a key: 1 the same, 0.5 a fifth apart, 0.3 relative, 0.2 parallel."""
  if estimate == truth:
    return 1.0
  gap = (estimate - truth) % 12
  if estimate // 12 == truth // 12:
    return _FIFTH if gap in (5, 7) else 0.0
  if gap == (9 if truth < 12 else 3):
    return _RELATIVE
  return _PARALLEL if gap == 0 else 0.0


def key_agreement(frames: np.ndarray, frames_per_part: int) -> float:
  """Mean `key_score` of consecutive parts against the key of the whole; NaN under 2 parts."""
  number = len(frames) // frames_per_part
  if number < 2 or not frames.any():
    return float('nan')
  whole = int(np.argmax(key_correlations(frames.mean(0))))
  parts = frames[: number * frames_per_part].reshape(number, frames_per_part, 12).mean(1)
  return float(
    np.mean([key_score(int(np.argmax(key_correlations(part))), whole) for part in parts])
  )


def chroma_entropy(profile: np.ndarray) -> float:
  """Entropy of a pitch-class profile [12] over its largest value: 1 for all alike, 0 for one."""
  p = np.asarray(profile, np.float64)
  if not p.sum():
    return float('nan')
  p = p[p > 0] / p.sum()
  return float(-(p * np.log(p)).sum() / np.log(12))


def tonality(audio: np.ndarray, sample_rate: int) -> dict[str, float]:
  """'key' (index), 'key_clarity' (its correlation), 'key_agreement', 'chroma_entropy'."""
  hop_secs = 0.1
  frames = chroma(audio, sample_rate, hop_secs)
  if not frames.any():
    nothing = float('nan')
    return {name: nothing for name in ('key', 'key_clarity', 'key_agreement', 'chroma_entropy')}
  correlations = key_correlations(frames.mean(0))
  return {
    'key': float(np.argmax(correlations)),
    'key_clarity': float(correlations.max()),
    'key_agreement': key_agreement(frames, round(min(_PART_SECS, 2.5) / hop_secs)),
    'chroma_entropy': chroma_entropy(frames.mean(0)),
  }
