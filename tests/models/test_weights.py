"""Weight files: exact round trips, and errors that say what is wrong with a file."""

import pathlib

import numpy as np
import pytest
from safetensors import safe_open

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


@pytest.mark.parametrize('largest', [65504.0, 65519.0, 65520.0, 131_008.5, 131_072.0, 1e6, 3e9])
def test_values_beyond_float16_have_a_scale_of_their_own(tmp_path, largest):
  values = np.float32([1.0, -0.25 * largest, largest])
  path = weights.save(tmp_path / 'x.safetensors', {'big': {'w': values}}, {})
  tree, _ = weights.load(path)
  np.testing.assert_allclose(tree['big']['w'], values, rtol=2**-11, atol=2**-24 * largest / 65504)
  assert tree['big']['w'].dtype == np.float32
  assert weights.tree_hash(tree) == weights.tree_hash({'big': {'w': values}})
  again = weights.save(tmp_path / 'again.safetensors', tree, {})
  assert again.read_bytes() == path.read_bytes()
  with safe_open(str(path), framework='numpy') as file:
    assert ('big/w#scale' in file.keys()) == (largest >= 65520)  # noqa: SIM118


def test_arrays_by_name_are_not_rounded(tmp_path):
  values = {'units': {'kernel': np.float32([1 / 3]), 'bias': np.float32([1 / 3])}}
  path = weights.save(tmp_path / 'x.safetensors', values, {}, exact=r'^units/.*kernel$')
  tree, _ = weights.load(path)
  assert tree['units']['kernel'] == np.float32(1 / 3)
  assert tree['units']['bias'] == np.float32(np.float16(1 / 3))
  assert weights.tree_hash(tree) == weights.tree_hash(values)


def test_values_that_are_not_finite_are_refused(tmp_path):
  with pytest.raises(ValueError, match='big/w holds values that are not finite'):
    weights.save(tmp_path / 'x.safetensors', {'big': {'w': np.float32([np.inf])}}, {})


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


def test_zeros_take_a_bit_each(tmp_path):
  """Exactly what was saved comes back, negative zeros and smallest values included."""
  sparse = np.zeros([3, 64, 64], np.float32)
  sparse[1, ::2, 5] = np.linspace(-1, 1, 32)
  sparse[2, 0, :3] = [-0.0, 6e-8, 0.25]
  dense = np.linspace(0.1, 1, 4096, dtype=np.float32)
  tree = {'a': {'sparse': sparse}, 'dense': dense}
  path = weights.save(tmp_path / 'x.safetensors', tree, {})
  assert path.stat().st_size < dense.size * 2 + sparse.size / 8 + 1500
  found, _ = weights.load(path)
  np.testing.assert_array_equal(found['a']['sparse'], sparse.astype(np.float16))
  assert np.signbit(found['a']['sparse'][2, 0, 0])
  np.testing.assert_array_equal(found['dense'], dense.astype(np.float16))
  assert weights.tree_hash(found) == weights.tree_hash(tree)


def test_parts_that_do_not_fit_are_refused(tmp_path):
  arrays = {'a#shape': np.array([2, 3]), 'a#places': np.packbits([True] * 6)}
  values = {'a#values': np.ones(6, np.float16)}
  whole = weights.save(tmp_path / 'x.safetensors', arrays | values, {})
  np.testing.assert_array_equal(weights.load(whole)[0]['a'], np.ones([2, 3]))
  for wrong in (
    arrays,
    arrays | values | {'a#shape': np.array([2**40, 2])},
    arrays | {'a#values': np.ones(5, np.float16)},
  ):
    path = weights.save(tmp_path / 'x.safetensors', wrong, {})
    with pytest.raises(ValueError, match=r'x\.safetensors has an array whose parts do not fit'):
      weights.load(path)
