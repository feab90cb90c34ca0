"""Families of figures of one clip: what is measured, how it reads, which anchors must stand apart.

Each family is a pure function from audio to named figures and a list of `Metric`s. `measure` runs
them all; a report keeps the figures of each clip under a hash of its content and of `VERSION`.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from evaluation import anchors, repetition, rhythm, signal_health, tonality
from evaluation.metric_table import CORPUS as NEAR
from evaluation.metric_table import HIGHER, LOWER, NEITHER, Metric

VERSION = 1  # Part of what kept figures depend on: raise it when a figure changes.

_MUSIC = anchors.CORPUS
_NOISE = (_MUSIC, anchors.WHITE_NOISE)
_NOISES = (_MUSIC, anchors.NOISY, anchors.WHITE_NOISE)
_SEAMS = (_MUSIC, anchors.SHUFFLED)
_DAMAGE = (_MUSIC, anchors.DAMAGED)
_LOOP = (_MUSIC, anchors.LOOPED)


@dataclasses.dataclass(frozen=True)
class Family:
  """A section of the report.

  Attributes:
    key: of its section.
    title: of its section.
    about: what it says and does not say.
    metrics: its rows.
  """

  key: str
  title: str
  about: str
  metrics: tuple[Metric, ...]


HEALTH = Family(
  'health',
  'Signal health',
  'Nothing here says whether the music is good; it says whether the output is a sound signal. '
  'What is healthy is what held-out music and its way through the codec have.',
  (
    Metric('peak_db', 'Peak', 'dBFS', NEAR, (), 1),
    Metric('true_peak_db', 'True peak', 'dBTP', NEAR, (), 1, 'Between samples, too (BS.1770-4).'),
    Metric('rms_db', 'RMS', 'dBFS', NEAR, (), 1),
    Metric('loudness_lufs', 'Loudness', 'LUFS', NEAR, (), 1, 'ITU-R BS.1770-4, both gates.'),
    Metric('clipped_share', 'Clipped samples', 'share', LOWER, _DAMAGE, 4),
    Metric('silence_share', 'Silent blocks', 'share', LOWER, _DAMAGE, 4),
    Metric('spectral_flatness', 'Spectral flatness', '', NEAR, _NOISES, 4,
           '0 for a tone, 0.56 for white noise.'),
    Metric('bandwidth_hz', '99 % bandwidth', 'Hz', NEAR, _NOISE, 0),
    Metric('dc_offset', 'DC offset', '', LOWER, _DAMAGE, 4),
    Metric('stereo_correlation', 'Stereo correlation', '', NEAR, _NOISE, 2,
           '1 mono, 0 unrelated channels, -1 opposite ones.'),
    Metric('seam_jump', 'Step at chunk seams', '', LOWER, _SEAMS, 2, 'A click lies above 1.'),
    Metric('seam_flux', 'Spectral change at seams', '', LOWER, _SEAMS, 2,
           '1: the seams cannot be told from the music around them.'),
  ),
)  # fmt: skip

RHYTHM = Family(
  'rhythm',
  'Rhythm',
  'Estimated from onsets; a tempo is known up to a factor of two. A clear, even pulse is no '
  'virtue in music that has none: read it beside the held-out column and by slice.',
  (
    Metric('tempo_bpm', 'Tempo', 'BPM', NEITHER, (), 0),
    Metric('pulse_clarity', 'Pulse clarity', '', HIGHER, _NOISE, 2,
           'Autocorrelation of the onsets at the tempo: near 1 for a machine, near 0 for none.'),
    Metric('beat_variation', 'Variation between beats', '', LOWER, _NOISE, 3,
           'Standard deviation of beat intervals over their mean.'),
  ),
)  # fmt: skip

TONALITY = Family(
  'tonality',
  'Tonality',
  'Pitch classes of spectral peaks against the key profiles of Krumhansl and Kessler. Music '
  'outside of major and minor, or of no fixed pitch, is badly described by it.',
  (
    Metric('key_clarity', 'Key clarity', '', HIGHER, _NOISE, 2,
           'Correlation with the profile of the best key.'),
    Metric('key_agreement', 'Key agreement of parts', '', HIGHER, _NOISE, 2,
           "MIREX's score of the key of each 2.5 s against that of the whole."),
    Metric('chroma_entropy', 'Entropy of pitch classes', '', NEAR, _NOISES, 3,
           '1: all twelve alike; 0: a single one.'),
  ),
)  # fmt: skip

REPETITION = Family(
  'repetition',
  'Repetition',
  'Music repeats itself; a model that is stuck repeats itself more. Figures near those of held-out '
  'music are right, not low ones.',
  (
    Metric('repeat_similarity', 'Self-similarity', '', NEAR, _LOOP, 3,
           'Mean cosine of log-mel frames to those one lag on, at the best lag from 1 s up.'),
    Metric('repeat_lag_secs', 'Lag of it', 's', NEITHER, (), 1),
    Metric('repeated_codes', 'Repeated token runs', 'share', LOWER, _LOOP, 3,
           'Runs of half a second of coarse codes that came before in the same clip.'),
  ),
)  # fmt: skip

CLOSENESS = Family(
  'closeness',
  'Closeness to the corpus, clip by clip',
  'Distance of a clip from the reference music in log-mel statistics, in standard deviations of '
  'the reference clips; and the cosine of its style embedding to their mean.',
  (
    Metric('corpus_distance', 'Distance in log-mel', 'sd', LOWER, _NOISES, 2,
           'Root mean square of the z-scores of 24 figures. The sample table is ranked by it.'),
    Metric('style_similarity', 'Style cosine to the reference', '', HIGHER, _NOISE, 3),
  ),
)  # fmt: skip

FAMILIES = (HEALTH, RHYTHM, TONALITY, REPETITION, CLOSENESS)


def measure(
  audio: np.ndarray, sample_rate: int, chunk_samples: int, codes: np.ndarray | None = None
) -> dict[str, float]:
  """Health, rhythm, tonality and repetition of a clip [samples, channels], by name.

  Args:
    audio: float in -1..1.
    sample_rate: Hz.
    chunk_samples: distance of the seams that are looked at.
    codes: coarse codes [frames, levels] of the clip, where they are known.
  """
  figures = {
    **signal_health.health(audio, sample_rate, chunk_samples),
    **rhythm.rhythm(audio, sample_rate),
    **tonality.tonality(audio, sample_rate),
    **repetition.repetition(audio, sample_rate),
  }
  if codes is not None:
    figures['repeated_codes'] = repetition.repeated_share(codes)
  return figures


def corpus_distances(
  rows: Mapping[str, np.ndarray], reference: np.ndarray
) -> dict[str, float]:
  """Root mean square z-score of each clip's mean embedding against the reference's clips.

  Args:
    rows: clip -> its mean embedding [D].
    reference: mean embeddings of the reference clips [N, D].
  """
  mean, spread = reference.mean(0), reference.std(0, ddof=1) if len(reference) > 1 else None
  if spread is None:
    return {key: float('nan') for key in rows}
  # A figure that hardly varies in the reference would count for everything: a floor.
  spread = np.maximum(spread, 0.1 * np.median(spread) + 1e-9)
  return {
    key: float(np.sqrt(np.mean(((row - mean) / spread) ** 2))) for key, row in rows.items()
  }


def metric_of(key: str) -> Metric:
  """The metric of that name.

  Raises:
    KeyError: there is none.
  """
  return next(m for family in FAMILIES for m in family.metrics if m.key == key)


def labels() -> dict[str, str]:
  """Label of every figure."""
  return {metric.key: metric.label for family in FAMILIES for metric in family.metrics}


