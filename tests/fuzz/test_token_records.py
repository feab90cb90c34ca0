"""Token records: damaged files give the right examples or an error that names one of them."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import pathlib

import hypothesis
import pytest
import tensorflow as tf

from models.record_shards import TokenDataError, TokenFolder
from preprocessing import records
from tasks import source
from tests.fuzz import mutations
from tests.tasks import token_folders

COUNT = 4
CLIPS = {index: token_folders.clip(index) for index in range(COUNT)}


@pytest.fixture(scope='module', params=['', 'GZIP'])
def folder(request, tmp_path_factory):
  """Two shards of two records."""
  root = tmp_path_factory.mktemp('tokens')
  return token_folders.write(root, {'train': COUNT}, compression=request.param)


def _read(folder):
  """What eval.py, finetune.py and `tokens inspect` read."""
  return {
    info.index: (tokens.acoustic_tokens, tokens.style_tokens)
    for tokens, info in records.read_split(folder, 'train')
  }


def _check(read, folder, story):
  """Reads, and compares what comes with what was written."""
  try:
    found = read()
  except TokenDataError as error:
    assert str(folder) in str(error), story
    return
  assert found.keys() == CLIPS.keys(), story
  for index, (codes, style) in found.items():
    assert (codes == CLIPS[index][0]).all() and (style == CLIPS[index][1]).all(), story


SHARD = 'a shard'


@pytest.mark.parametrize('name', [SHARD, 'dataset_info.json', 'stats.json', 'shards.json'])
def test_shards_and_what_stands_beside_them(folder, name):
  path = token_folders.shard_path(folder, 'train', 0, 2) if name == SHARD else folder / name
  valid = path.read_bytes()

  @mutations.settings(40)
  @hypothesis.given(mutations.mutations(valid))
  def run(mutation):
    path.write_bytes(mutation.data)
    _check(lambda: _read(folder), folder, mutation.story)

  try:
    run()
  finally:
    path.write_bytes(valid)


def test_a_shard_that_changes_while_it_is_read(folder):
  """Behind the look at sizes and ends: what training reads finds it by itself, and ends."""
  path = token_folders.shard_path(folder, 'train', 0, 2)
  valid = path.read_bytes()
  data = source.TokenRecordSource.of_folder(TokenFolder(folder))
  stream = data.stream('train', num_epochs=2)

  def read():
    found, number = {}, 0
    try:
      for record in stream.as_numpy_iterator():
        assert record['index'] == number % COUNT and record['epoch'] == number // COUNT
        found[number % COUNT] = record['acoustic_tokens'], record['style_tokens']
        number += 1
    except (tf.errors.OpError, UnicodeDecodeError) as error:
      raise data.explain('train', number, error) from None
    assert number == 2 * COUNT
    return found

  @mutations.settings(25)
  @hypothesis.given(mutations.mutations(valid))
  def run(mutation):
    path.write_bytes(mutation.data)
    _check(read, folder, mutation.story)

  try:
    run()
  finally:
    path.write_bytes(valid)


def test_a_record_whose_checksums_are_right(tmp_path):
  """Written by a program that goes wrong: protocol buffers and tensors that are none."""
  valid = token_folders.encode(0, *token_folders.clip(0))
  root = pathlib.Path(tmp_path)
  folder = token_folders.write(root, {'train': COUNT})
  path = token_folders.shard_path(folder, 'train', 0, 2)
  (folder / 'shards.json').unlink()
  data = source.TokenRecordSource.of_folder(TokenFolder(folder))
  stream = data.stream('train', num_epochs=1)

  def train():
    try:
      for record in stream.as_numpy_iterator():
        codes, style = record['acoustic_tokens'], record['style_tokens']
        assert codes.min() >= 0 and codes.max() < 1024 and codes.shape[1] == 16
        assert len(codes) >= 50 and style.min() >= 0 and style.max() < 1024
    except (tf.errors.OpError, UnicodeDecodeError) as error:
      raise data.explain('train', 0, error) from None

  def read():
    for tokens, _ in records.read_shards([path]):
      assert tokens.acoustic_tokens.min() >= 0 and tokens.acoustic_tokens.max() < 1024

  @mutations.settings(25)
  @hypothesis.given(mutations.mutations(valid, head=len(valid)))
  def run(mutation):
    with tf.io.TFRecordWriter(str(path)) as writer:
      writer.write(mutation.data)
      writer.write(token_folders.encode(2, *token_folders.clip(2)))
    for reader in (train, read):
      try:
        reader()
      except TokenDataError as error:
        assert str(folder) in str(error), mutation.story

  run()
