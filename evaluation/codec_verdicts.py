"""What a codec report's figures say: comparisons track by track, order by depth, sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation import codec_stage
from evaluation.codec_metrics import MEASURES
from evaluation.codec_report import CodecReport
from evaluation.codec_stage import Figures

_RANKED_BY = 'mel_distance_db'
_FEW_UNUSED = 0.01
_MANY_UNUSED = 0.1
# What is said in the summary: size, unit, words for more and less.
_CLEAR_SHIFTS = {
  'loudness_shift_lu': (1.0, 'LU', 'louder', 'softer'),
  'width_shift_db': (3.0, 'dB', 'wider', 'narrower'),
}


def compare(
  own: Sequence[Figures], theirs: Sequence[Figures], seed: int
) -> dict[str, list[float] | int]:
  """Differences own - theirs on the same tracks.

  Returns:
    {measure: [mean, low, high]} with the interval over tracks, and 'num_nearer': on how many
    tracks the mel distance is smaller. What lies on each track is taken away by the pairing, so
    that these intervals are narrower than those of the two means.
  """
  differences = {
    name: np.array([one[name] - other[name] for one, other in zip(own, theirs, strict=True)])
    for name in MEASURES
  }
  return {
    **{name: codec_stage.mean_interval(values, seed) for name, values in differences.items()},
    'num_nearer': int(np.sum(differences[_RANKED_BY] < 0)),
  }


def misordered(
  rows: Sequence[dict[str, Any]], figures: Mapping[int, Sequence[Figures]], seed: int
) -> list[dict[str, Any]]:
  """Neighbouring depths of which the deeper one is not nearer to the original.

  Returns:
    [{'measure', 'deeper', 'shallower' (levels), 'difference': [mean, low, high] of deeper minus
    shallower over the tracks, 'certain': the interval leaves out 0}].
  """
  levels = {row['name']: row['levels'] for row in rows}
  wrong = []
  for measure, pairs in codec_stage.misordered(rows).items():
    for better, worse in pairs:
      deeper, shallower = levels[better], levels[worse]
      difference = compare(figures[deeper], figures[shallower], seed)[measure]
      wrong.append(
        {
          'measure': measure,
          'deeper': deeper,
          'shallower': shallower,
          'difference': difference,
          'certain': not difference[1] <= 0 <= difference[2],
        }
      )
  return wrong


def summary(report: CodecReport) -> list[dict[str, str]]:
  """Lines of {'text', 'status'}: each codec by depth, against others, in order, codes, shifts."""
  lines = []
  for codec in report.codecs:
    lines.append(_depth_line(codec))
  lines += [
    _comparison_line(row, report.num_tracks)
    for row in report.comparisons
    if not row['against'].startswith('MP3')  # The table has it; Opus is the one to beat.
  ]
  for codec in report.codecs:
    lines += [_order_line(codec['name'], entry) for entry in codec['misordered']]
    lines.append(_codebook_line(codec))
    lines += _shift_lines(codec)
  return lines


def limits(report: CodecReport) -> list[str]:
  """What a reader should keep in mind."""
  lines = [
    f'{report.num_tracks} excerpts, one a track. Intervals are over tracks; few tracks make them '
    'too narrow, and with one there are none.',
    'No listener was asked: distances of spectra order codecs roughly as ears do, not surely. '
    'Listen to the worst track before believing a mean.',
    'What is played here was stored as MP3 at about 190 kbit/s, the original too.',
    'Opus and MP3 are at constant rates. A short file pays for its container: the rate compared is '
    'that of the audio, the file has the other one.',
  ]
  for codec in report.codecs:
    use = codec['use']
    share = 3 / use['num_frames'] * 2 ** use['most_bits']
    lines.append(
      f'{codec["name"]}: {use["num_frames"]:,} frames were counted. A code that is chosen once in '
      f'{use["num_frames"] // 3:,} frames or more often ({share:.2g} of an even share) would have '
      'been seen with 95 % certainty; whether one that was not seen is dead or rarer than that '
      'cannot be told. Were all codes equally likely, '
      f'{_percent(use["chance_share"])} would be missed by chance.'
    )
  return lines


def _depth_line(codec: dict[str, Any]) -> dict[str, str]:
  rows = codec['depths']
  mel = ', '.join(f'{row[_RANKED_BY][0]:.2f} at {row["levels"]}' for row in rows)
  first, last = (f'{row["si_sdr_db"][0]:.1f}' for row in (rows[0], rows[-1]))
  wrong = {entry['measure'] for entry in codec['misordered']}
  return _line(
    f'{codec["name"]}: mel distance in dB by levels: {mel}; SI-SDR {first} to {last} dB.',
    'bad' if wrong & {_RANKED_BY, 'si_sdr_db'} else 'good',
  )


def _comparison_line(row: dict[str, Any], num_tracks: int) -> dict[str, str]:
  mean, low, high = row[_RANKED_BY]
  own, other = f'{row["codec"]} at {row["levels"]} levels', row['against']
  certain = not low <= 0 <= high
  place = 'nearer' if mean < 0 else 'farther'
  place = place if certain else 'neither clearly nearer nor farther'
  text = (
    f'{own} is {place} than {other}: mel distance '
    f'{mean:+.2f} dB ({low:+.2f} to {high:+.2f}), nearer on {row["num_nearer"]} of {num_tracks} '
    'tracks.'
  )
  return _line(text, 'info' if not certain else 'good' if mean < 0 else 'bad')


def _order_line(name: str, entry: dict[str, Any]) -> dict[str, str]:
  measure = MEASURES[entry['measure']]
  mean, low, high = entry['difference']
  doubt = 'beyond chance' if entry['certain'] else 'which may be chance'
  return _line(
    f'Not in order with depth: {measure.label} of {name} is no better at {entry["deeper"]} levels '
    f'than at {entry["shallower"]}: {mean:+.3f} {measure.unit} ({low:+.3f} to {high:+.3f}), '
    f'{doubt}.',
    'bad' if entry['certain'] else 'info',
  )


def _codebook_line(codec: dict[str, Any]) -> dict[str, str]:
  use = codec['use']
  unused = np.array(use['unused_share'])
  worst = int(unused.argmax())
  text = (
    f'{codec["name"]}: {_percent(unused.mean())} of the codes are never chosen in '
    f'{use["num_frames"]:,} frames (worst level {worst}: {_percent(unused[worst])}; by chance '
    f'{_percent(use["chance_share"])} at even use); entropy {min(use["entropy_bits"]):.2f} to '
    f'{max(use["entropy_bits"]):.2f} of {use["most_bits"]:.0f} bits.'
  )
  if unused.mean() - use['chance_share'] > _MANY_UNUSED:
    return _line(text, 'bad')
  return _line(text, 'good' if unused.mean() < _FEW_UNUSED else 'info')


def _shift_lines(codec: dict[str, Any]) -> list[dict[str, str]]:
  """Loudness and width that every depth changes in one direction, at the deepest."""
  row, lines = codec['depths'][-1], []
  for name, (limit, unit, more, less) in _CLEAR_SHIFTS.items():
    mean, low, high = row[name]
    if abs(mean) > limit and not low <= 0 <= high:
      lines.append(
        _line(
          f'{codec["name"]} at {row["levels"]} levels is {abs(mean):.1f} {unit} '
          f'{more if mean > 0 else less} than the original ({low:+.1f} to {high:+.1f}).',
          'bad',
        )
      )
  return lines


def _percent(share: float) -> str:
  return f'{100 * share:.1f} %' if share >= 5e-4 or not share else 'less than 0.1 %'


def _line(text: str, status: str) -> dict[str, str]:
  return {'text': text.replace(' -', ' −').replace('(-', '(−'), 'status': status}
