"""Codec reconstruction by depth, beside other codecs at equal bit rate and noise."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evaluation import anchors, bootstrap, codec_metrics
from models.spec import LiveMusicSpec

MEASURES = ('mel_distance_db', 'stft_distance', 'si_sdr_db')
NOISE = 'noise at the same level'
_OTHERS: dict[str, Callable] = {
  'Opus': codec_metrics.opus_round_trip,
  'MP3': codec_metrics.mp3_round_trip,
}


def kbps_of(levels: int, spec: LiveMusicSpec) -> float:
  """Bit rate of that many RVQ levels in kbit/s."""
  return levels * np.log2(spec.codebook_size) * spec.frame_rate / 1000


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
  results: dict[int, list[dict[str, float]]] = {depth: [] for depth in depths}
  decoded: dict[int, list[np.ndarray]] = {depth: [] for depth in depths}
  for audio in recordings:
    codes = np.asarray(codec.encode(audio))
    for depth in depths:
      estimate = np.asarray(codec.decode(codes[:, :depth]), np.float32)[: len(audio)]
      decoded[depth].append(estimate)
      results[depth].append(codec_metrics.reconstruction_metrics(audio, estimate, spec.sample_rate))
      on_step(1)
  rows = [
    {
      'name': f'{depth} levels',
      'levels': depth,
      'kbps': kbps_of(depth, spec),
      **_interval(results[depth], seed),
    }
    for depth in depths
  ]
  others, skipped = _other_codecs(recordings, depths, spec, seed)
  noise = [
    codec_metrics.reconstruction_metrics(audio, anchors.noise_like(audio, seed), spec.sample_rate)
    for audio in recordings
  ]
  others.append({'name': NOISE, 'kbps': None, **_interval(noise, seed)})
  return (
    {
      'depths': rows,
      'others': others,
      'misordered': _misordered(rows, others[-1]),
      'codebooks': None,
      'num_tracks': len(recordings),
    },
    decoded,
    skipped,
  )


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


def _other_codecs(
  recordings: Sequence[np.ndarray], depths: Sequence[int], spec: LiveMusicSpec, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
  rows, skipped = [], []
  for name, round_trip in _OTHERS.items():
    for depth in depths:
      kbps = kbps_of(depth, spec)
      try:
        results, rates = [], []
        for audio in recordings:
          estimate, rate = round_trip(audio, spec.sample_rate, kbps)
          results.append(codec_metrics.reconstruction_metrics(audio, estimate, spec.sample_rate))
          rates.append(rate)
      except codec_metrics.Unavailable as error:
        skipped.append({'what': f'{name} at {kbps:g} kbit/s', 'why': str(error)})
        continue
      row = {'name': f'{name} at {kbps:g} kbit/s', 'kbps': float(np.mean(rates))}
      rows.append(row | _interval(results, seed))
  return rows, skipped


def _interval(results: Sequence[dict[str, float]], seed: int) -> dict[str, list[float]]:
  """measure -> [mean, low, high] over tracks."""
  intervals = {}
  for measure in MEASURES:
    values = np.array([result[measure] for result in results])
    intervals[measure] = [float(part) for part in bootstrap.mean_interval(values, seed=seed)]
  return intervals


def _misordered(rows: Sequence[dict[str, Any]], noise: dict[str, Any]) -> dict[str, list]:
  """Measures that do not get better with depth, or put noise above a depth."""
  order = [*(row['name'] for row in sorted(rows, key=lambda row: -row['levels'])), noise['name']]
  wrong = {}
  for measure in MEASURES:
    values = {row['name']: row[measure][0] for row in [*rows, noise]}
    pairs = anchors.misordered(values, order, lower_is_better=measure != 'si_sdr_db')
    if pairs:
      wrong[measure] = [list(pair) for pair in pairs]
  return wrong
