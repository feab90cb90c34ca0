"""The report of a fine-tuning: what its sentences say of the figures, and the page itself."""

import json

import numpy as np

from evaluation import tuning_report
from evaluation.page import Clip
from evaluation.tuning_report import TuningReport


def _style(cosine=(0.2, 0.5), sound=(2.0, 1.5), loudness=(-20.0, -16.0), wrong=()):
  """Outputs before and after, with intervals that leave out zero; held-out music is known."""
  found = {'style_cosine': (*cosine, 0.9), 'sound_distance': (*sound, 1.0),
           'loudness_lufs': (*loudness, -15.0)}  # fmt: skip
  figures = {
    name: {
      'before': before, 'after': after, 'low': after - before - 0.1, 'high': after - before + 0.1,
      'catalog': catalog, 'anchors': {'held-out catalog': catalog, 'white noise': -0.3},
      'wrong': list(wrong) if name == 'style_cosine' else [],
    }
    for name, (before, after, catalog) in found.items()
  }  # fmt: skip
  names = ('before', 'after', 'low', 'high', 'catalog')
  return {
    **{name: figures['style_cosine'][name] for name in names}, 'num_clips': 6, 'figures': figures
  }


def _report(**changes):
  rows = [
    {'name': str(i), 'kind': 'level', 'before': 6.0, 'after': 5.0, 'low': -1.1, 'high': -0.9}
    for i in range(4)
  ]
  rows.append({'name': 'mean of the 4 coarse levels', 'kind': 'coarse', 'before': 6.0,
               'after': 5.0, 'low': -1.1, 'high': -0.9})  # fmt: skip
  given = {
    'losses': rows,
    'kept_step': 50,
    'general': {'before': 5.0, 'after': 5.1},
    'style': _style(),
    'diversity': {'before': 0.5, 'after': 0.4, 'catalog': 0.3},
    'output': [
      {'step': step, 'silent_share': 0.0, 'clipped_share': 0.0, 'looping_share': 0.0,
       'rms_db': -20.0} for step in (0, 50)
    ],
    'curves': {'catalog': [[0, 6.0], [50, 5.0]], 'general': [[0, 5.0], [50, 5.1]]},
  }  # fmt: skip
  report = TuningReport('base, tuned', '2026-01-01', **(given | changes))
  report.summary = tuning_report.summary(report)
  return report


def _status(report, start):
  return next(line['status'] for line in report.summary if line['text'].startswith(start))


VERDICT = {
  'memorized': True, 'text': '50 % are copies.', 'groups': [], 'calibration': {
    'num_held_out': 3, 'held_out_runs': [1, 2, 9], 'num_base': 4, 'base_runs': [1, 2, 3]},
}  # fmt: skip


def test_good_figures_are_called_good():
  report = _report()
  assert [line['status'] for line in report.summary] == ['good'] * 5
  assert '6.000 → 5.000 nats (+16.7 % better); step 50' in report.summary[0]['text']


def test_what_went_wrong_is_said():
  silent = {'step': 50, 'silent_share': 0.5, 'clipped_share': 0.0, 'looping_share': 0.0,
            'rms_db': -90.0}  # fmt: skip
  report = _report(
    general={'before': 5.0, 'after': 5.3},
    memorization=VERDICT,
    output=[_report().output[0], silent],
    style=_style((0.5, 0.2), (1.5, 2.0), (-20.0, -24.0)),
  )
  assert report.summary[0]['text'] == 'This model plays its catalog back. 50 % are copies.'
  for start in ('This model', 'General', 'Output, cosine', 'Output, distance', 'Output is −9.0 LU',
                'Last output'):  # fmt: skip
    assert _status(report, start) == 'bad', start
  assert '50 % silent (before 0 %)' in report.summary[-1]['text']
  rows = _report().losses
  rows[2]['after'] = 6.2
  assert _status(_report(losses=rows), 'Levels 2 are more than 1 % worse') == 'bad'


def test_a_measure_with_wrong_anchors_is_not_believed():
  report = _report(style=_style(wrong=[['held-out catalog', 'white noise']]))
  text = next(x['text'] for x in report.summary if x['text'].startswith('Output, cosine'))
  assert text.endswith(
    'It cannot be believed here: "held-out catalog" is not before "white noise".'
  )
  assert _status(report, 'Output, cosine') == 'info'
  assert _status(report, 'Output, distance') == 'good'


def test_outputs_that_were_not_laid_beside_the_catalog_still_make_a_page(tmp_path):
  report = _report(style=None, diversity=None)
  page = tuning_report.write_report(report, tmp_path).read_text(encoding='utf-8')
  assert 'Output while it was tuned' in page and 'Distance of the sound' not in page


def test_the_page_holds_what_was_measured(tmp_path):
  wave = np.sin(np.arange(9600) / 9.0)[:, None].repeat(2, 1).astype(np.float32)
  clips = [Clip(f'demo{i}', 'preset:catalog', title, 'from the preset alone', wave, 48_000)
           for i, title in enumerate(('before tuning', 'after tuning'))]  # fmt: skip
  pair = Clip('pair0_played', '1. 9 tokens in a row', 'played', 'greedy', wave, 48_000)
  report = _report(memorization=VERDICT, demos=clips, pairs=[pair], limits=['Few tracks.'])
  page = tuning_report.write_report(report, tmp_path).read_text(encoding='utf-8')
  for text in ('This model plays its catalog back', 'preset:catalog', '9 tokens in a row',
               'Few tracks.', 'step 50 is kept', 'Distance of the sound from the catalog (sd)',
               'white noise'):  # fmt: skip
    assert text in page, text
  assert page.count('<audio') == 3 and 'http' not in page.split('<main>')[1].split('xmlns')[0]
  values = json.loads((tmp_path / 'report.json').read_text(encoding='utf-8'))
  assert values['memorization']['memorized'] and values['demos'][1]['file'] == 'audio/demo1.mp3'
