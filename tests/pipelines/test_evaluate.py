"""An evaluation from end to end: real (untrained, small) models, a codec that is a few sines."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from evaluation import families
from evaluation.excerpts import TokenRecord
from evaluation.report import Report
from evaluation.token_losses import count_codes
from inference import LiveSession
from models.bundle import Bundle, save_bundle
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec
from pipelines import evaluate as evaluate_lib
from pipelines import evaluation_progress
from pipelines.evaluate import EvaluationOptions, evaluate
from pipelines.evaluation_budget import Budget, measure_costs
from pipelines.evaluation_clips import Bench, _excerpts
from pipelines.prepared_data import HeldOutAudio
from preprocessing.manifest import Track

SPEC = LiveMusicSpec(
  codebook_size=8,
  codec_levels=4,
  context_frames=20,
  context_levels=2,
  chunk_frames=10,
  target_levels=3,
  style_dim=6,
  style_rvq_levels=3,
  style_levels=2,
  style_offset=40,
  vocab_size=64,
)
FRAME = SPEC.samples_per_frame


class Codec:
  """Each code is the loudness of one partial; level l plays (l + 1) * 200 Hz."""

  content_hash = 'codec-a'

  def encode(self, audio):
    frames = audio[: len(audio) // FRAME * FRAME].reshape(-1, FRAME, 2)
    level = np.clip(np.sqrt(np.mean(frames**2, (1, 2))) * 30, 0, 7).astype(np.int32)
    return np.stack([(level + shift) % 8 for shift in range(4)], -1)

  def decode(self, codes):
    t = np.arange(len(codes) * FRAME) / SPEC.sample_rate
    gains = np.repeat(codes / 80, FRAME, axis=0)
    mono = sum(
      gains[:, level] * np.sin(2 * np.pi * 200 * (level + 1) * t) for level in range(codes.shape[1])
    )
    return np.stack([mono, 0.8 * np.roll(mono, 5)], -1).astype(np.float32)


class Style:
  content_hash = 'style-a'

  def embed_text(self, texts):
    return np.stack([np.cos(np.arange(6) * (1 + len(text))) for text in texts]).astype(np.float32)

  def embed_audio(self, audio, sample_rate):
    return np.cos(np.arange(6) * (1 + np.abs(audio).mean() * 20)).astype(np.float32)

  def tokenize(self, embeddings):
    return np.int32(np.abs(embeddings[..., :3]) * 7)


class Data:
  """Tokens of six tracks, two of them held out; the audio of one is gone."""

  split = 'test'
  problems = [{'what': 'Audio of track x', 'why': 'x.wav: no such file'}]

  def check(self, codec, style):
    pass

  def describe(self):
    return [['Data', 'six hand-made tracks']]

  levelling = [-1.0, None]

  def _records(self, names):
    for name in names:
      rng = np.random.default_rng(ord(name))
      codes = rng.integers(0, 3, [80, 4]).astype(np.int32)  # Codes 0..2 of 8.
      yield TokenRecord(name, codes, rng.integers(0, 8, [1, 3]).astype(np.int32))

  def count_training_codes(self, max_records):
    assert max_records == 5000
    codes = np.concatenate([record.codes for record in self._records(['a', 'b', 'c', 'd'])])
    self.training_counts = count_codes(codes, 8)

  def held_out_records(self):
    return self._records(['e', 'f'])

  def training_records(self, number):
    return self._records(['a', 'b', 'c', 'd'])

  def tracks(self, split=None):
    names = ['a', 'b', 'c', 'd'] if split == 'train' else ['e', 'f']
    return [
      Track(name, f'{name}.wav', name, 8.0, 48_000, 2, f'Track {name}', genre=f'g{name}',
            caption=f'caption {"x" * ord(name)}', split=split or 'test')
      for name in names
    ]  # fmt: skip

  def read_excerpt(self, track, start_secs, secs):
    if track.track_id == 'd':
      raise OSError('d.wav: no such file')
    rng = np.random.default_rng(ord(track.track_id))
    codes = rng.integers(0, 8, [200, 4])[round(25 * start_secs) : round(25 * (start_secs + secs))]
    return Codec().decode(codes)

  def read_audio(self, number, secs):
    codes = [np.random.default_rng(i).integers(0, 8, [int(secs * 25), 4]) for i in range(number)]
    return [
      HeldOutAudio(f't{i}', f'Track {i}', f'caption {"x" * i}', Codec().decode(c))
      for i, c in enumerate(codes)
    ]


@pytest.fixture(scope='module')
def result(tmp_path_factory):
  folder = tmp_path_factory.mktemp('evaluate')
  config = DepthformerConfig(
    embed_dim=8, num_heads=2, head_dim=4, mlp_dim=8, num_encoder_layers=1, num_temporal_layers=1,
    num_depth_layers=1,
  )  # fmt: skip
  model = DepthformerModel(config, SPEC)
  for seed in (0, 1):
    params = model.init(jax.random.key(seed))
    bundle = Bundle(model, params, SPEC, 'c', 'codec-a', 's', 'style-a')
    save_bundle(folder / f'model{seed}', bundle)
  patch = pytest.MonkeyPatch()
  patch.setattr(evaluate_lib, '_load_codec_and_style', lambda bundle: (Codec(), Style()))
  patch.setattr(evaluate_lib.PreparedData, 'open', lambda *_: Data())
  paths = (str(folder / 'model0'), str(folder / 'model1'))

  def run():
    return evaluate(
      paths, 'data', str(folder / 'out'), options=OPTIONS, operative_config=lambda: 'A = 1'
    )

  benches = []

  def make_bench(*arguments):
    benches.append(Bench(*arguments))
    return benches[-1]

  patch.setattr(evaluate_lib, 'Bench', make_bench)
  report = run()
  text = (folder / 'out' / 'report.json').read_text()
  # Once more, with models that cannot play: everything must come from what is kept.
  patch.setattr(LiveSession, 'next_chunk', lambda self: 1 / 0)
  patch.setattr(families, 'measure', lambda *_: 1 / 0)
  page = folder / 'out' / 'report.html'
  patch.setattr(evaluate_lib, 'write_report', lambda *_: page)  # Drawing takes seconds.
  again = run()
  patch.undo()
  return report, folder / 'out', text, again, benches[0]


OPTIONS = EvaluationOptions(
  num_examples=6, batch_size=4, context_secs=(0, 0.8), num_audio_tracks=2, num_audio_clips=4,
  num_reference_clips=4, num_audio_secs=4.0, codec_depths=(1, 4), num_prompts=2, num_seeds=1,
  num_continuations=1, stream_secs=30.0, num_transitions=1, num_memory_probes=2, num_live_chunks=3,
)  # fmt: skip


def test_every_section_is_measured_and_written(result):
  report, folder, text = result[:3]
  values = json.loads(text)
  for section in (
    'token_losses', 'codec', 'families', 'distances', 'continuity', 'adherence', 'transitions',
    'drift', 'memorization', 'live', 'paired', 'slices', 'samples', 'identity', 'summary',
  ):  # fmt: skip
    assert values[section], section
  assert (folder / 'report.html').stat().st_size > 50_000
  assert values['operative_config'] == 'A = 1'
  assert list(values['stage_secs']) == list(evaluation_progress.NAMES[:-1])
  assert {'what': 'Audio of track x', 'why': 'x.wav: no such file'} in values['skipped']
  assert {'what': 'Audio of Track d', 'why': 'd.wav: no such file'} in values['skipped']
  absent = [entry['what'] for entry in values['skipped'] if 'weights absent' in entry['why']]
  assert [what.split()[2] for what in absent] == ['clap', 'vggish', 'openl3', 'passt']


def test_a_second_run_measures_nothing_and_says_the_same(result):
  report, _, text, again = result[:4]
  first = json.loads(text)
  second = json.loads(json.dumps(again.to_json()))
  for section in ('created', 'stage_secs', 'identity'):  # The checkout may change meanwhile.
    del first[section], second[section]
  assert second == first


def test_anchor_and_models_share_the_table(result):
  rows = {row['name']: row for row in result[0].token_losses['rows']}
  assert list(rows) == ['unigram', 'model0', 'model1']
  # Three of eight codes, evenly: near ln 3 with add-one over 320 training frames.
  np.testing.assert_allclose(rows['unigram']['loss'], np.log(3), atol=0.05)
  for name in ('model0', 'model1'):  # Untrained: worse than the anchor.
    assert np.mean(rows[name]['loss']) > np.log(8) * 0.8
    assert rows[name]['num_examples'] == 6
    assert rows[name]['num_tracks'] == 2
  assert rows['model0']['loss'] != rows['model1']['loss']


def test_clips_of_models_and_references(result):
  report, folder = result[:2]
  groups = {}
  for clip in report.clips:
    groups.setdefault(clip.group.split(':')[0], []).append(clip)
  assert len(groups['model0']) == len(groups['model1']) == 3  # Best, median, worst.
  assert len(groups['Most like the training music']) == 8  # Two pairs a model.
  assert len(groups['Anchors']) == 8
  continued = [clip for clip in report.clips if clip.given_secs]
  assert [clip.group for clip in continued] == ['model0', 'model1']
  assert continued[0].given_secs == pytest.approx(99 * 0.04)
  for clip in groups['model0']:
    assert len(clip.audio) == round((4 + clip.given_secs) * SPEC.sample_rate)
    assert (folder / 'audio' / f'{clip.key}.mp3').is_file()
  places = [clip.figures['corpus_distance'] for clip in groups['model0']]
  assert places == sorted(places)


def test_a_budget_is_taken_from_what_this_machine_takes(result):
  bench, report = result[4], Report('t', 'now')
  costs = measure_costs(bench)
  assert all(secs > 0 for secs in dataclasses.astuple(costs))
  options = Budget('24h').pick(bench, report)
  assert options.num_examples == 16 * OPTIONS.num_examples  # The most there is.
  assert f'{options.num_examples} excerpts (usually 6)' in report.budget[0]
  assert 'times narrower' in report.budget[1]
  assert Budget(None).pick(bench, report) is OPTIONS
  with pytest.raises(ValueError, match="budget='soon'"):
    Budget('soon')


def test_samples_have_their_model_seed_and_slice(result):
  rows = [row for row in result[0].samples if row['kind'] == 'model']
  assert len(rows) == 6
  assert {row['key'] for row in rows} == {
    f'm{model}_{place}' for model in (0, 1) for place in ('p0_s0', 'p1_s0', 'c0')
  }  # fmt: skip
  assert {row['style'] for row in rows} == {'ge', 'gf'}
  assert all(row['seed'] == 0 for row in rows)


def test_models_are_compared_in_pairs(result):
  rows = {row['key']: row for row in result[0].paired}
  losses = {row['name']: row['coarse'][0] for row in result[0].token_losses['rows']}
  assert rows['coarse']['difference'] == pytest.approx(losses['model1'] - losses['model0'])
  assert rows['coarse']['num_tracks'] == 2
  assert rows['coarse']['better'] is None  # Two tracks cannot give a small p.


def test_planted_copies_are_found_and_held_out_music_is_none(result):
  rows = {row['name']: row for row in result[0].memorization['rows']}
  # With three codes in use many frames repeat the one before them, which tells nothing: of the two
  # copies one stays below 80 %.
  assert rows['planted copies']['training_rate'] >= 0.5
  assert rows['planted copies']['largest_share'] >= 0.8
  assert rows['held-out music']['training_rate'] == 0
  assert result[0].memorization['ordered']


def test_tables_have_the_models_and_every_anchor(result):
  health = result[0].families[0]
  columns = {column['name']: column for column in health['columns']}
  assert list(columns)[:4] == ['music A', 'held-out music B', 'model0', 'model1']
  assert set(list(columns)[4:]) == {
    'B through the codec, 3 levels', 'B through the codec, 2 levels', 'B, one chunk looped',
    'B, overdriven with gaps', 'B in noise at 10 dB', 'white noise', 'B, chunks shuffled',
    'random codes',
  }  # fmt: skip
  assert columns['model0']['num_clips'] == 3 and columns['held-out music B']['num_clips'] == 4
  rows = {row['key']: row for row in health['rows']}
  flatness = {name: value[0] for name, value in rows['spectral_flatness']['values'].items()}
  assert flatness['white noise'] > 10 * flatness['held-out music B']
  assert rows['spectral_flatness']['ordered'] and rows['clipped_share']['ordered']
  level = [rows['rms_db']['values'][name][0] for name in ('white noise', 'held-out music B')]
  assert level[0] == pytest.approx(level[1], abs=0.5)


def test_identity_names_models_codec_and_hashes(result):
  text = json.dumps(result[0].identity)
  for expected in ('Model model0', 'Weights hash', 'codec-a', 'style-a', 'six hand-made', 'jax'):
    assert expected in text


def test_adherence_is_held_against_the_described_recordings(result):
  table = result[0].adherence
  assert [row['name'] for row in table['rows'][:2]] == ['model0', 'model1']
  assert table['num_prompts'] == 2
  assert [space['space'] for space in table['spaces']] == ['musiccoca', 'musicnn']
  for space in table['spaces']:
    anchors = [row for row in space['rows'] if row['kind'] == 'anchor']
    assert anchors[0]['own'] == pytest.approx(anchors[1]['other'])
    assert space['ordered'] == (anchors[0]['own'] > anchors[0]['other'])
  believed = next(space for space in table['spaces'] if space['space'] == table['space'])
  assert table['rows'] == believed['rows'] and table['ordered'] == believed['ordered']


def test_distances_are_taken_over_what_has_heard_recorded_music(result):
  tables = {table['embedding']: table for table in result[0].distances}
  assert list(tables) == ['logmel', 'chroma', 'musiccoca', 'musicnn']
  columns = {column['name']: column for column in tables['musicnn']['columns']}
  assert tables['musicnn']['dim'] == 754
  assert columns['held-out music B']['num_points'] == 4  # One patch of 3 s in each clip of 4 s.
  kad = next(row for row in tables['musicnn']['rows'] if row['key'] == 'kad_musicnn')
  assert kad['order'] == ['held-out music B', 'B in noise at 10 dB', 'white noise']


@pytest.mark.parametrize(
  'secs, wanted',
  [
    # A whole track that is shorter, both halves, the middle, two that meet in the middle.
    ((3.0,), [(0, 0.0, 3.0)]),
    ((8.0,), [(0, 0.0, 4.0), (0, 4.0, 4.0)]),
    ((7.0, 21.0), [(0, 1.5, 4.0), (1, 6.5, 4.0), (1, 10.5, 4.0)]),
    ((100.0, 50.0, 20.0), [(0, 46.0, 4.0), (1, 23.0, 4.0), (2, 8.0, 4.0), (0, 50.0, 4.0)]),
  ],
)
def test_excerpts_lie_around_the_middle(secs, wanted):
  tracks = [Track(str(i), '', '', length, 48_000, 2) for i, length in enumerate(secs)]
  found = _excerpts(tracks, 4, 4.0)
  assert [(int(one.track.track_id), one.start_secs, one.secs) for one in found] == wanted


@pytest.mark.parametrize(
  'options, message',
  [
    ({'batch_size': 0}, 'batch_size=0 must be a number of at least 1'),
    ({'num_examples': -3}, 'num_examples=-3 must be a number of at least 1'),
    ({'num_audio_secs': 0.0}, 'num_audio_secs=0.0 is not a number above 0'),
    ({'codec_depths': (0, 4)}, r'codec_depths=\(0, 4\)'),
    ({'prompts': 'organ'}, r"write \('organ',\)"),
    ({'prompts': ('organ', ' ')}, 'has an empty text'),
    ({'prompts': ('organ', 'a\udcff')}, 'not valid Unicode'),
    ({'prompts': ('0.5:organ',)}, 'has a weight, and nothing to be mixed with'),
    ({'prompts': ('preset:mean',)}, 'is a preset of a bundle'),
    ({'prompts': ('nowhere.wav',)}, 'there is none at nowhere.wav'),
    ({'stream_secs': float('inf')}, 'stream_secs=inf must be a number of at least 0'),
    ({'seed': -1}, 'seed=-1 is not a whole number'),
    ({'seed': 2**32 - 2, 'num_seeds': 3}, 'seed=4294967296 is not a whole number'),
    ({'temperature': -1.0}, 'temperature=-1.0'),
  ],
)
def test_options_of_no_use_are_refused_by_name(options, message):
  with pytest.raises(ValueError, match=message):
    EvaluationOptions(**options)


def test_a_file_for_a_folder_ends_before_anything_is_loaded(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(ValueError, match='is a file; name a folder'):
    evaluate('no such model', 'data', str(tmp_path / 'file'))
