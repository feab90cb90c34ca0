"""Two reports side by side, by hand."""

import json

import pytest

from evaluation import report_comparison
from evaluation.report import Report
from pipelines.compare_reports import compare_reports


def make(folder, coarse, pulse, flatness, *, fingerprint='f', ordered=True):
  def level_row(name, value):
    return {'name': name, 'loss': [value], 'low': [value], 'high': [value], 'accuracy': None,
            'coarse': [value, value - 0.1, value + 0.1], 'overall': [6.0, 5.9, 6.1],
            'num_examples': 4, 'num_tracks': 2}  # fmt: skip

  def row(key, better, value, is_ordered=True):
    return {'key': key, 'label': key, 'unit': '', 'better': better, 'digits': 2, 'about': '',
            'values': {'music A': [1.0, 0.9, 1.1], 'tiny': value}, 'ordered': is_ordered,
            'wrong': [], 'order': []}  # fmt: skip

  columns = [{'name': name, 'kind': kind, 'num_clips': 2, 'num_tracks': 2}
             for name, kind in (('music A', 'anchor'), ('tiny', 'model'))]  # fmt: skip
  report = Report(
    'a report', '2026-01-02',
    identity=[{'title': 'Data', 'rows': [['Data fingerprint', fingerprint]]}],
    protocol=[['Seeds', '0 to 1']],
    token_losses={'rows': [level_row('unigram', 6.5), level_row('tiny', coarse)],
                  'anchors': ['unigram'], 'context_levels': 1},
    families=[{'key': 'x', 'title': 'Rhythm', 'about': '', 'columns': columns, 'rows': [
      row('pulse', 'higher', [pulse, pulse - 0.01, pulse + 0.01], ordered),
      row('flatness', 'corpus', [flatness, None, None]), row('tempo', 'neither', [9, 8, 10])]}],
    live=[{'name': 'tiny', 'real_time_factor': 2.0, 'chunk_p95_secs': 0.5, 'first_audio_secs': 1,
           'chunk_p50_secs': 0.5, 'chunk_p99_secs': 0.5, 'late_share': 0, 'cold_start_secs': 3,
           'num_chunks': 5, 'chunk_audio_secs': 2}],
  )  # fmt: skip
  folder.mkdir()
  (folder / 'report.json').write_text(json.dumps(report.to_json()))
  return folder


@pytest.fixture(scope='module')
def reports(tmp_path_factory):
  root = tmp_path_factory.mktemp('reports')
  return make(root / 'one', 6.0, 0.5, 1.5), make(root / 'two', 5.0, 0.4, 0.8)


def test_verdicts_by_hand(reports):
  values = report_comparison.compare(*map(report_comparison.read_report, reports))
  rows = {row['key']: row for row in values['rows']}
  assert rows['coarse']['difference'] == -1 and rows['coarse']['verdict'] == 'better'
  assert rows['overall']['verdict'] == 'equal'
  assert rows['pulse']['verdict'] == 'worse' and rows['pulse']['overlap'] is False
  # 1.5 is 0.5 off the 1.0 of music A, 0.8 is 0.2 off.
  assert rows['flatness']['verdict'] == 'better, no interval'
  assert rows['tempo']['verdict'] == ''
  assert rows['real_time_factor']['verdict'] == 'equal'
  assert values['differs'] == []


def test_what_was_not_made_alike_and_what_is_flagged_is_said(reports, tmp_path):
  other = make(tmp_path / 'three', 5.95, 0.9, 1.0, fingerprint='g', ordered=False)
  values = report_comparison.compare(*map(report_comparison.read_report, (reports[0], other)))
  assert values['differs'] == [['Data fingerprint', 'f', 'g']]
  rows = {row['key']: row for row in values['rows']}
  assert rows['pulse']['verdict'] == 'anchors not in order'
  assert rows['coarse']['verdict'] == 'better, intervals overlap'


def test_the_command_writes_a_page_and_a_file(reports, capsys):
  compare_reports([str(path) for path in reports], None)
  values = json.loads((reports[1] / 'comparison.json').read_text())
  assert values['first']['model'] == values['second']['model'] == 'tiny'
  page = (reports[1] / 'comparison.html').read_text()
  assert '−1.000' in page and 'better' in page and 'not made alike' not in page
  assert '1 figures clearly better, 1 clearly worse' in capsys.readouterr().out


def test_what_is_no_report_is_refused(reports, tmp_path):
  with pytest.raises(FileNotFoundError, match='no report.json'):
    report_comparison.read_report(tmp_path)
  (tmp_path / 'report.json').write_text('{"schema_version": 1}')
  with pytest.raises(ValueError, match=r'schema 2 \(it has 1\)'):
    report_comparison.read_report(tmp_path)
  with pytest.raises(ValueError, match='two reports'):
    compare_reports(['x'], None)
