"""Learning curves as they lie in metrics.jsonl."""

import json

from evaluation.learning_curves import LOSS, MAX_POINTS, read_curves


def write(folder, lines):
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'metrics.jsonl').write_text(text + '{"step": 9, "stre')


def test_streams_apart_and_other_lines_left_out(tmp_path):
  write(tmp_path, [
    {'step': 1, 'stream': 'train', LOSS: 6.5, 'accuracy': 0.1},
    {'step': 1, 'stream': 'training_eval/x', LOSS: 6.8},
    {'step': 2, 'stream': 'train', 'timing': 3.0},
    {'step': 3, 'stream': 'train', LOSS: 6.0},
  ])  # fmt: skip
  assert read_curves(tmp_path) == {'train': [[1, 6.5], [3, 6.0]], 'training_eval/x': [[1, 6.8]]}


def test_long_runs_are_thinned_and_keep_their_end(tmp_path):
  write(tmp_path, [{'step': i, 'stream': 'train', LOSS: 1.0} for i in range(1, 2502)])
  steps = [step for step, _ in read_curves(tmp_path)['train']]
  assert len(steps) <= MAX_POINTS
  assert steps[-1] == 2501
  assert set(b - a for a, b in zip(steps, steps[1:])) == {7}


def test_no_metrics_no_curves(tmp_path):
  assert read_curves(tmp_path) == {}
