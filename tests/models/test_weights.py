"""Weight files: exact round trips, and errors that say what is wrong with a file."""

import pathlib

import numpy as np
import pytest

from models import weights

TREE = {'b': {'w': np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)}, 'a': np.arange(3)}


def test_round_trip(tmp_path):
  path = weights.save(tmp_path / 'x.safetensors', TREE, {'config': {'dim': 3}})
  tree, metadata = weights.load(path)
  assert metadata == {'config': {'dim': 3}}
  assert tree['b']['w'].dtype == np.float32
  np.testing.assert_array_equal(tree['b']['w'], TREE['b']['w'].astype(np.float16))
  np.testing.assert_array_equal(tree['a'], TREE['a'])
  # Written again, the identity stays: float16 values are exact in float32.
  assert weights.tree_hash(tree) == weights.tree_hash(TREE)


def test_the_hash_sees_values_and_names():
  other = {'b': {'w': TREE['b']['w'] + 1}, 'a': TREE['a']}
  assert weights.tree_hash(other) != weights.tree_hash(TREE)
  assert weights.tree_hash({'c': TREE['b'], 'a': TREE['a']}) != weights.tree_hash(TREE)


def test_values_beyond_float16_are_refused(tmp_path):
  with pytest.raises(ValueError, match='big/w holds values that float16 cannot hold'):
    with np.errstate(over='ignore'):
      weights.save(tmp_path / 'x.safetensors', {'big': {'w': np.float32([1e6])}}, {})


def test_missing_and_truncated_files_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='nothing.safetensors'):
    weights.load(tmp_path / 'nothing.safetensors')
  path = weights.save(tmp_path / 'x.safetensors', TREE, {})
  path.write_bytes(path.read_bytes()[:-4])
  with pytest.raises(ValueError, match='truncated'):
    weights.load(path)


def test_every_bit_counts(tmp_path):
  """Float32 digits that float16 would not show, names, dtypes and the description."""
  path = weights.save(tmp_path / 'x.safetensors', TREE, {'alpha': 8}, np.float32)
  whole = path.read_bytes()
  refused = 0
  for place in range(0, len(whole), 3):
    content = bytearray(whole)
    content[place] ^= 1
    path.write_bytes(content)
    try:
      tree, metadata = weights.load(path)
    except ValueError as error:
      assert str(path) in str(error)
      refused += 1
    else:  # A bit of the hash's own name.
      assert {'alpha': 8}.items() <= metadata.items() and b'sha256' not in bytes(content)
      np.testing.assert_array_equal(tree['b']['w'], TREE['b']['w'])
  assert refused >= len(whole) // 3 - 3


def test_equal_trees_make_equal_files(tmp_path):
  description = {name: name for name in 'cabdefgh'}
  files = {
    weights.save(tmp_path / f'{i}', TREE, description).read_bytes() for i in range(8)
  }  # fmt: skip
  assert len(files) == 1


def test_what_cannot_be_written_leaves_the_old_file_alone(tmp_path, monkeypatch):
  path = weights.save(tmp_path / 'a.safetensors', {'x': np.ones(3)}, {})
  before = path.read_bytes()

  def fails(arrays, partial, described):
    pathlib.Path(partial).write_bytes(b'half')
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(weights, 'save_file', fails)
  with pytest.raises(OSError, match='No space left'):
    weights.save(path, {'x': np.zeros(3)}, {})
  assert [file.name for file in tmp_path.iterdir()] == ['a.safetensors']
  assert path.read_bytes() == before
