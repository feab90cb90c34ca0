"""An evaluation from end to end: real (untrained, small) models, a codec that is a few sines."""

import json

import jax
import numpy as np
import pytest

from evaluation.excerpts import TokenRecord
from evaluation.token_losses import count_codes
from models.bundle import Bundle, save_bundle
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec
from pipelines import evaluate as evaluate_lib
from pipelines.evaluate import EvaluationOptions, evaluate
from pipelines.prepared_data import HeldOutAudio

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
  """Tokens of six tracks, two of them held out with audio."""

  split = 'test'
  problems = [{'what': 'Audio of track x', 'why': 'x.wav: no such file'}]

  def check(self, codec, style):
    pass

  def describe(self):
    return [['Data', 'six hand-made tracks']]

  def _records(self, names):
    for seed, name in enumerate(names):
      rng = np.random.default_rng(seed)
      codes = rng.integers(0, 3, [80, 4]).astype(np.int32)  # Codes 0..2 of 8.
      yield TokenRecord(name, codes, rng.integers(0, 8, [1, 3]).astype(np.int32))

  def count_training_codes(self, max_records):
    assert max_records == 5000
    codes = np.concatenate([record.codes for record in self._records(['a', 'b', 'c', 'd'])])
    self.training_counts = count_codes(codes, 8)

  def held_out_records(self):
    return self._records(['e', 'f'])

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
  options = EvaluationOptions(
    num_examples=6, batch_size=4, context_secs=(0, 0.8), num_audio_tracks=2, num_audio_secs=1.0,
    codec_depths=(1, 4), num_prompts=2, num_continuations=1,
  )  # fmt: skip
  paths = (str(folder / 'model0'), str(folder / 'model1'))
  report = evaluate(
    paths, 'data', str(folder / 'out'), options=options, operative_config=lambda: 'A = 1'
  )
  patch.undo()
  return report, folder / 'out'


def test_every_section_is_measured_and_written(result):
  report, folder = result
  values = json.loads((folder / 'report.json').read_text())
  for section in ('token_losses', 'codec', 'health', 'adherence', 'speed', 'identity', 'summary'):
    assert values[section], section
  assert (folder / 'report.html').stat().st_size > 50_000
  assert values['operative_config'] == 'A = 1'
  assert list(values['stage_secs']) == list(evaluate_lib._Stages.names[:-1])
  assert {'what': 'Audio of track x', 'why': 'x.wav: no such file'} in values['skipped']


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
  report, folder = result
  groups = {}
  for clip in report.clips:
    groups.setdefault(clip.group.split(':')[0], []).append(clip)
  assert len(groups['Prompt']) == 4
  assert len(groups['Reference']) == 4
  continued = [clip for clip in report.clips if clip.given_secs]
  assert [clip.title for clip in continued] == ['model0', 'model1']
  assert continued[0].given_secs == pytest.approx(24 * 0.04)
  for clip in groups['Prompt']:
    assert len(clip.audio) == SPEC.sample_rate
    assert (folder / 'audio' / f'{clip.key}.mp3').is_file()


def test_health_has_the_models_and_every_anchor(result):
  columns = {column['name']: column for column in result[0].health['columns']}
  assert set(columns) == {
    'model0', 'model1', 'held-out corpus', 'codec, 3 levels', 'random codes', 'white noise'
  }  # fmt: skip
  assert columns['model0']['num_clips'] == 3
  noise = columns['white noise']['figures']['spectral_flatness']
  assert noise > 10 * columns['held-out corpus']['figures']['spectral_flatness']
  level = [columns[name]['figures']['rms_db'] for name in ('white noise', 'held-out corpus')]
  assert level[0] == pytest.approx(level[1], abs=0.5)


def test_identity_names_models_codec_and_hashes(result):
  text = json.dumps(result[0].identity)
  for expected in ('Model model0', 'Weights hash', 'codec-a', 'style-a', 'six hand-made', 'jax'):
    assert expected in text


def test_adherence_is_held_against_the_described_recordings(result):
  table = result[0].adherence
  assert [row['name'] for row in table['rows'][:2]] == ['model0', 'model1']
  assert table['num_prompts'] == 2
  anchors = [row for row in table['rows'] if row['kind'] == 'anchor']
  assert anchors[0]['own'] == pytest.approx(anchors[1]['other'])


@pytest.mark.parametrize(
  'options, message',
  [
    ({'batch_size': 0}, 'batch_size=0 must be at least 1'),
    ({'num_examples': -3}, 'num_examples=-3 must be at least 1'),
    ({'num_audio_secs': 0.0}, 'num_audio_secs=0.0 is not a number above 0'),
    ({'codec_depths': (0, 4)}, r'codec_depths=\(0, 4\)'),
    ({'prompts': 'organ'}, r"write \('organ',\)"),
    ({'prompts': ('organ', ' ')}, 'has an empty text'),
    ({'temperature': -1.0}, 'temperature=-1.0'),
  ],
)
def test_options_of_no_use_are_refused_by_name(options, message):
  with pytest.raises(ValueError, match=message):
    EvaluationOptions(**options)


def test_a_file_for_a_folder_ends_before_anything_is_loaded(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(FileExistsError, match='file'):
    evaluate('no such model', 'data', str(tmp_path / 'file'))
