"""Trains a style model from a folder: vocabulary, towers, style tokens, one weights file."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax

from evaluation.retrieval import retrieval_scores
from models import notices
from models.musiccoca import MusicCoCaConfig
from models.musiccoca.training import StyleRecipe, StyleTrainable
from models.spec import LiveMusicSpec
from pipelines import runs
from pipelines.style_feed import StyleFeed, StyleTrack, caption_vocabulary, style_tracks
from pipelines.style_finish import FinishRecipe, embed_pairs, finish_style_model
from pipelines.style_hearing import Heard, Hearing, Teacher
from pipelines.style_start import StyleStart, find_start
from training import hosts
from training.state import TrainState

# Where captions come from: the manifest; what is heard, for tracks without; what is heard, for all.
OWN, MISSING, HEARD = 'own', 'missing', 'heard'
CAPTIONS = (OWN, MISSING, HEARD)


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
  data_dir: str | Sequence[str],
  config: MusicCoCaConfig,
  batch_size: int,
  recipe: StyleRecipe | None = None,
  finish: FinishRecipe | None = None,
  held_out_dir: str | Sequence[str] | None = None,
  captions: str = OWN,
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
    data_dir: a prepared folder, a demo corpus or a manifest, or several; see
      `style_feed.style_tracks`.
    config: sizes.
    batch_size: (audio, caption) pairs per step, all of which are each other's negatives.
    recipe: the loss, and microbatches.
    finish: what is done with the trained towers at the end.
    held_out_dir: likewise; the middle window and the caption of each track are scored by retrieval.
      None: the validation split of `data_dir`, if it has one.
    captions: 'own': as the data say; 'missing': tracks without any get what is heard in them (see
      `style_hearing`); 'heard': all tracks do, but those of a demo corpus.
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
  sources = _Sources(captions, pathlib.Path(model_dir) / 'heard', bool(recipe.teacher_weight))
  tracks, teacher = sources.training(_several(data_dir))
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
    second_clips=bool(recipe.same_track_weight), teacher=teacher and teacher.targets,
  )  # fmt: skip
  held_out = _held_out_feed(held_out_dir, data_dir, feed, sources)
  trained = initial_checkpoint_path is not None
  trainable = StyleTrainable(
    config, recipe, spec, start.mel_matrix, trained, teacher.width if teacher else 0
  )
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


class _Sources:
  """Reads tracks, and hears them where the run asks for it."""

  def __init__(self, captions: str, cache_dir: pathlib.Path, teaches: bool):
    if captions not in CAPTIONS:
      raise ValueError(f'CAPTIONS={captions!r} is none of {", ".join(map(repr, CAPTIONS))}.')
    self._captions, self._cache_dir, self._teaches = captions, cache_dir, teaches
    self._hearing: Hearing | None = None

  def training(self, sources: Sequence[str]) -> tuple[list[StyleTrack], Teacher | None]:
    """The tracks of the train split, and the teacher if the recipe wants one."""
    tracks, heard = self.tracks(sources, 'train', self._teaches)
    return tracks, Teacher(heard) if self._teaches else None

  def tracks(
    self, sources: Sequence[str], split: str | None, hear_all: bool = False
  ) -> tuple[list[StyleTrack], list[Heard]]:
    """Tracks with their captions; what was heard is given with `hear_all` only."""
    hears = self._captions != OWN
    tracks = [
      track for source in sources for track in style_tracks(source, split, with_facts=not hears)
    ]
    if not hears and not hear_all:
      return tracks, []
    self._hearing = self._hearing or Hearing(self._cache_dir)
    chosen = [track for track in tracks if hear_all or self._is_heard(track)]
    heard = self._hearing.hear_all(chosen)
    unread = {track.path for track in chosen} - set(heard)
    found = [
      dataclasses.replace(track, facts=self._hearing.facts(heard[track.path], track.facts))
      if self._is_heard(track) else track
      for track in tracks if track.path not in unread
    ]  # fmt: skip
    known = [track for track in found if not track.facts.is_empty]
    if len(known) < len(found) and hosts.is_first():
      names = ', '.join(track.path for track in found if track.facts.is_empty)
      number = len(found) - len(known)
      notices.say(f'{number} tracks are left out, nothing is known of them: {names}')
    if not known:
      raise ValueError(f'Nothing is heard in any track of {", ".join(map(str, sources))}.')
    return known, [heard[track.path] for track in known] if hear_all else []

  def _is_heard(self, track: StyleTrack) -> bool:
    """Whether a track gets the caption of what is heard in it."""
    if self._captions == HEARD:
      return not track.composed
    return self._captions == MISSING and track.facts.is_empty


def _several(sources: str | Sequence[str]) -> list[str]:
  return [sources] if isinstance(sources, str) else list(sources)


def _held_out_feed(
  held_out_dir: str | Sequence[str] | None, data_dir: str | Sequence[str], feed: StyleFeed,
  sources: _Sources,
) -> StyleFeed | None:  # fmt: skip
  """Held-out tracks behind the same front end and vocabulary; None where there are none."""
  if held_out_dir:
    tracks, _ = sources.tracks(_several(held_out_dir), None)
  else:
    known = {track.path for track in feed.tracks}
    try:
      found, _ = sources.tracks(_several(data_dir), 'validation')
      tracks = [track for track in found if track.path not in known]
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
