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
  loud = audio_feed.Augmentation((6.0, 6.0), 1.0, invert_probability=0.0, mono_probability=0.0)
  got = loud.apply(np.random.default_rng(0), x)
  np.testing.assert_allclose(got, np.tile([[-1.0, 0.5 / 0.9]], (10, 1)), rtol=1e-6)
  quiet = audio_feed.Augmentation((-20.0, -20.0), 0.0, invert_probability=1.0, mono_probability=0.0)
  got = quiet.apply(np.random.default_rng(0), x)
  np.testing.assert_allclose(got, -0.1 * x, rtol=1e-6)
  mono = audio_feed.Augmentation((0.0, 0.0), 0.5, invert_probability=0.0, mono_probability=1.0)
  got = mono.apply(np.random.default_rng(0), x)
  np.testing.assert_allclose(got, np.full([10, 2], -0.2), rtol=1e-6)


def test_crops_from_disk_are_the_files(folder):
  ramp = np.linspace(-0.9, 0.9, 2 * 44_100)
  soundfile.write(folder / 'ramp.wav', np.stack([ramp, -ramp], 1), 44_100, subtype='FLOAT')
  options = dict(batch_size=24, crop_secs=0.4, augmentation=None, in_memory=False)
  feed = audio_feed.CodecFeed(folder, **options)
  audio = feed.batch(3)['audio']
  assert audio.shape == (24, 19_200, 2) and audio.dtype == np.float32
  constant = {tuple(np.round(row[0], 3)) for row in audio if np.ptp(row) < 1.0 and row[0].std() > 0}
  assert {(0.25, -0.5), (0.125, 0.75)} <= constant
  # A slope that is the file's, whatever its sample rate.
  slopes = [np.diff(row[100:-100, 0]).mean() for row in audio if np.ptp(row[:, 0]) > 0.01]
  assert slopes and np.allclose(slopes, 1.8 / (2 * RATE), rtol=1e-3)
  np.testing.assert_array_equal(audio, audio_feed.CodecFeed(folder, **options).batch(3)['audio'])


def test_a_file_that_cannot_be_read_is_drawn_anew(folder):
  (folder / 'gone.wav').write_bytes((folder / 'a.wav').read_bytes())
  feed = audio_feed.CodecFeed(folder, batch_size=16, crop_secs=0.4, in_memory=False)
  (folder / 'gone.wav').write_bytes(b'RIFF, but not really')
  assert np.isfinite(feed.batch(0)['audio']).all()
  for path in folder.iterdir():
    path.unlink()
  with pytest.raises(ValueError, match='20 crops could not be read, the last because'):
    feed.batch(0)


@pytest.mark.parametrize('in_memory', [True, False])
def test_shards_are_the_rows_of_the_batch(folder, in_memory):
  feed = audio_feed.CodecFeed(folder, batch_size=6, crop_secs=0.2, in_memory=in_memory)
  whole = feed.batch(5)['audio']
  for index in range(2):
    np.testing.assert_array_equal(feed.shard(index, 2).batch(5)['audio'], whole[index::2])
  np.testing.assert_array_equal(feed.batch(5)['audio'], whole)


def test_what_is_held_out(folder, tmp_path):
  assert audio_feed.held_out_feed(folder, None, batch_size=2, crop_secs=0.4) is None
  other = audio_feed.held_out_feed('nowhere', folder, batch_size=30, crop_secs=0.4)
  assert {tuple(np.round(row[0], 3)) for row in other.batch(0)['audio']} == {
    (0.25, -0.5), (0.125, 0.75)
  }  # fmt: skip
  row = {'path': 'b.flac', 'track_id': 'b', 'sha256': 64 * 'b', 'split': 'validation'}
  facts = {'duration_secs': 1.0, 'sample_rate': RATE, 'channels': 2}
  (folder / 'manifest.jsonl').write_text(json.dumps(row | facts) + '\n')
  split = audio_feed.held_out_feed(folder, None, batch_size=9, crop_secs=0.4)
  assert np.allclose(split.batch(0)['audio'], [0.125, 0.75], atol=1e-3)


@pytest.mark.parametrize('in_memory', [True, False])
def test_float_files_are_scaled_down_and_nan_is_left_out(tmp_path, capfd, in_memory):
  """What lies beyond full scale is not cut off; a file with NaN is named with the place."""
  x = np.tile(np.float32([[2.0, -4.0]]), (RATE, 1))
  soundfile.write(tmp_path / 'hot.wav', x, RATE, subtype='FLOAT')
  soundfile.write(tmp_path / 'short.wav', x[: RATE // 5 - 1], RATE, subtype='FLOAT')
  x = np.full([2 * RATE, 2], 0.125, np.float32)
  x[12_000::1000] = np.nan
  soundfile.write(tmp_path / 'nan.wav', x, RATE, subtype='FLOAT')
  feed = audio_feed.CodecFeed(
    tmp_path, batch_size=6, crop_secs=0.2, augmentation=None, in_memory=in_memory, seed=1
  )
  audio = feed.batch(0)['audio']
  np.testing.assert_allclose(audio, np.broadcast_to([0.5, -1.0], audio.shape), atol=1e-4)
  said = capfd.readouterr().err
  assert 'nan.wav' in said and 'NaN or infinity at ' in said
  assert 'short.wav is left out: 0.19998 s; at least 0.2 s' in said
  if in_memory:
    assert 'nan.wav is left out: NaN or infinity at 0.2500 s' in said
  else:
    assert said.count('Another crop is drawn') == 1


def test_crop_must_be_whole_frames(folder):
  with pytest.raises(ValueError, match='whole number of frames'):
    audio_feed.CodecFeed(folder, batch_size=1, crop_secs=0.5)  # 12.5 frames


def test_a_folder_without_audio_is_named(tmp_path):
  with pytest.raises(ValueError, match=str(tmp_path)):
    audio_feed.find_audio(tmp_path)


def test_manifest_split_and_paths(folder):
  rows = [
    {'path': 'a.wav', 'track_id': 'a', 'sha256': 64 * 'a', 'split': 'train'},
    {'path': 'b.flac', 'track_id': 'b', 'sha256': 64 * 'b', 'split': 'validation'},
  ]
  facts = {'duration_secs': 1.0, 'sample_rate': RATE, 'channels': 2}
  text = ''.join(json.dumps(row | facts) + '\n' for row in rows)
  (folder / 'manifest.jsonl').write_text(text)
  assert audio_feed.find_audio(folder) == {str(folder / 'a.wav'): 1.0}
  manifest = folder / 'manifest.jsonl'
  assert list(audio_feed.find_audio(manifest, 'validation')) == [str(folder / 'b.flac')]
  assert len(audio_feed.find_audio(folder, split=None)) == 2
  with pytest.raises(ValueError, match="split 'test'"):
    audio_feed.find_audio(folder, split='test')


@pytest.mark.parametrize('in_memory', [True, False])
def test_one_damaged_file_among_many_is_named_and_left_out(tmp_path, in_memory, capfd):
  """Chained Ogg streams, one of them with a page that was changed."""
  good = np.full([RATE, 2], 0.25)
  _write(tmp_path / 'good.wav', 1.0, 0.25, 0.25)
  soundfile.write(tmp_path / 'link.ogg', good, RATE, format='OGG', subtype='VORBIS')
  link = (tmp_path / 'link.ogg').read_bytes()
  (tmp_path / 'radio.ogg').write_bytes(link + link[:-9] + bytes([link[-9] ^ 1]) + link[-8:])
  (tmp_path / 'score.mid').write_bytes(b'MThd')
  feed = audio_feed.CodecFeed(
    tmp_path, batch_size=4, crop_secs=0.4, augmentation=None, in_memory=in_memory
  )
  np.testing.assert_allclose(feed.batch(0)['audio'][:, 9600], 0.25, atol=0.02)
  err = capfd.readouterr().err
  assert f'{tmp_path}/radio.ogg is damaged: the page at byte' in err
  assert f'{tmp_path}/score.mid is left out: .mid is a score, not a recording' in err
