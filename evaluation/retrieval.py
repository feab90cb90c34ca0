"""Retrieval between texts and clips: how often the right one is among the nearest."""

import numpy as np


def cosines(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
  """Cosine similarity of every row of [N, D] to every row of [M, D] -> [N, M] float64."""
  queries, items = (np.asarray(x, np.float64) for x in (queries, items))
  queries = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
  items = items / np.maximum(np.linalg.norm(items, axis=1, keepdims=True), 1e-12)
  return queries @ items.T


def ranks(similarities: np.ndarray) -> np.ndarray:
  """Rank of each query's own item (the diagonal of [N, N]), 0 = first; ties count against it."""
  own = np.diagonal(similarities)[:, None]
  return (similarities >= own).sum(1) - 1


def group_ranks(
  similarities: np.ndarray, query_groups: np.ndarray, item_groups: np.ndarray
) -> np.ndarray:
  """Rank of each query's best item of its own group, 0 = first; ties count against it.

  Args:
    similarities: [N, M].
    query_groups: [N], each of which occurs among `item_groups`.
    item_groups: [M]; such as the captions of clips, where several read alike.
  """
  own = np.asarray(query_groups)[:, None] == np.asarray(item_groups)[None]
  best = np.where(own, similarities, -np.inf).max(1, keepdims=True)
  return ((similarities >= best) & ~own).sum(1)


def recall_at(similarities: np.ndarray, k: int) -> float:
  """Share of queries whose own item is among the k most similar; chance is k / N."""
  return float((ranks(similarities) < k).mean())


def retrieval_scores(audio: np.ndarray, text: np.ndarray) -> dict[str, float]:
  """Recall@1/5/10 and median rank (1 = first) both ways, for [N, D] embeddings of N pairs."""
  scores = {}
  for name, similarities in (
    ('text_to_audio', cosines(text, audio)),
    ('audio_to_text', cosines(audio, text)),
  ):
    for k in (1, 5, 10):
      scores[f'{name}_recall_at_{k}'] = recall_at(similarities, k)
    scores[f'{name}_median_rank'] = float(np.median(ranks(similarities))) + 1
  return scores


def token_agreement(first: np.ndarray, second: np.ndarray, levels: int) -> np.ndarray:
  """Share of rows of two token arrays [N, >= levels] that agree, by level -> [levels]."""
  first, second = np.asarray(first), np.asarray(second)
  return (first[:, :levels] == second[:, :levels]).mean(0)
