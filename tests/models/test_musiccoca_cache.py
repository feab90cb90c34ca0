"""The cache of embeddings: the same results, computed once, whatever happens to the folder."""

import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np

from models.musiccoca.cache import CachedEmbedder
from models.musiccoca.embedder import StyleEmbedder
from models.musiccoca.vocabulary import train_vocabulary
from models.spec import LiveMusicSpec
from models.vector_cache import VectorCache

ROOT = pathlib.Path(__file__).parents[2]
_SPEC = LiveMusicSpec(
  style_sample_rate=100, style_window_secs=1, style_dim=4, style_rvq_levels=2, style_levels=1
)


class Counting(StyleEmbedder):
  """Embeds by sums, and counts the rows that it is given."""

  content_hash = 'abcd'
  codebooks = np.random.default_rng(0).standard_normal([2, 8, 4]).astype(np.float32)

  def __init__(self):
    self.spec = _SPEC
    self.vocabulary = train_vocabulary(['slow jazz', 'fast rock'] * 9, 60, 16)
    self.rows = 0

  def embed_ids(self, ids, paddings):
    self.rows += len(ids)
    return np.stack([ids.sum(1), paddings.sum(1), ids[:, 1], ids[:, 2]], 1).astype(np.float32)

  def embed_clips(self, clips):
    self.rows += len(clips)
    return clips.reshape(len(clips), 4, -1).sum(2)


def test_results_are_those_of_the_model_and_are_computed_once(tmp_path):
  model = Counting()
  cached = CachedEmbedder(model, tmp_path)
  texts = ['slow jazz', 'fast rock', 'SLOW jazz', '']
  audio = np.random.default_rng(1).standard_normal([350, 2])
  for first in (True, False):
    model.rows = 0
    plain = Counting()
    np.testing.assert_array_equal(cached.embed_text(texts), plain.embed_text(texts))
    np.testing.assert_array_equal(cached.embed_audio(audio, 100), plain.embed_audio(audio, 100))
    assert model.rows == (3 + 4 if first else 0), 'equal texts count once'
  assert cached.cache.hits == 3 + 4 and cached.cache.misses == 3 + 4
  assert cached.embed_text([]).shape == (0, 4)
  assert cached.content_hash == 'abcd'
  np.testing.assert_array_equal(cached.tokenize(np.ones(4)), model.tokenize(np.ones(4)))


def test_another_process_finds_them_and_another_model_does_not(tmp_path):
  CachedEmbedder(Counting(), tmp_path).embed_text(['slow jazz'])
  again = Counting()
  CachedEmbedder(again, tmp_path).embed_text(['slow jazz'])
  assert again.rows == 0
  for change in ({'content_hash': 'ef01'}, {'variant': 'mapper'}):
    other = type('Other', (Counting,), change)()
    CachedEmbedder(other, tmp_path).embed_text(['slow jazz'])
    assert other.rows == 1, change


def test_damaged_entries_are_computed_anew(tmp_path):
  model = Counting()
  cached = CachedEmbedder(model, tmp_path)
  expected = cached.embed_text(['slow jazz'])
  (entry,) = [path for path in tmp_path.rglob('*/??/*') if path.is_file()]
  content = entry.read_bytes()
  for damaged in (b'', content[:-1], content[:5] + bytes([content[5] ^ 1]) + content[6:]):
    entry.write_bytes(damaged)
    model.rows = 0
    np.testing.assert_array_equal(cached.embed_text(['slow jazz']), expected)
    assert model.rows == 1
    assert entry.read_bytes() == content


def test_a_folder_that_cannot_be_written_costs_a_notice_only(tmp_path, monkeypatch, capsys):
  cached = CachedEmbedder(Counting(), tmp_path)

  def full(*_):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'replace', full)
  np.testing.assert_array_equal(cached.embed_text(['slow jazz']),
                                Counting().embed_text(['slow jazz']))  # fmt: skip
  cached.embed_text(['fast rock'])
  assert capsys.readouterr().err.count('No space left') == 1
  assert not [path for path in tmp_path.rglob('*') if path.is_file()], 'no leftovers'


def test_leftovers_of_killed_processes_go_after_an_hour(tmp_path):
  cache = VectorCache(tmp_path, 4)
  fresh, stale = tmp_path / 'partial' / 'fresh', tmp_path / 'partial' / 'stale'
  fresh.touch()
  stale.touch()
  os.utime(stale, (time.time() - 4000,) * 2)
  assert cache.get('00ff') is None
  VectorCache(tmp_path, 4)
  assert fresh.exists() and not stale.exists()


_WRITER = """
import sys, numpy as np
from models.vector_cache import VectorCache
cache = VectorCache(sys.argv[1], 2048)
for i in range(int(sys.argv[2])):
  key = f'{i % 50:04x}'
  cache.put(key, np.full(2048, i % 50, np.float32))
  if i == 0:
    print('started', flush=True)
"""


def _start_writer(folder: pathlib.Path, count: int) -> subprocess.Popen:
  process = subprocess.Popen(
    [sys.executable, '-c', _WRITER, str(folder), str(count)], cwd=ROOT, stdout=subprocess.PIPE
  )
  process.stdout.readline()
  return process


def test_entries_are_whole_under_concurrent_writers_that_are_killed(tmp_path):
  writers = [_start_writer(tmp_path, 10**9) for _ in range(2)]
  cache = VectorCache(tmp_path, 2048)
  found = 0
  for i in itertools.count():
    if found == 1000:
      break
    vector = cache.get(f'{i % 50:04x}')
    if vector is not None:
      found += 1
      np.testing.assert_array_equal(vector, np.float32(i % 50))
  for writer in writers:
    writer.send_signal(signal.SIGKILL)
    writer.wait()
  for path in tmp_path.glob('00/*'):
    number = int(path.name, 16)
    np.testing.assert_array_equal(cache.get(path.name), np.float32(number))
