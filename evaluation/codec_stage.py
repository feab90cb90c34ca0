"""Codec reconstruction by depth, beside other codecs at equal bit rate and noise.

The evaluation of language models has it as a section (`measure_codec`), the codec report measures
recording after recording with the same functions.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import markupsafe
import numpy as np

from evaluation import anchors, bootstrap, codec_metrics, plots
from evaluation.codec_metrics import MEASURES
from evaluation.other_codecs import OTHER_CODECS, Unavailable
from models.spec import LiveMusicSpec

NOISE = 'noise at the same level'
SHIFTS = ('loudness_shift_lu', 'width_shift_db')
_DRAWN = ('mel_distance_db', 'stft_distance', 'si_sdr_db')

Figures = dict[str, float]


def kbps_of(levels: int, spec: LiveMusicSpec) -> float:
  """Bit rate of that many RVQ levels in kbit/s."""
  return float(levels * np.log2(spec.codebook_size) * spec.frame_rate / 1000)


def measure_codec(
  codec: Any,
  recordings: Sequence[np.ndarray],
  depths: Sequence[int],
  spec: LiveMusicSpec,
  *,
  seed: int = 0,
  on_step: Callable[[int], Any] = lambda count: None,
) -> tuple[dict[str, Any], dict[int, list[np.ndarray]], list[dict[str, str]]]:
  """The `codec` of a report.

  Args:
    codec: has `encode` and `decode` (`models.spectrostream.SpectroStream`).
    recordings: float32 [samples, channels], one for each track.
    depths: RVQ levels to decode with.
    spec: of the system.
    seed: of noise and bootstrap.
    on_step: called with 1 after each decoding; there are len(recordings) * len(depths).

  Returns:
    The section; the reconstructions by depth; what was skipped.
  """
  results: dict[int, list[Figures]] = {depth: [] for depth in depths}
  decoded: dict[int, list[np.ndarray]] = {depth: [] for depth in depths}
  others, noise = OtherResults(), []
  for audio in recordings:
    reference = codec_metrics.Reference(audio, spec.sample_rate)
    codes = np.asarray(codec.encode(audio))
    for depth, estimate, figures in reconstruct(codec, reference, codes, depths):
      decoded[depth].append(estimate)
      results[depth].append(figures)
      on_step(1)
    for name in OTHER_CODECS:
      for kbps in (kbps_of(depth, spec) for depth in depths):
        others.take(name, kbps, functools.partial(_measure_other, reference, name, kbps))
    noise.append(reference.compare(anchors.noise_like(audio, seed)))
  rows = depth_rows(results, spec, seed)
  other_rows = [*others.rows(seed), noise_row(noise, seed)]
  return (
    {
      'depths': rows,
      'others': other_rows,
      'misordered': misordered(rows, other_rows[-1]),
      'codebooks': None,
      'num_tracks': len(recordings),
    },
    decoded,
    others.skipped(),
  )


def reconstruct(
  codec: Any, reference: codec_metrics.Reference, codes: np.ndarray, depths: Sequence[int]
) -> Iterator[tuple[int, np.ndarray, Figures]]:
  """Yields (depth, audio, figures) of codes [frames, levels] decoded with their first levels."""
  for depth in depths:
    estimate = np.asarray(codec.decode(codes[:, :depth]), np.float32)[: len(reference.audio)]
    yield depth, estimate, reference.compare(estimate)


def round_trip(
  reference: codec_metrics.Reference, name: str, kbps: float
) -> tuple[np.ndarray, Figures]:
  """Audio and figures, with 'file_kbps', of one of the other codecs.

  Raises:
    Unavailable: it is not to be had at that rate.
  """
  estimate, rate = OTHER_CODECS[name].round_trip(reference.audio, reference.sample_rate, kbps)
  return estimate, {**reference.compare(estimate), 'file_kbps': rate}


def _measure_other(reference: codec_metrics.Reference, name: str, kbps: float) -> Figures:
  return round_trip(reference, name, kbps)[1]


class OtherResults:
  """Figures of the other codecs over recordings; a rate that fails once is skipped.

  Attributes:
    figures: of each recording, by codec and kbit/s.
  """

  def __init__(self):
    self.figures: dict[tuple[str, float], list[Figures]] = {}
    self._reasons: dict[tuple[str, float], str] = {}

  def take(self, name: str, kbps: float, measure: Callable[[], Figures]):
    """Adds what `measure` gives for the next recording, or why it gives nothing."""
    key = (name, kbps)
    if key in self._reasons:
      return
    try:
      self.figures.setdefault(key, []).append(measure())
    except Unavailable as error:
      self._reasons[key] = str(error)
      del self.figures[key]

  def rows(self, seed: int) -> list[dict[str, Any]]:
    """A row for each codec and rate."""
    return [
      {
        'name': other_name(codec, kbps),
        'codec': codec,
        'kbps': kbps,
        'file_kbps': float(np.mean([result['file_kbps'] for result in results])),
        **_intervals(results, seed),
      }
      for (codec, kbps), results in sorted(self.figures.items(), key=_opus_first)
    ]

  def skipped(self) -> list[dict[str, str]]:
    """What was not measured, and why."""
    return [
      {'what': other_name(*key), 'why': reason}
      for key, reason in sorted(self._reasons.items(), key=_opus_first)
    ]


def other_name(codec: str, kbps: float) -> str:
  """'Opus at 6 kbit/s'."""
  return f'{codec} at {kbps:g} kbit/s'


def _opus_first(item: tuple[tuple[str, float], Any]) -> tuple[int, float]:
  (codec, kbps), _ = item
  return list(OTHER_CODECS).index(codec), kbps


def depth_rows(
  results: Mapping[int, Sequence[Figures]], spec: LiveMusicSpec, seed: int
) -> list[dict[str, Any]]:
  """A row for each depth, from the figures of its recordings."""
  return [
    {
      'name': f'{depth} levels',
      'levels': depth,
      'kbps': kbps_of(depth, spec),
      **_intervals(figures, seed),
    }
    for depth, figures in results.items()
  ]


def noise_row(results: Sequence[Figures], seed: int) -> dict[str, Any]:
  """The row of noise at the level of each recording."""
  return {'name': NOISE, 'kbps': None, **_intervals(results, seed)}


def describe_codebooks(counts: np.ndarray) -> dict[str, float]:
  """Use of the codebooks in a few figures, from code counts [levels, codebook_size]."""
  use = codec_metrics.codebook_use(counts)
  return {
    'num_frames': int(counts[0].sum()),
    'used_share': float(use['used_share'].mean()),
    'lowest_entropy': float(use['entropy_bits'].min()),
    'highest_entropy': float(use['entropy_bits'].max()),
    'most_bits': float(np.log2(counts.shape[1])),
  }


def misordered(
  rows: Sequence[dict[str, Any]], noise: dict[str, Any] | None = None
) -> dict[str, list[list[str]]]:
  """Measures that do not get better with depth, or put noise above a depth.

  Returns:
    {measure: [[name of what should be nearer, name of what should be farther], ...]}.
  """
  by_depth = sorted(rows, key=lambda row: -row['levels'])
  wrong = {}
  for name, measure in MEASURES.items():
    worst = [noise] if noise and measure.noise_is_worst else []
    values = {row['name']: row[name][0] for row in [*by_depth, *worst]}
    pairs = anchors.misordered(values, list(values), lower_is_better=measure.lower_is_better)
    if pairs:
      wrong[name] = [list(pair) for pair in pairs]
  return wrong


def draw(
  codecs: Mapping[str, Sequence[dict[str, Any]]], others: Sequence[dict[str, Any]]
) -> list[tuple[str, markupsafe.Markup]]:
  """(label, picture) of the measures over bit rate: a line a codec, the other codecs in grey."""
  drawn = []
  for name in _DRAWN:
    measure = MEASURES[name]
    lines = {codec: [(row['kbps'], *row[name]) for row in rows] for codec, rows in codecs.items()}
    grey: dict[str, list[tuple[float, ...]]] = {}
    for row in others:
      if row['kbps'] is not None:
        grey.setdefault(row['codec'], []).append((row['kbps'], *row[name]))
    direction = 'lower' if measure.lower_is_better else 'higher'
    svg = plots.rate_curves(lines, grey, measure.unit, f'codec_{name}')
    drawn.append((f'{measure.label}, {direction} is nearer', markupsafe.Markup(svg)))
  return drawn


def _intervals(results: Sequence[Figures], seed: int) -> dict[str, list[float]]:
  """measure -> [mean, low, high] over tracks."""
  return {
    name: mean_interval([result[name] for result in results], seed) for name in (*MEASURES, *SHIFTS)
  }


def mean_interval(values: Sequence[float], seed: int) -> list[float]:
  """[mean, low, high] over tracks."""
  return [float(part) for part in bootstrap.mean_interval(np.array(values), seed=seed)]
