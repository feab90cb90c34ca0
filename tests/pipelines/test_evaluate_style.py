"""The style report and the table of embeddings, end to end on a toy model and tones."""

import csv
import html.parser
import json
import types

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from models.musiccoca import MusicCoCa, MusicCoCaConfig, TowerConfig, towers
from models.musiccoca.codebooks import CodebookRecipe, fit_codebooks
from models.spec import LiveMusicSpec
from pipelines import embed_style, evaluate_style, style_clips, style_features, style_feed
from pipelines.evaluate_style import StyleReportOptions

_TOWER = TowerConfig(
  num_layers=1, model_dim=16, num_heads=2, head_dim=8, mlp_dim=16, pooler_heads=2, pooler_head_dim=4
)
_SPEC = LiveMusicSpec(
  style_window_secs=1, style_dim=24, style_rvq_levels=3, style_levels=2, codebook_size=16
)
_CONFIG = MusicCoCaConfig(audio=_TOWER, text=_TOWER, vocab_size=200)
_GENRES = ('Jazz', 'Rock', 'Folk <b>&')
_NUM_TRACKS = 30


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Tones of 2.5 s in a manifest; genre and tag follow the pitch. One file is no audio."""
  folder = tmp_path_factory.mktemp('music')
  rows = []
  for i in range(_NUM_TRACKS):
    path = folder / f'{i}.wav'
    t = np.arange(40_000) / 16_000
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * 200 * 2 ** (i % 3) * (1 + i / 300) * t), 16_000)
    rows.append({
      'track_id': f't{i}', 'path': str(path), 'sha256': f'{i:064d}', 'duration_secs': 2.5,
      'sample_rate': 16_000, 'channels': 1, 'title': f'{i}', 'genre': _GENRES[i % 3],
      'caption': f'{_GENRES[i % 3]} take {i} at {80 + i} bpm in {"CDE"[i % 3]} minor',
      'tags': ['piano'] if i % 3 else ['sax'], 'split': 'test' if i else 'train', 'work': f'w{i}',
    })  # fmt: skip
  (folder / '3.wav').write_bytes(b'this is no audio')
  (folder / 'manifest.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return folder


@pytest.fixture(scope='module')
def model_path(folder, tmp_path_factory):
  vocabulary = style_feed.caption_vocabulary(
    style_feed.style_tracks(folder, 'test'), _CONFIG, seed=0
  )
  config = MusicCoCaConfig(audio=_TOWER, text=_TOWER, vocab_size=len(vocabulary))
  params = {
    'audio': towers.init_audio_tower(jax.random.key(0), config, 16_000, 24),
    'text': towers.init_text_tower(jax.random.key(1), config, 24),
  }
  x = np.random.default_rng(0).standard_normal([100, 24]).astype(np.float32)
  quantizer = fit_codebooks(x, x[:0], 3, 16, CodebookRecipe(ema_passes=0))
  model = MusicCoCa(config, params, vocabulary, quantizer, _SPEC)
  return str(model.save(tmp_path_factory.mktemp('model') / 'style.safetensors'))


class _Page(html.parser.HTMLParser):
  """Collects text, ids and addresses."""

  def __init__(self, text):
    super().__init__()
    self.words, self.ids, self.addresses = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    for name, value in attrs:
      if name == 'id':
        self.ids.append(value)
      if name in ('src', 'href'):
        self.addresses.append(value)

  def handle_data(self, data):
    self.words.append(data)


def test_the_report_has_every_section_with_chance_and_intervals(folder, model_path, tmp_path):
  report = evaluate_style.evaluate_style(
    model_path, str(folder), str(tmp_path), depthformer=None,
    options=StyleReportOptions(num_works=None),
  )  # fmt: skip
  values = json.loads((tmp_path / 'report.json').read_text())
  names = [row['name'] for row in values['retrieval']]
  assert names == ['text_to_audio', 'audio_to_text', 'clip_to_same_work']
  recall = values['retrieval'][0]['recall_at_10']
  assert recall['chance'] == pytest.approx(10 / 28) and recall['low'] <= recall['value']
  # A tone's last second is its first one: another clip of the work lies nearest, always.
  assert values['retrieval'][2]['recall_at_1']['value'] > 0.5
  facts = {(row['fact'], row['features']): row['figure'] for row in values['probes']}
  assert facts['genre', 'log-mel statistics']['value'] == 1.0, 'the octave is the genre'
  assert facts['instruments', 'embedding']['chance'] == 0.5
  assert ('tempo', 'embedding') in facts and ('key', 'embedding') in facts
  assert [row['levels'] for row in values['tokens']] == [1, 2, 3]
  errors = [row['audio_error'] for row in values['tokens']]
  assert errors[0] > errors[2] >= 0
  skipped = {line['what']: line['why'] for line in values['skipped']}
  assert str(folder / '3.wav') in skipped and 'Probes of encoder states' in skipped
  with open(tmp_path / 'works.csv', encoding='utf-8', newline='') as file:
    works = list(csv.DictReader(file))
  assert len(works) == 28 and int(works[0]['text_to_audio_rank']) >= 1
  page = _Page((tmp_path / 'report.html').read_text(encoding='utf-8'))
  text = ' '.join(page.words)
  for heading in ('Retrieval', 'Tags by text alone', 'Linear probes', 'Map of the catalog'):
    assert heading in text
  assert 'Folk <b>&' in text, 'escaped, not run'
  assert len(page.ids) == len(set(page.ids))
  assert all(address.startswith('#') for address in page.addresses)
  assert len(report.map['points']) == 28


def test_points_of_the_map_are_named(folder, model_path, tmp_path):
  evaluate_style.evaluate_style(
    model_path, str(folder), str(tmp_path), depthformer=None,
    options=StyleReportOptions(num_works=5, measure_speed=False),
  )  # fmt: skip
  page = (tmp_path / 'report.html').read_text(encoding='utf-8')
  assert page.count('<title>') == 1 + 5 and 'bpm in' in page


def test_embeddings_are_written_as_parquet(folder, model_path, tmp_path, capsys):
  path = embed_style.embed_catalog(model_path, str(folder), str(tmp_path), 'all')
  table = pq.read_table(path)
  assert table.num_rows == (_NUM_TRACKS - 1) * 3, 'windows of 1 s in 2.5 s'
  rows = table.to_pylist()
  assert [row['start_secs'] for row in rows[:3]] == [0.0, 1.0, 2.0]
  model = MusicCoCa.load(model_path)
  audio, _ = soundfile.read(rows[0]['track'], dtype='float32')
  expected = model.embed_windows(audio, 16_000)
  np.testing.assert_allclose([row['embedding'] for row in rows[:3]], expected, atol=1e-5)
  np.testing.assert_array_equal([row['tokens'] for row in rows[:3]], model.tokenize(expected))
  assert table.schema.metadata[b'style_hash'] == model.content_hash.encode()
  assert '3.wav' in capsys.readouterr().out
  with pytest.raises(ValueError, match="MODE='embd'"):
    embed_style.run(mode='embd', evaluate=None, embed=None)


def test_one_track_of_each_work_and_splits(folder):
  tracks, split = style_clips.find_tracks(str(folder))
  assert split == 'test' and len(tracks) == _NUM_TRACKS - 1
  assert len(style_clips.find_tracks(str(folder), 'all')[0]) == _NUM_TRACKS
  double = [*tracks, *tracks]
  assert style_clips.one_a_work(double, None, 0) == tracks
  few = style_clips.one_a_work(double, 5, 0)
  assert len({track.work for track in few}) == 5 and few == style_clips.one_a_work(double, 5, 0)


def test_encoder_states_see_the_codec_and_no_style(folder, monkeypatch):
  """With a codec that gives the mean sign and an encoder that gives ids, ids are what is seen."""
  spec = LiveMusicSpec(
    context_frames=4, frame_rate=2, context_levels=2, codec_levels=4, target_levels=4,
    codebook_size=16, style_offset=66, vocab_size=128, style_rvq_levels=3, style_levels=2,
  )  # fmt: skip
  codec = types.SimpleNamespace(
    encode=lambda audio, levels: np.full([1, 4, levels], 3 if audio.shape[1] == 96_000 else 0)
  )
  model = types.SimpleNamespace(
    encode=lambda params, ids: ids[..., None].astype(float) + params['offset']
  )
  bundle = types.SimpleNamespace(
    spec=spec, model=model, params={'offset': 100.0}, codec_name='codec'
  )
  monkeypatch.setattr(style_features, 'load_bundle', lambda name: bundle)
  monkeypatch.setattr(style_features.SpectroStream, 'load', lambda name: codec)
  tracks = style_feed.style_tracks(folder, 'train')
  states = style_features.encoder_states(style_features.ContextEncoder.load('toy'), tracks)
  # Ids of code 3 on levels 0 and 1: offset 2, 16 codes a level; the style's mask is not averaged.
  np.testing.assert_allclose(states, np.full([2, 1], 100 + (5 + 21) / 2))
