"""What a model plays while it is tuned: is it still music, and does it come near to the catalog?

The loss of an adapter can go on falling while its output falls silent, loops or moves away from the
catalog; some seconds of sound at an evaluation show it. Half of the clips go on from held-out
contexts, half begin from the catalog's style alone, as people play. The contexts and the random
numbers are the same every time.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from evaluation import repetition, signal_health
from evaluation.excerpts import choose_excerpts
from inference import SamplingOptions
from models import notices, tokens
from models.adapted import AdaptedModel, language_model, model_params
from models.depthformer import DepthformerModel
from models.spec import LiveMusicSpec
from pipelines import catalog_likeness
from pipelines.catalog_likeness import CatalogLikeness
from training import hosts
from training.state import TrainState
from training.wrappers import averaged_params

MAX_SILENCE, MAX_CLIPPED, MAX_REPEATED = 0.5, 1e-3, 0.5
NAME = 'training_eval/output'
FAULTS = ('silent_share', 'clipped_share', 'looping_share')
LIKENESS = (catalog_likeness.COSINE, catalog_likeness.SOUND, catalog_likeness.LOUDNESS)


class OutputHealth:
  """Evaluator: plays some clips and looks at their sound."""

  name = NAME

  def __init__(
    self,
    model: DepthformerModel | AdaptedModel,
    data_dir: str,
    *,
    period: int = 100,
    num_clips: int = 8,
    secs: float = 10.0,
    seed: int = 0,
    load_models: Callable[[str, str], tuple[Any, Any]] | None = None,
  ):
    """Reads nothing yet.

    Args:
      model: what the run trains.
      data_dir: prepare.py's output; held-out contexts, codec and style model are its own.
      period: steps from one time to the next, at evaluations; 0 for never.
      num_clips: half of them go on from a held-out context, half begin from a style alone.
      secs: length of a clip, whole chunks of it.
      seed: of contexts and sampling.
      load_models: (codec's name, style model's name) -> both; None loads them by their names.
    """
    if period < 0 or num_clips < 1:
      raise ValueError(f'{num_clips} clips every {period} steps: at least 1, at least 0.')
    if secs <= 0:
      raise ValueError(f'Clips of {secs} s: more than 0.')
    self._trained, self._data_dir, self._period = model, data_dir, period
    self._num_clips, self._secs, self._seed = num_clips, secs, seed
    self._load_models = load_models or _load_by_name
    self._contexts: list[np.ndarray] | None = None
    self._styles: list[np.ndarray] = []
    self._codec: Any = None
    self._likeness: CatalogLikeness | None = None
    self._next = 0

  def __call__(self, state: TrainState) -> Iterable[tuple[str, float]]:
    """Shares of clips with each fault, their level, and their likeness to the catalog.

    Nothing where none is due; no likeness where the catalog has too few clips to be laid beside.
    """
    step = int(state.step)
    if not self._period or step < self._next:
      return
    self._next = (step // self._period + 1) * self._period
    params = model_params(self._trained, averaged_params(state))
    params = hosts.to_host(params) if jax.process_count() > 1 else params
    if hosts.is_first():
      yield from self._measure(params).items()

  def _measure(self, params: Any) -> dict[str, float]:
    model = language_model(self._trained)
    if self._contexts is None:
      self._load(model)
    rate, chunk_secs = model.spec.sample_rate, model.spec.chunk_secs
    num_chunks, key = max(1, round(self._secs / chunk_secs)), jax.random.key(self._seed)
    codes = play(model, params, self._contexts, self._styles, num_chunks, key)
    clips = [np.asarray(self._codec.decode(rows), np.float32) for rows in codes]
    found = [
      {
        'silent_share': signal_health.silence_share(clip, rate) > MAX_SILENCE,
        'clipped_share': signal_health.clipped_share(clip) > MAX_CLIPPED,
        'looping_share': repetition.repeated_share(rows[:, :1]) > MAX_REPEATED,
        'rms_db': signal_health.rms_db(clip),
      }
      for clip, rows in zip(clips, codes, strict=True)
    ]
    means = {name: float(np.mean([row[name] for row in found])) for name in found[0]}
    if self._likeness is not None:
      means |= self._likeness.measure(clips).means()
    return means

  def _load(self, model: DepthformerModel):
    """Contexts, models and the catalog's own sound, once.

    Raises:
      ValueError: the data hold no held-out records, or tokens of other models.
    """
    from pipelines.finetune_feed import training_embeddings
    from pipelines.prepared_data import PreparedData
    from pipelines.runs import token_identity

    data = PreparedData.open(self._data_dir, model.spec, 'validation')
    records = list(data.held_out_records())
    identity = token_identity(self._data_dir)
    self._codec, style = self._load_models(identity['codec_name'], identity['style_name'])
    excerpts = choose_excerpts(records, -(-self._num_clips // 2), model.spec, self._seed)
    contexts = [(excerpt.context, excerpt.style) for excerpt in excerpts]
    alone = max(self._num_clips - len(contexts), 0)
    if alone:
      embeddings = training_embeddings(self._data_dir)
      chosen = np.linspace(0, len(embeddings) - 1, alone).round().astype(int)
      rows = [embeddings.mean(axis=0), *embeddings[chosen[1:]]]
      contexts += [
        (np.zeros([0, model.spec.target_levels], np.int32), row)
        for row in np.asarray(style.tokenize(np.stack(rows)), np.int32)
      ]
    self._contexts, self._styles = map(list, zip(*contexts))
    try:
      self._likeness = CatalogLikeness.of(
        self._data_dir, data.split, model.spec, self._codec, style, number=self._num_clips
      )
    except ValueError as error:
      notices.say(f'How near the output comes to the catalog is not watched: {error}')
      return
    notices.say(f'Likeness to the catalog: {catalog_likeness.in_words(self._likeness.anchors)}')
    for figure, pairs in self._likeness.wrong.items():
      for better, worse in pairs:
        notices.say(
          f'{figure} does not put "{better}" before "{worse}": on this catalog it says little.'
        )


def play(
  model: DepthformerModel, params: Any, contexts: Sequence[np.ndarray],
  styles: Sequence[np.ndarray], num_chunks: int, key: jax.Array,
  options: SamplingOptions | None = None,
) -> np.ndarray:  # fmt: skip
  """Plays on from contexts, all side by side.

  Args:
    model: the language model.
    params: its parameters.
    contexts: codes [frames, >= context_levels] before the music; of 0 frames for none.
    styles: tokens [style_rvq_levels] of each.
    num_chunks: how much of it.
    key: of the random numbers.
    options: how tokens are drawn; None for the defaults.

  Returns:
    int32 [N, frames, target_levels], without the contexts.
  """
  spec: LiveMusicSpec = model.spec
  width, options = spec.target_levels, options or SamplingOptions()
  known = [np.asarray(context, np.int32)[:, :width] for context in contexts]
  played = []
  for chunk in range(num_chunks):
    inputs = np.stack([
      tokens.encoder_inputs(context, style, spec)
      for context, style in zip(known, styles, strict=True)
    ])  # fmt: skip
    ids = model.generate(
      params, inputs, rng=jax.random.fold_in(key, chunk), temperature=options.temperature,
      top_k=options.top_k, guidance_weight=options.guidance_weight,
    )  # fmt: skip
    codes = tokens.codec_codes(np.asarray(ids), spec)
    played.append(codes)
    known = [
      np.concatenate([context, rows])[-spec.context_frames :]
      for context, rows in zip(known, codes, strict=True)
    ]
  return np.concatenate(played, axis=1)


def _load_by_name(codec: str, style: str) -> tuple[Any, Any]:
  from models.musiccoca import MusicCoCa
  from models.spectrostream import SpectroStream

  return SpectroStream.load(codec), MusicCoCa.load(style)
