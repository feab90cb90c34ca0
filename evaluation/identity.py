"""What exactly was run: versions, commit, hardware, models, data."""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from typing import Any

import jax
import numpy as np

from models import weights

_PACKAGES = ('jax', 'jaxlib', 'numpy', 'scipy', 'optax', 'orbax-checkpoint', 'soundfile')


def software() -> list[list[str]]:
  """[[name, value]]: commit, Python and packages."""
  rows = [['Commit', commit() or 'not a git checkout'], ['Python', platform.python_version()]]
  for package in _PACKAGES:
    try:
      rows.append([package, importlib.metadata.version(package)])
    except importlib.metadata.PackageNotFoundError:
      rows.append([package, 'not installed'])
  return rows


def hardware() -> list[list[str]]:
  """[[name, value]]: machine, cores, JAX's devices."""
  devices = jax.devices()
  return [
    ['System', f'{platform.system()} {platform.machine()}'],
    ['Processor', _processor()],
    ['CPU cores', str(os.cpu_count())],
    ['JAX devices', f'{len(devices)} x {devices[0].device_kind} ({devices[0].platform})'],
  ]


def commit() -> str | None:
  """Commit of this checkout, followed by '+changes' if files differ; None outside of git."""
  folder = pathlib.Path(__file__).parent

  def git(*arguments: str) -> str | None:
    try:
      done = subprocess.run(
        ['git', '-C', folder, *arguments], capture_output=True, text=True, check=False, timeout=10
      )
    except (OSError, subprocess.TimeoutExpired):
      return None
    return done.stdout.strip() if done.returncode == 0 else None

  head = git('rev-parse', '--short=12', 'HEAD')
  if head is None:
    return None
  return head + (' +changes' if git('status', '--porcelain', '--untracked-files=no') else '')


def parameters(params: Any) -> list[list[str]]:
  """[[name, value]]: number of parameters and their hash (over float16 values)."""
  params = jax.tree.map(np.asarray, params)
  number = sum(leaf.size for leaf in jax.tree.leaves(params))
  return [['Parameters', f'{number:,}'], ['Weights hash', weights.tree_hash(params)]]


def file_hash(path: str | pathlib.Path) -> str:
  """SHA-256 of a file, 16 hex digits."""
  digest = hashlib.sha256()
  with open(path, 'rb') as file:
    while block := file.read(1 << 20):
      digest.update(block)
  return digest.hexdigest()[:16]


def _processor() -> str:
  try:
    for line in pathlib.Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines():
      if line.startswith('model name'):
        return line.split(':', 1)[1].strip()
  except OSError:
    pass
  return platform.processor() or 'unknown'


def array_hash(array: np.ndarray) -> str:
  """SHA-256 of an array's type, shape and bytes, 16 hex digits."""
  array = np.ascontiguousarray(array)
  digest = hashlib.sha256(f'{array.dtype} {array.shape}'.encode())
  digest.update(array.tobytes())
  return digest.hexdigest()[:16]


def codec_hash(codec: Any) -> str:
  """Of all weights of a codec, the decoder's too; its content hash where it has no parameters."""
  params = getattr(codec, 'params', None)
  if params is None:
    return codec.content_hash
  return weights.tree_hash(jax.tree.map(np.asarray, params)) + codec.content_hash
