"""A run's last held-out metrics go into the card of its bundle."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from models import weights
from models.bundle import load_bundle, save_bundle
from pipelines import embed_style, export
from pipelines.finetune import finetune


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


@pytest.mark.parametrize('write', [
  lambda to: export.export('none', to), lambda to: export.export_run('none', to),
  lambda to: export.export_t5x('none', to), lambda to: embed_style.embed_catalog('none', '.', to),
  lambda to: finetune('.', to, base='none'),
])  # fmt: skip
def test_a_folder_that_cannot_be_written_ends_it_before_anything_is_loaded(tmp_path, write):
  (tmp_path / 'file').write_text('')
  for name, reason in (('file', 'file is a file; name a folder'), ('file/a', 'file is a file'),
                       ('x' * 256, 'choose a shorter name')):  # fmt: skip
    with pytest.raises(ValueError, match=reason):
      write(str(tmp_path / name))
  assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_a_bundle_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
  bundle = dataclasses.replace(load_bundle('tiny'), presets={'mean': np.ones(768, np.float32)})
  save_bundle(tmp_path / 'b', bundle)
  before = {path.name: path.read_bytes() for path in (tmp_path / 'b').iterdir()}

  def fails(path, *_, **__):
    pathlib.Path(path).parent.mkdir(exist_ok=True)
    pathlib.Path(path).write_text('half')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(weights, 'save', fails)
  with pytest.raises(OSError, match='No space left'):
    save_bundle(tmp_path / 'b', dataclasses.replace(bundle, presets={}))
  assert {path.name: path.read_bytes() for path in (tmp_path / 'b').iterdir()} == before
