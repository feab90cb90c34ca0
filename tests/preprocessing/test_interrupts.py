"""Ctrl-C while records are written: nothing new begins, and the next run gives the same records."""

import os
import signal
import threading

import numpy as np
import pytest

from preprocessing import audio, corpus, pipeline, records, shards

RATE = 16_000


@pytest.fixture
def options(tmp_path):
  (tmp_path / 'music').mkdir()
  for number in range(6):
    noise = np.random.default_rng(number).normal(0, 0.1, [8 * RATE, 2])
    audio.write_audio(tmp_path / 'music' / f'{number}.wav', noise, RATE)
  return lambda name: corpus.PrepareOptions(
    output_dir=str(tmp_path / name), audio_dir=str(tmp_path / 'music'), name='toy',
    clips=corpus.features.ClipOptions(clip_secs=4), format=shards.RecordFormat(num_shards=4),
    beam_args=('--direct_running_mode=multi_threading', '--direct_num_workers=2'),
  )  # fmt: skip


def test_interrupted_while_shards_are_written(options, fake_models, monkeypatch):
  quiet = corpus.prepare_corpus(options('quiet'), fake_models).dataset_dir
  write, main = records.write_shard, threading.main_thread()
  begun, interrupted, late = [], threading.Event(), threading.Event()

  def hold(path, *arguments):
    """The second shard is held while Ctrl-C comes, and written when the run has ended."""
    begun.append(os.path.basename(path))
    if len(begun) == 2:
      signal.pthread_kill(main.ident, signal.SIGINT)
      assert interrupted.wait(120)
      write(path, *arguments)
      late.set()
    elif len(begun) == 1:
      write(path, *arguments)
    else:
      assert interrupted.wait(120)  # Other threads may have begun before.
      write(path, *arguments)

  monkeypatch.setattr(records, 'write_shard', hold)
  with pytest.raises((KeyboardInterrupt, RuntimeError), match='|KeyboardInterrupt'):
    corpus.prepare_corpus(options('cut'), fake_models)
  assert pipeline._ended.is_set()
  count = len(begun)
  interrupted.set()
  assert late.wait(120)
  assert count == len(begun) <= 3  # Of eight: one for each thread, and the first.
  monkeypatch.setattr(records, 'write_shard', write)
  made = corpus.prepare_corpus(options('cut'), fake_models).dataset_dir
  names = sorted(path.name for path in quiet.glob('*.tfrecord-*'))
  assert len(names) >= 8 and names == sorted(path.name for path in made.glob('*.tfrecord-*'))
  for name in names:
    assert (made / name).read_bytes() == (quiet / name).read_bytes(), name
  assert [path.name for path in made.parent.iterdir()] == ['1.0.0']
