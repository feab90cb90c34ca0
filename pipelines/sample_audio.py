"""What a language model sounds like while it is trained: held-out prompts, made into sound."""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from evaluation import signal_health
from inference import LiveSession, SamplingOptions
from models.adapted import AdaptedModel, language_model, model_params
from models.bundle import Bundle
from models.depthformer import DepthformerModel
from pipelines.generate import generate_audio, read_prompt_audio
from pipelines.sample_files import SampleFiles
from training import hosts
from training.partitioning import Partitioning
from training.state import TrainState
from training.wrappers import averaged_params

_SLUG_LENGTH = 40


class SampleAudio:
  """Evaluator: generates a few seconds of each prompt with the parameters of the run.

  Writes MODEL_DIR/samples/step_<step>/<number>_<prompt>.wav, and the same as audio for TensorBoard.
  The seed is the same every time, so that successive samples can be compared. Of several processes
  the first one generates, on one of its devices, which for that time holds all parameters.
  """

  name = 'training_eval/samples'

  def __init__(
    self,
    model: DepthformerModel | AdaptedModel,
    data_dir: str,
    model_dir: str,
    *,
    period: int = 0,
    total_steps: int | None = None,
    prompts: Sequence[str] = (),
    num_prompts: int = 2,
    secs: float = 4.0,
    sampling: SamplingOptions | None = None,
    seed: int = 0,
    tensorboard: bool = True,
    load_models: Callable[[dict[str, str]], tuple[Any, Any]] | None = None,
  ):
    """Reads nothing yet.

    Args:
      model: what the run trains.
      data_dir: prepare.py's output; its codec and style model are used.
      model_dir: of the run.
      period: steps from one time to the next; each falls on the first evaluation from there on.
        0 for never.
      total_steps: of the run; there it generates, too.
      prompts: texts; without any, captions of held-out tracks.
      num_prompts: how many captions.
      secs: of each sample.
      sampling: None for the defaults of live use.
      seed: of every sample.
      tensorboard: also write audio for TensorBoard.
      load_models: of the data's identity (see `runs.token_identity`), the codec and the style
        model; None loads them by their names.

    Raises:
      ValueError: `period` is negative, or `secs` is not above 0.
    """
    if period < 0 or not secs > 0:
      raise ValueError(f'{secs} s every {period} steps: SAMPLE_SECS > 0 and SAMPLE_PERIOD >= 0.')
    self._trained, self._model, self._data_dir = model, language_model(model), data_dir
    self._period = period
    self._files = SampleFiles(
      model_dir, self.name, period=period, total_steps=total_steps, tensorboard=tensorboard
    )
    self._prompts, self._num_prompts = tuple(prompts), num_prompts
    self._secs, self._sampling, self._seed = secs, sampling or SamplingOptions(), seed
    self._load_models = load_models or _load_by_name
    self._identity: dict[str, str] = {}
    self._codec = self._style = None

  def use(self, partitioning: Partitioning | None = None):
    """Loads codec, style model and prompts, so that what is missing is told before any step.

    Raises:
      FileNotFoundError: the data, or the codec or style model that made it, are not there.
      ValueError: the codec or the style model has changed since.
    """
    if self._period and hosts.is_first():
      from pipelines.runs import token_identity

      self._identity = token_identity(self._data_dir)
      self._codec, self._style = self._load_models(self._identity)
      if not self._prompts:
        self._prompts = tuple(_held_out_captions(self._data_dir, self._model, self._num_prompts))
      self._session({})  # Refuses models of other tokens.

  def __call__(self, state: TrainState) -> Iterable[tuple[str, float]]:
    """Figures of the samples, or nothing where none is due."""
    step = int(state.step)
    if not self._files.due(step):
      return
    params = model_params(self._trained, averaged_params(state))
    if jax.process_count() > 1:
      params = hosts.to_host(params)
    if not hosts.is_first():
      return
    if self._codec is None:
      self.use()
    start = time.monotonic()
    params = jax.device_put(params, jax.local_devices()[0])
    samples = self._generate(params)
    rate = self._model.spec.sample_rate
    self._files.write(step, samples, rate)
    secs = time.monotonic() - start
    yield 'seconds_per_second_of_audio', secs / (self._secs * len(samples))
    for name, figure in (
      ('rms_db', signal_health.rms_db),
      ('peak_db', signal_health.peak_db),
      ('silence_share', lambda audio: signal_health.silence_share(audio, rate)),
    ):
      yield name, float(np.mean([figure(audio) for audio in samples.values()]))

  def _session(self, params: Any) -> LiveSession:
    bundle = Bundle(self._model, params, self._model.spec, **self._identity)
    options = self._sampling
    return LiveSession(
      bundle, self._codec, self._style, temperature=options.temperature, top_k=options.top_k,
      guidance_weight=options.guidance_weight, seed=self._seed, read_audio=read_prompt_audio,
    )  # fmt: skip

  def _generate(self, params: Any) -> dict[str, np.ndarray]:
    """File stem -> float32 [samples, channels]."""
    session = self._session(params)
    samples = {}
    for number, prompt in enumerate(self._prompts or (None,)):
      slug = re.sub(r'[^a-z0-9]+', '-', (prompt or 'no style').lower()).strip('-')[:_SLUG_LENGTH]
      made = generate_audio(session, [prompt] if prompt else None, self._secs, progress=False)
      samples[f'{number}_{slug}'] = np.clip(made.audio, -1, 1)
    return samples


def _load_by_name(identity: dict[str, str]) -> tuple[Any, Any]:
  from models.musiccoca import MusicCoCa
  from models.spectrostream import SpectroStream

  return SpectroStream.load(identity['codec_name']), MusicCoCa.load(identity['style_name'])


def _held_out_captions(data_dir: str, model: DepthformerModel, number: int) -> list[str]:
  """Of held-out tracks, different genres first; none where the data has no captions."""
  from pipelines.prepared_data import PreparedData

  return PreparedData.open(data_dir, model.spec).captions(number)
