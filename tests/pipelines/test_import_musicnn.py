"""The converter of musicnn's wheel, on a made wheel with random weights."""

import pathlib
import zipfile

import numpy as np
import pytest

from models import weights
from models.musicnn import Musicnn, network
from pipelines import import_musicnn

LICENCE = 'Copyright (c) Somebody 2019.\n\nPermission ...\n'


def _variables(rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Variables as the published checkpoints name them."""
  kernels = [
    (7, 38, 1, 204), (7, 67, 1, 204), (128, 1, 1, 51), (64, 1, 1, 51), (32, 1, 1, 51),
    (7, 561, 1, 64), (7, 64, 1, 64), (7, 64, 1, 64),
  ]  # fmt: skip
  found = {'beta1_power': np.float32(0.9)}
  for number, shape in enumerate(kernels):
    name = f'conv2d_{number}' if number else 'conv2d'
    found[f'{name}/kernel'] = rng.normal(0, 0.1, shape)
    found[f'{name}/bias'] = rng.normal(0, 0.1, shape[-1])
  for name, shape in (('dense', (1506, 200)), ('dense_1', (200, 50))):
    found[f'{name}/kernel'] = rng.normal(0, 0.1, shape)
    found[f'{name}/bias'] = rng.normal(0, 0.1, shape[-1])
  for number, width in enumerate((1, 204, 204, 51, 51, 51, 64, 64, 64, 1506, 200)):
    name = f'batch_normalization_{number}' if number else 'batch_normalization'
    for part in ('gamma', 'beta', 'moving_mean'):
      found[f'{name}/{part}'] = rng.normal(0, 1, width)
    found[f'{name}/moving_variance'] = rng.uniform(0.5, 2, width)
  return {name: np.asarray(value, np.float32) for name, value in found.items()}


def _write_wheel(path: pathlib.Path, folder: pathlib.Path, variables: dict[str, np.ndarray]):
  import tensorflow as tf

  folder.mkdir()
  prefix = str(folder / 'made')
  names = sorted(variables)
  tf.raw_ops.SaveV2(
    prefix=prefix, tensor_names=names, shape_and_slices=[''] * len(names),
    tensors=[tf.constant(variables[name]) for name in names],
  )  # fmt: skip
  tags = {'MTT_LABELS': [f'm{i}' for i in range(50)], 'MSD_LABELS': [f's{i}' for i in range(50)]}
  with zipfile.ZipFile(path, 'w') as file:
    for name in ('MSD_musicnn', 'MTT_musicnn'):
      for ending in ('.index', '.data-00000-of-00001'):
        file.write(prefix + ending, f'musicnn/{name}/{ending}')
    source = '\n'.join(f'{name} = {value!r}' for name, value in tags.items())
    file.writestr('musicnn/configuration.py', f'SR = 16000\n{source}\n')
    file.writestr('musicnn-0.1.0.dist-info/LICENSE.md', f'\n{LICENCE}\n')


def test_a_wheel_becomes_two_files_and_a_licence(tmp_path):
  variables = _variables(np.random.default_rng(0))
  wheel = tmp_path / 'musicnn-0.1.0-py3-none-any.whl'
  _write_wheel(wheel, tmp_path / 'checkpoint', variables)
  told = import_musicnn.import_musicnn(wheel, tmp_path / 'out')
  first = {path.name: path.read_bytes() for path in (tmp_path / 'out').iterdir()}
  assert sorted(first) == ['LICENSE.txt', 'msd.safetensors', 'mtt.safetensors']
  assert first['LICENSE.txt'].decode() == LICENCE
  assert told.count('50 tags, 1.58 MB') == 2
  import_musicnn.import_musicnn(wheel, tmp_path / 'again')
  assert first == {path.name: path.read_bytes() for path in (tmp_path / 'again').iterdir()}

  model = Musicnn.load(tmp_path / 'out' / 'mtt.safetensors')
  assert model.tags == tuple(f'm{i}' for i in range(50))
  assert model.card['licence_text'] == LICENCE
  flat = weights.flatten(model.params)
  assert {name: value.shape for name, value in flat.items()} == network.shapes(50)
  # Batch normalisation 9 is the one of the pooled features; TensorFlow adds 0.001 to the variance.
  norm = {part: variables[f'batch_normalization_9/{part}'].astype(np.float64)
          for part in ('gamma', 'beta', 'moving_mean', 'moving_variance')}  # fmt: skip
  x = np.linspace(-1, 1, 1506)
  expected = (x - norm['moving_mean']) / np.sqrt(norm['moving_variance'] + 1e-3)
  expected = expected * norm['gamma'] + norm['beta']
  folded = x * flat['pooled/scale'] + flat['pooled/shift']
  np.testing.assert_allclose(folded, expected, atol=1e-2)
  for name, source in (
    ('timbre_67', 'conv2d_1'), ('rhythm_32', 'conv2d_4'), ('middle_3', 'conv2d_7'),
    ('tags', 'dense_1'),
  ):  # fmt: skip
    np.testing.assert_array_equal(
      flat[f'{name}/kernel'], np.float16(variables[f'{source}/kernel'].squeeze())
    )


def test_what_is_not_the_wheel_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='pip download --no-deps musicnn==0.1.0'):
    import_musicnn.import_musicnn(tmp_path / 'none.whl', tmp_path / 'out')
  (tmp_path / 'text.whl').write_text('no zip')
  with pytest.raises(ValueError, match='text.whl is not a wheel'):
    import_musicnn.import_musicnn(tmp_path / 'text.whl', tmp_path / 'out')
  with zipfile.ZipFile(tmp_path / 'other.whl', 'w') as file:
    file.writestr('musicnn/configuration.py', 'SR = 16000\n')
  with pytest.raises(ValueError, match='not the wheel of musicnn 0.1.0: its configuration.py has'):
    import_musicnn.import_musicnn(tmp_path / 'other.whl', tmp_path / 'out')
