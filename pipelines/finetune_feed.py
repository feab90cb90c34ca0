"""What a fine-tuning run reads: fresh crops of the catalog, with replay of general data by rate."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from inference.prompts import embed_prompts, lone_prompt
from models.adapted import AdaptedModel
from models.depthformer import DepthformerModel
from models.spec import MAGENTA_RT_V1, LiveMusicSpec
from pipelines import runs
from pipelines.generate import read_prompt_audio
from training.feed import MixedFeed

NUM_STYLE_CENTROIDS = 5
# Of a STYLE_PROMPT: the mean embedding of the catalog's training tracks.
CATALOG_MEAN = 'catalog'
GENERAL = 'training_eval/general'


def catalog_feed(
  data_dir: str,
  *,
  batch_size: int,
  mixture_or_task_name: str | None = None,
  task_feature_lengths: dict[str, int] | None = None,
  seed: int = 42,
  prompt_draw_secs: int = 40,
  style_dropout: float = 0.1,
  context_dropout: float = 0.0,
  crop_start: str = 'second',
  style_jitter: float = 0.0,
  style_prompt: str | None = None,
  preset_rate: float = 0.0,
  replay_data_dir: str | None = None,
  replay_rate: float = 0.0,
  spec: LiveMusicSpec = MAGENTA_RT_V1,
) -> runs.PreparedFeed:
  """Batches of a catalog; each epoch crops every clip anew.

  Args:
    data_dir: the catalog, as prepare.py wrote it.
    batch_size: examples in a step, those of the replay included.
    mixture_or_task_name: see `runs.token_feed`, as the next two.
    task_feature_lengths: see there.
    seed: see there.
    prompt_draw_secs: seconds of context are drawn from 0 up to this and capped at 10; see
      `tasks.crops.CropOptions`, as the next three.
    style_dropout: share of the examples without a style.
    context_dropout: share of the examples without a context.
    crop_start: 'second' or 'frame'.
    style_jitter: standard deviation of the noise on the style embedding; see `tasks.styles`.
    style_prompt: one style for all clips: a text, an audio file, or 'catalog' for the mean of the
      catalog's own embeddings; None for each clip's own.
    preset_rate: share of the examples that are styled by a preset that the bundle will have.
    replay_data_dir: general data, tokens of the same codec and style model.
    replay_rate: share of the examples that are general data.
    spec: token layout.

  Raises:
    ValueError: an option is out of range, a rate without data, or data of other models.
  """
  if bool(replay_rate) and not replay_data_dir:
    raise ValueError(
      f'REPLAY_RATE={replay_rate} needs REPLAY_DATA_DIR: general data to keep, as prepare.py '
      'wrote it.'
    )
  from tasks.crops import CropOptions

  crops = CropOptions(prompt_draw_secs, style_dropout, context_dropout, crop_start)
  identity = runs.token_identity(data_dir)
  catalog = runs.token_feed(
    data_dir,
    batch_size=batch_size,
    mixture_or_task_name=mixture_or_task_name,
    task_feature_lengths=task_feature_lengths,
    seed=seed,
    crops=crops,
    style=_style_options(style_jitter, style_prompt, preset_rate, data_dir, identity),
    spec=spec,
  )
  if not replay_rate:
    return catalog
  check_same_tokens(data_dir, replay_data_dir)
  general = runs.token_feed(
    replay_data_dir, batch_size=batch_size, seed=seed, crops=crops, spec=spec
  )
  return runs.PreparedFeed(
    MixedFeed(catalog.feed, general.feed, replay_rate), identity,
    catalog.content + general.content, catalog.notes + general.notes,
  )  # fmt: skip


def check_same_tokens(data_dir: str, other: str):
  """Raises ValueError where two data sets hold tokens of different models; names both hashes."""
  first, second = runs.token_identity(data_dir), runs.token_identity(other)
  for kind in ('codec', 'style'):
    if first[f'{kind}_hash'] != second[f'{kind}_hash']:
      raise ValueError(
        f'{other} holds tokens of the {kind} model {second[f"{kind}_hash"]}, {data_dir} those of '
        f'{first[f"{kind}_hash"]}. Prepare both with the same {kind} model.'
      )


def general_loss(
  trainable: DepthformerModel | AdaptedModel,
  replay_data_dir: str | None,
  *,
  batch_size: int,
  num_batches: int,
) -> Any:
  """Evaluator of the loss on held-out general data; measures nothing where there is none."""
  if not replay_data_dir:
    return _Nothing()
  from pipelines.prepared_data import PreparedData

  spec = trainable.spec
  split = PreparedData.open(replay_data_dir, spec).split
  feed = runs.held_out_token_feed(replay_data_dir, batch_size=batch_size, split=split, spec=spec)
  return runs.HeldOutLoss(trainable, feed, num_batches, GENERAL)


class _Nothing:
  name = GENERAL

  def __call__(self, state: Any) -> Sequence[tuple[str, float]]:
    del state
    return ()


def _style_options(
  jitter: float, prompt: str | None, preset_rate: float, data_dir: str, identity: dict[str, str]
) -> Any:
  """`tasks.styles.StyleOptions`; loads the style model only where it is needed."""
  from tasks.styles import OWN_STYLE, StyleOptions

  if not jitter and not prompt and not preset_rate:
    return OWN_STYLE
  from models.musiccoca import MusicCoCa

  model = MusicCoCa.load(identity['style_name'])
  if model.content_hash != identity['style_hash']:
    raise ValueError(
      f'{data_dir} holds tokens of the style model {identity["style_hash"]}, '
      f'{identity["style_name"]!r} is now {model.content_hash}. Prepare the audio again.'
    )
  if not prompt:
    options = StyleOptions(jitter, codebooks=np.asarray(model.codebooks, np.float32))
    if not preset_rate:
      return options
    presets = np.stack(list(style_presets(data_dir).values()))
    return dataclasses.replace(
      options, preset_rate=preset_rate, presets=presets,
      preset_tokens=np.asarray(model.tokenize(presets), np.int32),
    )  # fmt: skip
  if prompt == CATALOG_MEAN:
    embedding = training_embeddings(data_dir).mean(axis=0)
  else:
    parsed = lone_prompt(prompt, 'STYLE_PROMPT')
    embedding = embed_prompts([parsed], model, read_audio=read_prompt_audio)
  tokens = np.asarray(model.tokenize(embedding[None]))[0]
  return StyleOptions(prompt=tuple(int(token) for token in tokens))


def style_presets(data_dir: str | pathlib.Path, seed: int = 0) -> dict[str, np.ndarray]:
  """Style embeddings of a prepared catalog's training tracks, to steer by.

  Returns:
    {'catalog': the mean, 'catalog-1': ... k-means centroids, biggest cluster first}, float32
    [style_dim] each; fewer centroids where the catalog has fewer windows.
  """
  from models.musiccoca.presets import catalog_presets

  return catalog_presets(training_embeddings(str(data_dir)), NUM_STYLE_CENTROIDS, seed=seed)


def training_embeddings(data_dir: str) -> np.ndarray:
  """Style embeddings of all windows of the training tracks, float32 [N, style_dim]."""
  from preprocessing.records import read_split
  from tasks.source import find_token_folder

  clips = [tokens for tokens, _ in read_split(find_token_folder(data_dir), 'train')]
  return np.concatenate([clip.style_embeddings for clip in clips]).astype(np.float32)
