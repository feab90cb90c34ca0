"""What a figure is held against: the same music made worse on purpose, and the order it must show.

A metric is believed where it puts the original above a mild and a mild above a strong degradation;
where it does not, the report says so beside its figures.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from models.spec import LiveMusicSpec

# Names of the columns that models are held against, from the best to the worst.
REFERENCE = 'music A'
CORPUS = 'held-out music B'
SHUFFLED = 'B, chunks shuffled'
LOOPED = 'B, one chunk looped'
DAMAGED = 'B, overdriven with gaps'
NOISY = 'B in noise at 10 dB'
WHITE_NOISE = 'white noise'
RANDOM_CODES = 'random codes'
DECODED = 'B through the codec'
_GAIN_DB, _GAP_SECS, _OFFSET = 12.0, 0.3, 0.05
_NOISE_DB = 10.0


def shuffled_chunks(audio: np.ndarray, chunk_samples: int, seed: int) -> np.ndarray:
  """The whole chunks of `audio` in another order (never the same one), the rest dropped.

  Raises:
    ValueError: there are fewer than two whole chunks.
  """
  number = len(audio) // chunk_samples
  if number < 2:
    raise ValueError(f'{len(audio)} samples hold {number} chunks of {chunk_samples}; 2 are needed.')
  rng = np.random.default_rng(seed)
  order = rng.permutation(number)
  if (order == np.arange(number)).all():
    order = np.roll(order, 1)
  chunks = audio[: number * chunk_samples].reshape(number, chunk_samples, -1)
  return chunks[order].reshape(-1, audio.shape[1])


def noise_like(audio: np.ndarray, seed: int) -> np.ndarray:
  """White noise with each channel's RMS, float32 of the same shape, clipped to -1..1."""
  rms = np.sqrt(np.mean(np.square(audio, dtype=np.float64), axis=0))
  noise = np.random.default_rng(seed).standard_normal(audio.shape) * rms
  return np.clip(noise, -1, 1).astype(np.float32)


def with_noise(audio: np.ndarray, snr_db: float, seed: int) -> np.ndarray:
  """`audio` plus white noise at a signal-to-noise ratio."""
  noise = noise_like(audio, seed) * 10 ** (-snr_db / 20)
  return (audio + noise).astype(np.float32)


def random_codes(num_frames: int, spec: LiveMusicSpec, seed: int) -> np.ndarray:
  """Codes drawn evenly, int32 [num_frames, target_levels]: what a model without learning plays."""
  rng = np.random.default_rng(seed)
  return rng.integers(0, spec.codebook_size, [num_frames, spec.target_levels], dtype=np.int32)


def misordered(
  values: Mapping[str, float], best_to_worst: Sequence[str], *, lower_is_better: bool
) -> list[tuple[str, str]]:
  """Neighbouring pairs of `best_to_worst` that a metric puts the wrong way round, or ties.

  Names that `values` lacks, and NaN, are passed over.
  """
  known = [name for name in best_to_worst if name in values and not np.isnan(values[name])]
  sign = 1 if lower_is_better else -1
  return [
    (better, worse)
    for better, worse in zip(known, known[1:])
    if not sign * values[better] < sign * values[worse]
  ]


def codec_name(levels: int) -> str:
  """Column of B decoded from that many RVQ levels."""
  return f'{DECODED}, {levels} levels'


def looped(audio: np.ndarray, chunk_samples: int) -> np.ndarray:
  """The first whole chunk over and over, as long as `audio`; all of it where it is shorter."""
  chunk = audio[:chunk_samples]
  return np.concatenate([chunk] * -(-len(audio) // len(chunk)))[: len(audio)]


def damaged(audio: np.ndarray, sample_rate: int, chunk_samples: int) -> np.ndarray:
  """12 dB too loud and clipped, a constant added, 0.3 s of every chunk silent."""
  x = np.clip(audio * 10 ** (_GAIN_DB / 20) + _OFFSET, -1, 1).astype(np.float32)
  gap = round(_GAP_SECS * sample_rate)
  for start in range(chunk_samples // 2, len(x), chunk_samples):
    x[start : start + gap] = 0
  return x


def degradations(
  audio: np.ndarray, sample_rate: int, chunk_samples: int, seed: int
) -> dict[str, np.ndarray]:
  """Music made worse on purpose, by the name of its column; shuffling needs two whole chunks."""
  made = {
    LOOPED: looped(audio, chunk_samples),
    DAMAGED: damaged(audio, sample_rate, chunk_samples),
    NOISY: with_noise(audio, _NOISE_DB, seed),
    WHITE_NOISE: noise_like(audio, seed),
  }
  if len(audio) >= 2 * chunk_samples:
    made[SHUFFLED] = shuffled_chunks(audio, chunk_samples, seed)
  return made
