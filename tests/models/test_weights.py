"""Weight files: exact round trips, and errors that say what is wrong with a file."""

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
