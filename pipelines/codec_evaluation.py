"""How a codec does while it is trained: held-out distances, use of its codes, and its sound."""

import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from evaluation import codec_metrics
from models import rvq
from models.spectrostream.recipe import DECODER
from models.spectrostream.training import CodecTrainable, codec_part
from pipelines.sample_files import SampleFiles, event_writer
from training import hosts
from training.state import TrainState
from training.wrappers import averaged_params


class Reconstruction:
  """A codec in training, applied to audio at any depth."""

  def __init__(self, trainable: CodecTrainable):
    """Compiles nothing yet; one program serves all depths."""
    self._trainable = trainable
    self._run = jax.jit(self._reconstruct)

  def decoded(self, weights: Any, audio: np.ndarray, depth: int) -> np.ndarray:
    """Audio [B, n, 2] -> the same through `depth` levels; 0 stands for latents not quantized."""
    return np.asarray(self._run(weights, audio, depth))

  def _reconstruct(self, weights: Any, audio: jax.Array, depth: jax.Array) -> jax.Array:
    params, codebooks = weights
    latents = self._trainable.latents(params, audio)
    flat = latents.reshape([-1, latents.shape[-1]])
    found = rvq.assign(flat, codebooks, jnp.full([len(flat)], depth))
    seen = jnp.where(depth > 0, found.quantized, flat).reshape(latents.shape)
    return self._trainable.output(params, seen)[:, : audio.shape[1]]


def codec_weights(state: TrainState) -> tuple[Any, Any] | None:
  """Parameters and codebooks on one device of the first process; the others get None.

  Every process has to call it. The average of the parameters is taken where the run keeps one.
  """
  found = codec_part(averaged_params(state)), state.aux['codebooks']
  if jax.process_count() > 1:
    found = hosts.to_host(found)
  return jax.device_put(found, jax.local_devices()[0]) if hosts.is_first() else None


def depths_of(state: TrainState, depths: Sequence[int], num_levels: int) -> list[int]:
  """Those that the codec has; 0 (not quantized) alone while its codebooks are empty."""
  if not float(state.aux['calibrated']):
    return [0]
  return [0, *sorted({min(depth, num_levels) for depth in depths})]


class HeldOutReconstruction:
  """Evaluator: distances of held-out crops from their reconstructions, and the use of the codes."""

  name = 'training_eval/held_out'

  def __init__(
    self,
    trainable: CodecTrainable,
    feed: Any | None,
    *,
    depths: Sequence[int] = (4, 16, 64),
    num_batches: int = 2,
    histogram_dir: str | None = None,
  ):
    """Reads nothing yet.

    Args:
      trainable: of the run, for its sizes.
      feed: such as `audio_feed.held_out_feed`; None for no distances.
      depths: numbers of levels.
      num_batches: batches of the feed, always the first.
      histogram_dir: MODEL_DIR, to show in TensorBoard how evenly codes are used; None for not.
    """
    self._trainable, self._feed = trainable, feed
    self._reconstruction = Reconstruction(trainable)
    self._depths, self._num_batches, self._model_dir = depths, num_batches, histogram_dir
    self._batches: list[np.ndarray] | None = None

  def __call__(self, state: TrainState) -> Iterable[tuple[str, float]]:
    """('mel_distance/depth_04', dB), ('si_sdr/depth_04', dB), ...; use of the codes by level."""
    weights = codec_weights(state)
    if weights is None:
      return
    if self._feed is not None:
      if self._batches is None:
        self._batches = [self._feed.batch(index)['audio'] for index in range(self._num_batches)]
      for depth in depths_of(state, self._depths, self._trainable.spec.codec_levels):
        yield from self._distances(weights, depth)
    # Counts say nothing before calibration, and stand still where the decoder alone is trained.
    if float(state.aux['calibrated']) and self._trainable.recipe.train_only != DECODER:
      counts = np.asarray(state.aux['counts'])
      yield from code_use(counts, self._trainable.recipe.dead_threshold)
      self._write_histograms(int(state.step), counts)

  def _distances(self, weights: Any, depth: int) -> Iterable[tuple[str, float]]:
    spec = self._trainable.spec
    rate, edge = spec.sample_rate, spec.samples_per_frame
    mel, si_sdr = [], []
    for audio in self._batches:
      decoded = self._reconstruction.decoded(weights, audio, depth)
      # The first frame has no past, the last no future.
      for x, y in zip(audio[:, edge:-edge], decoded[:, edge:-edge], strict=True):
        mel.append(codec_metrics.mel_distance(x, y, rate))
        si_sdr.append(codec_metrics.si_sdr(x, y))
    tag = f'depth_{depth:02d}' if depth else 'not_quantized'
    yield f'mel_distance/{tag}', float(np.mean(mel))
    finite = [value for value in si_sdr if np.isfinite(value)]  # A silent crop has none.
    if finite:
      yield f'si_sdr/{tag}', float(np.mean(finite))

  def _write_histograms(self, step: int, counts: np.ndarray):
    if self._model_dir is None:
      return
    writer = event_writer(pathlib.Path(self._model_dir) / self.name)
    if writer is not None:
      levels = sorted({0, *(min(depth, len(counts)) - 1 for depth in self._depths)})
      relative = counts / counts.mean(axis=1, keepdims=True)
      writer.write_histograms(
        step, {f'relative_code_use/level_{level:02d}': relative[level] for level in levels}
      )
      writer.close()


def code_use(counts: np.ndarray, dead_threshold: float) -> Iterable[tuple[str, float]]:
  """How evenly codes are used, from averaged counts [K, C].

  Args:
    counts: how often steps chose each code, as the moving average has it.
    dead_threshold: codes under this share of an equal use count as dead.

  Yields:
    ('entropy_bits', mean over levels) and ('entropy_bits/level_00', ...): at most log2 C;
    'perplexity', 2 ** entropy, the number of codes that would be used alike; 'dead_share'.
  """
  share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-12)
  entropy = -(share * np.log2(np.maximum(share, 1e-12))).sum(axis=1)
  dead = (share * counts.shape[1] < dead_threshold).mean(axis=1)
  for name, values in (
    ('entropy_bits', entropy), ('perplexity', 2**entropy), ('dead_share', dead)
  ):  # fmt: skip
    yield name, float(values.mean())
    yield from ((f'{name}/level_{k:02d}', float(value)) for k, value in enumerate(values))


class SampleReconstructions:
  """Evaluator: writes held-out crops and what the codec makes of them at several depths.

  MODEL_DIR/samples/step_<step>/<number>_original.wav, <number>_depth_<depth>.wav, and the same as
  audio for TensorBoard. The crops are the same every time.
  """

  name = 'training_eval/samples'

  def __init__(
    self,
    trainable: CodecTrainable,
    feed: Any | None,
    model_dir: str,
    *,
    period: int = 0,
    total_steps: int | None = None,
    depths: Sequence[int] = (4, 16, 64),
    tensorboard: bool = True,
  ):
    """Reads nothing yet.

    Args:
      trainable: of the run, for its sizes.
      feed: its first batch is what is heard; None for no samples.
      model_dir: of the run.
      period: steps from one time to the next; each falls on the first evaluation from there on.
        0 for never.
      total_steps: of the run; there it writes, too.
      depths: numbers of levels.
      tensorboard: also write audio for TensorBoard.

    Raises:
      ValueError: `period` is negative.
    """
    if period < 0:
      raise ValueError(f'Samples every {period} steps: SAMPLE_PERIOD must be at least 0.')
    self._trainable, self._feed, self._depths = trainable, feed, depths
    self._reconstruction = Reconstruction(trainable)
    self._files = SampleFiles(
      model_dir, self.name, period=period, total_steps=total_steps, tensorboard=tensorboard
    )

  def __call__(self, state: TrainState) -> Iterable[tuple[str, float]]:
    """The samples' level, ('rms_db/depth_04', ...), or nothing where none are due."""
    step = int(state.step)
    if self._feed is None or not self._files.due(step):
      return
    weights = codec_weights(state)
    if weights is None:
      return
    audio = self._feed.batch(0)['audio']
    versions = {'original': audio}
    for depth in depths_of(state, self._depths, self._trainable.spec.codec_levels):
      tag = f'depth_{depth:02d}' if depth else 'not_quantized'
      versions[tag] = self._reconstruction.decoded(weights, audio, depth)
    samples = {
      f'{number}_{tag}': np.clip(x, -1, 1)
      for tag, batch in versions.items() for number, x in enumerate(batch)
    }  # fmt: skip
    self._files.write(step, samples, self._trainable.spec.sample_rate)
    for tag, batch in versions.items():
      yield f'rms_db/{tag}', 10 * float(np.log10(np.mean(np.square(batch)) + 1e-10))
