"""Audio feeds: crops are pure functions of (seed, batch, row) with the right audio and words."""

import json

import numpy as np
import pytest
import soundfile

from pipelines import audio_feed
from preprocessing.captions import CaptionFacts

RATE = 48_000


def _write(path, secs, left, right, rate=RATE):
  """A file whose left and right channels are constant."""
  n = int(secs * rate)
  soundfile.write(path, np.stack([np.full(n, left), np.full(n, right)], 1), rate, subtype='PCM_16')


@pytest.fixture
def folder(tmp_path):
  _write(tmp_path / 'a.wav', 3.0, 0.25, -0.5)
  _write(tmp_path / 'b.flac', 1.0, 0.125, 0.75)
  _write(tmp_path / 'short.wav', 0.1, 1.0, 1.0)
  (tmp_path / 'broken.wav').write_bytes(b'RIFF, but not really')
  (tmp_path / 'notes.txt').write_text('not audio')
  return tmp_path


def test_crops_without_augmentation_are_the_files(folder):
  feed = audio_feed.CodecFeed(folder, batch_size=64, crop_secs=0.4, augmentation=None)
  audio = feed.batch(0)['audio']
  assert audio.shape == (64, 19_200, 2) and audio.dtype == np.float32
  rows = {tuple(np.round(row[0], 3)) for row in audio}
  assert rows == {(0.25, -0.5), (0.125, 0.75)}  # Broken and too short files are left out.
  # Starts are uniform over time: 2.6 of 3.2 s of starts lie in the first file.
  share = np.mean(np.isclose(audio[:, 0, 0], 0.25, atol=1e-3))
  assert abs(share - 2.6 / 3.2) < 0.15


def test_batches_are_pure_functions_of_their_index(folder):
  one = audio_feed.CodecFeed(folder, batch_size=4, crop_secs=0.2, seed=3)
  two = audio_feed.CodecFeed(folder, batch_size=4, crop_secs=0.2, seed=3)
  later = two.batch(7)['audio']
  np.testing.assert_array_equal(one.batch(7)['audio'], later)
  assert not np.array_equal(one.batch(8)['audio'], later)
  other_seed = audio_feed.CodecFeed(folder, batch_size=4, crop_secs=0.2, seed=4)
  assert not np.array_equal(other_seed.batch(7)['audio'], later)


def test_augmentation_keeps_the_shape_and_full_scale():
  x = np.tile(np.float32([[0.5, -0.9]]), (10, 1))
  loud = audio_feed.Augmentation(gain_db=(6.0, 6.0), swap_probability=1.0, invert_probability=0.0)
  got = loud.apply(np.random.default_rng(0), x)
  np.testing.assert_allclose(got, np.tile([[-1.0, 0.5 / 0.9]], (10, 1)), rtol=1e-6)
  quiet = audio_feed.Augmentation((-20.0, -20.0), swap_probability=0.0, invert_probability=1.0)
  got = quiet.apply(np.random.default_rng(0), x)
  np.testing.assert_allclose(got, -0.1 * x, rtol=1e-6)


def test_crop_must_be_whole_frames(folder):
  with pytest.raises(ValueError, match='whole number of frames'):
    audio_feed.CodecFeed(folder, batch_size=1, crop_secs=0.5)  # 12.5 frames


def test_a_folder_without_audio_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=str(tmp_path)):
    audio_feed.find_clips(tmp_path)


def test_manifest_split_and_paths(folder):
  rows = [
    {'path': 'a.wav', 'split': 'train', 'caption': 'slow', 'genre': 'folk', 'tags': ['harp']},
    {'path': 'b.flac', 'split': 'validation', 'caption': None, 'genre': None, 'tags': None},
  ]
  (folder / 'manifest.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  (train,) = audio_feed.find_clips(folder)
  assert train == audio_feed.Clip(folder / 'a.wav', CaptionFacts('slow', ('folk',), ('harp',)))
  (validation,) = audio_feed.find_clips(folder / 'manifest.jsonl', split='validation')
  assert validation == audio_feed.Clip(folder / 'b.flac')


def test_style_pairs_belong_together(tmp_path):
  works = []
  for name, level in (('low', 0.25), ('high', 0.75)):
    _write(tmp_path / f'{name}.wav', 11.0, level, level)
    works.append({
      'path': f'{name}.wav', 'caption': f'a {name} caption', 'style': name, 'instruments': ['harp'],
      'bpm': 100, 'key': 'C major',
    })  # fmt: skip
  (tmp_path / 'corpus.json').write_text(json.dumps({'works': works}))
  texts = []

  def tokenize(batch_texts):
    texts.extend(batch_texts)
    return np.array([[len(t)] for t in batch_texts], np.int32), np.zeros([40, 1], np.float32)

  def caption(facts, rng):
    return facts.caption if rng.random() < 0.5 else f'{facts.styles[0]} in {facts.key}'

  feed = audio_feed.StyleFeed(tmp_path, tokenize, batch_size=40, augmentation=None, caption=caption)
  batch = feed.batch(0)
  assert batch['audio'].shape == (40, 160_000)
  for audio, text in zip(batch['audio'], texts, strict=True):
    # Away from the resampler's edges the level tells the file.
    assert np.median(audio) == pytest.approx(0.75 if 'high' in text else 0.25, abs=0.01)
  assert set(texts) == {
    'a low caption', 'low in C major', 'a high caption', 'high in C major',
  }  # fmt: skip
  np.testing.assert_array_equal(batch['text_ids'][:, 0], [len(text) for text in texts])
