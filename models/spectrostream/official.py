"""Released SpectroStreams, read from the local asset directory; nothing is downloaded.

Magenta RealTime 2 publishes safetensors files under the names that this package uses, behind
differing prefixes. Version 1 publishes TensorFlow SavedModels; see `savedmodel`. Nothing is
unpickled.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from models import assets, weights
from models.spec import LiveMusicSpec
from models.spectrostream import config as config_lib
from models.spectrostream import network
from models.spectrostream.config import SpectroStreamConfig

RELEASES = (assets.CODEC, assets.RELEASE_2)
_V1_FOLDER = f'savedmodels/{assets.CODEC}'
_V1_PARTS = ('encoder', 'decoder', 'quantizer')
_V2_FOLDER = 'resources/spectrostream'
# These hold the decoder and the codebooks too.
_V2_CHECKPOINTS = ('checkpoints/mrt2_small.safetensors', 'checkpoints/mrt2_base.safetensors')
_CODEBOOKS = 'quantizer/embedding'


class Released(NamedTuple):
  """What a release says of a codec.

  Attributes:
    config: widths.
    params: {'encoder': ..., 'decoder': ...}, float32.
    codebooks: [levels, codes, D] float32.
    spec: the default, with the codebooks' levels and codes.
  """

  config: SpectroStreamConfig
  params: dict[str, Any]
  codebooks: np.ndarray
  spec: LiveMusicSpec


def read(name: str) -> Released:
  """Reads a released codec by its name.

  Args:
    name: 'ssv2_48k_stereo' (of Magenta RealTime 1; needs TensorFlow) or 'magenta-realtime-2'.

  Raises:
    FileNotFoundError: files are missing; says which, and where to put them.
    ValueError: `name` is no release, or a file is not what it should be; names the first array.
  """
  if name == assets.CODEC:
    folders = assets.find_assets([f'{_V1_FOLDER}/{part}' for part in _V1_PARTS])
    return read_savedmodels(folders[0].parent)
  if name != assets.RELEASE_2:
    raise ValueError(f'{name!r} is no released codec; there are {", ".join(RELEASES)}.')
  return read_safetensors(_v2_files())


def read_folder(folder: str | pathlib.Path) -> Released:
  """Reads a folder that holds encoder, decoder and quantizer of either release.

  Raises:
    FileNotFoundError: it holds neither; names what is looked for.
    ValueError: as `read`.
  """
  folder = pathlib.Path(folder)
  if all((folder / part / 'saved_model.pb').is_file() for part in _V1_PARTS):
    return read_savedmodels(folder)
  files = [folder / f'{part}.safetensors' for part in ('encoder', 'decoder')]
  if all(file.is_file() for file in files):
    return read_safetensors(files)
  raise FileNotFoundError(
    f'{folder} is no released codec: it holds neither encoder.safetensors and decoder.safetensors '
    f'nor SavedModels in {"/, ".join(_V1_PARTS)}/.'
  )


def read_savedmodels(folder: pathlib.Path) -> Released:
  """Reads version 1's SavedModels in `folder` and holds the result against what they compute.

  Raises:
    ValueError: a variable is missing, or ours and theirs disagree; names the first layer.
  """
  from models.spectrostream import savedmodel

  return _released(savedmodel.read(folder), folder)


def read_safetensors(files: list[pathlib.Path]) -> Released:
  """Reads version 2's files, which hold encoder, decoder and codebooks between them.

  Raises:
    ValueError: a file is truncated, an array is missing, misshapen or not finite, or codebooks that
      two files hold are not the same.
  """
  flat: dict[str, np.ndarray] = {}
  for file in files:
    for name, value in _read_arrays(file).items():
      if name in flat and not np.array_equal(flat[name], value):
        raise ValueError(f'{name} in {file} is not that of the other files; fetch all anew.')
      flat[name] = value
  return _released(flat, files[0].parent)


def _v2_files() -> list[pathlib.Path]:
  """Encoder, decoder and, where it is there, quantizer."""
  names = [f'{_V2_FOLDER}/{part}.safetensors' for part in ('encoder', 'decoder')]
  available = [name for name in _V2_CHECKPOINTS if (assets.asset_dir() / name).is_file()]
  if available and not (assets.asset_dir() / names[1]).is_file():
    names[1] = available[0]
  files = assets.find_assets(names, assets.RELEASE_2_PUBLISHED_AT)
  quantizer = assets.asset_dir() / _V2_FOLDER / 'quantizer.safetensors'
  return [*files, quantizer] if quantizer.is_file() else files


def _read_arrays(file: pathlib.Path) -> dict[str, np.ndarray]:
  """Arrays of the codec in a file, under this package's names; the rest of a checkpoint is left."""
  flat = {}
  try:
    with safe_open(str(file), framework='flax') as arrays:
      for key in arrays.keys():  # noqa: SIM118 (not a dict)
        name = key.removeprefix('params/').removeprefix('soundstream/')
        if name.startswith(('encoder/', 'decoder/')) or name == _CODEBOOKS:
          if file.stem.startswith('mrt2') and not key.startswith('params/soundstream/'):
            continue  # The language model has an encoder and a decoder of its own.
          flat[name] = np.asarray(arrays.get_tensor(key), np.float32)
  except SafetensorError as error:
    raise ValueError(
      f'{file} ({file.stat().st_size} bytes) is truncated or not safetensors: {error}; fetch it '
      'again.'
    ) from error
  return flat


def _released(flat: dict[str, np.ndarray], source: pathlib.Path) -> Released:
  """Arrays by name -> a codec whose every array has been checked."""
  if _CODEBOOKS not in flat:
    raise ValueError(f'{source} holds no {_CODEBOOKS}; is a file missing?')
  codebooks = flat[_CODEBOOKS]
  if codebooks.ndim != 3:
    raise ValueError(f'{source}: {_CODEBOOKS} has shape {codebooks.shape}, not [levels, codes, D].')
  spec = dataclasses.replace(
    LiveMusicSpec(), codec_levels=codebooks.shape[0], codebook_size=codebooks.shape[1]
  )
  config = config_of(flat, source)
  expected = {_CODEBOOKS: codebooks.shape}
  for name, shape in network.kernel_shapes(config, spec).items():
    expected |= {f'{name}/conv/kernel': shape, f'{name}/conv/bias': shape[-1:]}
  for name in sorted(set(flat) | set(expected)):
    found = flat[name].shape if name in flat else 'missing'
    wanted = expected.get(name, 'not part of the codec')
    if found != wanted:
      raise ValueError(f'{source}: {name} is {found} in the files; the codec has {wanted}.')
    if not np.isfinite(flat[name]).all():
      raise ValueError(f'{source}: {name} holds NaN or infinite values; fetch the file again.')
  params = weights.unflatten({name: value for name, value in flat.items() if name != _CODEBOOKS})
  return Released(config, params, codebooks, spec)


def config_of(flat: dict[str, np.ndarray], source: Any) -> SpectroStreamConfig:
  """Widths, from the shapes of biases.

  Raises:
    ValueError: a bias is missing.
  """

  def width(layer: str) -> int:
    name = f'{layer}/conv/bias'
    if name not in flat:
      raise ValueError(f'{source} holds no {name}; is a file missing, or of another model?')
    return flat[name].shape[0]

  units = range(len(config_lib.ENCODER_STRIDES))
  kernels = [network.unit_kernel(stride) for stride in config_lib.ENCODER_STRIDES]
  encoder = [
    width(f'encoder/encoder_{i}/conv2d_{kernels[i][0]}x{kernels[i][1]}_a') for i in units
  ]
  decoder = [width(f'decoder/decoder_{i}/conv2d_3x3') for i in units]
  return SpectroStreamConfig(
    num_features=width('encoder/output_convs/conv1x1_last'),
    encoder_widths=(width('encoder/base_conv_first'), *encoder),
    decoder_widths=(width('decoder/input_layers_residual_unit/conv2d_3x3'), *decoder),
  )
