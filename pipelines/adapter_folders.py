"""An adapter alone in a folder: small, and played on the base that it was trained on.

    adapter.safetensors   the adapter, float32, with its options and its base's name and hash
    card.json             what it was trained on, licences, figures
    presets.safetensors   style embeddings by name

`load_source('work/tuned/adapter')` puts it on its base; 'work/tuned/adapter@0.7' at strength 0.7.
"""

import dataclasses
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import adapters, weights
from models.adapters import AdapterConfig
from models.bundle import Bundle, read_json
from models.musiccoca.presets import load_presets, save_presets

CARD_FILE, PRESETS_FILE = 'card.json', 'presets.safetensors'
_SIGN = '@'


def split_strength(path: str) -> tuple[str, float]:
  """'folder@0.7' -> ('folder', 0.7); strength 1 where the path says none, or is one itself.

  Raises:
    ValueError: what stands after '@' is not a finite number.
  """
  folder, sign, strength = path.rpartition(_SIGN)
  if not sign or pathlib.Path(path).exists() or not is_adapter(folder):
    return path, 1.0
  try:
    value = float(strength)
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise ValueError(f'{path}: the strength {strength!r} is not a number, such as {folder}@0.7.')
  return folder, value


def is_adapter(path: str | pathlib.Path) -> bool:
  return (pathlib.Path(path) / adapters.FILE_NAME).is_file()


def save(
  folder: str | pathlib.Path,
  adapter: Any,
  config: AdapterConfig,
  base: Bundle,
  base_path: str,
  *,
  presets: dict[str, np.ndarray],
  card: dict[str, Any],
) -> pathlib.Path:
  """Writes an adapter and what belongs to it; returns the folder.

  Args:
    folder: made if it does not exist.
    adapter: its arrays.
    config: how they are applied.
    base: what they were trained on.
    base_path: where `load_source` finds it.
    presets: style embeddings by name.
    card: JSON values.
  """
  folder = pathlib.Path(folder)
  belongs = {
    'path': base_path, 'weights_hash': weights.tree_hash(jax.tree.map(np.asarray, base.params))
  }  # fmt: skip
  adapters.save_adapter(folder / adapters.FILE_NAME, adapter, config, belongs)
  if presets:
    save_presets(folder / PRESETS_FILE, presets, base.style_hash)
  partial = folder / '.card.partial'
  partial.write_text(json.dumps(card, indent=2) + '\n', encoding='utf-8')
  partial.replace(folder / CARD_FILE)
  return folder


def load(folder: str | pathlib.Path, strength: float, load_base: Callable[[str], Any]) -> Bundle:
  """The base with the adapter worked in.

  Args:
    folder: what `save` wrote.
    strength: see `models.adapters`.
    load_base: gives the `Source` of a path.

  Raises:
    FileNotFoundError: the base is not there any more.
    ValueError: the base is another one now, or a file is truncated.
  """
  folder = pathlib.Path(folder)
  adapter, config, belongs = adapters.load_adapter(folder / adapters.FILE_NAME)
  base = load_base(belongs['path']).bundle
  found = weights.tree_hash(jax.tree.map(np.asarray, base.params))
  if found != belongs['weights_hash']:
    raise ValueError(
      f'{folder} was trained on {belongs["path"]!r} with hash {belongs["weights_hash"]}, which now '
      f'has hash {found}: the adapter means nothing there. Use the merged bundle beside it, or '
      'that base.'
    )
  params = adapters.merge(base.params, jax.tree.map(jnp.asarray, adapter), config, strength)
  presets, path = dict(base.presets), folder / PRESETS_FILE
  if path.is_file():
    presets |= load_presets(path, base.style_hash)
  card = read_json(folder / CARD_FILE) | {'strength': strength}
  return dataclasses.replace(base, params=params, presets=presets, card=card)
