"""Audio feeds: crops are pure functions of (seed, batch, row) with the right audio."""

import json

import numpy as np
import pytest
import soundfile

from pipelines import audio_feed

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
  with pytest.raises(ValueError, match=str(tmp_path)):
    audio_feed.find_audio(tmp_path)


def test_manifest_split_and_paths(folder):
  rows = [
    {'path': 'a.wav', 'track_id': 'a', 'sha256': '0a', 'split': 'train'},
    {'path': 'b.flac', 'track_id': 'b', 'sha256': '0b', 'split': 'validation'},
  ]
  facts = {'duration_secs': 1.0, 'sample_rate': RATE, 'channels': 2}
  text = ''.join(json.dumps(row | facts) + '\n' for row in rows)
  (folder / 'manifest.jsonl').write_text(text)
  assert audio_feed.find_audio(folder) == [str(folder / 'a.wav')]
  manifest = folder / 'manifest.jsonl'
  assert audio_feed.find_audio(manifest, split='validation') == [str(folder / 'b.flac')]
  assert len(audio_feed.find_audio(folder, split=None)) == 2
  with pytest.raises(ValueError, match="split 'test'"):
    audio_feed.find_audio(folder, split='test')
