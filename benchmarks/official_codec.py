"""The official SpectroStream as a process that does and times what it is told.

    python benchmarks/official_codec.py FOLDER

`python -m benchmarks.codec --oracle_python=...` starts it in an environment of its own; it imports
nothing of this project. FOLDER holds `params.npz` ('encoder/...', 'decoder/...',
'quantizer/embedding') and `inputs.npz` (an array per case). Each line on standard input is
'prepare CASE', which compiles it and writes its result to CASE.npy, or 'time CASE', which runs it
once more; CASE is encode (samples to latents), decode (latents to samples) or quantize (latents to
codes). Each is answered by one line of JSON on standard output.
"""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from magenta_rt.jax import spectrostream
from sequence_layers import jax as sequence_layers


def official_functions() -> dict[str, Callable[[Any, jax.Array], jax.Array]]:
  """Case -> function of flax variables and an array [1, time, width]."""
  module = spectrostream.stft_spectrostream_40ms_generic_48khz_stereo_config().make()

  def call(method: Any, variables: Any, x: jax.Array, **options: Any) -> jax.Array:
    sequence = sequence_layers.Sequence.from_values(x)
    return module.apply(variables, sequence, method=method, **options).values

  return {
    'encode': lambda v, x: call('waveform_to_embeddings', v, x, training=False),
    'decode': lambda v, x: call('embeddings_to_waveform', v, x, training=False),
    'quantize': lambda v, x: call(lambda m, s: m.quantizer.embeddings_to_codes(s), v, x),
  }


def load_variables(path: pathlib.Path) -> dict[str, Any]:
  """The file's arrays {'a/b': x} as flax variables {'params': {'a': {'b': x}}}, on the device."""
  tree: dict[str, Any] = {}
  with np.load(path) as file:
    for name in file.files:
      *parents, leaf = name.split('/')
      node = tree
      for parent in parents:
        node = node.setdefault(parent, {})
      node[leaf] = jax.device_put(file[name])
  return {'params': tree}


def serve(folder: pathlib.Path, answer: Callable[[dict[str, Any]], None]):
  """Answers the lines of standard input until it ends."""
  functions, variables = official_functions(), load_variables(folder / 'params.npz')
  with np.load(folder / 'inputs.npz') as file:
    inputs = {name: jax.device_put(file[name]) for name in file.files}
  programs = {}
  for line in sys.stdin:
    command, case = line.split()
    began, began_cpu = time.perf_counter(), time.process_time()
    if command == 'prepare':
      programs[case] = jax.jit(functions[case]).lower(variables, inputs[case]).compile()
      compile_secs = time.perf_counter() - began
      compile_cpu_secs = time.process_time() - began_cpu
      np.save(folder / f'{case}.npy', programs[case](variables, inputs[case]))
      flops, memory = programs[case].cost_analysis()['flops'], programs[case].memory_analysis()
      answer(
        {
          'compile_secs': compile_secs,
          'compile_cpu_secs': compile_cpu_secs,
          'flops': flops,
          'temporary_bytes': memory.temp_size_in_bytes,
        }
      )
    else:
      jax.block_until_ready(programs[case](variables, inputs[case]))
      answer(
        {
          'wall_secs': time.perf_counter() - began,
          'cpu_secs': time.process_time() - began_cpu,
        }
      )


def main():
  # Whatever the libraries print must not come between the answers.
  answers = sys.stdout
  with contextlib.redirect_stdout(sys.stderr):
    serve(pathlib.Path(sys.argv[1]), lambda it: print(json.dumps(it), file=answers, flush=True))


if __name__ == '__main__':
  main()
