"""Trains a style model from a folder: vocabulary, towers, style tokens, one weights file."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax

from evaluation.retrieval import retrieval_scores
from models.musiccoca import MusicCoCaConfig
from models.musiccoca.training import StyleRecipe, StyleTrainable
from models.spec import LiveMusicSpec
from pipelines import runs
from pipelines.style_feed import StyleFeed, caption_vocabulary, style_tracks
from pipelines.style_finish import FinishRecipe, embed_pairs, finish_style_model
from pipelines.style_start import StyleStart, find_start
from training import hosts
from training.state import TrainState


class Retrieval:
  """Evaluator: retrieval both ways between held-out clips and their captions."""

  name = 'training_eval/retrieval'

  def __init__(self, feed: StyleFeed):
    self.feed = feed

  def __call__(self, state: TrainState) -> Iterable[tuple[str, float]]:
    """(name, value) pairs, such as ('text_to_audio_recall_at_5', 0.6)."""
    # Parameters are the same everywhere: each process, on one device, scores for itself.
    params = jax.tree.map(lambda x: x.addressable_data(0), state.params)
    yield from retrieval_scores(*embed_pairs(params, self.feed)).items()


def train_style(
  *,
  model_dir: str,
  data_dir: str,
  config: MusicCoCaConfig,
  batch_size: int,
  recipe: StyleRecipe | None = None,
  finish: FinishRecipe | None = None,
  held_out_dir: str | None = None,
  text_length: int | None = None,
  same_genre_run: int = 1,
  seed: int = 42,
  initial_checkpoint_path: str | None = None,
  card: dict[str, Any] | None = None,
  spec: LiveMusicSpec | None = None,
  dry_run: bool = False,
  on_start: Callable[[], Any] | None = None,
  **run_options: Any,
) -> TrainState | None:
  """Trains a style model and writes `model_dir`/style.safetensors once all steps are made.

  Args:
    model_dir: checkpoints, metrics, vocabulary and weights go here; a run started again resumes.
    data_dir: a prepared folder, a demo corpus or a manifest; see `style_feed.style_tracks`.
    config: sizes.
    batch_size: (audio, caption) pairs per step, all of which are each other's negatives.
    recipe: the loss, and microbatches.
    finish: what is done with the trained towers at the end.
    held_out_dir: likewise; the middle window and the caption of each track are scored by retrieval.
      None: the validation split of `data_dir`, if it has one.
    text_length: ids per text in training; longer captions are cut. None for all.
    same_genre_run: see `StyleFeed`.
    seed: of weights, order, crops, captions.
    initial_checkpoint_path: MODEL_DIR of an earlier run or a checkpoint in it, or a style model: a
      file, a bundled name, 'musiccoca_v2_jax'. Its vocabulary and mel matrix are taken over.
    card: saved with the weights, beside the recipe and the figures.
    spec: rates, window and sizes of the tokens.
    dry_run: print the model and the first example, and train nothing.
    on_start: called when everything is built.
    **run_options: optimizer, total_steps and the rest of `runs.train`.
  """
  recipe, finishing = recipe or StyleRecipe(), finish or FinishRecipe()
  spec = spec or LiveMusicSpec()
  tracks = style_tracks(data_dir)
  trains = not (dry_run or run_options.get('precompile'))
  start = find_start(
    model_dir, initial_checkpoint_path, config, spec,
    lambda: caption_vocabulary(tracks, config, seed=seed),
  )  # fmt: skip
  if trains and hosts.is_first():
    start.write(model_dir)
  # SentencePiece may give fewer pieces than asked for.
  config = dataclasses.replace(config, vocab_size=len(start.vocabulary))
  feed = StyleFeed(
    tracks, start.vocabulary, config, batch_size=batch_size, seed=seed, spec=spec,
    text_length=text_length, same_genre_run=same_genre_run, mel_matrix=start.mel_matrix,
  )  # fmt: skip
  held_out = _held_out_feed(held_out_dir, data_dir, feed)
  trained = initial_checkpoint_path is not None
  trainable = StyleTrainable(config, recipe, spec, start.mel_matrix, trained)
  card = {**(card or {}), 'recipe': dataclasses.asdict(recipe)}
  if trained:
    card['started_from'] = initial_checkpoint_path

  def finish_run(state: TrainState, trainable: Any, model_dir: str):
    card['steps'] = int(state.step)
    finish_style_model(state.params, feed, finishing, model_dir, held_out, card)

  return runs.train(
    model_dir=model_dir,
    trainable=trainable,
    feed=feed,
    seed=seed,
    evaluators=[Retrieval(held_out)] if held_out else [],
    finish=finish_run,
    initial_checkpoint_path=start.checkpoint,
    start_params=_params_of(start, trainable, seed),
    dry_run=dry_run,
    on_start=on_start,
    **run_options,
  )


def _params_of(
  start: StyleStart, trainable: StyleTrainable, seed: int
) -> Callable[[], dict[str, Any]] | None:
  """Gives the towers of a style model, and anew what is trained beside them."""
  if start.towers is None:
    return None
  return lambda: {**trainable.init_beside_towers(jax.random.key(seed)), **start.towers}


def _held_out_feed(held_out_dir: str | None, data_dir: str, feed: StyleFeed) -> StyleFeed | None:
  """Held-out tracks behind the same front end and vocabulary; None where there are none."""
  if held_out_dir:
    tracks = style_tracks(held_out_dir, None)
  else:
    known = {track.path for track in feed.tracks}
    try:
      tracks = [t for t in style_tracks(data_dir, 'validation') if t.path not in known]
    except ValueError:
      tracks = []
  if not tracks:
    if hosts.is_first():
      print(
        f'{data_dir} holds out no tracks with captions: nothing is evaluated. HELD_OUT_DIR names '
        'others.', flush=True,
      )  # fmt: skip
    return None
  return StyleFeed(
    tracks, feed.vocabulary, feed.config, batch_size=1, seed=feed.seed, spec=feed.spec,
    mel_matrix=feed.mel_matrix,
  )  # fmt: skip
