"""How near sound comes to a catalog: by a few figures of its timbre, rhythm, pitch and space.

None of it comes from a network, so that it can stand beside a cosine in a learned space, and say
so where the two disagree.
"""

from collections.abc import Sequence

import numpy as np

from evaluation import embeddings, rhythm, signal_health, tonality
from evaluation.onsets import ENVELOPE_RATE, onset_envelope

# Of the spread of a figure in the catalog; a clip far outside counts as this far.
_MOST_SPREADS = 5.0
# The least spread of a figure that is believed: a catalog of one loudness is not infinitely strict.
_GROUPS = {
  'timbre': 24 * (1.0,),  # Mean and deviation of 12 mel bands in dB.
  'rhythm': (0.5, 0.05),  # Onsets a second; pulse clarity.
  'pitch': (0.02, 0.05, 1.0),  # Entropy of pitch classes; key clarity; spectral flatness in dB.
  'space': (0.05, 1.0),  # Stereo correlation; loudness in LU.
}
GROUPS = tuple(_GROUPS)
_LEAST_SPREADS = np.concatenate([np.array(values) for values in _GROUPS.values()])
_ONSET = 1.5  # Standard deviations of the onset envelope.
SILENCE_LUFS = -70.0  # What is softer counts as this.


def sound_figures(audio: np.ndarray, sample_rate: int) -> np.ndarray:
  """Audio [samples, channels] of 4 s or more -> float64 [31]: what `sound_distances` compares.

  NaN where a figure is not defined, such as the key of silence.
  """
  mono = audio if audio.shape[1] > 1 else np.repeat(audio, 2, axis=1)
  timbre = embeddings.logmel(audio, sample_rate).mean(0)
  beats, pitches = rhythm.rhythm(audio, sample_rate), tonality.tonality(audio, sample_rate)
  flatness = 10 * np.log10(max(signal_health.spectral_flatness(audio), 1e-9))
  loudness = max(signal_health.loudness_lufs(audio, sample_rate), SILENCE_LUFS)
  return np.array([
    *timbre,
    onsets_per_second(audio, sample_rate), beats['pulse_clarity'],
    pitches['chroma_entropy'], pitches['key_clarity'], flatness,
    signal_health.stereo_correlation(mono), loudness,
  ])  # fmt: skip


def onsets_per_second(audio: np.ndarray, sample_rate: int) -> float:
  """Peaks of the onset envelope that stand out by 1.5 standard deviations, in a second."""
  envelope = onset_envelope(audio, sample_rate)
  here = envelope[1:-1]
  peaks = (here > envelope[:-2]) & (here >= envelope[2:]) & (here > _ONSET)
  return float(peaks.sum() / max(len(envelope) / ENVELOPE_RATE, 1e-9))


def sound_distances(
  rows: Sequence[np.ndarray] | np.ndarray, reference: Sequence[np.ndarray] | np.ndarray
) -> np.ndarray:
  """How far clips lie from a catalog, in standard deviations of the catalog's clips.

  The root mean square of the z-scores of each of `GROUPS`, then the mean over the groups; a figure
  counts as 5 deviations at most. Clips of the catalog itself lie at about 0.9.

  Args:
    rows: [N, 31], of `sound_figures`.
    reference: [M, 31], of the catalog.

  Returns:
    float64 [N].

  Raises:
    ValueError: the reference has fewer than two clips.
  """
  rows, reference = np.asarray(rows, np.float64), np.asarray(reference, np.float64)
  if len(reference) < 2:
    raise ValueError(f'{len(reference)} clips of the catalog: their spread needs at least 2.')
  known = np.isfinite(reference)
  number = np.maximum(known.sum(0), 1)
  filled = np.where(known, reference, 0)
  mean = filled.sum(0) / number
  variance = (np.where(known, reference - mean, 0) ** 2).sum(0) / np.maximum(number - 1, 1)
  spread = np.maximum(np.sqrt(variance), _LEAST_SPREADS)
  scores = np.clip((rows - mean) / spread, -_MOST_SPREADS, _MOST_SPREADS)
  # What a clip does not have, such as a beat, and most of the catalog has, is as far as can be.
  missing = np.where(known.mean(0) > 0.5, _MOST_SPREADS, 0.0)
  scores = np.where(np.isfinite(rows), scores, missing)
  ends = np.cumsum([len(values) for values in _GROUPS.values()])[:-1]
  parts = np.split(scores, ends, axis=1)
  return np.mean([np.sqrt(np.mean(part**2, axis=1)) for part in parts], axis=0)
