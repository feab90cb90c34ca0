"""notebooks/finetune.ipynb, run cell by cell on a very small catalog with the bundled models."""

import json
import pathlib

import matplotlib
import pytest

from evaluation.memorization import GateOptions
from models.bundle import load_bundle
from training import t5x_checkpoints

NOTEBOOK = pathlib.Path(__file__).parents[2] / 'notebooks' / 'finetune.ipynb'


def _code_cells():
  cells = json.loads(NOTEBOOK.read_text(encoding='utf-8'))['cells']
  return [(''.join(cell['source']), cell['metadata'].get('tags', []))
          for cell in cells if cell['cell_type'] == 'code']  # fmt: skip


def test_every_cell_is_python_and_the_first_holds_the_parameters():
  cells = _code_cells()
  for source, _ in cells:
    compile(source, str(NOTEBOOK), 'exec')
  assert [tags for _, tags in cells] == [['parameters'], *[[] for _ in cells[1:]]]


@pytest.mark.slow
def test_the_notebook_runs_to_its_end(tmp_path, monkeypatch):
  matplotlib.use('Agg')
  small = {
    'WORK': tmp_path, 'CATALOG': tmp_path / 'catalog', 'NUM_WORKS': 4, 'SECS_PER_WORK': 14.0,
    'STEPS': 6, 'GATE': GateOptions(num_contexts=2, context_secs=(2,), modes=('greedy',)),
  }  # fmt: skip
  names: dict = {}
  for source, tags in _code_cells():
    exec(compile(source, str(NOTEBOOK), 'exec'), names)  # noqa: S102
    if 'parameters' in tags:
      names |= small
  result = names['result']
  assert result.best_step == 6 and result.best_loss < result.base_loss
  folder = tmp_path / 'tuned'
  card = load_bundle(folder / 'bundle').card
  assert card['memorization']['measured'] and not card['memorization']['memorized']
  assert card['catalog']['licences'] == {'CC0-1.0': 4}
  assert len(list((folder / 'demos').glob('*.wav'))) >= 4
  report = json.loads((folder / 'report' / 'report.json').read_text(encoding='utf-8'))
  assert report['kept_step'] == 6 and report['style']['num_clips'] >= 4
  assert (folder / 'report' / 'report.html').stat().st_size > 100_000
  exported = t5x_checkpoints.read(folder / 't5x')
  assert exported.step == 6
