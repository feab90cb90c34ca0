"""Style runs that start from a style model, with its towers, vocabulary and mel matrix."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import soundfile

from models.musiccoca import MusicCoCa, MusicCoCaConfig, TowerConfig, frontend
from models.musiccoca.captioner import CaptionerConfig
from models.musiccoca.codebooks import CodebookRecipe
from models.musiccoca.quantizer import FullQuantizer
from models.musiccoca.training import StyleRecipe, StyleTrainable
from models.musiccoca.vocabulary import train_vocabulary
from models.spec import LiveMusicSpec
from pipelines import style_feed, style_finish, style_start, style_training
from pipelines.style_features import log_mel_statistics
from training import optimizers
from training.checkpoints import restore_params

_TOWER = TowerConfig(
  num_layers=1, model_dim=16, num_heads=2, head_dim=8, mlp_dim=16, pooler_heads=2, pooler_head_dim=4
)
_SPEC = LiveMusicSpec(
  style_window_secs=1, style_dim=24, style_rvq_levels=3, style_levels=2, codebook_size=16
)
_CONFIG = MusicCoCaConfig(audio=_TOWER, text=_TOWER, vocab_size=90)
_TEXTS = ['calm jazz with piano', 'fast rock with guitar', 'folk']
_FLOOR = np.float16(np.log(0.001))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Three tracks of 3 s with captions, none of them held out."""
  folder = tmp_path_factory.mktemp('music')
  rows = []
  for i, caption in enumerate(_TEXTS):
    rng = np.random.default_rng(i)
    t = np.arange(3 * 16_000) / 16_000
    audio = 0.2 * np.sin(2 * np.pi * 170 * 2**i * t) + 0.02 * rng.standard_normal(len(t))
    soundfile.write(folder / f'{i}.wav', audio, 16_000, subtype='FLOAT')
    rows.append({
      'track_id': f't{i}', 'path': str(folder / f'{i}.wav'), 'sha256': f'{i:064d}',
      'duration_secs': 3.0, 'sample_rate': 16_000, 'channels': 1, 'title': f'{i}',
      'caption': caption, 'split': 'train',
    })  # fmt: skip
  (folder / 'manifest.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return folder


@pytest.fixture(scope='module')
def given() -> MusicCoCa:
  """A style model that hears other bands than our own front end: 100 Hz to 3 kHz."""
  other = dataclasses.replace(_CONFIG, mel_lower_hz=100.0, mel_upper_hz=3_000.0)
  vocabulary = train_vocabulary(_TEXTS * 4, 60, _CONFIG.max_text_length)
  config = dataclasses.replace(_CONFIG, vocab_size=len(vocabulary))
  rng = np.random.default_rng(8)
  params = jax.tree.map(
    lambda x: np.asarray(x + 0.1 * rng.standard_normal(x.shape), np.float32),
    StyleTrainable(config, spec=_SPEC).init(jax.random.key(3)),
  )
  codebooks = rng.standard_normal([3, 16, 24]).astype(np.float32)
  return MusicCoCa(
    config, params, vocabulary, FullQuantizer(codebooks), _SPEC,
    mel_matrix=frontend.mel_matrix(other, 16_000),
  )  # fmt: skip


@pytest.fixture(scope='module')
def file(given, tmp_path_factory):
  return given.save(tmp_path_factory.mktemp('given') / 'given.safetensors')


def _train(model_dir, folder, steps, rate=1e-3, **options):
  return style_training.train_style(
    model_dir=str(model_dir), data_dir=str(folder), config=_CONFIG, batch_size=3, text_length=16,
    spec=_SPEC, tensorboard=False, total_steps=steps, optimizer=optimizers.adam(rate),
    recipe=StyleRecipe(captioner=CaptionerConfig(1, 2)),
    finish=style_finish.FinishRecipe(
      text_steps=0, windows_per_track=2, texts_per_track=1, codebooks=CodebookRecipe(rank=4),
    ), **options,
  )  # fmt: skip


@pytest.fixture(scope='module')
def refitted(folder, file, tmp_path_factory):
  """A run of no steps from the file; (MODEL_DIR, state, feed that it would have read)."""
  model_dir, feeds = tmp_path_factory.mktemp('refitted'), []
  with pytest.MonkeyPatch.context() as patch:
    finish = style_finish.finish_style_model
    patch.setattr(
      style_training, 'finish_style_model',
      lambda params, feed, *rest: (feeds.append(feed), finish(params, feed, *rest)),
    )  # fmt: skip
    state = _train(model_dir, folder, 0, initial_checkpoint_path=str(file))
  return model_dir, state, feeds[0]


def test_a_run_hears_by_the_models_mel_matrix(refitted, given):
  _, _, feed = refitted
  np.testing.assert_array_equal(feed.mel_matrix, given.mel_matrix)
  audio, _ = soundfile.read(feed.tracks[1].path, dtype='float32')
  whole = np.asarray(frontend.log_mel(audio, _CONFIG, 16_000, given.mel_matrix))
  np.testing.assert_allclose(feed.track_log_mel(1)[: len(whole)], whole, atol=0.01)
  own = np.asarray(frontend.log_mel(audio, _CONFIG, 16_000))
  assert np.abs(own - whole).max() > 3, 'the two front ends must differ for this to say anything'
  # Each clip of a batch is a window of its track, cut short now and then.
  for clip in feed.batch(0)['log_mel']:
    assert any(_is_window(clip, feed.track_log_mel(track)) for track in range(3))


def _is_window(clip: np.ndarray, track: np.ndarray) -> bool:
  heard = clip[: len(clip) - (clip[::-1] != _FLOOR).any(1).argmax()]
  starts = range(len(track) - len(heard) + 1)
  return any(np.array_equal(track[start : start + len(heard)], heard) for start in starts)


def test_before_the_first_step_embeddings_are_those_of_the_model(refitted, given):
  model_dir, state, feed = refitted
  for tower in ('audio', 'text'):
    jax.tree.map(np.testing.assert_array_equal, state.params[tower], given.params[tower])
  written = MusicCoCa.load(model_dir / style_finish.WEIGHTS_FILE)
  clips = np.random.default_rng(2).uniform(-0.3, 0.3, [2, 16_000]).astype(np.float32)
  np.testing.assert_array_equal(written.embed_clips(clips), given.embed_clips(clips))
  np.testing.assert_array_equal(written.embed_text(_TEXTS), given.embed_text(_TEXTS))
  assert written.vocabulary.model == given.vocabulary.model
  # What the run computes from its feed is what the model makes of the audio.
  audio, text = style_finish.embed_pairs(state.params, feed)
  windows = [soundfile.read(track.path, dtype='float32')[0] for track in feed.tracks]
  start = (298 - 96) // 2 * 160
  heard = given.embed_clips(np.stack([x[start : start + 16_000] for x in windows]))
  np.testing.assert_allclose(audio, heard, atol=0.03)
  np.testing.assert_allclose(text, given.embed_text(_TEXTS), atol=1e-5)


def test_tokens_are_fitted_anew(refitted, given, file):
  written = MusicCoCa.load(refitted[0] / style_finish.WEIGHTS_FILE)
  assert written.content_hash != given.content_hash
  assert not np.allclose(written.codebooks, given.codebooks)
  assert written.card['started_from'] == str(file)


def test_a_run_goes_on_and_hands_on_without_the_file(folder, file, given, tmp_path):
  """Vocabulary and mel matrix stay in MODEL_DIR, for the run itself and for runs that start there.

  At a rate of nothing the towers stay to the bit: trained towers are not calibrated.
  """
  copied = shutil.copy(file, tmp_path / 'copied.safetensors')
  first, second = tmp_path / 'first', tmp_path / 'second'
  state = _train(first, folder, 1, 0.0, initial_checkpoint_path=str(copied))
  jax.tree.map(np.testing.assert_array_equal, state.params['audio'], given.params['audio'])
  (tmp_path / 'copied.safetensors').unlink()
  state = _train(first, folder, 2, initial_checkpoint_path=str(copied))
  assert int(state.step) == 2
  model = MusicCoCa.load(first / style_finish.WEIGHTS_FILE)
  np.testing.assert_array_equal(model.mel_matrix, given.mel_matrix)
  assert np.abs(model.embed_text(_TEXTS) - given.embed_text(_TEXTS)).max() > 1e-3
  next_state = _train(second, folder, 1, 0.0, initial_checkpoint_path=str(first))
  jax.tree.map(np.testing.assert_array_equal, next_state.params, restore_params(first)[0])
  model = MusicCoCa.load(second / style_finish.WEIGHTS_FILE)
  np.testing.assert_array_equal(model.mel_matrix, given.mel_matrix)
  assert model.vocabulary.model == given.vocabulary.model


def _find(path, config=_CONFIG, spec=_SPEC):
  return style_start.find_start('/nowhere', path, config, spec, lambda: None)


def test_what_does_not_fit_is_named(file, tmp_path):
  wider = dataclasses.replace(_CONFIG, audio=dataclasses.replace(_TOWER, num_layers=4))
  with pytest.raises(ValueError, match=r'audio.num_layers=1 \(the run: 4\)\. Give the model file'):
    _find(str(file), wider)
  with pytest.raises(ValueError, match=r'sizes than this run: style_dim=24 \(the run: 32\)\.'):
    _find(str(file), spec=dataclasses.replace(_SPEC, style_dim=32))
  with pytest.raises(ValueError, match="'musiccoca_v2' .* take 'musiccoca_v2_jax'"):
    _find('musiccoca_v2')
  with pytest.raises(FileNotFoundError, match='no checkpoint of a style run.*nor an official'):
    _find(str(tmp_path / 'none'))
  files = {'state/_METADATA': '', 'state/manifest.ocdbt': '', 'dataset/metadata': '{}'}
  for name, text in files.items():
    file = tmp_path / 'checkpoint_3' / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
  with pytest.raises(FileNotFoundError, match='it is not a style run'):
    _find(str(tmp_path))


def test_released_weights_are_looked_for_in_the_asset_directory(monkeypatch, tmp_path):
  monkeypatch.setenv('WOODSHED_ASSETS', str(tmp_path))
  with pytest.raises(FileNotFoundError, match='resources/musiccoca.*Put|Put.*resources/musiccoca'):
    _find('musiccoca_v2_jax', MusicCoCaConfig.real(), LiveMusicSpec())


def test_a_bundled_name_is_the_bundled_style_model():
  """And not the bundled language model, which has the same name."""
  start = _find('tiny', MusicCoCaConfig.tiny(), LiveMusicSpec())
  bundled = MusicCoCa.load('tiny')
  jax.tree.map(np.testing.assert_array_equal, start.towers['text'], bundled.params['text'])
  assert start.vocabulary.model == bundled.vocabulary.model and start.mel_matrix is None


def test_rows_beyond_the_vocabulary_are_left_out(given, file, monkeypatch):
  text = {**given.params['text']}
  text['tokens'] = np.concatenate([text['tokens'], np.ones([5, 16], np.float32)])
  longer = MusicCoCa(
    dataclasses.replace(given.config, vocab_size=len(text['tokens'])),
    {**given.params, 'text': text}, given.vocabulary, given.quantizer, _SPEC,
  )  # fmt: skip
  monkeypatch.setattr(style_start.MusicCoCa, 'load', lambda path: longer)
  np.testing.assert_array_equal(
    _find('longer').towers['text']['tokens'], given.params['text']['tokens']
  )


def test_a_mel_matrix_of_other_sizes_is_refused(refitted, given):
  feed = refitted[2]
  with pytest.raises(ValueError, match=r'\(1025, 64\), the front end needs \(1025, 128\)'):
    style_feed.StyleFeed(
      feed.tracks, feed.vocabulary, _CONFIG, batch_size=1, seed=0,
      mel_matrix=given.mel_matrix[:, :64],
    )  # fmt: skip


def test_reports_compare_with_statistics_of_the_same_bands(given):
  clips = np.random.default_rng(1).uniform(-0.3, 0.3, [3, 16_000]).astype(np.float32)
  got = log_mel_statistics(clips, _SPEC, given.config, given.mel_matrix)
  values = np.asarray(frontend.log_mel(clips, _CONFIG, 16_000, given.mel_matrix), np.float64)
  expected = np.concatenate([values.mean(1), values.std(1)], axis=1)
  np.testing.assert_allclose(got, expected, atol=1e-4)
  assert np.abs(log_mel_statistics(clips, _SPEC) - expected).max() > 0.5
