"""A language model to play or measure: bundled, a bundle's folder, or a training run.

A training run's MODEL_DIR says what its parameters are in `model.json`: token layout, sizes, and
the codec and style model (with hashes) whose tokens it was trained on. `write_model_file` writes it
when a run starts, so that every checkpoint can be used without the gin files that made it.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from models.bundle import Bundle, bundled_names, load_bundle
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec

MODEL_FILE = 'model.json'
_CHECKPOINT_PREFIX = 'checkpoint_'


@dataclasses.dataclass(frozen=True)
class Source:
  """A loaded language model.

  Attributes:
    name: short, unique among the sources of a report.
    path: as it was given.
    kind: 'bundled', 'bundle' or 'checkpoint'.
    bundle: the model with its parameters.
    step: of a checkpoint; None for a bundle.
    model_dir: of a training run; None for a bundle.
  """

  name: str
  path: str
  kind: str
  bundle: Bundle
  step: int | None = None
  model_dir: pathlib.Path | None = None


def write_model_file(
  model_dir: str | pathlib.Path,
  model: DepthformerModel,
  *,
  codec_name: str,
  codec_hash: str,
  style_name: str,
  style_hash: str,
) -> pathlib.Path:
  """Writes MODEL_DIR/model.json and returns its path."""
  path = pathlib.Path(model_dir) / MODEL_FILE
  path.parent.mkdir(parents=True, exist_ok=True)
  description = {
    'spec': model.spec.to_dict(),
    'config': model.config.to_dict(),
    'codec': {'name': codec_name, 'hash': codec_hash},
    'style': {'name': style_name, 'hash': style_hash},
  }
  partial = path.with_suffix('.partial')
  partial.write_text(json.dumps(description, indent=2) + '\n', encoding='utf-8')
  partial.replace(path)
  return path


def load_source(path: str | pathlib.Path, name: str | None = None) -> Source:
  """Loads a bundled name, a bundle's folder, a MODEL_DIR (its newest step) or a checkpoint_<step>.

  Raises:
    FileNotFoundError: `path` is none of these.
    ValueError: the parameters do not fit what model.json describes.
  """
  folder = pathlib.Path(path)
  if str(path) in bundled_names():
    return Source(name or str(path), str(path), 'bundled', load_bundle(path))
  if (folder / 'spec.json').is_file():
    return Source(name or _folder_name(folder), str(path), 'bundle', load_bundle(folder))
  model_dir = folder.parent if folder.name.startswith(_CHECKPOINT_PREFIX) else folder
  if not (model_dir / MODEL_FILE).is_file():
    bundled = ', '.join(bundled_names()) or 'none is bundled'
    raise FileNotFoundError(
      f'{str(path)!r} is no language model: not a bundled name ({bundled}), no folder with a '
      f'spec.json, and no MODEL_DIR with a {MODEL_FILE}.'
    )
  return _load_checkpoint(folder, model_dir, name)


def load_sources(paths: str | Sequence[str], names: Sequence[str] | None = None) -> list[Source]:
  """Loads one path or several, under the given names or under their own, made unique.

  Raises:
    ValueError: names and paths differ in number, or a name is given twice.
  """
  paths = [paths] if isinstance(paths, str | pathlib.Path) else list(paths)
  if not paths:
    raise ValueError('CHECKPOINT_PATH names no model.')
  if names is not None and (len(names) != len(paths) or len(set(names)) != len(names)):
    raise ValueError(f'{list(names)} do not name {len(paths)} models one by one.')
  sources: list[Source] = []
  for index, path in enumerate(paths):
    source = load_source(path, names[index] if names else None)
    taken = {other.name for other in sources}
    base, number = source.name, 2
    while source.name in taken:
      source = dataclasses.replace(source, name=f'{base} ({number})')
      number += 1
    sources.append(source)
  return sources


def _load_checkpoint(folder: pathlib.Path, model_dir: pathlib.Path, name: str | None) -> Source:
  from training.checkpoints import restore_params
  from training.state import check_same_shapes

  description = json.loads((model_dir / MODEL_FILE).read_text(encoding='utf-8'))
  spec = LiveMusicSpec.from_dict(description['spec'])
  model = DepthformerModel(DepthformerConfig.from_dict(description['config']), spec)
  params, step = restore_params(folder)
  check_same_shapes(jax.eval_shape(model.init, jax.random.key(0)), params)
  bundle = Bundle(
    model=model,
    params=jax.tree.map(jnp.asarray, params),
    spec=spec,
    codec_name=description['codec']['name'],
    codec_hash=description['codec']['hash'],
    style_name=description['style']['name'],
    style_hash=description['style']['hash'],
    card=_card(model_dir, step),
  )
  return Source(
    name or f'{_folder_name(model_dir)} step {step}', str(folder), 'checkpoint', bundle, step,
    model_dir,
  )  # fmt: skip


def _folder_name(folder: pathlib.Path) -> str:
  """'tuned' for .../tuned/bundle, else the folder's own name."""
  folder = folder.resolve()
  return folder.parent.name if folder.name == 'bundle' else folder.name


def _card(model_dir: pathlib.Path, step: int) -> dict[str, Any]:
  return {'model_dir': str(model_dir), 'step': step}
