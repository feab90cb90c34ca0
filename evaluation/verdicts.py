"""What the figures say, in sentences; and what they cannot say."""

import re
from typing import Any

import numpy as np

from evaluation.codec_stage import NOISE
from evaluation.report import Report
from evaluation.token_stage import UNIGRAM

CORPUS = 'held-out corpus'
RANDOM_CODES = 'random codes'
WHITE_NOISE = 'white noise'
# Generated audio counts as sound if it is nearer to the corpus than this.
_MAX_LEVEL_GAP_DB = 12.0
_MAX_CLIPPED = 1e-3
_MAX_SILENCE_GAP = 0.3
_MAX_SEAM_JUMP = 1.2
# A cosine further above that to other prompts than this counts as following the prompt.
_CLEAR_MARGIN = 0.02


def summary(report: Report) -> list[dict[str, str]]:
  """Lines of {'text', 'status'}, the most important first."""
  return [
    *_token_lines(report.token_losses),
    *_codec_lines(report.codec),
    *_health_lines(report.health),
    *_adherence_lines(report.adherence),
    *[_line(f'{name}: {value}.', 'info') for name, value in report.speed[:1]],
  ]


def limits(report: Report) -> list[str]:
  """What a reader should keep in mind."""
  lines = []
  if report.token_losses:
    row = report.token_losses['rows'][0]
    lines.append(
      f'Token losses rest on {row["num_examples"]} excerpts of {row["num_tracks"]} held-out '
      'tracks; intervals are over tracks, and few tracks make them too narrow.'
    )
  lines.append('One sampling seed: generated audio shows one draw of many.')
  if report.adherence:
    lines.append(
      'Cosines to the prompt live in the space that the language model was trained on; they do not '
      'replace listening.'
    )
  lines.append(
    'Not in this report: distances of distributions (Frechet, KAD), rhythm and key, repetition and '
    'drift over minutes, memorization.'
  )
  if report.codec and report.codec['misordered']:
    for measure, pairs in report.codec['misordered'].items():
      named = '; '.join(f'{better} is not better than {worse}' for better, worse in pairs)
      lines.append(f'The measure {measure} does not order its anchors: {named}. Read it with care.')
  return lines


def _token_lines(losses: dict[str, Any] | None) -> list[dict[str, str]]:
  if losses is None:
    return []
  anchor = next(row for row in losses['rows'] if row['name'] == UNIGRAM)
  lines = []
  for row in losses['rows']:
    if row is anchor:
      continue
    below = int(np.sum(np.array(row['loss']) < np.array(anchor['loss'])))
    levels = len(row['loss'])
    gain = anchor['coarse'][0] - row['coarse'][0]
    lines.append(
      _line(
        f'{row["name"]} lies below the unigram anchor on {below} of {levels} levels; coarse loss '
        f'{row["coarse"][0]:.3f} against {anchor["coarse"][0]:.3f} nats '
        f'({"−" if gain >= 0 else "+"}{abs(gain):.3f}).',
        'good' if gain > 0 and below >= losses['context_levels'] else 'bad',
      )
    )
  return lines


def _codec_lines(codec: dict[str, Any] | None) -> list[dict[str, str]]:
  if codec is None:
    return []
  depths = codec['depths']
  sdr = f'{depths[-1]["si_sdr_db"][0]:.1f} dB at {depths[-1]["levels"]}'
  mel = ', '.join(f'{row["mel_distance_db"][0]:.2f} at {row["levels"]}' for row in depths)
  lines = [
    _line(
      f"The codec's mel distance in dB by levels: {mel}; SI-SDR {sdr}.",
      'bad' if 'mel_distance_db' in codec['misordered'] else 'good',
    )
  ]
  for other in codec['others']:
    if other['name'] == NOISE:
      continue
    row = next((row for row in depths if row['kbps'] == other['kbps']), depths[-1])
    own, theirs = row['mel_distance_db'][0], other['mel_distance_db'][0]
    lines.append(
      _line(
        f'At {row["levels"]} levels the codec is {"nearer" if own < theirs else "farther"} '
        f'than {other["name"]}: mel distance {own:.2f} against {theirs:.2f} dB.',
        'good' if own < theirs else 'bad',
      )
    )
  return lines


def _health_lines(health: dict[str, Any] | None) -> list[dict[str, str]]:
  if health is None:
    return []
  columns = {column['name']: column['figures'] for column in health['columns']}
  corpus = columns.get(CORPUS)
  if corpus is None:
    return []
  lines = []
  for name in health['models']:
    figures = columns[name]
    faults = signal_faults(figures, corpus, columns[WHITE_NOISE])
    text = f'Audio of {name}: {"; ".join(faults)}.'
    if not faults:
      text = (
        f'Audio of {name} is sound: {figures["rms_db"]:.1f} dBFS (corpus {corpus["rms_db"]:.1f}), '
        f'spectral flatness {figures["spectral_flatness"]:.3f} (corpus '
        f'{corpus["spectral_flatness"]:.3f}), no clipping, no clicks at seams.'
      )
    lines.append(_line(text, 'bad' if faults else 'good'))
  return lines


def signal_faults(
  figures: dict[str, float], corpus: dict[str, float], noise: dict[str, float]
) -> list[str]:
  """What is wrong with a signal beside the corpus and white noise; [] if nothing is."""
  faults = []
  if abs(figures['rms_db'] - corpus['rms_db']) > _MAX_LEVEL_GAP_DB:
    faults.append(f'level {figures["rms_db"]:.1f} dBFS, the corpus has {corpus["rms_db"]:.1f}')
  if figures['silence_share'] > corpus['silence_share'] + _MAX_SILENCE_GAP:
    faults.append(f'{100 * figures["silence_share"]:.0f} % silence')
  if figures['clipped_share'] > max(_MAX_CLIPPED, 2 * corpus['clipped_share']):
    faults.append(f'{100 * figures["clipped_share"]:.2f} % of samples clipped')
  # Half-way, in the logarithm, between the corpus and noise.
  border = np.sqrt(corpus['spectral_flatness'] * noise['spectral_flatness'])
  if not figures['spectral_flatness'] < border:
    faults.append(f'spectral flatness {figures["spectral_flatness"]:.3f} is nearer to noise')
  if figures['seam_jump'] > _MAX_SEAM_JUMP:
    faults.append(f'steps at chunk seams {figures["seam_jump"]:.1f} times those around them')
  return faults


def _adherence_lines(table: dict[str, Any] | None) -> list[dict[str, str]]:
  if table is None or table['num_prompts'] < 2:
    return []
  return [
    _line(
      f'Prompts: the cosine of {row["name"]} to its own prompt lies {abs(row["margin"]):.3f} '
      f'{"above" if row["margin"] > 0 else "below"} that to others '
      f"(the style model's own space, {table['num_prompts']} prompts).",
      'good' if row['margin'] > _CLEAR_MARGIN else 'bad' if row['margin'] < 0 else 'info',
    )
    for row in table['rows']
    if row['kind'] == 'model'
  ]


def _line(text: str, status: str) -> dict[str, str]:
  return {'text': re.sub(r'(?<=[\s(])-(?=\d)', '−', text), 'status': status}
