"""The style model's run end to end at toy size, and its feed."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import soundfile

from models.musiccoca import MusicCoCa, MusicCoCaConfig, TowerConfig, frontend
from models.musiccoca.captioner import CaptionerConfig
from models.musiccoca.codebooks import CodebookRecipe
from models.musiccoca.training import SoundChanges, StyleRecipe
from models.spec import LiveMusicSpec
from pipelines import style_feed, style_finish, style_hearing, style_training
from preprocessing.captions import CaptionFacts
from training import metrics, optimizers

_TOWER = TowerConfig(
  num_layers=1, model_dim=16, num_heads=2, head_dim=8, mlp_dim=16, pooler_heads=2, pooler_head_dim=4
)
_SPEC = LiveMusicSpec(
  style_window_secs=1, style_dim=24, style_rvq_levels=3, style_levels=2, codebook_size=16
)
_CONFIG = MusicCoCaConfig(audio=_TOWER, text=_TOWER, vocab_size=200)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Four tracks of 11 s with a manifest; one of them is held out."""
  folder = tmp_path_factory.mktemp('music')
  rows = []
  for i, (genre, split) in enumerate(
    [('Jazz', 'train'), ('Rock', 'train'), ('Folk', 'train'), ('Jazz', 'validation')]
  ):
    t = np.arange(11 * 16_000) / 16_000
    path = folder / f'{i}.wav'
    soundfile.write(path, 0.2 * np.sin(2 * np.pi * 150 * 2**i * t), 16_000)
    rows.append({
      'track_id': f't{i}', 'path': str(path), 'sha256': f'{i:064d}', 'duration_secs': 11.0,
      'sample_rate': 16_000, 'channels': 1, 'title': f'{i}', 'genre': genre,
      'caption': f'calm {genre} with piano, take {i}', 'tags': ['piano'], 'split': split,
    })  # fmt: skip
  (folder / 'manifest.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return folder


@pytest.fixture(scope='module')
def feed(folder):
  tracks = style_feed.style_tracks(folder)
  vocabulary = style_feed.caption_vocabulary(tracks, _CONFIG, seed=0)
  return style_feed.StyleFeed(
    tracks, vocabulary, _CONFIG, batch_size=3, seed=5, spec=_SPEC, text_length=16,
    cut_probability=0.0,
  )


def test_tracks_of_a_manifest_by_split(folder, tmp_path):
  assert [t.facts.caption[-1] for t in style_feed.style_tracks(folder)] == ['0', '1', '2']
  held_out = style_feed.style_tracks(folder, 'validation')
  assert held_out[0].facts == CaptionFacts('calm Jazz with piano, take 3', ('Jazz',), ('piano',))
  with pytest.raises(ValueError, match="split 'test'"):
    style_feed.style_tracks(folder, 'test')
  with pytest.raises(FileNotFoundError, match='prepare.py'):
    style_feed.style_tracks(tmp_path)


def test_batches_are_pure_functions_of_the_step(feed):
  first, again, other = feed.batch(0), feed.batch(0), feed.batch(1)
  for name in first:
    np.testing.assert_array_equal(first[name], again[name])
  assert first['log_mel'].shape == (3, 96, 128)
  assert first['text_ids'].shape == first['text_paddings'].shape == (3, 16)
  assert not np.array_equal(first['text_ids'], other['text_ids'])


def test_track_log_mel_equals_the_front_end(feed):
  audio, _ = soundfile.read(feed.tracks[1].path, dtype='float32')
  got = feed.track_log_mel(1)
  assert got.shape == (1098, 128)
  whole = np.asarray(frontend.log_mel(audio, _CONFIG, 16_000))
  np.testing.assert_allclose(got[: len(whole)], whole, atol=0.02)


def test_a_window_beyond_the_end_is_silence(feed):
  window = feed.window(feed.track_log_mel(0), 1050)
  assert window.shape == (96, 128)
  np.testing.assert_array_equal(window[:48], feed.track_log_mel(0)[1050:])
  np.testing.assert_allclose(window[48:], np.log(0.001), rtol=1e-3)


def test_batches_with_second_clips_and_a_teacher(feed):
  asked = []

  def teacher(track: int, start: float, secs: float) -> np.ndarray:
    asked.append((track, start, secs))
    return np.array([track, start], np.float32)

  more = style_feed.StyleFeed(
    feed.tracks, feed.vocabulary, _CONFIG, batch_size=3, seed=5, spec=_SPEC, text_length=16,
    cut_probability=0.0, second_clips=True, teacher=teacher,
  )
  batch, plain = more.batch(0), feed.batch(0)
  for name in plain:
    np.testing.assert_array_equal(batch[name], plain[name])
  assert sorted(track for track, _, _ in asked) == [0, 1, 2]
  for row, (track, start, secs) in enumerate(asked):
    np.testing.assert_array_equal(batch['teacher'][row], np.float32([track, start]))
    frame = round(start * 16_000 / _CONFIG.hop_length)
    whole = more.track_log_mel(track)
    np.testing.assert_array_equal(batch['log_mel'][row], more.window(whole, frame))
    assert secs == 1 and 0 <= start <= 10
    # Another clip of the same tone, and not of another one.
    means = [more.track_log_mel(i).astype(np.float32).mean(0) for i in range(3)]
    other = batch['other_log_mel'][row].astype(np.float32).mean(0)
    assert np.argmin([np.abs(other - mean).sum() for mean in means]) == track


_STYLE_RUN = {
  'config': _CONFIG, 'batch_size': 3, 'text_length': 16, 'spec': _SPEC, 'tensorboard': False,
  'checkpoint_period': 1,
  'recipe': StyleRecipe(kept_patches=8, captioner=CaptionerConfig(1, 2)),
  'finish': style_finish.FinishRecipe(
    text_steps=2, windows_per_track=2, texts_per_track=2,
    codebooks=CodebookRecipe(
      rank=8, active_codes=(2, 4), shared_levels=1, shared_rank=2, ema_passes=2, ema_batch_size=4
    ),
  ),
}  # fmt: skip


@pytest.fixture(scope='module')
def whole_run(folder, tmp_path_factory):
  model_dir = tmp_path_factory.mktemp('whole')
  state = style_training.train_style(
    model_dir=str(model_dir), data_dir=str(folder), total_steps=3,
    optimizer=optimizers.adam(1e-3), **_STYLE_RUN,
  )  # fmt: skip
  return model_dir, state


def test_a_run_that_hears_its_captions_and_has_a_teacher(folder, tmp_path, monkeypatch):
  def listen(self, audio):
    """Ambient piano in D, at random."""
    rng = np.random.default_rng(len(audio) + round(1e6 * float(np.abs(audio).mean())))
    probabilities = np.zeros([3, 100], np.float32)
    for tag in (('msd', 'ambient'), ('mtt', 'piano')):
      probabilities[:, self.tags.index(tag)] = 0.8
    features = rng.standard_normal([3, 400]).astype(np.float32)
    chroma = rng.dirichlet(np.ones(12), 3).astype(np.float32)
    return style_hearing.Heard(features, probabilities, chroma, np.float32([98.0, 0.9]))

  monkeypatch.setattr(style_hearing.Hearing, '_listen', listen)
  recipe = StyleRecipe(
    kept_patches=8, captioner=CaptionerConfig(1, 2), same_track_weight=0.5, teacher_weight=0.25,
    sound_changes=SoundChanges(6.0, 6.0, 4.0),
  )  # fmt: skip
  state = style_training.train_style(
    model_dir=str(tmp_path), data_dir=[str(folder), str(folder / 'manifest.jsonl')], total_steps=1,
    captions='heard', optimizer=optimizers.adam(1e-3), log_period=1,
    **{**_STYLE_RUN, 'recipe': recipe},
  )  # fmt: skip
  (line,) = (row for row in metrics.read_metrics(tmp_path) if row['stream'] == 'train')
  # The map to the teacher starts from zero; three parts of a variance of 1 in all.
  assert 0 < line['teacher_loss'] < 6
  assert line['same_track_loss'] > 0
  parts = line['contrastive_loss'] + line['caption_loss'] + 0.5 * line['same_track_loss']
  assert line['loss'] == pytest.approx(parts + 0.25 * line['teacher_loss'], rel=1e-4)
  assert np.abs(np.asarray(state.params['teacher']['kernel'])).max() > 0
  model = MusicCoCa.load(tmp_path / style_finish.WEIGHTS_FILE)
  assert model.card['training_tracks'] == 6
  assert 'teacher' not in model.params and len(list((tmp_path / 'heard').glob('*/*.npz'))) == 4


def test_a_run_writes_a_model_that_loads(whole_run):
  model = MusicCoCa.load(whole_run[0] / style_finish.WEIGHTS_FILE)
  assert model.card['training_tracks'] == 3 and model.card['held_out_tracks'] == 1
  assert model.card['steps'] == 3
  assert model.tokenize(model.embed_text(['piano']))[0, 0] in (0, 1)
  assert model.codebooks.shape == (3, 16, 24)


def test_a_run_that_stopped_ends_where_one_that_did_not(whole_run, folder, tmp_path):
  """Stopped after one step, and gone on: the same parameters, to the bit, and the same file."""
  expected_dir, expected = whole_run
  for steps in (1, 3):
    state = style_training.train_style(
      model_dir=str(tmp_path), data_dir=str(folder), total_steps=steps,
      optimizer=optimizers.adam(1e-3), **_STYLE_RUN,
    )  # fmt: skip
  jax.tree.map(np.testing.assert_array_equal, state.params, expected.params)
  jax.tree.map(np.testing.assert_array_equal, state.opt_state, expected.opt_state)
  first, second = (
    MusicCoCa.load(path / style_finish.WEIGHTS_FILE) for path in (expected_dir, tmp_path)
  )
  assert first.content_hash == second.content_hash


def test_runs_of_one_genre_keep_every_track_once(feed):
  tracks = [
    style_feed.StyleTrack(f'{i}', CaptionFacts(styles=(f'g{i % 4}',)), 5.0) for i in range(40)
  ]
  feed = style_feed.StyleFeed(
    tracks, feed.vocabulary, _CONFIG, batch_size=10, seed=1, spec=_SPEC, same_genre_run=5
  )
  orders = [feed._epoch_order(epoch) for epoch in (0, 0, 1)]
  np.testing.assert_array_equal(orders[0], orders[1])
  assert not np.array_equal(orders[0], orders[2])
  for order in orders:
    assert sorted(order) == list(range(40))
    assert all(len({i % 4 for i in order[start : start + 5]}) == 1 for start in range(0, 40, 5))
  with pytest.raises(ValueError, match='same_genre_run=0'):
    style_feed.StyleFeed(tracks, feed.vocabulary, _CONFIG, batch_size=1, seed=1, same_genre_run=0)


def test_processes_share_a_batch_row_by_row(feed):
  whole = feed.batch(4)
  parts = [feed.shard(index, 3).batch(4) for index in range(3)]
  for name, rows in whole.items():
    np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), rows)
  with pytest.raises(ValueError, match='3 cannot be shared by 2'):
    feed.shard(0, 2)


def test_crops_of_a_large_corpus_are_read_from_their_files(feed):
  """The same rows of music within the frames of a crop's start, whether tracks are kept or not."""
  small = style_feed.StyleFeed(
    feed.tracks, feed.vocabulary, _CONFIG, batch_size=3, seed=5, spec=_SPEC, text_length=16,
    cut_probability=0.0, max_cached_tracks=2,
  )  # fmt: skip
  kept, read = feed.batch(1), small.batch(1)
  np.testing.assert_array_equal(kept['text_ids'], read['text_ids'])
  assert read['log_mel'].shape == kept['log_mel'].shape and read['log_mel'].dtype == np.float16
  # Steady tones: a window looks the same wherever it starts.
  means = [np.asarray(x['log_mel'], np.float32).mean(1) for x in (kept, read)]
  np.testing.assert_allclose(means[0], means[1], atol=0.35)


@pytest.mark.slow
def test_train_py_makes_a_style_model_in_one_call(folder, tmp_path):
  """Towers, text onto audio, 12 x 1024 codes and the weights file, at the tiny model's recipe."""
  settings = {
    'DATA_DIR': str(folder), 'MODEL_DIR': str(tmp_path / 'run'), 'TRAIN_STEPS': 2, 'BATCH_SIZE': 4,
    'NUM_MICROBATCHES': 2, 'TEXT_STEPS': 2, 'EVAL_PERIOD': 2, 'LOG_PERIOD': 1,
  }  # fmt: skip
  command = [
    sys.executable, 'train.py', '--gin_file=gin/models/musiccoca_tiny.gin',
    '--gin_file=gin/runs/train_style_tiny.gin',
    '--gin.config.TowerConfig.model_dim=16', '--gin.config.TowerConfig.mlp_dim=16',
    *(f'--gin.{name}={value!r}' for name, value in settings.items()),
  ]  # fmt: skip
  root = pathlib.Path(__file__).parents[2]
  done = subprocess.run(
    command, cwd=root, capture_output=True, text=True, timeout=900,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-3000:]
  model = MusicCoCa.load(tmp_path / 'run' / style_finish.WEIGHTS_FILE)
  assert model.codebooks.shape == (12, 1024, 768)
  assert model.card['steps'] == 2 and 'text_to_audio_recall_at_10' in model.card['held_out']
  tokens = model.tokenize(model.embed_text(['calm jazz']))
  assert tokens.shape == (1, 12) and tokens[0, 0] < 17, 'level 0 has 17 codes in use'
  lines = metrics.read_metrics(tmp_path / 'run')
  assert {line['stream'] for line in lines} == {'train', 'training_eval/retrieval'}
