"""Gives Orbax and TensorStore local folders under names that they take literally.

Orbax looks for its own files by glob, folder included: `album [2024]` finds nothing, so the arrays
are never gathered, and `a*b` also finds those of `aXb`. TensorStore takes a backslash for a slash
and refuses what is not UTF-8. Such a folder is handed over as a link with a plain name.
"""

import atexit
import functools
import os
import pathlib
import re
import shutil
import tempfile

_ODD = re.compile(r'[*?\[\\]')
# What Orbax and TensorStore add to the name of a MODEL_DIR.
_LONGEST_ADDITION = 200
_PATH_MAX, _NAME_MAX = 4096, 255


def is_literal(path: str | pathlib.Path) -> bool:
  """Returns whether Orbax and TensorStore take a path literally."""
  try:
    os.fspath(path).encode('utf-8')
  except UnicodeEncodeError:
    return False
  return not _ODD.search(os.fspath(path))


def literal(folder: str | pathlib.Path) -> pathlib.Path:
  """Returns the folder's full path, or that of a link to it with a plain name.

  The links lie in a temporary folder of this process and are removed at its end.

  Raises:
    ValueError: the path is too long, or the temporary folder's name has the same fault.
  """
  path = pathlib.Path(folder).absolute()
  check_length(path)
  return path if is_literal(path) else _link(str(path))


def check_length(folder: pathlib.Path):
  """Refuses (ValueError) a folder whose files would have paths that are too long."""
  length = len(os.fsencode(folder))
  too_long = [name for name in folder.parts if len(os.fsencode(name)) > _NAME_MAX]
  if too_long:
    raise ValueError(
      f'{folder}: the name {too_long[0][:40]}... has {len(os.fsencode(too_long[0]))} bytes; a name '
      f'may have {_NAME_MAX}. Choose a shorter one.'
    )
  if length + _LONGEST_ADDITION > _PATH_MAX:
    raise ValueError(
      f'The path of {length} bytes that ends in {folder.name!r} leaves no room for the names of '
      f'checkpoints below it: at most {_PATH_MAX - _LONGEST_ADDITION} bytes. Choose a shorter one.'
    )


def check_for_t5x(model_dir: str | None):
  """Refuses a MODEL_DIR in which T5X's first save would fail or could not be read.

  Raises:
    ValueError: it is relative or has '..' in it, or Orbax would take its name for a pattern.
  """
  if model_dir is None or '://' in model_dir:
    return
  if not os.path.isabs(model_dir) or '..' in pathlib.PurePath(model_dir).parts:
    raise ValueError(
      f'MODEL_DIR={model_dir!r}: T5X saves to full paths only. Give --gin.MODEL_DIR='
      f"'\"{os.path.abspath(model_dir)}\"'."
    )
  if not is_literal(model_dir):
    raise ValueError(
      f'MODEL_DIR={model_dir!r}: what T5X saves below a folder with one of * ? [ \\ in its name '
      'cannot be read again. Give another folder.'
    )


@functools.cache
def _link(path: str) -> pathlib.Path:
  """A link to `path` in a folder of its own, both removed when the process ends."""
  for parent in (tempfile.gettempdir(), '/tmp', '/var/tmp'):
    if is_literal(parent) and os.access(parent, os.W_OK):
      folder = pathlib.Path(tempfile.mkdtemp(prefix='woodshed-', dir=parent)).absolute()
      atexit.register(shutil.rmtree, folder, ignore_errors=True)
      link = folder / 'model_dir'
      link.symlink_to(path, target_is_directory=True)
      return link
  raise ValueError(
    f'{path}: one of * ? [ \\ in a folder name needs a link in a temporary folder, and '
    f'{tempfile.gettempdir()} cannot hold it. Set TMPDIR to a writable folder without these '
    'characters in its name, or rename the folder.'
  )
