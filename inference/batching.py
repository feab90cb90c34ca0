"""One model, several players: chunks that are asked for at the same time are made in one batch.

Every row of a batch has its own key, temperature, top-k and guidance, so a player hears what it
would hear alone: the same numbers are drawn, and logits differ by float rounding only. Programs
are compiled ahead for batches of 1, 2, 4, ... players. A program that is not there yet is compiled
beside the playing, and smaller batches serve until then.
"""

import concurrent.futures
import dataclasses
import functools
import logging
import queue
import threading
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from inference.sampling import SamplingOptions
from models import tokens
from models.depthformer import decoding
from models.spec import LiveMusicSpec

# Top-k is rounded up to one of these when a program is chosen; 0 is all codes of the level.
TOP_K_BOUNDS = (64, 256)


@dataclasses.dataclass(frozen=True)
class ChunkRequest:
  """What one chunk is made from.

  Attributes:
    inputs: int32 [inputs_length], context and style.
    unconditional_inputs: int32 [inputs_length], of the unconditioned row.
    last_frame: int32 [1, target_levels], the codes that decoding begins with.
    seed: of the session.
    chunk_index: which the seed is folded with.
    sampling: temperature (0 is taken as 1e-4), top-k, guidance.
  """

  inputs: np.ndarray
  unconditional_inputs: np.ndarray
  last_frame: np.ndarray
  seed: int
  chunk_index: int
  sampling: SamplingOptions


class ChunkResult(NamedTuple):
  """Codes int32 [chunk_frames, levels]; audio float32 [samples, channels], one frame longer.

  `secs` is what the batch took, `batch_size` how many players it served, `waited_secs` how long
  the request stood in line.
  """

  codes: np.ndarray
  audio: np.ndarray
  secs: float
  batch_size: int
  waited_secs: float


def top_k_bound(top_k: int, codebook_size: int) -> int:
  """The compiled bound that `top_k` runs under; 0 keeps all."""
  if not top_k or top_k >= codebook_size:
    return 0
  return next((bound for bound in TOP_K_BOUNDS if top_k <= bound), codebook_size)


@dataclasses.dataclass(frozen=True, eq=False)
class _Pending:
  request: ChunkRequest
  future: concurrent.futures.Future
  since: float


class BatchEngine:
  """Makes chunks for all players of one bundle, in one worker thread."""

  def __init__(self, bundle: Any, codec: Any, *, max_batch: int = 4):
    """Starts the worker; nothing is compiled yet.

    Args:
      bundle: the language model, its parameters and spec.
      codec: decodes its tokens.
      max_batch: players in one batch at most, a power of two.
    """
    if max_batch < 1 or max_batch & (max_batch - 1):
      raise ValueError(f'max_batch={max_batch} is not a power of two.')
    self.bundle, self.codec, self.max_batch = bundle, codec, max_batch
    self.spec: LiveMusicSpec = bundle.spec
    self._programs: dict[tuple[int, int], Any] = {}
    self._compiling: dict[tuple[int, int], concurrent.futures.Future] = {}
    self._lock = threading.Lock()
    self._compiler = concurrent.futures.ThreadPoolExecutor(1, 'jam-compile')
    self._queue: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
    self._worker = threading.Thread(target=self._work, name='jam-engine', daemon=True)
    self._worker.start()

  def warm(self, sampling: SamplingOptions | None = None) -> float:
    """Compiles what one player with these options needs; seconds that it took."""
    start = time.perf_counter()
    sampling = sampling or SamplingOptions()
    self._compile(1, top_k_bound(sampling.top_k, self.spec.codebook_size)).result()
    spec = self.spec
    self.codec.decode(np.zeros([spec.chunk_frames + 1, spec.target_levels], np.int32))
    return time.perf_counter() - start

  def is_ready(self, sampling: SamplingOptions) -> bool:
    """Whether chunks with these options can be made at once; if not, a compilation begins."""
    key = 1, top_k_bound(sampling.top_k, self.spec.codebook_size)
    if key in self._programs:
      return True
    self._compile(*key)
    return False

  def submit(self, request: ChunkRequest) -> concurrent.futures.Future:
    """Stands in line for a `ChunkResult`."""
    future: concurrent.futures.Future = concurrent.futures.Future()
    self._queue.put(_Pending(request, future, time.perf_counter()))
    return future

  def close(self):
    """Ends the worker after the batch in hand; what waits is cancelled."""
    self._queue.put(None)
    self._worker.join()
    self._compiler.shutdown(wait=False, cancel_futures=True)

  def _work(self):
    waiting: list[_Pending] = []
    while True:
      if not waiting:
        waiting.append(self._queue.get())
      while True:
        try:
          waiting.append(self._queue.get_nowait())
        except queue.Empty:
          break
      if None in waiting:
        for pending in waiting:
          if pending is not None:
            pending.future.cancel()
        return
      batch = self._choose(waiting)
      waiting = [pending for pending in waiting if pending not in batch]
      try:
        self._run(batch)
      except Exception as error:  # A batch that fails must not end the worker.
        logging.exception('A batch of %d chunks failed.', len(batch))
        for pending in batch:
          if not pending.future.done():
            pending.future.set_exception(error)

  def _choose(self, waiting: list[_Pending]) -> list[_Pending]:
    """The oldest and those that can share its program: as many as there is a program for."""
    bound = self._bound(waiting[0])
    alike = [pending for pending in waiting if self._bound(pending) == bound]
    size = 1
    while 2 * size <= min(len(alike), self.max_batch):
      size *= 2
      if (size, bound) not in self._programs:
        self._compile(size, bound)
        size //= 2
        break
    return alike[:size]

  def _bound(self, pending: _Pending) -> int:
    return top_k_bound(pending.request.sampling.top_k, self.spec.codebook_size)

  def _run(self, batch: list[_Pending]):
    start = time.perf_counter()
    requests = [pending.request for pending in batch]
    bound = self._bound(batch[0])
    program = self._programs.get((len(batch), bound))
    program = program or self._compile(len(batch), bound).result()
    pairs = [np.stack([request.inputs, request.unconditional_inputs]) for request in requests]
    ids = program(self.bundle.params, np.stack(pairs).astype(np.int32), *_columns(requests))
    codes = tokens.codec_codes(np.asarray(ids), self.spec)
    last = np.stack([request.last_frame for request in requests])
    audio = np.asarray(self.codec.decode(np.concatenate([last, codes], axis=1)), np.float32)
    secs = time.perf_counter() - start
    for i, pending in enumerate(batch):
      waited = start - pending.since
      pending.future.set_result(ChunkResult(codes[i], audio[i], secs, len(batch), waited))

  def _compile(self, size: int, bound: int) -> concurrent.futures.Future:
    """The program for `size` players, in the making or made."""
    key = size, bound
    with self._lock:
      if key not in self._compiling:
        self._compiling[key] = self._compiler.submit(self._make_program, size, bound)
      return self._compiling[key]

  def _make_program(self, size: int, bound: int) -> Any:
    def shape(dtype: Any, *dims: int) -> jax.ShapeDtypeStruct:
      return jax.ShapeDtypeStruct([size, *dims], dtype)

    program = jax.jit(
      functools.partial(generate_each, model=self.bundle.model, bound=bound)
    ).lower(
      self.bundle.params,
      shape(jnp.int32, 2, self.spec.inputs_length),
      shape(jnp.uint32),
      shape(jnp.uint32),
      shape(jnp.float32),
      shape(jnp.int32),
      shape(jnp.float32),
    ).compile()
    self._programs[size, bound] = program
    return program


def generate_each(
  params: Any,
  pairs: jax.Array,
  seeds: jax.Array,
  chunk_indices: jax.Array,
  temperatures: jax.Array,
  top_ks: jax.Array,
  guidance_weights: jax.Array,
  *,
  model: Any,
  bound: int,
) -> jax.Array:
  """Chunks of several sessions, each with its own key and options.

  Args:
    params: the model's parameters.
    pairs: int32 [N, 2, inputs_length], (conditioned, unconditioned) inputs.
    seeds: uint32 [N].
    chunk_indices: uint32 [N].
    temperatures: float32 [N].
    top_ks: int32 [N]; not read where `bound` is 0.
    guidance_weights: float32 [N]; 0 leaves the conditioned logits.
    model: DepthformerModel.
    bound: at least the largest top-k; 0 keeps all codes.

  Returns:
    int32 [N, chunk_frames, target_levels] token ids, those of `model.generate` one by one.
  """
  options = decoding.DecodingOptions(
    num_frames=model.spec.chunk_frames,
    greedy=False,
    guided=True,
    top_k_bound=bound,
    constrain_levels=True,
    reference=False,
  )

  def generate(pair, seed, index, temperature, top_k, guidance_weight):
    key = jax.random.fold_in(jax.random.key(seed), index)
    encoded = model.encode(params, pair)
    ids, _ = decoding.decode_chunk(
      params,
      encoded,
      pair,
      key,
      temperature,
      top_k,
      guidance_weight,
      model.config,
      model.spec,
      options,
    )
    return ids[0]

  return jax.vmap(generate)(
    pairs, seeds, chunk_indices, temperatures, top_ks, guidance_weights
  )


def _columns(requests: list[ChunkRequest]) -> tuple[np.ndarray, ...]:
  """Seeds, chunk indices, temperatures, top-ks and guidance weights, one a request."""
  return (
    np.array([request.seed for request in requests], np.uint32),
    np.array([request.chunk_index for request in requests], np.uint32),
    np.array([request.sampling.temperature for request in requests], np.float32),
    np.array([request.sampling.top_k for request in requests], np.int32),
    np.array([request.sampling.guidance_weight for request in requests], np.float32),
  )
