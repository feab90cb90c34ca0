"""Released files of Magenta RealTime, found in a local asset directory; nothing is downloaded.

Below the directory the files have the names under which they are published, such as
`checkpoints/llm_large_x3047_c1860k.tar`. The directory is the one that `use` was told, else
$WOODSHED_ASSETS, else the cache of the magenta-rt package, so that its users need no second copy.
"""

import os
import pathlib
import shutil
import tarfile
from collections.abc import Sequence

VARIABLE = 'WOODSHED_ASSETS'
PUBLISHED_AT = (
  'https://huggingface.co/google/magenta-realtime and the bucket gs://magenta-rt-public'
)
PUBLISHED_V2_AT = 'https://huggingface.co/google/magenta-realtime-2'
# The release after that, whose files carry the folders they have there.
RELEASE_2 = 'magenta-realtime-2'
RELEASE_2_PUBLISHED_AT = (
  'https://huggingface.co/google/magenta-realtime-2 and the folder magenta-rt-2 of the bucket '
  'gs://magenta-rt-public'
)
# Language models; the last one is published in the bucket alone.
CHECKPOINTS = ('llm_base_x4286_c1860k', 'llm_large_x3047_c1860k', 'llm_large_holly_finetune')
# The codec and the style model whose tokens they speak.
CODEC = 'ssv2_48k_stereo'
STYLE_MODEL = 'musiccoca_mv212'


def use(directory: str | pathlib.Path):
  """Looks for assets in `directory` from now on, in this process and those that it starts."""
  os.environ[VARIABLE] = str(pathlib.Path(directory).expanduser().absolute())


def asset_dir() -> pathlib.Path:
  """The asset directory; it need not exist."""
  if os.environ.get(VARIABLE):
    return pathlib.Path(os.environ[VARIABLE]).expanduser()
  cache = os.environ.get('MAGENTA_RT_CACHE_DIR') or '~/.cache/magenta_rt'
  return pathlib.Path(cache).expanduser() / 'assets'


def find_asset(name: str, published_at: str = PUBLISHED_AT) -> pathlib.Path:
  """The file or folder `name` below the asset directory.

  Args:
    name: as published, such as 'savedmodels/ssv2_48k_stereo/decoder'.
    published_at: where the message says that it comes from.

  Raises:
    FileNotFoundError: it is not there; says where to put it and where it is published.
  """
  path = asset_dir() / name
  if not path.exists():
    raise FileNotFoundError(_missing(path, name, published_at))
  return path


def find_assets(names: Sequence[str], published_at: str = PUBLISHED_AT) -> list[pathlib.Path]:
  """Several files or folders that belong together, in the order of `names`.

  Raises:
    FileNotFoundError: some are not there; names every one of them, says where to put them and where
      they are published.
  """
  missing = [name for name in names if not (asset_dir() / name).exists()]
  if missing:
    listed = '\n'.join(f'  {asset_dir() / name}' for name in missing)
    raise FileNotFoundError(
      f'Missing:\n{listed}\nPut {", ".join(missing)}, as published at {published_at}, there, or '
      f'name the directory that holds them by --assets_dir or ${VARIABLE}.'
    )
  return [asset_dir() / name for name in names]


def names_checkpoint(name: str) -> bool:
  """Whether `name` is a released language model, or one that was put beside them."""
  if name in CHECKPOINTS:
    return True
  checkpoints = asset_dir() / 'checkpoints'
  return pathlib.Path(name).name == name and any(
    (checkpoints / entry).is_file() for entry in (f'{name}.tar', f'{name}/checkpoint')
  )


def find_checkpoint(name: str) -> pathlib.Path:
  """The folder of a released language model's T5X checkpoint; its archive is unpacked if needed.

  Args:
    name: one of `CHECKPOINTS`, or the stem of any other archive in `checkpoints/`.

  Raises:
    FileNotFoundError: neither the folder nor the archive is there; says where to put it.
    ValueError: see `unpack_checkpoint`.
  """
  relative = f'checkpoints/{name}.tar'
  archive = asset_dir() / relative
  folder = archive.with_suffix('')
  if (folder / 'checkpoint').is_file():
    return folder
  if not archive.is_file():
    raise FileNotFoundError(_missing(archive, relative) + f' Its unpacked folder {folder} will do.')
  return unpack_checkpoint(archive)


def unpack_checkpoint(archive: str | pathlib.Path) -> pathlib.Path:
  """Unpacks a T5X checkpoint beside its archive, once, and returns the folder.

  The folder, named after the archive's stem, appears when it is complete.

  Raises:
    ValueError: the archive is truncated, or holds no T5X checkpoint, or its folder is read-only.
  """
  archive = pathlib.Path(archive)
  folder = archive.with_suffix('')
  if (folder / 'checkpoint').is_file():
    return folder
  partial = folder.with_name(f'{folder.name}.partial-{os.getpid()}')
  try:
    _extract(archive, partial)
    try:
      _checkpoint_root(partial, archive).rename(folder)
    except OSError:
      # Another process was faster.
      if not (folder / 'checkpoint').is_file():
        raise
  except PermissionError as error:
    raise ValueError(
      f'{archive} cannot be unpacked beside itself ({error}). Unpack it elsewhere and give that '
      'folder, or copy the archive into a folder that can be written.'
    ) from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return folder


def _extract(archive: pathlib.Path, folder: pathlib.Path):
  folder.mkdir()
  try:
    with tarfile.open(archive) as tar:
      tar.extractall(folder, filter='data')
  except (tarfile.TarError, EOFError) as error:
    size = archive.stat().st_size
    raise ValueError(
      f'{archive} ({size} bytes) is truncated or no tar archive: {error}; fetch it again.'
    ) from error


def _checkpoint_root(folder: pathlib.Path, archive: pathlib.Path) -> pathlib.Path:
  """The folder that directly holds the file `checkpoint`: `folder`, or the only one in it."""
  children = list(folder.iterdir())
  if len(children) == 1 and children[0].is_dir():
    folder = children[0]
  if not (folder / 'checkpoint').is_file():
    raise ValueError(f'{archive} is no T5X checkpoint: it holds no file named `checkpoint`.')
  return folder


def _missing(path: pathlib.Path, relative: str, published_at: str = PUBLISHED_AT) -> str:
  return (
    f'{path} is missing. Put {relative}, as published at {published_at}, there, or name the '
    f'directory that holds it by --assets_dir or ${VARIABLE}.'
  )
