"""The report as a reader's browser and a program get it: opened, parsed, checked."""

import csv
import dataclasses
import html.parser
import json
import os
import re

import numpy as np
import pytest

from evaluation import anchors, families, metric_table, panels, plots, signal_health, verdicts
from evaluation.report import SCHEMA_VERSION, Clip, Report, write_report

RATE = 48_000
LEVELS = 16


class Page(html.parser.HTMLParser):
  """Collects what the tests ask for; complains about tags that do not close."""

  VOID = {'meta', 'br', 'link', 'img', 'path', 'use', 'image', 'rect'}

  def __init__(self, text):
    super().__init__()
    self.ids, self.references, self.tags, self.open = [], [], [], []
    self.text = []
    self.audio = []
    self.unlabelled = []
    self.feed(text)

  def handle_starttag(self, tag, attributes):
    attributes = dict(attributes)
    self.tags.append(tag)
    if 'id' in attributes:
      self.ids.append(attributes['id'])
    self.references += [attributes[key] for key in ('href', 'src') if key in attributes]
    if tag == 'audio':
      self.audio.append(attributes)
    if attributes.get('role') == 'img' and not attributes.get('aria-label'):
      self.unlabelled.append(tag)
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attributes):
    self.handle_starttag(tag, attributes)
    if tag not in self.VOID:
      self.open.pop()

  def handle_endtag(self, tag):
    if tag not in self.VOID:
      assert self.open.pop() == tag

  def handle_data(self, data):
    self.text.append(data)


def level_row(name, loss, accuracy=None):
  loss = np.asarray(loss, float)
  return {
    'name': name, 'loss': list(loss), 'low': list(loss - 0.1), 'high': list(loss + 0.1),
    'accuracy': accuracy, 'coarse': (loss[:4].mean(), loss[:4].mean() - 0.1, loss[:4].mean() + 0.1),
    'overall': (loss.mean(), loss.mean() - 0.1, loss.mean() + 0.1),
    'num_examples': 32, 'num_tracks': 5,
  }  # fmt: skip


def codec_row(name, mel, sdr, levels=None, kbps=None):
  row = {
    'name': name,
    'kbps': kbps,
    'mel_distance_db': [mel, mel - 0.2, mel + 0.2],
    'stft_distance': [mel / 4, mel / 5, mel / 3],
    'si_sdr_db': [sdr, sdr - 1, sdr + 1],
    'loudness_error_lu': [0.5, 0.2, 0.9],
    'width_error_db': [1.5, 1.0, 2.0],
  }
  return row | ({'levels': levels} if levels else {})  # fmt: skip


def make_clip(key, group, seconds=1.0, **options):
  rng = np.random.default_rng(len(key))
  audio = (0.1 * rng.standard_normal([round(seconds * RATE), 2])).astype(np.float32)
  figures = signal_health.health(audio, RATE, RATE // 2)
  return Clip(key, group, f'title {key}', '<b>caption</b> & more', audio, RATE, figures=figures,
              **options)  # fmt: skip


@pytest.fixture(scope='module')
def report():
  unigram = np.linspace(5.5, 6.7, LEVELS)
  own = [{'name': 'tiny', 'kind': 'model', 'own': 0.7, 'other': 0.4, 'margin': 0.3, 'top1': 1.0}]
  clips = [
    make_clip('m0_p0', 'Prompt: church organ', chunk_secs=0.5),
    make_clip('m0_c0', 'Going on from a song', given_secs=0.25, chunk_secs=0.5),
    make_clip('r0_o', 'Reference: a song'),
  ]
  figures = {metric.key: 1.0 for family in families.FAMILIES for metric in family.metrics}
  figures |= clips[0].figures
  music = {**figures, 'spectral_flatness': 0.01, 'pulse_clarity': 0.5, 'bandwidth_hz': 500.0}
  columns = [
    metric_table.Column(name, kind, [row, row], ['t0', 't1'])
    for name, kind, row in (
      (anchors.REFERENCE, 'anchor', music), (anchors.CORPUS, 'anchor', music),
      ('tiny', 'model', music), (anchors.WHITE_NOISE, 'anchor', figures),
    )
  ]  # fmt: skip
  tables = [
    {'key': f.key, 'title': f.title, 'about': f.about,
     **metric_table.build(f.metrics, columns, anchors.REFERENCE)}
    for f in families.FAMILIES
  ]  # fmt: skip
  result = Report(
    title='Two models <measured>',
    created='2026-01-02 03:04 UTC',
    identity=[{'title': 'Model tiny', 'rows': [['Weights hash', 'abc123']]}],
    protocol=[['Seed', '0']],
    operative_config='BATCH_SIZE = 8 # <tag>',
    token_losses={
      'rows': [
        level_row('unigram', unigram),
        level_row('tiny', unigram - 0.5, [0.1] * LEVELS),
        level_row('bad', unigram + 0.25, [0.01] * LEVELS),
      ],
      'anchors': ['unigram'],
      'context_levels': 4,
      'contexts': {
        'secs': [0, 10], 'rows': {'tiny': [5.5, 5.0], 'bad': [6.0, 6.1]},
        'anchors': {'unigram': 5.6}, 'num_examples': 16,
        'conditions': {'tiny': {'style masked': 5.2, "another track's context": 5.9},
                       'bad': {'style masked': 6.1, "another track's context": 6.1}},
      },
    },
    learning_curves={'tiny': {'train': [[1, 6.9], [2, 6.0]], 'training_eval/x': [[2, 6.3]]}},
    codec={
      'depths': [codec_row('4 levels', 5, 1, 4, 1.0), codec_row('64 levels', 2, 9, 64, 16.0)],
      'others': [codec_row('Opus at 16 kbit/s', 3, 8, None, 16) | {'codec': 'Opus'},
                 codec_row('noise at the same level', 15, -40)],
      'misordered': {}, 'num_tracks': 5,
      'codebooks': {'num_frames': 12345, 'used_share': 0.97, 'lowest_entropy': 7.1,
                    'highest_entropy': 9.9, 'most_bits': 10.0},
    },
    families=tables,
    distances=[{
      'embedding': 'logmel', 'about': 'fixed', 'dim': 24, 'num_reference': 30, 'r2': {'tiny': 0.9},
      'columns': [{'name': name, 'kind': kind, 'num_points': 20, 'num_tracks': 4}
                  for name, kind in ((anchors.CORPUS, 'anchor'), ('tiny', 'model'),
                                     (anchors.WHITE_NOISE, 'anchor'))],
      'rows': [metric_table.row(
        metric_table.Metric('kad_logmel', 'Kernel distance (KAD)', '', 'lower',
                            (anchors.CORPUS, anchors.WHITE_NOISE)),
        {anchors.CORPUS: [1.0, 0.5, 1.5], 'tiny': [1.2, 0.4, 2.0],
         anchors.WHITE_NOISE: [90.0, 80.0, 99.0]}, anchors.REFERENCE)],
    }],
    continuity={'ordered': False, 'rows': [
      {'name': 'tiny', 'kind': 'model', 'tempo_kept': 0.5, 'key_score': 0.4, 'num_clips': 2}]},
    adherence={'num_prompts': 2, 'ordered': True, 'space': 'musicnn', 'rows': own, 'spaces': [
      {'space': 'musiccoca', 'about': 'obeys?', 'ordered': False, 'rows': own},
      {'space': 'musicnn', 'about': 'sounds like it?', 'ordered': True, 'rows': own}]},
    transitions={'step_secs': 4.0, 'num_steps': 3, 'piece_secs': 2.0, 'pairs': [
      {'first': 'church organ', 'second': 'funk', 'curves': {
        'tiny': {'kind': 'model', 'to_first': [1.0, 0.5, 0.0], 'to_second': [0.0, 0.5, 1.0],
                 'to_asked': [1.0, 1.0, 1.0], 'gain': 2.0, 'control_delay_secs': float('inf')}}}]},
    drift={'piece_secs': 10.0, 'num_pieces': 3, 'from_start': {'tiny': [0.0, 0.1, 0.2]},
           'columns': [{'name': 'tiny', 'kind': 'model'}],
           'curves': {'rms_db': {'tiny': [-20.0, -21.0, -22.0]}},
           'rows': [{'key': 'rms_db', 'label': 'RMS', 'unit': 'dBFS', 'digits': 2, 'ordered': None,
                     'wrong': [], 'slopes': {'tiny': {'slope': -6.0, 'p': 0.01}}}]},
    memorization={
      'rows': [{'name': 'tiny', 'kind': 'model', 'training_rate': 0.25, 'held_out_rate': 0.0,
                'excess': 0.25, 'longest_run': 90, 'largest_share': 0.9, 'num_training': 4,
                'num_held_out': 4, 'memorized': True}],
      'run_threshold': 12, 'share_threshold': 0.8, 'num_frames': 1000, 'num_records': 4,
      'context_secs': 10, 'ordered': True, 'pairs': [],
    },
    live=[{'name': 'tiny', 'chunk_audio_secs': 2.0, 'real_time_factor': 1.5,
           'first_audio_secs': 1.2, 'chunk_p50_secs': 1.3, 'chunk_p95_secs': 1.6,
           'chunk_p99_secs': 1.7, 'late_share': 0.0, 'cold_start_secs': 9.0, 'num_chunks': 20}],
    paired=[{'model': 'bad', 'key': 'coarse', 'label': 'Loss of the coarse levels',
             'difference': 0.7, 'low': 0.6, 'high': 0.8, 'p': 0.01, 'p_holm': 0.02,
             'num_tracks': 9, 'digits': 3, 'better': False}],
    slices=[{'kind': 'style', 'slice': 'Jazz', 'num_examples': 4, 'num_tracks': 2,
             'values': {'tiny': [5.0, 4.9, 5.1]}}],
    samples=[{'key': key, 'column': 'tiny', 'kind': 'model', 'source': 'prompt', 'track_id': 't0',
              'title': 'church <organ>', 'seed': 0, 'style': 'Jazz', **clip.figures,
              'corpus_distance': distance}
             for key, clip, distance in (('m0_p0', clips[0], 2.0), ('m0_c0', clips[1], 0.5),
                                         ('m0_p1', clips[1], float('nan')))],
    skipped=[{'what': 'MP3 at 16 kbit/s', 'why': 'ffmpeg absent'}],
    stage_secs={'load': 1.0},
    clips=clips,
  )  # fmt: skip
  result.limits = verdicts.limits(result)
  result.summary = verdicts.summary(result)
  return result


@pytest.fixture(scope='module')
def written(report, tmp_path_factory):
  folder = tmp_path_factory.mktemp('report')
  return folder, write_report(report, folder).read_text(encoding='utf-8')


def test_page_is_well_formed_with_all_sections_and_unique_ids(written):
  page = Page(written[1])
  assert page.open == []
  sections = {
    'summary', 'tokens', 'codec', 'audio', 'samples', 'distances', 'health', 'rhythm', 'tonality',
    'repetition', 'closeness', 'adherence', 'drift', 'memorization', 'live', 'paired', 'slices',
    'identity', 'limits',
  }  # fmt: skip
  assert sections <= set(page.ids)
  assert len(page.ids) == len(set(page.ids))
  assert page.unlabelled == []
  anchors = {ref[1:] for ref in page.references if ref.startswith('#')}
  assert anchors <= set(page.ids)
  text = ' '.join(page.text)
  for expected in ('church organ', 'skipped: ffmpeg absent', 'abc123', 'BATCH_SIZE = 8 # <tag>',
                   '(−0.500)', '(+0.250)', 'Opus at 16 kbit/s', '97.0 %', 'church <organ>',
                   'worse', 'style: Jazz'):  # fmt: skip
    assert expected in text, expected


def test_page_needs_no_network(written):
  page = Page(written[1])
  assert [ref for ref in page.references if not ref.startswith(('#', 'data:'))] == []
  assert not re.search(r'(?:https?:)?//[a-z]', re.sub(r'data:[^"]*', '', written[1]))
  assert page.tags.count('script') == 1  # Inline: sorting, seeking, light and dark.
  assert 'fetch(' not in written[1] and 'XMLHttpRequest' not in written[1]
  assert '<b>caption</b>' not in written[1]  # Escaped.
  assert 'prefers-color-scheme: dark' in written[1]
  assert len(written[1]) < 30_000_000


def test_audio_plays_from_the_page_and_lies_beside_it(written, report):
  import base64
  import io

  import soundfile

  page = Page(written[1])
  assert len(page.audio) == len(report.clips)
  for attributes, clip in zip(page.audio, report.clips):
    assert attributes['aria-label']
    data = base64.b64decode(attributes['src'].removeprefix('data:audio/mpeg;base64,'))
    audio, rate = soundfile.read(io.BytesIO(data))
    assert rate == RATE
    assert abs(len(audio) - len(clip.audio)) < 3000  # MP3 pads its frames.
    assert np.std(audio) == pytest.approx(np.std(clip.audio), rel=0.2)
    assert (written[0] / 'audio' / f'{clip.key}.mp3').read_bytes() == data


def test_json_holds_every_figure(written, report):
  values = json.loads((written[0] / 'report.json').read_text())
  assert values['schema_version'] == SCHEMA_VERSION == 2
  rows = {row['name']: row for row in values['token_losses']['rows']}
  assert rows['tiny']['loss'] == pytest.approx(report.token_losses['rows'][1]['loss'])
  assert values['codec']['others'][0]['mel_distance_db'][0] == 3
  assert values['clips'][0]['figures']['rms_db'] == pytest.approx(-20, abs=0.1)
  assert values['clips'][0]['figures']['seam_flux'] is not None
  assert [entry['what'] for entry in values['skipped']] == ['MP3 at 16 kbit/s']


def test_values_that_are_not_finite_become_null(tmp_path):
  report = Report('t', 'now', stage_secs={'x': float('nan'), 'y': float('inf')})
  report.limits = [str(np.float32(1))]
  write_report(report, tmp_path)
  values = json.loads((tmp_path / 'report.json').read_text())
  assert values['stage_secs'] == {'x': None, 'y': None}
  assert values['token_losses'] is None


def test_names_that_are_no_utf8_do_not_cost_the_report(tmp_path):
  name = os.fsdecode(b'latin\xe9.wav')
  report = Report('t', 'now', skipped=[{'what': f'Audio of {name}', 'why': f'/gone/{name}'}])
  report.samples = [{'key': 'a', 'title': name, 'kind': 'anchor'}]
  page = write_report(report, tmp_path)
  assert '/gone/latin\\udce9.wav' in page.read_text(encoding='utf-8')
  assert 'a,latin\\udce9.wav' in (tmp_path / 'samples.csv').read_text(encoding='utf-8')
  (skipped,) = json.loads((tmp_path / 'report.json').read_text())['skipped']
  assert skipped['why'] == f'/gone/{name}'
  assert sorted(path.name for path in tmp_path.iterdir() if path.name != 'audio') == [
    'report.html', 'report.json', 'samples.csv',
  ]  # fmt: skip


def test_samples_csv_has_a_line_a_clip(written, report):
  with open(written[0] / 'samples.csv', newline='') as file:
    lines = list(csv.DictReader(file))
  assert [line['key'] for line in lines] == ['m0_p0', 'm0_c0', 'm0_p1']
  assert float(lines[0]['rms_db']) == pytest.approx(-20, abs=0.1)
  assert lines[0]['title'] == 'church <organ>'
  assert lines[0]['file'] == 'audio/m0_p0.mp3' and lines[2]['file'] == ''


def test_a_metric_that_does_not_order_its_anchors_is_flagged_and_grey(report, written):
  """White noise has the better pulse here: the figures were made so."""
  rhythm = next(table for table in report.families if table['key'] == 'rhythm')
  row = next(row for row in rhythm['rows'] if row['key'] == 'pulse_clarity')
  assert row['wrong'] == [[anchors.CORPUS, anchors.WHITE_NOISE]]
  assert written[1].count('<tr class="flagged"') >= 2
  assert f'Pulse clarity does not order its anchors: {anchors.CORPUS} is not better' in written[1]
  svg = panels.dots({**rhythm, 'rows': [row]}, 'key')
  assert plots.COLOURS[0] not in svg and '⚠' in svg
  svg = panels.dots({**rhythm, 'rows': [{**row, 'ordered': True}]}, 'key')
  assert plots.COLOURS[0] in svg


def test_too_much_audio_is_named_instead_of_embedded(report, tmp_path, monkeypatch):
  monkeypatch.setattr('evaluation.page.MAX_BYTES', 20_000)
  text = write_report(report, tmp_path).read_text(encoding='utf-8')
  assert 'audio/m0_p0.mp3' in text
  assert len(Page(text).audio) < len(report.clips)


def test_summary_is_five_lines_that_say_what_the_figures_say(report):
  assert len(report.summary) == 5
  learned, sound, near, memory, live = report.summary
  assert 'tiny 5.120, below the unigram on 16 of 16 levels' in learned['text']
  assert 'bad 5.870, below the unigram on 0 of 16 levels' in learned['text']
  assert learned['status'] == 'bad'
  assert 'tiny: a sound signal' in sound['text'] and sound['status'] == 'good'
  assert 'over logmel' in near['text'] and 'tiny 1.2' in near['text'] and near['status'] == 'good'
  assert 'tiny copies 25 % (held-out 0 %)' in memory['text'] and memory['status'] == 'bad'
  assert '1.5 times real time' in live['text'] and live['status'] == 'good'


def test_a_busy_machine_is_no_fault_of_the_model(report):
  row = {**report.live[0], 'chunk_p95_secs': 3.0}
  alone = verdicts.summary(dataclasses.replace(report, live=[{**row, 'load_per_core': 0.8}]))[-1]
  busy = verdicts.summary(dataclasses.replace(report, live=[{**row, 'load_per_core': 8.0}]))[-1]
  assert (alone['status'], busy['status']) == ('bad', 'info')
  assert 'load 8.0 per core' in busy['text']


def test_no_distance_is_spoken_of_that_does_not_order_its_anchors(report):
  wrong = metric_table.row(
    metric_table.Metric('kad_logmel', 'K', '', 'lower', (anchors.CORPUS, anchors.WHITE_NOISE)),
    {anchors.CORPUS: [9.0] * 3, 'tiny': [1.0] * 3, anchors.WHITE_NOISE: [2.0] * 3}, '',
  )  # fmt: skip
  changed = dataclasses.replace(report, distances=[{**report.distances[0], 'rows': [wrong]}])
  near = verdicts.summary(changed)[2]
  assert near['text'] == 'Near to music: no distance orders its anchors here.'
  assert near['status'] == 'info'


def test_prompts_are_spoken_of_in_the_space_that_orders_its_anchors(report):
  told = verdicts.summary(report)[3]['text']
  assert 'tiny is 0.300 nearer to its own prompt over musicnn' in told
  table = {**report.adherence, 'space': 'musiccoca'}
  told = verdicts.summary(dataclasses.replace(report, adherence=table))[3]['text']
  assert 'nearer to its own prompt;' in told
  table['ordered'] = False
  changed = dataclasses.replace(report, adherence=table, memorization=None)
  line = verdicts.summary(changed)[3]
  assert line['text'] == 'Prompts and memory: no figure of prompts orders its anchors here.'
  assert line['status'] == 'info'
  assert any('table of prompts does not order' in text for text in verdicts.limits(changed))


@pytest.mark.parametrize(
  'change, fault',
  [
    ({}, None),
    ({'rms_db': -60.0}, 'level'),
    ({'silence_share': 0.9}, 'silence'),
    ({'clipped_share': 0.02}, 'clipped'),
    ({'spectral_flatness': 0.4}, 'noise'),
    ({'seam_jump': 3.0}, 'seams'),
  ],
)
def test_signal_faults(change, fault):
  corpus = {'rms_db': -20.0, 'silence_share': 0.0, 'clipped_share': 0.0,
            'spectral_flatness': 0.02, 'seam_jump': float('nan')}  # fmt: skip
  noise = corpus | {'spectral_flatness': 0.56}
  faults = verdicts.signal_faults(corpus | change, corpus, noise)
  assert len(faults) == (fault is not None)
  if fault:
    assert fault in faults[0]


def test_a_model_is_not_asked_to_be_duller_than_the_codec(report):
  """Music without treble: flatness 1e-6, 0.0001 through the codec, so 0.002 is not noise."""
  def health(decoded):
    names = [anchors.CORPUS, 'tiny', anchors.WHITE_NOISE, anchors.codec_name(16)]
    values = dict(zip(names, (1e-6, 0.002, 0.56, decoded)))
    kinds = {name: 'model' if name == 'tiny' else 'anchor' for name in names}
    figures = {'rms_db': -20.0, 'silence_share': 0.0, 'clipped_share': 0.0, 'seam_jump': 0.5}
    rows = [
      {'key': key, 'values': {name: [own] * 3 for name in names}} for key, own in figures.items()
    ]
    rows.append({'key': 'spectral_flatness',
                 'values': {name: [own] * 3 for name, own in values.items()}})  # fmt: skip
    columns = [{'name': name, 'kind': kind} for name, kind in kinds.items()]
    return [{'key': 'health', 'columns': columns, 'rows': rows}]

  dull = dataclasses.replace(report, families=health(1e-6))
  assert 'spectral flatness 0.002 is nearer to noise' in verdicts.summary(dull)[1]['text']
  brighter = dataclasses.replace(report, families=health(1e-4))
  assert 'tiny: a sound signal' in verdicts.summary(brighter)[1]['text']


def test_svgs_take_the_ink_of_the_page():
  svg = plots.curves([1, 2], {'a': [1, 2]}, 'x', 'y', 'key')
  assert 'currentColor' in svg and '#010203' not in svg
  assert svg.startswith('<svg viewBox=')
  ids = set(re.findall(r'\bid="([^"]*)"', svg))
  assert ids and all(name.startswith('key-') for name in ids)
  assert {ref for ref in re.findall(r'href="#([^"]*)"', svg)} <= ids
  assert {ref for ref in re.findall(r'url\(#([^)]*)\)', svg)} <= ids
