"""Speed of the codec beside the official module and beside plain convolutions; JSON lines.

    python -m benchmarks.codec
    python -m benchmarks.codec --oracle_python=/path/to/venv/bin/python
    python -m benchmarks.codec --parts hour           # the bundled codec, an hour through streams

At the released size with random weights: samples to latents (encode), latents to samples (decode)
and latents to 64 levels of codes (quantize). All sides get the same weights and inputs; before they
are timed, their results are compared. Runs of the sides take turns, because a shared machine
drifts, and CPU-seconds are compared (on an accelerator wall-clock seconds). XLA counts a loop's
body once: the gflop of our encoder, which takes the audio channels in turn, lack one of the two.

The official module is the PyPI package `magenta-rt` (2.0.3 has been tried) in an environment of its
own: `pip install 'magenta-rt[jax]'` and, so that both run on the same XLA, this project's jax and
jaxlib. It is only a yardstick; nothing else here needs it.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import plain_codec
from benchmarks.measuring import report, resident_mib, timed
from models import rvq, weights
from models.spec import LiveMusicSpec
from models.spectrostream import SpectroStream, SpectroStreamConfig, network
from models.spectrostream.blocks import BLOCK_SIZES, CONTEXT_FRAMES
from models.spectrostream.stft import inverse_stft, stft

SPEC = LiveMusicSpec()
HOP = network.hop_size(SPEC)
CASES = ('encode', 'decode', 'quantize')
PARTS = ('real', 'tiny', 'memory')
OTHER_PARTS = ('hour',)  # Takes minutes: only where it is asked for.
# Largest difference between two sides' results, relative to the largest value; of codes, the share
# that differs.
TOLERANCE = 1e-3
_OFFICIAL = pathlib.Path(__file__).with_name('official_codec.py')

Functions = Mapping[str, Callable[[Any, jax.Array], jax.Array]]
Figures = dict[str, float]


class Side(Protocol):
  """One implementation, compiled for the inputs that it has been given."""

  def prepare(self, case: str) -> tuple[np.ndarray, Figures]:
    """Compiles a case and runs it once.

    Returns:
      The result, and 'compile_secs', 'compile_cpu_secs', 'flops', 'temporary_bytes'.
    """

  def time(self, case: str) -> Figures:
    """Runs a prepared case: 'wall_secs' and 'cpu_secs'."""


class HereSide:
  """A side in this process."""

  def __init__(self, functions: Functions, params: Any, inputs: Mapping[str, np.ndarray]):
    self._functions, self._params = functions, params
    self._inputs = {case: jnp.asarray(x) for case, x in inputs.items()}
    self._programs: dict[str, Any] = {}

  def prepare(self, case: str) -> tuple[np.ndarray, Figures]:
    x = self._inputs[case]
    began, began_cpu = time.perf_counter(), time.process_time()
    compiled = jax.jit(self._functions[case]).lower(self._params, x).compile()
    compile_secs = time.perf_counter() - began
    compile_cpu_secs = time.process_time() - began_cpu
    self._programs[case] = compiled
    return np.asarray(compiled(self._params, x)), {
      'compile_secs': compile_secs,
      'compile_cpu_secs': compile_cpu_secs,
      'flops': compiled.cost_analysis()['flops'],
      'temporary_bytes': compiled.memory_analysis().temp_size_in_bytes,
    }

  def time(self, case: str) -> Figures:
    began, began_cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(self._programs[case](self._params, self._inputs[case]))
    return {
      'wall_secs': time.perf_counter() - began,
      'cpu_secs': time.process_time() - began_cpu,
    }


class OfficialSide:
  """The official module in a process of its own; see benchmarks/official_codec.py."""

  def __init__(self, python: str, folder: pathlib.Path):
    self._folder = folder
    self._process = subprocess.Popen(
      [python, str(_OFFICIAL), str(folder)],
      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

  def prepare(self, case: str) -> tuple[np.ndarray, Figures]:
    figures = self._ask(f'prepare {case}')
    return np.load(self._folder / f'{case}.npy'), figures

  def time(self, case: str) -> Figures:
    return self._ask(f'time {case}')

  def close(self):
    """Ends the process."""
    self._process.communicate()

  def _ask(self, line: str) -> Figures:
    try:
      print(line, file=self._process.stdin, flush=True)
      answer = self._process.stdout.readline()
    except BrokenPipeError:
      answer = ''
    if not answer:
      raise RuntimeError(f'The official module ended at {line!r}; its own message stands above.')
    return json.loads(answer)


OURS: Functions = {
  'encode': lambda params, x: network.encode(
    params['encoder'], stft(x, HOP), in_turn=jax.default_backend() == 'cpu'
  ),
  'decode': lambda params, x: inverse_stft(network.decode(params['decoder'], x), HOP),
  'quantize': lambda params, x: rvq.quantize(x, params['quantizer']['embedding']),
}
PLAIN: Functions = {
  'encode': lambda params, x: plain_codec.encode(params['encoder'], x, HOP),
  'decode': lambda params, x: plain_codec.decode(params['decoder'], x, HOP),
  'quantize': lambda params, x: plain_codec.quantize(params['quantizer']['embedding'], x),
}


def random_params(config: SpectroStreamConfig, seed: int = 0) -> dict[str, Any]:
  """{'encoder', 'decoder', 'quantizer'}: no bias is zero, codes shrink from level to level."""
  rng = np.random.default_rng(seed)
  params = jax.jit(lambda key: network.init_params(key, config, SPEC))(jax.random.key(seed))
  params = jax.tree.map(lambda x: x if x.ndim > 1 else 0.1 * rng.standard_normal(x.shape), params)
  shape = (SPEC.codec_levels, SPEC.codebook_size, config.num_features)
  sizes = np.geomspace(1.0, 0.1, SPEC.codec_levels)[:, None, None]
  params['quantizer'] = {'embedding': sizes * rng.standard_normal(shape)}
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def random_inputs(config: SpectroStreamConfig, num_frames: int) -> dict[str, np.ndarray]:
  """Case -> its input for `num_frames` frames of one clip."""
  rng = np.random.default_rng(1)
  samples = 0.1 * rng.standard_normal([1, num_frames * SPEC.samples_per_frame, SPEC.num_channels])
  latents = rng.standard_normal([1, num_frames, config.num_features])
  inputs = {'encode': samples, 'decode': latents, 'quantize': latents}
  return {case: x.astype(np.float32) for case, x in inputs.items()}


def difference(expected: np.ndarray, found: np.ndarray) -> float:
  """Largest difference over the largest value; of integers, the share that differs.

  Raises:
    ValueError: the shapes differ.
  """
  if expected.shape != found.shape:
    raise ValueError(f'Results have shapes {expected.shape} and {found.shape}.')
  if np.issubdtype(expected.dtype, np.integer):
    return float(np.mean(expected != found))
  return float(np.max(np.abs(expected - found)) / np.max(np.abs(expected)))


def compare(case: str, sides: Mapping[str, Side], repeats: int, audio_secs: float):
  """Reports one case, a line per side, with the ratio of the first side, ours, to the others.

  Raises:
    ValueError: a side's result differs from ours by more than `TOLERANCE`.
  """
  results, figures = {}, {}
  for name, side in sides.items():
    results[name], figures[name] = side.prepare(case)
  ours = next(iter(sides))
  differences = {name: difference(results[name], results[ours]) for name in sides}
  for name, value in differences.items():
    if not value <= TOLERANCE:
      raise ValueError(f'{case}: {name} differs from {ours} by {value:.2g}.')
  rounds = [{name: side.time(case) for name, side in sides.items()} for _ in range(repeats)]
  clock = 'cpu_secs' if jax.default_backend() == 'cpu' else 'wall_secs'
  seconds = {
    name: {key: statistics.median(turn[name][key] for turn in rounds) for key in rounds[0][name]}
    for name in sides
  }
  for name in sides:
    line = describe(case, figures[name], seconds[name], audio_secs)
    if name != ours:
      ratio = seconds[ours][clock] / seconds[name][clock]
      line |= {'difference': float(f'{differences[name]:.2g}'), 'ours_to_it': round(ratio, 3)}
    report(f'real/{case}/{name}', **line)


def describe(case: str, figures: Figures, seconds: Figures, audio_secs: float) -> Figures:
  """What one side did, rounded; operations per second of audio as XLA counts them."""
  line = {key: round(value, 4) for key, value in seconds.items()}
  for key in ('compile_secs', 'compile_cpu_secs'):
    line[key] = round(figures[key], 2)
  line['temporary_mib'] = round(figures['temporary_bytes'] / 2**20, 1)
  # XLA counts the body of a scan once: that says nothing of a quantizer which scans its levels.
  if case != 'quantize':
    line['gflop_per_audio_sec'] = round(1e-9 * figures['flops'] / audio_secs, 1)
  return line


def run_real(num_frames: int, repeats: int, oracle_python: str | None):
  """The three cases at the released size, side by side."""
  config = SpectroStreamConfig.real()
  params, inputs = random_params(config), random_inputs(config, num_frames)
  sides: dict[str, Side] = {
    'ours': HereSide(OURS, params, inputs), 'plain': HereSide(PLAIN, params, inputs)
  }  # fmt: skip
  with contextlib.ExitStack() as stack:
    if oracle_python is not None:
      folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
      np.savez(folder / 'params.npz', **weights.flatten(params))
      np.savez(folder / 'inputs.npz', **inputs)
      sides['official'] = official = OfficialSide(oracle_python, folder)
      stack.callback(official.close)
    for case in CASES:
      # The last latent of a clip only gives look-ahead to the decoder.
      frames = num_frames - 1 if case == 'decode' else num_frames
      compare(case, sides, repeats, frames / SPEC.frame_rate)


def run_tiny(repeats: int):
  """Times real time of the bundled codec through its public methods."""
  codec = SpectroStream.load('tiny')
  # One block, so that nothing is computed twice.
  num_frames = BLOCK_SIZES[-1]
  rng = np.random.default_rng(2)
  shape = [num_frames * SPEC.samples_per_frame, SPEC.num_channels]
  samples = (0.1 * rng.standard_normal(shape)).astype(np.float32)
  codes = codec.encode(samples)
  secs = num_frames / SPEC.frame_rate
  for case, call in (
    ('encode', lambda: codec.encode(samples)),
    ('decode', lambda: codec.decode(codes)),
  ):
    times = timed(call, repeats)
    report(
      f'tiny/{case}', audio_secs=round(secs, 2), **times,
      times_real_time=round(secs / times['wall_secs'], 1),
      best_times_real_time=round(secs / times['wall_secs_min'], 1),
      audio_secs_per_cpu_sec=round(secs / times['cpu_secs'], 1),
    )  # fmt: skip


def run_memory():
  """What XLA sets aside for one block at the released size, for each size of block; no run."""
  config = SpectroStreamConfig.real()
  params = jax.eval_shape(lambda: network.init_params(jax.random.key(0), config, SPEC))
  for block in BLOCK_SIZES:
    # Blocks are read with what they look ahead to: a hop of samples, a latent.
    samples = (1, block * SPEC.samples_per_frame + HOP, SPEC.num_channels)
    latents = (1, block + 1, config.num_features)
    for case, shape in (('encode', samples), ('decode', latents)):
      x = jax.ShapeDtypeStruct(shape, jnp.float32)
      memory = jax.jit(OURS[case]).lower(params, x).compile().memory_analysis()
      parameters = sum(x.size for x in jax.tree.leaves(params[f'{case}r'])) * 4
      report(
        f'real/memory/{case}', frames=block, audio_secs=block / SPEC.frame_rate,
        temporary_mib=memory.temp_size_in_bytes >> 20, parameter_mib=parameters >> 20,
      )  # fmt: skip


_PIECE_FRAMES = 250


def _piece(index: int) -> np.ndarray:
  """Ten seconds of two gliding tones and noise, another for each index."""
  rng = np.random.default_rng(index)
  secs = np.arange(_PIECE_FRAMES * SPEC.samples_per_frame)[:, None] / SPEC.sample_rate
  tones = np.sin(2 * np.pi * rng.uniform(80, 2000, 2) * secs * (1 + 0.02 * secs))
  return (0.2 * tones + 0.02 * rng.standard_normal(tones.shape)).astype(np.float32)


class _Stretch:
  """Passes blocks on, keeps rows `start` to `stop` of them and notes the process's memory."""

  def __init__(self, start: int, stop: int):
    self._start, self._stop = start, stop
    self._kept: list[np.ndarray] = []
    self.resident: list[float] = []

  def of(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    begin = 0
    for block in blocks:
      # A copy: a view, even an empty one, would keep the whole block.
      self._kept.append(block[max(0, self._start - begin) : max(0, self._stop - begin)].copy())
      begin += len(block)
      self.resident.append(resident_mib())
      yield block

  @property
  def rows(self) -> np.ndarray:
    return np.concatenate(self._kept)


def run_hour(minutes: float):
  """Audio of this length through the bundled codec's streams, and 20 s of its middle alone.

  A frame depends on `CONTEXT_FRAMES` before it and one after it: from there on what the streams
  gave must be what `encode` and `decode` make of the stretch.
  """
  codec, unit = SpectroStream.load('tiny'), SPEC.samples_per_frame
  num_pieces = round(minutes * 60 * SPEC.frame_rate / _PIECE_FRAMES)
  first = num_pieces // 2
  start, stop = first * _PIECE_FRAMES, (first + 2) * _PIECE_FRAMES
  codes, audio = _Stretch(start, stop), _Stretch(start * unit, stop * unit)
  began, began_cpu = time.perf_counter(), time.process_time()
  encoded = codes.of(codec.encode_stream(_piece(index) for index in range(num_pieces)))
  for _ in audio.of(codec.decode_stream(encoded)):
    pass
  wall_secs, cpu_secs = time.perf_counter() - began, time.process_time() - began_cpu
  alone = codec.encode(np.concatenate([_piece(first), _piece(first + 1)]))
  inner = slice(CONTEXT_FRAMES, -1)
  inner_samples = slice(CONTEXT_FRAMES * unit, -unit)
  warm = audio.resident[len(audio.resident) // 10]  # Compiled, and at work.
  secs = num_pieces * _PIECE_FRAMES / SPEC.frame_rate
  report(
    'tiny/hour', audio_secs=secs, wall_secs=round(wall_secs, 1), cpu_secs=round(cpu_secs, 1),
    times_real_time=round(secs / wall_secs, 1), resident_mib=warm,
    growth_mib=round(max(audio.resident) - warm, 1),
    codes_that_differ=difference(alone[inner], codes.rows[inner]),
    audio_difference=float(
      f'{difference(codec.decode(codes.rows)[inner_samples], audio.rows[inner_samples]):.2g}'
    ),
  )  # fmt: skip


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--parts', nargs='+', choices=PARTS + OTHER_PARTS, default=list(PARTS))
  parser.add_argument('--frames', type=int, default=50, help='of the clip at the released size')
  parser.add_argument('--repeats', type=int, default=5)
  parser.add_argument('--minutes', type=float, default=60, help="of 'hour'; at least 2")
  parser.add_argument('--oracle_python', help='a Python that has magenta-rt')
  args = parser.parse_args()
  if args.repeats < 1:
    parser.error(f'--repeats={args.repeats} must be at least 1.')
  if args.frames < 2:
    parser.error(f'--frames={args.frames} must be at least 2: the last latent is look-ahead.')
  if args.minutes < 2:
    parser.error(f'--minutes={args.minutes} must be at least 2.')
  runs = {
    'real': lambda: run_real(args.frames, args.repeats, args.oracle_python),
    'tiny': lambda: run_tiny(args.repeats),
    'memory': run_memory,
    'hour': lambda: run_hour(args.minutes),
  }
  for part in args.parts:
    runs[part]()


if __name__ == '__main__':
  main()
