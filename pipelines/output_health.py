"""Is what the model plays still music? Silence, clipping and loops, watched while it is tuned.

The loss of an adapter can go on falling while its output falls silent or loops; a few seconds of
sound at an evaluation show it. The contexts and the random numbers are the same every time.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from evaluation import repetition, signal_health
from evaluation.excerpts import choose_excerpts, encoder_inputs
from inference import SamplingOptions
from models import tokens
from models.adapted import AdaptedModel, language_model, model_params
from models.depthformer import DepthformerModel
from training import hosts
from training.state import TrainState
from training.wrappers import averaged_params

MAX_SILENCE, MAX_CLIPPED, MAX_REPEATED = 0.5, 1e-3, 0.5
NAME = 'training_eval/output'
FAULTS = ('silent_share', 'clipped_share', 'looping_share')


class OutputHealth:
  """Evaluator: goes on from held-out contexts for one chunk and looks at the sound."""

  name = NAME

  def __init__(
    self,
    model: DepthformerModel | AdaptedModel,
    data_dir: str,
    *,
    period: int = 100,
    num_clips: int = 4,
    seed: int = 0,
    load_codec: Callable[[str], Any] | None = None,
  ):
    """Reads nothing yet.

    Args:
      model: what the run trains.
      data_dir: prepare.py's output; held-out contexts and the codec are its own.
      period: steps from one time to the next, at evaluations; 0 for never.
      num_clips: contexts to go on from.
      seed: of contexts and sampling.
      load_codec: of the codec's name; None loads it by its name.
    """
    if period < 0 or num_clips < 1:
      raise ValueError(f'{num_clips} clips every {period} steps: at least 1, at least 0.')
    self._trained, self._data_dir, self._period = model, data_dir, period
    self._num_clips, self._seed, self._load_codec = num_clips, seed, load_codec
    self._inputs: np.ndarray | None = None
    self._codec: Any = None
    self._next = 0

  def __call__(self, state: TrainState) -> Iterable[tuple[str, float]]:
    """Shares of clips with each fault, and their level; nothing where none is due."""
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
    if self._inputs is None:
      self._load(model)
    options = SamplingOptions()
    ids = model.generate(
      params, self._inputs, rng=jax.random.key(self._seed), temperature=options.temperature,
      top_k=options.top_k, guidance_weight=options.guidance_weight,
    )  # fmt: skip
    codes = tokens.codec_codes(np.asarray(ids), model.spec)
    rate = model.spec.sample_rate
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
    return {name: float(np.mean([row[name] for row in found])) for name in found[0]}

  def _load(self, model: DepthformerModel):
    """Contexts and codec, once.

    Raises:
      ValueError: the data hold no held-out records, or tokens of another codec.
    """
    from pipelines.prepared_data import PreparedData
    from pipelines.runs import token_identity

    records = list(PreparedData.open(self._data_dir, model.spec, 'validation').held_out_records())
    excerpts = choose_excerpts(records, self._num_clips, model.spec, self._seed)
    self._inputs = encoder_inputs(excerpts, model.spec)
    name = token_identity(self._data_dir)['codec_name']
    self._codec = (self._load_codec or _load_by_name)(name)


def _load_by_name(name: str) -> Any:
  from models.spectrostream import SpectroStream

  return SpectroStream.load(name)
