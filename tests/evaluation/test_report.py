"""The report as a reader's browser and a program get it: opened, parsed, checked."""

import csv
import html.parser
import json
import re

import numpy as np
import pytest

from evaluation import plots, signal_health, verdicts
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
  clips = [
    make_clip('m0_p0', 'Prompt: church organ', chunk_secs=0.5),
    make_clip('m0_c0', 'Going on from a song', given_secs=0.25, chunk_secs=0.5),
    make_clip('r0_o', 'Reference: a song'),
  ]
  figures = dict(clips[0].figures)
  music = {**figures, 'spectral_flatness': 0.01}
  columns = [('tiny', music), (verdicts.CORPUS, music), (verdicts.WHITE_NOISE, figures)]
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
    health={
      'columns': [{'name': n, 'num_clips': 1, 'figures': f} for n, f in columns],
      'models': ['tiny'],
    },
    adherence={'num_prompts': 2, 'rows': [
      {'name': 'tiny', 'kind': 'model', 'own': 0.7, 'other': 0.4, 'margin': 0.3, 'top1': 1.0}]},
    speed=[['Generating with tiny', '1.50 times real time']],
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
  sections = {'summary', 'tokens', 'codec', 'audio', 'health', 'adherence', 'identity', 'limits'}
  assert sections <= set(page.ids)
  assert len(page.ids) == len(set(page.ids))
  assert page.unlabelled == []
  anchors = {ref[1:] for ref in page.references if ref.startswith('#')}
  assert anchors <= set(page.ids)
  text = ' '.join(page.text)
  for expected in ('church organ', 'skipped: ffmpeg absent', 'abc123', 'BATCH_SIZE = 8 # <tag>',
                   '(−0.500)', '(+0.250)', 'Opus at 16 kbit/s', '97.0 %'):  # fmt: skip
    assert expected in text, expected


def test_page_needs_no_network_and_scripts_nothing(written):
  page = Page(written[1])
  assert [ref for ref in page.references if not ref.startswith(('#', 'data:'))] == []
  assert not re.search(r'(?:https?:)?//[a-z]', re.sub(r'data:[^"]*', '', written[1]))
  assert 'script' not in page.tags
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
  assert values['schema_version'] == SCHEMA_VERSION == 1
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


def test_samples_csv_has_a_line_a_clip(written, report):
  with open(written[0] / 'samples.csv', newline='') as file:
    lines = list(csv.DictReader(file))
  assert [line['key'] for line in lines] == [clip.key for clip in report.clips]
  assert float(lines[0]['rms_db']) == pytest.approx(-20, abs=0.1)
  assert lines[0]['caption'] == '<b>caption</b> & more'


def test_too_much_audio_is_named_instead_of_embedded(report, tmp_path, monkeypatch):
  monkeypatch.setattr('evaluation.page.MAX_BYTES', 20_000)
  text = write_report(report, tmp_path).read_text(encoding='utf-8')
  assert 'audio/m0_p0.mp3' in text
  assert len(Page(text).audio) < len(report.clips)


def test_summary_says_what_the_figures_say(report):
  lines = {line['text']: line['status'] for line in report.summary}
  tiny, bad = list(lines)[:2]
  assert 'tiny lies below the unigram anchor on 16 of 16 levels' in tiny
  assert lines[tiny] == 'good'
  assert 'bad lies below the unigram anchor on 0 of 16 levels' in bad
  assert lines[bad] == 'bad'
  assert any('nearer than Opus at 16 kbit/s' in text for text in lines)


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


def test_svgs_take_the_ink_of_the_page():
  svg = plots.curves([1, 2], {'a': [1, 2]}, 'x', 'y', 'key')
  assert 'currentColor' in svg and '#010203' not in svg
  assert svg.startswith('<svg viewBox=')
  ids = set(re.findall(r'\bid="([^"]*)"', svg))
  assert ids and all(name.startswith('key-') for name in ids)
  assert {ref for ref in re.findall(r'href="#([^"]*)"', svg)} <= ids
  assert {ref for ref in re.findall(r'url\(#([^)]*)\)', svg)} <= ids
