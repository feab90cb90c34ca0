"""Which audio a codec or style run has seen: names and sizes, wherever the folder lies."""

import shutil

import numpy as np
import pytest

from models.spec import LiveMusicSpec
from pipelines.audio_content import audio_content
from pipelines.audio_feed import CodecFeed
from preprocessing.audio import write_audio
from training import data_state

SPEC = LiveMusicSpec()


def _write(path, secs=0.5):
  path.parent.mkdir(exist_ok=True)
  samples = round(secs * SPEC.sample_rate)
  noise = np.random.default_rng(len(path.name)).normal(0, 0.1, [samples, 2])
  write_audio(path, noise, SPEC.sample_rate)
  return str(path)


def test_a_catalog_that_moved_is_the_same_and_one_that_grew_is_not(tmp_path):
  paths = [_write(tmp_path / 'music' / f'{name}.wav') for name in 'ab']
  (known,) = audio_content(paths)
  assert known['about'] == '2 audio files'
  assert audio_content(reversed(paths)) == (known,)
  shutil.move(tmp_path / 'music', tmp_path / 'moved')
  moved = [str(tmp_path / 'moved' / f'{name}.wav') for name in 'ab']
  assert audio_content(moved) == (known,)
  for others in ([*moved, _write(tmp_path / 'moved' / 'c.wav')], moved[:1],
                 [moved[0], _write(tmp_path / 'moved' / 'b.wav', secs=0.6)]):  # fmt: skip
    assert audio_content(others)[0]['fingerprint'] != known['fingerprint']


def test_a_codec_run_does_not_go_on_with_other_audio(tmp_path):
  _write(tmp_path / 'music' / 'a.wav')
  options = dict(batch_size=2, crop_secs=0.2, spec=SPEC)
  feed = CodecFeed(tmp_path / 'music', **options)
  saved = data_state.position(3, feed)['data']
  assert data_state.content_of(feed.shard(0, 2)) == feed.content
  again = CodecFeed(tmp_path / 'music', **options)
  assert data_state.check_same_data('checkpoint_3', saved, again.content) == ''
  _write(tmp_path / 'music' / 'b.wav')
  other = CodecFeed(tmp_path / 'music', **options)
  with pytest.raises(ValueError, match='trained on 1 audio files .* is given 2 audio files'):
    data_state.check_same_data('checkpoint_3', saved, other.content)
