"""Figures by tag: style, tempo band, vocals, tradition, with how many tracks stand behind each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation import bootstrap

# Upper borders in beats per minute.
TEMPO_BANDS = ((80.0, 'below 80 BPM'), (110.0, '80 to 110 BPM'), (140.0, '110 to 140 BPM'),
               (float('inf'), 'above 140 BPM'))  # fmt: skip
UNKNOWN = 'not known'


def tempo_band(bpm: float | None) -> str:
  """'80 to 110 BPM' of a tempo; 'not known' of NaN or None."""
  if bpm is None or not np.isfinite(bpm):
    return UNKNOWN
  return next(name for border, name in TEMPO_BANDS if bpm < border)


def track_slices(
  genre: str, vocal: str, tradition: str, bpm: float | None
) -> dict[str, str]:
  """Slices of a track by what kind they are."""
  return {
    'style': genre or UNKNOWN,
    'tempo': tempo_band(bpm),
    'vocals': vocal or UNKNOWN,
    'tradition': tradition or UNKNOWN,
  }


def by_slice(
  values: Mapping[str, Sequence[float]],
  tracks: Sequence[str],
  slices: Mapping[str, Mapping[str, str]],
  *,
  seed: int = 0,
) -> list[dict[str, Any]]:
  """Means by slice.

  Args:
    values: model -> value of each example.
    tracks: the track of each example.
    slices: track -> kind -> slice.
    seed: of the bootstrap.

  Returns:
    [{'kind', 'slice', 'num_examples', 'num_tracks', 'values': {model: [mean, low, high]}}], kinds
    in which every track is 'not known' or of one slice left out.
  """
  kinds = dict.fromkeys(kind for own in slices.values() for kind in own)
  tracks = list(tracks)
  rows = []
  for kind in kinds:
    of_each = [slices.get(track, {}).get(kind, UNKNOWN) for track in tracks]
    names = sorted(set(of_each), key=lambda name: (name == UNKNOWN, name))
    if len(names) < 2:
      continue
    for name in names:
      chosen = np.array([own == name for own in of_each])
      own_tracks = [track for track, here in zip(tracks, chosen) if here]
      rows.append({
        'kind': kind,
        'slice': name,
        'num_examples': int(chosen.sum()),
        'num_tracks': len(set(own_tracks)),
        'values': {
          model: [
            float(x)
            for x in bootstrap.mean_interval(np.asarray(row)[chosen], own_tracks, seed=seed)
          ]
          for model, row in values.items()
        },
      })  # fmt: skip
  return rows
