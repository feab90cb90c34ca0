"""Speed of the language model: training step, generation, compilation; one line of JSON a case.

    python -m benchmarks.depthformer                       # on a CPU: the mid size
    python -m benchmarks.depthformer --cases compile_large # compile the `large` training step
    python -m benchmarks.depthformer --cases gpu           # `large` in bfloat16, on a GPU

The mid size is 256 wide, 4 encoder, 4 temporal and 2 depth layers over the real vocabulary and
lengths. Magenta RealTime v1's own code (on T5X, float32, batch 2) took the seconds of `V1_CPU_SECS`
for it on an idle two-core machine; the case `matmul` tells how another machine compares.
"""

import argparse
import dataclasses
import resource
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measuring import matmul_rate, report, timed
from models import tokens
from models.depthformer import DepthformerConfig, DepthformerModel
from models.depthformer.flops import chunk_flops, train_step_flops
from models.spec import LiveMusicSpec

SPEC = LiveMusicSpec()
MID = DepthformerConfig(
  embed_dim=256, num_heads=4, head_dim=64, mlp_dim=512, num_encoder_layers=4,
  num_temporal_layers=4, num_depth_layers=2, dropout_rate=0.0,
)  # fmt: skip
BATCH_SIZE = 2
V1_CPU_SECS = {'train_step': 4.9, 'guided_chunk': 11.4}
CASES = ('matmul', 'train_step', 'generate', 'compile_large', 'gpu')
CPU_CASES = CASES[:3]


def random_batch(batch_size: int) -> dict[str, jax.Array]:
  """Ids that are valid at their positions, drawn evenly."""
  rng = np.random.default_rng(0)
  context, target, style = (
    rng.integers(0, SPEC.codebook_size, [batch_size, *shape], dtype=np.int32)
    for shape in (
      [SPEC.context_frames, SPEC.target_levels],
      [SPEC.chunk_frames, SPEC.target_levels],
      [SPEC.style_rvq_levels],
    )
  )
  inputs = [tokens.encoder_inputs(c, s, SPEC) for c, s in zip(context, style, strict=True)]
  offsets = SPEC.codec_offset + SPEC.codebook_size * np.arange(SPEC.target_levels, dtype=np.int32)
  return {
    'encoder_input_tokens': jnp.asarray(np.stack(inputs)),
    'decoder_target_tokens': jnp.asarray((target + offsets).reshape(batch_size, -1)),
  }


def bench_train_step(config: DepthformerConfig, batch_size: int, repeats: int) -> dict[str, Any]:
  """Loss and gradient of a batch: times, compile time and XLA's own account of memory."""
  model, batch = DepthformerModel(config, SPEC), random_batch(batch_size)
  params = jax.jit(model.init)(jax.random.key(0))
  gradient = jax.jit(lambda p, b: jax.value_and_grad(model.loss_fn, has_aux=True)(p, b, None))
  began = time.perf_counter()
  compiled = gradient.lower(params, batch).compile()
  compile_secs = time.perf_counter() - began
  times = timed(lambda: compiled(params, batch), repeats)
  return times | {
    'batch_size': batch_size,
    'compile_secs': round(compile_secs, 1),
    **memory(compiled),
    'target_tokens_per_sec': round(batch_size * SPEC.targets_length / times['wall_secs']),
    'gflops': round(1e-9 * train_step_flops(config, SPEC, batch_size) / times['wall_secs'], 1),
  }


def bench_chunk(
  config: DepthformerConfig, batch_size: int, repeats: int, **options: Any
) -> dict[str, Any]:
  """A guided chunk of 800 tokens a row: times, and seconds of music per second."""
  model = DepthformerModel(config, SPEC)
  params = jax.jit(model.init)(jax.random.key(0))
  inputs = random_batch(batch_size)['encoder_input_tokens']
  began = time.perf_counter()
  generate = jax.tree_util.Partial(
    model.generate, params, inputs, rng=jax.random.key(1), guidance_weight=5.0, **options
  )
  jax.block_until_ready(generate())
  first_secs = time.perf_counter() - began
  times = timed(generate, repeats)
  flops = batch_size * chunk_flops(config, SPEC, guided=True)
  return times | {
    'batch_size': batch_size,
    'first_call_secs': round(first_secs, 1),
    'real_time_factor': round(SPEC.chunk_secs * batch_size / times['wall_secs'], 2),
    'gflops': round(1e-9 * flops / times['wall_secs'], 1),
  }


def memory(compiled: Any) -> dict[str, int]:
  """Bytes of a compiled program: what it is given and returns, and what it needs besides."""
  analysis = compiled.memory_analysis()
  return {
    'argument_mib': analysis.argument_size_in_bytes >> 20,
    'output_mib': analysis.output_size_in_bytes >> 20,
    'temporary_mib': analysis.temp_size_in_bytes >> 20,
  }


def run_train_step(repeats: int):
  for over in ('level', 'vocabulary'):
    figures = bench_train_step(dataclasses.replace(MID, loss_over=over), BATCH_SIZE, repeats)
    ratio = figures['cpu_secs'] / V1_CPU_SECS['train_step']
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    report(f'train_step/{over}', **figures, cpu_ratio_to_v1=round(ratio, 3), process_peak_mib=peak)


def run_generate(repeats: int):
  fast = bench_chunk(MID, 1, repeats)
  reference = bench_chunk(MID, 1, repeats, reference_sampler=True)
  ratio = fast['cpu_secs'] / V1_CPU_SECS['guided_chunk']
  report('guided_chunk', **fast, cpu_ratio_to_v1=round(ratio, 3))
  ratio = fast['cpu_secs'] / reference['cpu_secs']
  report('guided_chunk/reference_sampler', **reference, default_to_reference=round(ratio, 3))


def run_compile_large(repeats: int):
  """Shapes only; nothing is allocated and nothing is run."""
  del repeats
  model = DepthformerModel(DepthformerConfig.large(), SPEC)
  began = time.perf_counter()
  params = jax.eval_shape(model.init, jax.random.key(0))
  eval_shape_secs = time.perf_counter() - began
  batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), random_batch(1))
  step = jax.jit(
    lambda p, b, key: jax.value_and_grad(model.loss_fn, has_aux=True)(p, b, key)
  ).lower(params, batch, jax.random.key(0))
  began = time.perf_counter()
  compiled = step.compile()
  report(
    'compile_large',
    eval_shape_secs=round(eval_shape_secs, 2),
    compile_secs=round(time.perf_counter() - began, 1),
    **memory(compiled),
    process_peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
  )


def run_gpu(repeats: int):
  """Utilisation against the rate of a large bfloat16 product on the same device."""
  chip = matmul_rate('bfloat16', repeats, size=8192)
  report('matmul/bfloat16', device=str(jax.devices()[0]), **chip)
  large = DepthformerConfig.large(loss_over='level', remat='minimal', dropout_rate=0.0)
  for batch_size in (8, 16, 32):
    figures = bench_train_step(large, batch_size, repeats)
    report('large/train_step', **figures, mfu=round(figures['gflops'] / chip['gflops'], 3))
  for batch_size in (1, 8):
    report('large/guided_chunk', **bench_chunk(large, batch_size, repeats))


def main():
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CPU_CASES))
  parser.add_argument('--repeats', type=int, default=5)
  args = parser.parse_args()
  if args.repeats < 1:
    parser.error(f'--repeats={args.repeats} must be at least 1.')
  if 'gpu' in args.cases and jax.default_backend() == 'cpu':
    parser.error('--cases gpu needs a GPU, and JAX sees none here (pip install -e .[gpu]).')
  runs = {
    'matmul': lambda n: report('matmul/float32', **matmul_rate('float32', n)),
    'train_step': run_train_step,
    'generate': run_generate,
    'compile_large': run_compile_large,
    'gpu': run_gpu,
  }
  for case in args.cases:
    runs[case](args.repeats)


if __name__ == '__main__':
  main()
