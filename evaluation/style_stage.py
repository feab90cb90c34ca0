"""What a style model's embeddings are good for: retrieval, tags, probes, tokens.

Functions take embeddings and labels and give plain JSON sections for `style_report`. Every figure
comes with a 95 % interval over works and with what chance would give.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluation import linear_probes
from evaluation.retrieval import cosines, group_ranks

RECALLS = (1, 5, 10)
TONICS = ('C', 'Db', 'D', 'Eb', 'E', 'F', 'F#', 'G', 'Ab', 'A', 'Bb', 'B')
_SAME_TONIC = {'C#': 'Db', 'D#': 'Eb', 'Gb': 'F#', 'G#': 'Ab', 'A#': 'Bb', 'Cb': 'B', 'B#': 'C',
               'E#': 'F', 'Fb': 'E'}  # fmt: skip
LEAST_POSITIVES = 8  # Works that a tag needs to be probed or prompted for.


def retrieval_rows(
  audio: np.ndarray, text: np.ndarray, captions: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
  """Text to audio and audio to text among N works, one clip and one caption each.

  Args:
    audio: [N, D].
    text: [N, D], of `captions`.
    captions: clips whose captions read alike count as equally right.

  Returns:
    ([{'name', 'recall_at_1': Figure, ..., 'median_rank': Figure}], {'text_to_audio': ranks [N],
    ...}), ranks from 1.
  """
  groups = np.asarray(captions)
  rows, ranks = [], {}
  for name, similarities in (
    ('text_to_audio', cosines(text, audio)),
    ('audio_to_text', cosines(audio, text)),
  ):
    ranks[name] = group_ranks(similarities, groups, groups) + 1
    rows.append(_rank_row(name, ranks[name], len(audio)))
  return rows, ranks


def same_work_row(first: np.ndarray, second: np.ndarray) -> tuple[dict[str, Any], np.ndarray]:
  """A clip of each work [N, D] as query, another clip of each [N, D] as items: (row, ranks)."""
  places = np.arange(len(first))
  ranks = group_ranks(cosines(first, second), places, places) + 1
  return _rank_row('clip_to_same_work', ranks, len(first)), ranks


def _rank_row(name: str, ranks: np.ndarray, number: int) -> dict[str, Any]:
  works = np.arange(number)
  row: dict[str, Any] = {'name': name}
  for k in RECALLS:
    found = linear_probes.share(ranks <= k, min(k / number, 1.0), works)
    row[f'recall_at_{k}'] = found.to_json()
  row['median_rank'] = linear_probes.median(ranks, (number + 1) / 2, works).to_json()
  return row


def tag_table(tags: Sequence[Sequence[str]], least: int = LEAST_POSITIVES) -> dict[str, np.ndarray]:
  """{tag: bool [N]} of the tags that at least `least` works have, and as many have not."""
  counts = Counter(tag for own in tags for tag in set(own))
  return {
    tag: np.array([tag in own for own in tags])
    for tag, count in sorted(counts.items())
    if least <= count <= len(tags) - least
  }


def zero_shot_tags(
  audio: np.ndarray, prompts: Mapping[str, np.ndarray], table: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """Tags named by text alone: cosine of each clip [N, D] to the prompt [D] of each tag.

  Returns:
    {'macro_auroc': Figure, 'tags': [{'tag', 'auroc', 'num_works'}] best first}.
  """
  names = list(table)
  scores = cosines(audio, np.stack([prompts[name] for name in names]))
  labels = np.stack([table[name] for name in names], 1)
  figure = linear_probes.macro_auroc(scores, labels, np.arange(len(audio)))
  single = linear_probes.auroc(scores, labels)
  rows = [
    {'tag': name, 'auroc': float(value), 'num_works': int(table[name].sum())}
    for name, value in zip(names, single, strict=True)
  ]
  rows.sort(key=lambda row: -row['auroc'])
  return {'macro_auroc': figure.to_json(), 'tags': rows}


def zero_shot_genre(
  audio: np.ndarray, prompts: Mapping[str, np.ndarray], genres: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
  """The genre whose prompt lies nearest: (accuracy as a Figure, the guess for each clip)."""
  names = sorted(set(genres))
  nearest = cosines(audio, np.stack([prompts[name] for name in names])).argmax(1)
  guesses = [names[i] for i in nearest]
  found = linear_probes.accuracy(guesses, list(genres), np.arange(len(audio)))
  return found.to_json(), guesses


def tonic_of(key: str) -> str | None:
  """'F# minor' -> 'F#'; flats and sharps of one pitch are one; None where nothing is known."""
  name = key.split()[0] if key.strip() else ''
  name = _SAME_TONIC.get(name, name)
  return name if name in TONICS else None


def probe_rows(
  features: Mapping[str, np.ndarray], labels: Mapping[str, Any], works: Sequence[str]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
  """Linear probes of each feature set for each fact that is known.

  Args:
    features: name -> [N, D]; a clip a row.
    labels: any of 'genre' [N] str, 'instruments' {tag: bool [N]}, 'key' [N] tonics, 'tempo' [N]
      beats per minute; a fact that is missing, or None or '' for a row, is unknown.
    works: [N] the work of each clip; intervals and folds are over works.

  Returns:
    ([{'features', 'fact', 'measure', 'figure': Figure, 'num_works', 'num_classes'}],
    [{'what', 'why'}] of facts that cannot be probed).
  """
  works = np.asarray(works)
  rows, skipped = [], []
  for fact in ('instruments', 'genre', 'tempo', 'key'):
    known, targets, classes, why = _targets(fact, labels.get(fact), works)
    if why:
      skipped.append({'what': f'Probe of {fact}', 'why': why})
      continue
    own = works[known]
    for name, x in features.items():
      scores = linear_probes.held_out_scores(x[known], targets, own)
      measure, figure = _probe_figure(fact, scores, targets, own)
      rows.append({
        'features': name, 'fact': fact, 'measure': measure, 'figure': figure.to_json(),
        'num_works': len(set(own.tolist())), 'num_classes': classes,
      })  # fmt: skip
  return rows, skipped


def _targets(
  fact: str, values: Any, works: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int, str]:
  """(rows that are known, targets [rows, T], number of classes, why not)."""
  nothing = np.zeros(0, int), np.zeros([0, 0]), 0
  if fact == 'instruments':
    if not values:
      return *nothing, f'no tag is shared by at least {LEAST_POSITIVES} works'
    return np.arange(len(works)), np.stack(list(values.values()), 1).astype(float), len(values), ''
  known = np.array([i for i, v in enumerate(values or ()) if v], int)
  if len(set(works[known].tolist())) < 20:
    return *nothing, 'fewer than 20 works have it'
  if fact == 'tempo':
    return known, np.log2(np.array([values[i] for i in known], float))[:, None], 0, ''
  names = [name for name, n in Counter(values[i] for i in known).items() if n >= 2]
  known = np.array([i for i in known if values[i] in names], int)
  if len(names) < 2:
    return *nothing, 'all works have the same'
  return known, np.array([[values[i] == n for n in names] for i in known], float), len(names), ''


def _probe_figure(
  fact: str, scores: np.ndarray, targets: np.ndarray, works: np.ndarray
) -> tuple[str, linear_probes.Figure]:
  if fact == 'instruments':
    return 'macro AUROC', linear_probes.macro_auroc(scores, targets > 0.5, works)
  if fact == 'tempo':
    return 'R² of log tempo', linear_probes.explained_variance(scores[:, 0], targets[:, 0], works)
  return 'accuracy', linear_probes.accuracy(scores.argmax(1), targets.argmax(1), works)


def token_rows(
  codebooks: np.ndarray, audio: np.ndarray, text: np.ndarray, audio_tokens: np.ndarray,
  text_tokens: np.ndarray,
) -> list[dict[str, Any]]:  # fmt: skip
  """By RVQ depth k = 1..K: what k codes leave of an embedding, and whether text asks for them.

  Returns:
    [{'levels': k, 'audio_error', 'text_error': squared error over the spread of the embeddings,
    'agreement': Figure of clips whose code of level k is their caption's (chance: that of another
    clip's caption), 'codes_used': distinct codes of the clips on level k}].
  """
  rows = []
  works = np.arange(len(audio))
  left = {'audio': audio.astype(np.float64), 'text': text.astype(np.float64)}
  spread = {name: np.square(x - x.mean(0)).sum() for name, x in left.items()}
  tokens = {'audio': audio_tokens, 'text': text_tokens}
  for level in range(len(codebooks)):
    row: dict[str, Any] = {'levels': level + 1}
    for name in left:
      left[name] = left[name] - codebooks[level][tokens[name][:, level]]
      row[f'{name}_error'] = float(np.square(left[name]).sum() / max(spread[name], 1e-12))
    same = audio_tokens[:, level, None] == text_tokens[None, :, level]
    number = len(audio)
    chance = float((same.sum() - np.trace(same)) / max(number * (number - 1), 1))
    row['agreement'] = linear_probes.share(np.diagonal(same), chance, works).to_json()
    row['codes_used'] = len(set(audio_tokens[:, level].tolist()))
    rows.append(row)
  return rows
