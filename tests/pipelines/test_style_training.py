"""The style model's run end to end at toy size, and its feed."""

import json

import numpy as np
import pytest
import soundfile

from models.musiccoca import MusicCoCa, MusicCoCaConfig, TowerConfig, frontend
from models.musiccoca.captioner import CaptionerConfig
from models.musiccoca.training import StyleRecipe
from models.spec import LiveMusicSpec
from pipelines import style_feed, style_training
from preprocessing.captions import CaptionFacts
from training import optimizers

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


def test_a_run_writes_a_model_that_loads(folder, tmp_path):
  style_training.train_style(
    model_dir=str(tmp_path),
    data_dir=str(folder),
    config=_CONFIG,
    batch_size=3,
    recipe=StyleRecipe(kept_patches=8, captioner=CaptionerConfig(1, 2)),
    finish=style_training.FinishRecipe(
      text_steps=2, rank=8, active_codes=(2, 4), windows_per_track=2, texts_per_track=2
    ),
    optimizer=optimizers.adam(1e-3),
    total_steps=2,
    text_length=16,
    spec=_SPEC,
    tensorboard=False,
  )
  model = MusicCoCa.load(tmp_path / style_training.WEIGHTS_FILE)
  assert model.card['training_tracks'] == 3 and model.card['held_out_tracks'] == 1
  assert model.card['steps'] == 2
  assert model.tokenize(model.embed_text(['piano']))[0, 0] in (0, 1)
  assert model.codebooks.shape == (3, 16, 24)
