"""The course of a training run, read from its metrics.jsonl."""

import pathlib

from training.metrics import read_metrics

LOSS = 'cross_ent_loss_per_nonpadding_target_token'
MAX_POINTS = 400


def read_curves(model_dir: str | pathlib.Path) -> dict[str, list[list[float]]]:
  """Loss per token against step of every stream that has one; {} without metrics.

  Returns:
    Stream ('train', 'training_eval/held_out') -> [[step, nats per token]], thinned to at most 400
    points, the last one kept.
  """
  curves: dict[str, list[list[float]]] = {}
  for line in read_metrics(model_dir):
    if LOSS in line:
      curves.setdefault(line['stream'], []).append([line['step'], line[LOSS]])
  return {stream: _thin(points) for stream, points in curves.items()}


def _thin(points: list[list[float]]) -> list[list[float]]:
  stride = -(-len(points) // MAX_POINTS)
  return points[::-1][::stride][::-1]
