"""What the figures say, in five lines; and what they cannot say."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from evaluation import anchors
from evaluation.report import Report
from evaluation.token_stage import UNIGRAM

# Generated audio counts as sound if it is nearer to the corpus than this.
_MAX_LEVEL_GAP_DB = 12.0
_MAX_CLIPPED = 1e-3
_MAX_SILENCE_GAP = 0.3
_MAX_SEAM_JUMP = 1.2
# A cosine further above that to other prompts than this counts as following the prompt.
_CLEAR_MARGIN = 0.02
# Distances that the summary speaks of, the first that orders its anchors.
_DISTANCES = ('kad_musicnn', 'kad_musiccoca', 'kad_logmel', 'kad_chroma', 'fd_logmel')
# More programs than this wanted each core: times are those of the crowd.
_BUSY = 1.5
_RANK = {'bad': 2, 'info': 1, 'good': 0}


def summary(report: Report) -> list[dict[str, str]]:
  """Five lines at most of {'text', 'status'}: learned, sound, near, obedient and its own, live."""
  lines = [
    _joined('Learned', _token_parts(report.token_losses)),
    _joined('Sound', _health_parts(report.families)),
    _joined('Near to music', _distance_parts(report.distances)),
    _joined('Prompts and memory', [*_adherence_parts(report.adherence),
                                   *_memory_parts(report.memorization)]),
    _joined('Live', _live_parts(report.live)),
  ]  # fmt: skip
  return [line for line in lines if line is not None]


def limits(report: Report) -> list[str]:
  """What a reader should keep in mind."""
  lines = []
  if report.token_losses:
    row = report.token_losses['rows'][0]
    lines.append(
      f'Token losses rest on {row["num_examples"]} excerpts of {row["num_tracks"]} held-out '
      'tracks; intervals are over tracks, and few tracks make them too narrow.'
    )
  lines.append(
    'Generated clips are draws: other seeds give others. Nothing here replaces listening.'
  )
  if report.distances:
    lines.append(
      'Distances are those of the embedding they name, on few clips; they are no published FAD. '
      'The style space and the codec latents are what the language model was trained on.'
    )
  if report.codec and report.codec['misordered']:
    for measure, pairs in report.codec['misordered'].items():
      named = '; '.join(f'{better} is not better than {worse}' for better, worse in pairs)
      lines.append(f'The measure {measure} does not order its anchors: {named}. Read it with care.')
  for name, section in (('prompts', report.adherence), ('continuations', report.continuity)):
    if section and section['ordered'] is False:
      lines.append(f'The table of {name} does not order its anchors: do not judge by it here.')
  return lines


Part = tuple[str, str]


def _joined(name: str, parts: Sequence[Part]) -> dict[str, str] | None:
  """One line of parts, with the worst status of them."""
  if not parts:
    return None
  status = max((status for _, status in parts), key=_RANK.__getitem__)
  text = '; '.join(text for text, _ in parts)
  return {'text': f'{name}: {_minus(text)}.', 'status': status}


def _minus(text: str) -> str:
  return re.sub(r'(?<=[\s(])-(?=\d)', '−', text)


def _token_parts(losses: dict[str, Any] | None) -> list[Part]:
  if losses is None:
    return []
  anchor = next(row for row in losses['rows'] if row['name'] == UNIGRAM)
  said = f'coarse loss in nats, of the unigram {anchor["coarse"][0]:.3f}'
  parts = [(said, 'good')]
  for row in losses['rows']:
    if row is anchor:
      continue
    below = int(np.sum(np.array(row['loss']) < np.array(anchor['loss'])))
    levels = len(row['loss'])
    good = row['coarse'][0] < anchor['coarse'][0] and below >= losses['context_levels']
    parts.append((
      f'{row["name"]} {row["coarse"][0]:.3f}, below the unigram on {below} of {levels} levels',
      'good' if good else 'bad',
    ))  # fmt: skip
  return parts


def _health_parts(families: Sequence[dict[str, Any]]) -> list[Part]:
  table = next((table for table in families if table['key'] == 'health'), None)
  if table is None:
    return []
  figures = {
    column['name']: {row['key']: row['values'][column['name']][0] for row in table['rows']}
    for column in table['columns']
  }
  corpus = figures.get(anchors.CORPUS) or figures.get(anchors.REFERENCE)
  noise = figures.get(anchors.WHITE_NOISE)
  if corpus is None or noise is None:
    return []
  # Music without treble has nearly no flatness; no model can have less than the codec gives it.
  decoded = [own['spectral_flatness'] for name, own in figures.items()
             if name.startswith(anchors.DECODED)]  # fmt: skip
  reachable = corpus | {'spectral_flatness': max(corpus['spectral_flatness'], *decoded, 0.0)}
  parts = []
  for column in table['columns']:
    if column['kind'] == 'model':
      name, own = column['name'], figures[column['name']]
      faults = signal_faults(own, reachable, noise)
      text = ', '.join(faults) if faults else (
        f'a sound signal, flatness {own["spectral_flatness"]:.3f} (music '
        f'{corpus["spectral_flatness"]:.3f}), no clipping, no clicks at seams'
      )  # fmt: skip
      parts.append((f'{name}: {text}', 'bad' if faults else 'good'))
  return parts


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


def _distance_parts(tables: Sequence[dict[str, Any]]) -> list[Part]:
  rows = {row['key']: (row, table) for table in tables for row in table['rows']}
  chosen = next(
    (rows[key] for key in _DISTANCES if key in rows and rows[key][0]['ordered']), None
  )
  if chosen is None:
    return [('no distance orders its anchors here', 'info')] if rows else []
  row, table = chosen
  values, kinds = row['values'], {column['name']: column['kind'] for column in table['columns']}
  floor, noise = values[anchors.CORPUS][0], values[anchors.WHITE_NOISE][0]
  parts = []
  for name, (value, low, _) in values.items():
    if kinds[name] == 'model':
      status = 'bad' if value > (floor + noise) / 2 else 'good' if low <= floor else 'info'
      parts.append((f'{name} {value:.1f}', status))
  label = f'{row["label"]} over {table["embedding"]} from music A'
  return [(f'{label}: held-out music {floor:.1f}, white noise {noise:.1f}', 'good'), *parts]


def _adherence_parts(table: dict[str, Any] | None) -> list[Part]:
  if table is None or table['num_prompts'] < 2:
    return []
  if table['ordered'] is False:
    return [('no figure of prompts orders its anchors here', 'info')]
  told = '' if table['space'] == 'musiccoca' else f' over {table["space"]}'
  return [
    (
      f'{row["name"]} is {abs(row["margin"]):.3f} {"nearer to" if row["margin"] > 0 else "off"} '
      f'its own prompt{told}',
      'good' if row['margin'] > _CLEAR_MARGIN else 'bad' if row['margin'] < 0 else 'info',
    )
    for row in table['rows']
    if row['kind'] == 'model'
  ]


def _memory_parts(section: dict[str, Any] | None) -> list[Part]:
  if section is None:
    return []
  return [
    (
      f'{row["name"]} copies {100 * row["training_rate"]:.0f} % (held-out '
      f'{100 * row["held_out_rate"]:.0f} %)',
      'bad' if row['memorized'] else 'good',
    )
    for row in section['rows']
    if row['kind'] == 'model'
  ]


def _live_parts(rows: Sequence[dict[str, Any]]) -> list[Part]:
  parts = []
  for row in rows:
    late = row['chunk_p95_secs'] >= row['chunk_audio_secs']
    busy = (row.get('load_per_core') or 0) > _BUSY
    text = (
      f'{row["name"]} {row["real_time_factor"]:.1f} times real time, first audio '
      f'{row["first_audio_secs"]:.2f} s, 95 % of chunks of {row["chunk_audio_secs"]:g} s within '
      f'{row["chunk_p95_secs"]:.2f} s'
    )
    if busy:
      text += f' on a machine busy with other work (load {row["load_per_core"]:.1f} per core)'
    parts.append((text, 'good' if not late else 'info' if busy else 'bad'))
  return parts
