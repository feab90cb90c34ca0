"""Where a training run's first parameters come from, other than `trainable.init`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import tokens
from models.adapted import language_model
from models.depthformer import DepthformerModel
from models.depthformer.codebook_start import start_from_codebooks
from models.depthformer.unigram_start import start_from_unigram
from models.musiccoca import MusicCoCa
from models.spectrostream import SpectroStream
from pipelines.checkpoint_sources import IDENTITY_FIELDS, load_source
from preprocessing import files
from training import t5x_checkpoints
from training.checkpoints import restore_params, restore_part
from training.prefetch import feed_batches
from training.state import flat_names

# From how many examples it is counted how often each code occurs, and of how many it is found how
# large the output layer's input is.
_UNIGRAM_EXAMPLES, _LOOKED_AT = 400, 4
# Of `training.wrappers.averaging`.
_INNER, _AVERAGE = 'inner/', 'average/'


def read(path: str, identity: dict[str, str] | None = None) -> Any:
  """Parameters of a checkpoint, a training run or a bundle.

  Args:
    path: see `initial_checkpoint_path` of `runs.train`.
    identity: codec and style model of the data; a bundle made for others is refused.

  Raises:
    FileNotFoundError: `path` is none of these.
    ValueError: the tokens of the data are not those that the bundle knows.
  """
  try:
    source = load_source(path)
  except FileNotFoundError as error:
    # A codec's or style model's run has no model.json.
    try:
      return restore_params(files.absolute(path))[0]
    except FileNotFoundError:
      raise error from None
  if identity:
    stored = {field: getattr(source.bundle, field) for field in IDENTITY_FIELDS}
    check_tokens(path, stored, identity)
  return source.bundle.params


def optimizer_state(path: str, trainable: Any, like: Any) -> Any:
  """The optimizer's state of a checkpoint, in the place of a new one.

  Args:
    path: of a T5X checkpoint, or of a run with the same optimizer.
    trainable: what is trained.
    like: the new state; averages of the parameters, which begin anew, stay as they are.

  Raises:
    ValueError: there are no such statistics, or they are another optimizer's.
  """
  stored = _stored_statistics(path, language_model(trainable))
  flat = {}
  for name, leaf in flat_names(like).items():
    if name.startswith(_AVERAGE):
      flat[name] = leaf
      continue
    own = name.removeprefix(_INNER)
    found = next((stored[key] for key in (own, _INNER + own) if key in stored), None)
    if found is None or tuple(found.shape) != tuple(leaf.shape):
      what = 'lacks' if found is None else f'has of another shape, {tuple(found.shape)},'
      raise ValueError(
        f'{path} {what} {own}, which this optimizer keeps. Set RESTORE_OPTIMIZER = False, or take '
        'the optimizer (and METHOD) of that run.'
      )
    flat[name] = jnp.asarray(found, leaf.dtype)
  return jax.tree.unflatten(jax.tree.structure(like), list(flat.values()))


def num_updates(path: str) -> int:
  """Updates that the optimizer of a checkpoint counts."""
  stored = _stored_statistics(path, None)
  counts = [int(value) for name, value in stored.items() if name.split('/')[-1] == 'count']
  return max(counts, default=0)


def _stored_statistics(path: str, model: DepthformerModel | None) -> dict[str, Any]:
  """Arrays of an optimizer's state by name; Adafactor's of a T5X checkpoint by our own names."""
  source = load_source(path)
  if source.kind == 't5x':
    model = model or source.bundle.model
    read = t5x_checkpoints.read(
      source.folder, config=model.config, spec=model.spec, with_optimizer=True
    )
    if read.opt_state is not None:
      return flat_names(read.opt_state)
  elif source.kind == 'checkpoint':
    return restore_part(source.folder, 'state')[0]['param_states']
  raise ValueError(
    f"{path} has no optimizer's statistics to keep: RESTORE_OPTIMIZER = True is for T5X "
    'checkpoints and MODEL_DIRs of train.py.'
  )


def check_tokens(path: str, stored: dict[str, str], identity: dict[str, str]):
  """Refuses to go on training a model on tokens that it does not know.

  Args:
    path: of the model, for the message.
    stored: codec and style model whose tokens it speaks, by `IDENTITY_FIELDS`.
    identity: those of the data.

  Raises:
    ValueError: the hashes differ.
  """
  for kind in ('codec', 'style'):
    data_hash, model_hash = identity[f'{kind}_hash'], stored[f'{kind}_hash']
    if data_hash != model_hash:
      raise ValueError(
        f'{path} was trained on tokens of the {kind} model {model_hash}, the data holds tokens of '
        f'{data_hash}. Prepare the audio again with the {kind} model that belongs to it.'
      )


def from_codebooks(
  trainable: Any, identity: dict[str, str] | None, seed: int, feed: Any = None
) -> Any:
  """Initial parameters whose embeddings start from the codebooks that made the data's tokens.

  The output layer starts from the unigram of the first examples.

  Args:
    trainable: a `DepthformerModel`.
    identity: 'codec_name', 'codec_hash', 'style_name', 'style_hash' of the data.
    seed: of the initial values.
    feed: of the run, before it is shared among processes; None leaves the unigram out.

  Raises:
    FileNotFoundError: the data's codec or style model is not there any more.
    ValueError: the model has no codes to embed, or the codec or style model has changed since the
      data was prepared.
  """
  if not isinstance(trainable, DepthformerModel) or not identity:
    raise ValueError(
      f'codebook_start is for a language model over token records, not for {trainable!r}. Set '
      'CODEBOOK_START = False.'
    )
  codebooks = {}
  for kind, model_class in (('codec', SpectroStream), ('style', MusicCoCa)):
    name, data_hash = identity[f'{kind}_name'], identity[f'{kind}_hash']
    model = model_class.load(name)
    if model.content_hash != data_hash:
      raise ValueError(
        f'The data holds tokens of the {kind} model {data_hash}, {name!r} is now '
        f'{model.content_hash}. Prepare the audio again.'
      )
    codebooks[kind] = model.codebooks
  params = trainable.init(jax.random.key(seed))
  params = start_from_codebooks(
    params, codebooks['codec'], codebooks['style'], trainable.spec, seed
  )
  return params if feed is None else _with_unigram(params, trainable, feed)


def _with_unigram(params: Any, trainable: DepthformerModel, feed: Any) -> Any:
  """Starts the output layer from the codes of the feed's first examples."""
  spec, counts, rows, first = trainable.spec, 0, 0, None
  for batch in feed_batches(feed, 0):
    inputs, targets = batch['encoder_input_tokens'], np.asarray(batch['decoder_target_tokens'])
    whole = targets[(targets != spec.pad_id).all(axis=1)]
    rows += len(targets)
    if len(whole):
      codes = tokens.codec_codes(whole.reshape(-1, spec.target_levels), spec)
      counts = counts + np.stack([
        np.bincount(level, minlength=spec.codebook_size) for level in codes.T
      ])  # fmt: skip
      if first is None:
        first = (np.asarray(inputs)[:_LOOKED_AT], targets[:_LOOKED_AT])
    if rows >= _UNIGRAM_EXAMPLES:
      break
  if first is None:
    return params
  return start_from_unigram(params, counts, *first, trainable.config, spec)
