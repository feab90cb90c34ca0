"""A run's last held-out metrics go into the card of its bundle."""

import json

from pipelines import export


def test_held_out_metrics_are_the_last_up_to_the_step(tmp_path):
  assert export.held_out_metrics(tmp_path, 200) == {}  # Nothing was logged.
  rows = [
    {'step': 100, 'stream': 'train', 'loss': 9.0},
    {'step': 100, 'stream': 'training_eval/held_out', 'loss': 7.0},
    {'step': 200, 'stream': 'training_eval/held_out', 'loss': 6.5},
  ]
  path = tmp_path / 'metrics.jsonl'
  path.write_text('\n'.join(map(json.dumps, rows)) + '\n')
  assert export.held_out_metrics(tmp_path, 200) == {'loss': 6.5}
  assert export.held_out_metrics(tmp_path, 150) == {'loss': 7.0}
  assert export.held_out_metrics(tmp_path, 50) == {}


def test_an_exported_bundle_speaks_the_same_tokens(tmp_path):
  folder = export.export('tiny', tmp_path / 'again', licence='Apache-2.0', data='a test')
  again, tiny = export.load_source(folder).bundle, export.load_source('tiny').bundle
  assert (again.codec_hash, again.style_hash) == (tiny.codec_hash, tiny.style_hash)
  assert (again.params['embedding'] == tiny.params['embedding']).all()
  assert again.card['licence'] == 'Apache-2.0'
