"""A language model to play or measure: bundled, a bundle's folder, a training run, or of T5X.

A training run's MODEL_DIR says what its parameters are in `model.json`: token layout, sizes, and
the codec and style model (with hashes) whose tokens it was trained on. `write_model_file` writes it
when a run starts, so that every checkpoint can be used without the gin files that made it. A T5X
checkpoint with no `model.json` beside it is taken for one of Magenta RealTime v1's lineage: sizes
from its shapes, v1's token layout, v1's codec and style model.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath

from models import assets
from models.adapted import AdaptedModel, language_model, model_params
from models.adapters import AdapterConfig
from models.bundle import Bundle, bundled_names, load_bundle
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec
from pipelines import adapter_folders
from preprocessing import files

MODEL_FILE = 'model.json'
# Of a bundle: whose tokens it speaks.
IDENTITY_FIELDS = ('codec_name', 'codec_hash', 'style_name', 'style_hash')
_CHECKPOINT_PREFIX = 'checkpoint_'
# A released model has its name for a hash.
_RELEASED_IDENTITY = {
  'codec_name': assets.CODEC,
  'codec_hash': assets.CODEC,
  'style_name': assets.STYLE_MODEL,
  'style_hash': assets.STYLE_MODEL,
}


@dataclasses.dataclass(frozen=True)
class Source:
  """A loaded language model.

  Attributes:
    name: short, unique among the sources of a report.
    path: a bundled or released model's name, or a full path.
    kind: 'bundled', 'bundle', 'adapter', 'checkpoint' (of a training run) or 't5x'.
    bundle: the model with its parameters.
    step: of a checkpoint; None for a bundle.
    model_dir: of a training run; None for a bundle or a T5X checkpoint.
    folder: of the checkpoint; None for a bundle.
  """

  name: str
  path: str
  kind: str
  bundle: Bundle
  step: int | None = None
  model_dir: pathlib.Path | None = None
  folder: pathlib.Path | None = None


def model_description(
  model: DepthformerModel | AdaptedModel,
  *,
  codec_name: str,
  codec_hash: str,
  style_name: str,
  style_hash: str,
  data: Sequence[dict[str, str]] | None = None,
) -> dict[str, Any]:
  """What model.json says: JSON values; `data` of runs whose checkpoints do not say."""
  description = {
    'spec': model.spec.to_dict(),
    'config': model.config.to_dict(),
    'codec': {'name': codec_name, 'hash': codec_hash},
    'style': {'name': style_name, 'hash': style_hash},
  }
  if isinstance(model, AdaptedModel):
    description['adapter'] = model.adapter.to_dict()
  if data is not None:
    description['data'] = list(data)
  return description


def write_model_file(
  model_dir: str | pathlib.Path, model: DepthformerModel | AdaptedModel, **identity: Any
) -> pathlib.Path:
  """Writes MODEL_DIR/model.json and returns its path; `identity` goes to `model_description`."""
  path = epath.Path(model_dir) / MODEL_FILE  # T5X's may be in a bucket.
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix('.partial')
  description = model_description(model, **identity)
  partial.write_text(json.dumps(description, indent=2) + '\n', encoding='utf-8')
  partial.replace(path)
  return path


def load_source(path: str | pathlib.Path, name: str | None = None) -> Source:
  """Loads a language model from wherever `path` says.

  Args:
    path: a bundled name; a bundle's folder; that of an adapter ('folder@0.7' at strength 0.7); a
      MODEL_DIR (its newest step is meant) or a checkpoint_<step> in one; a T5X checkpoint's folder
      or tar archive; or the name of a released model ('llm_large_x3047_c1860k'), which is looked
      for in the asset directory.
    name: of the source; None for one made from the path.

  Raises:
    FileNotFoundError: `path` is none of these, or the released model is not in the asset directory.
    ValueError: the parameters do not fit what model.json describes, or are truncated.
  """
  given, strength = adapter_folders.split_strength(str(path))
  folder = pathlib.Path(files.absolute(given))
  if adapter_folders.is_adapter(folder):
    bundle = adapter_folders.load(folder, strength, load_source)
    own_name = _folder_name(folder) + ('' if strength == 1 else f' at {strength:g}')
    return Source(name or own_name, f'{folder}{str(path)[len(given) :]}', 'adapter', bundle)
  if str(path) in bundled_names():
    return Source(name or str(path), str(path), 'bundled', load_bundle(path))
  if (folder / 'spec.json').is_file():
    return Source(name or _folder_name(folder), str(folder), 'bundle', load_bundle(folder))
  full_path = str(folder)
  if not folder.exists() and assets.names_checkpoint(str(path)):
    full_path = str(path)
    folder = assets.find_checkpoint(str(path))
  elif folder.suffix == '.tar' and folder.is_file():
    folder = assets.unpack_checkpoint(folder)
  model_dir = folder.parent if folder.name.startswith(_CHECKPOINT_PREFIX) else folder
  described = (model_dir / MODEL_FILE).is_file()

  from training import t5x_checkpoints

  if not _is_own_run(model_dir) and t5x_checkpoints.is_t5x(folder):
    return _load_t5x(folder, model_dir if described else None, full_path, name)
  if not described:
    bundled = ', '.join(bundled_names()) or 'none is bundled'
    raise FileNotFoundError(
      f'{str(path)!r} is no language model: not a bundled name ({bundled}), not a released one '
      f'({", ".join(assets.CHECKPOINTS)}), no folder with a spec.json, no MODEL_DIR with a '
      f'{MODEL_FILE}, and no T5X checkpoint.'
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
  from training.checkpoints import restore_averaged_params
  from training.state import check_same_shapes

  model, identity = _read_model_file(model_dir)
  params, step = restore_averaged_params(folder)
  check_same_shapes(jax.eval_shape(model.init, jax.random.key(0)), params)
  params = model_params(model, jax.tree.map(jnp.asarray, params))
  model = language_model(model)
  card = {'model_dir': str(model_dir), 'step': step}
  bundle = Bundle(model=model, params=params, spec=model.spec, card=card, **identity)
  return Source(
    name or f'{_folder_name(model_dir)} step {step}', str(folder), 'checkpoint', bundle, step,
    model_dir, model_dir / f'{_CHECKPOINT_PREFIX}{step}',
  )  # fmt: skip


def _is_own_run(model_dir: pathlib.Path) -> bool:
  """Whether train.py wrote the checkpoints in a folder: T5X's hold no position in the data."""
  from training.checkpoint_folders import DATASET

  children = model_dir.iterdir() if model_dir.is_dir() else ()
  return any(
    child.name.startswith(_CHECKPOINT_PREFIX) and (child / DATASET).is_dir() for child in children
  )


def _load_t5x(
  folder: pathlib.Path, described: pathlib.Path | None, path: str, name: str | None
) -> Source:
  """A T5X checkpoint, whose model.json lies in `described` if there is one."""
  from training import t5x_checkpoints

  if described is not None:
    model, identity = _read_model_file(described)
    model = language_model(model)
    checkpoint = t5x_checkpoints.read(folder, config=model.config, spec=model.spec)
  else:
    checkpoint = t5x_checkpoints.read(folder)
    model = DepthformerModel(checkpoint.config, checkpoint.spec)
    identity = dict(_RELEASED_IDENTITY)
  card = {'t5x_checkpoint': str(checkpoint.folder), 'step': checkpoint.step}
  bundle = Bundle(model=model, params=checkpoint.params, spec=model.spec, card=card, **identity)
  own_name = _folder_name(folder.parent if folder.name.startswith(_CHECKPOINT_PREFIX) else folder)
  name = name or f'{own_name} step {checkpoint.step}'
  return Source(name, path, 't5x', bundle, checkpoint.step, folder=checkpoint.folder)


def checkpoint_identity(path: str | pathlib.Path) -> dict[str, str]:
  """Codec and style model whose tokens a T5X checkpoint speaks, by `IDENTITY_FIELDS`.

  Args:
    path: the checkpoint's folder, or one of checkpoint_<step> folders; may be in a bucket.
  """
  folder = epath.Path(path)
  model_dir = folder.parent if folder.name.startswith(_CHECKPOINT_PREFIX) else folder
  if not (model_dir / MODEL_FILE).exists():
    return dict(_RELEASED_IDENTITY)
  return _read_model_file(model_dir)[1]


def _read_model_file(
  model_dir: pathlib.Path,
) -> tuple[DepthformerModel | AdaptedModel, dict[str, str]]:
  """What MODEL_DIR/model.json says was trained, and the bundle fields of codec and style."""
  path = model_dir / MODEL_FILE
  try:
    description = json.loads(path.read_text(encoding='utf-8'))
    spec = LiveMusicSpec.from_dict(description['spec'])
    model = DepthformerModel(DepthformerConfig.from_dict(description['config']), spec)
    if 'adapter' in description:
      model = AdaptedModel(model, AdapterConfig(**description['adapter']))
    fields = (field.split('_') for field in IDENTITY_FIELDS)
    return model, {f'{kind}_{key}': description[kind][key] for kind, key in fields}
  except (ValueError, LookupError, TypeError, AttributeError) as error:
    raise ValueError(
      f'{path} is damaged: it does not describe a model ({error}). The same training command '
      'writes it again.'
    ) from error


def _folder_name(folder: pathlib.Path) -> str:
  """'tuned' for .../tuned/bundle, else the folder's own name."""
  folder = folder.resolve()
  return folder.parent.name if folder.name == 'bundle' else folder.name
