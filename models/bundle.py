"""A language model ready to play: weights, token layout, presets, licences, in one folder.

    weights.safetensors   parameters, float16
    spec.json             token layout, sizes, the codec and style model its tokens belong to
    card.json             what it was trained on, licences, figures
    presets.safetensors   style embeddings by name (optional)

Tokens mean nothing without the codec and the style model that made them, so a bundle names both
with their hashes, and `check_tokens` refuses others.
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import weights
from models.depthformer import DepthformerConfig, DepthformerModel
from models.depthformer.parameters import leaves
from models.spec import LiveMusicSpec

# Of spec.json; the last is a hash of the others, which older versions did not write.
_SPEC_KEYS = {
  'format', 'spec', 'config', 'codec', 'style', 'only_used_ids', 'weights_hash', 'sha256',
}  # fmt: skip
BUNDLED = pathlib.Path(__file__).parent / 'depthformer' / 'bundled'
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class Bundle:
  """A language model and what belongs to it.

  Attributes:
    model: sizes and functions.
    params: parameters, float32.
    spec: token layout (the model's).
    codec_name: name or path of the codec whose tokens the model speaks.
    codec_hash: that codec's content hash.
    style_name: name or path of the style model.
    style_hash: that style model's content hash.
    presets: style embeddings by name, float32 [style_dim] each.
    card: what it was trained on, licences, figures; any JSON values.
  """

  model: DepthformerModel
  params: dict[str, Any]
  spec: LiveMusicSpec
  codec_name: str
  codec_hash: str
  style_name: str
  style_hash: str
  presets: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
  card: dict[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if self.model.spec.to_dict() != self.spec.to_dict():
      raise ValueError('The bundle and its model disagree about the token layout.')


def bundled_names() -> list[str]:
  """Names that `load_bundle` finds inside the package."""
  return sorted(path.parent.name for path in BUNDLED.glob('*/spec.json'))


def save_bundle(
  directory: str | pathlib.Path, bundle: Bundle, *, only_used_ids: bool = True
) -> pathlib.Path:
  """Writes a bundle and returns its folder.

  Args:
    directory: folder to write; made if needed.
    bundle: what to write.
    only_used_ids: leave out what the token layout can never use: embeddings of ids that are
      neither codec, style, padding nor mask, and output columns that are no codec ids. They are
      zero after loading; the rest is the same either way. Turn it off for models that are to
      speak v1's whole vocabulary.
  """
  directory = pathlib.Path(directory)
  params = jax.tree.map(np.asarray, bundle.params)
  stored = _leave_out_unused(params, bundle.spec) if only_used_ids else params
  description = {
    'format': FORMAT_VERSION,
    'spec': bundle.spec.to_dict(),
    'config': bundle.model.config.to_dict(),
    'codec': {'name': bundle.codec_name, 'hash': bundle.codec_hash},
    'style': {'name': bundle.style_name, 'hash': bundle.style_hash},
    'only_used_ids': only_used_ids,
    'weights_hash': weights.tree_hash(stored),
  }
  # Everything is written before anything is replaced: a process that dies leaves the old bundle.
  partial = directory / '.partial'
  try:
    weights.save(partial / 'weights.safetensors', stored, {'kind': 'depthformer'})
    if bundle.presets:
      presets = {'presets': bundle.presets}
      weights.save(partial / 'presets.safetensors', presets, {'kind': 'presets'}, np.float32)
    _write_json(partial / 'card.json', bundle.card)
    _write_json(partial / 'spec.json', description | {'sha256': _hash(description)})
    if not bundle.presets and (directory / 'spec.json').is_file():  # Then an earlier bundle's.
      (directory / 'presets.safetensors').unlink(missing_ok=True)
    for path in sorted(partial.iterdir()):
      path.replace(directory / path.name)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return directory


def load_bundle(name_or_path: str | pathlib.Path = 'tiny') -> Bundle:
  """Reads a bundle by its bundled name or from a folder.

  Raises:
    FileNotFoundError: there is none; lists the bundled names.
    ValueError: a file is truncated, or weights and description do not belong together.
  """
  directory = _find(name_or_path)
  description = _read_spec(directory / 'spec.json')
  try:
    spec = LiveMusicSpec.from_dict(description['spec'])
    model = DepthformerModel(DepthformerConfig.from_dict(description['config']), spec)
  except (ValueError, LookupError, TypeError, AttributeError) as error:
    raise ValueError(f'{directory}/spec.json describes no language model: {error}') from error
  stored, _ = weights.load(directory / 'weights.safetensors')
  if weights.tree_hash(stored) != description['weights_hash']:
    raise ValueError(
      f'{directory}/weights.safetensors (hash {weights.tree_hash(stored)}) is not the file that '
      f'spec.json describes (hash {description["weights_hash"]}); copy the whole folder again.'
    )
  _check_names(stored, model, directory)
  params = _restore_unused(stored, spec) if description['only_used_ids'] else stored
  _check_shapes(params, model, directory)
  presets = {}
  if (directory / 'presets.safetensors').is_file():
    presets = weights.load(directory / 'presets.safetensors')[0].get('presets')
    if not isinstance(presets, dict):
      raise ValueError(f'{directory}/presets.safetensors holds no presets; copy it again.')
  return Bundle(
    model=model,
    params=jax.tree.map(jnp.asarray, params),
    spec=spec,
    codec_name=description['codec']['name'],
    codec_hash=description['codec']['hash'],
    style_name=description['style']['name'],
    style_hash=description['style']['hash'],
    presets=presets,
    card=read_json(directory / 'card.json'),
  )


def check_tokens(bundle: Bundle, codec: Any, style: Any):
  """Makes sure that a bundle's tokens come from this codec and this style model.

  Args:
    bundle: the language model.
    codec: has `content_hash`.
    style: has `content_hash`.

  Raises:
    ValueError: one of them is another; names both hashes.
  """
  pairs = [
    ('codec', bundle.codec_name, bundle.codec_hash, codec),
    ('style model', bundle.style_name, bundle.style_hash, style),
  ]
  for kind, name, expected, actual in pairs:
    if actual.content_hash != expected:
      raise ValueError(
        f'The language model speaks the tokens of {kind} {name!r} with hash {expected}, but the '
        f'{kind} given has hash {actual.content_hash}: its tokens mean other sounds. Load the '
        f'{kind} that belongs to it, or train the language model on tokens of this one.'
      )


def used_ids(spec: LiveMusicSpec) -> tuple[np.ndarray, np.ndarray]:
  """Ids that can be read (embedding rows) and predicted (output columns), ascending."""
  codec = spec.codec_offset + np.arange(spec.target_levels * spec.codebook_size)
  style = spec.style_offset + np.arange(spec.style_levels * spec.codebook_size)
  return np.unique(np.concatenate([[spec.pad_id, spec.mask_id], codec, style])), codec


def _leave_out_unused(params: dict[str, Any], spec: LiveMusicSpec) -> dict[str, Any]:
  read, predicted = used_ids(spec)
  return params | {
    'embedding': params['embedding'][read],
    'logits': params['logits'][:, predicted],
  }


def _restore_unused(stored: dict[str, Any], spec: LiveMusicSpec) -> dict[str, Any]:
  read, predicted = used_ids(spec)
  embed_dim = stored['embedding'].shape[1]
  embedding = np.zeros([spec.vocab_size, embed_dim], np.float32)
  embedding[read] = stored['embedding']
  logits = np.zeros([embed_dim, spec.vocab_size], np.float32)
  logits[:, predicted] = stored['logits']
  return stored | {'embedding': embedding, 'logits': logits}


def _check_names(stored: dict[str, Any], model: DepthformerModel, directory: pathlib.Path):
  """Raises ValueError naming the first array that is missing from the weights."""
  flat = weights.flatten(stored)
  for name in sorted(leaves(model.config, model.spec)):
    if name not in flat:
      raise ValueError(f'{directory}: {name} is missing in the weights; copy the folder again.')


def _check_shapes(params: dict[str, Any], model: DepthformerModel, directory: pathlib.Path):
  """Raises ValueError naming the first array that does not fit the sizes in spec.json."""
  flat = weights.flatten(params)
  expected = leaves(model.config, model.spec)
  for name in sorted(set(flat) | set(expected)):
    found = flat[name].shape if name in flat else 'missing'
    wanted = expected[name].stacked_shape if name in expected else 'not part of the model'
    if found != wanted:
      raise ValueError(f'{directory}: {name} is {found} in the weights, {wanted} by spec.json.')


def _find(name_or_path: str | pathlib.Path) -> pathlib.Path:
  for directory in (BUNDLED / str(name_or_path), pathlib.Path(name_or_path).expanduser()):
    if (directory / 'spec.json').is_file():
      return directory
  raise FileNotFoundError(
    f'No language model bundle {str(name_or_path)!r}: neither a bundled name '
    f'({", ".join(bundled_names()) or "none is bundled"}) nor a folder with a spec.json.'
  )


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """Reads a file of a bundle or adapter that holds one JSON object.

  Raises:
    FileNotFoundError: it is missing.
    ValueError: it is truncated, or holds something else.
  """
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise FileNotFoundError(f'The bundle lacks {path}; copy the whole folder again.') from None
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is truncated or not JSON: {error}') from error
  if not isinstance(value, dict):
    raise ValueError(f'{path} holds {type(value).__name__}, not a JSON object; copy it again.')
  return value


def _read_spec(path: pathlib.Path) -> dict[str, Any]:
  """What spec.json says; ValueError where it is of another format or not what was saved."""
  description = read_json(path)
  if description.get('format') != FORMAT_VERSION:
    raise ValueError(
      f'{path.parent} has bundle format {description.get("format")!r}; this version reads '
      f'{FORMAT_VERSION}.'
    )
  saved = {key: value for key, value in description.items() if key != 'sha256'}
  whole = 'sha256' not in description or description['sha256'] == _hash(saved)
  if not whole or set(saved) != _SPEC_KEYS - {'sha256'}:
    raise ValueError(f'{path} is damaged: it is not what was saved. Copy the whole folder again.')
  for kind in ('codec', 'style'):
    names = description[kind]
    if not isinstance(names, dict) or not {'name', 'hash'} <= set(names):
      raise ValueError(f'{path} does not name the {kind}. Copy the whole folder again.')
  return description


def _hash(description: dict[str, Any]) -> str:
  return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _write_json(path: pathlib.Path, value: dict[str, Any]):
  partial = path.with_suffix('.partial')
  partial.write_text(json.dumps(value, indent=2, sort_keys=True) + '\n', encoding='utf-8')
  partial.replace(path)
