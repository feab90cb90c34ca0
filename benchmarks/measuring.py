"""Seconds of a call, memory of a process, and a matrix product that tells the machine's speed."""

import json
import pathlib
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

_MATMUL_SIZE = 2048


def timed(function: Callable[[], Any], repeats: int) -> dict[str, float]:
  """Medians over `repeats` calls after one that warms up; results are waited for.

  Returns:
    'wall_secs', 'cpu_secs' (of this process, all threads) and 'wall_secs_min'.
  """
  jax.block_until_ready(function())
  wall, cpu = [], []
  for _ in range(repeats):
    began, began_cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(function())
    wall.append(time.perf_counter() - began)
    cpu.append(time.process_time() - began_cpu)
  return {
    'wall_secs': round(statistics.median(wall), 4),
    'cpu_secs': round(statistics.median(cpu), 4),
    'wall_secs_min': round(min(wall), 4),
  }


def matmul_rate(dtype: str, repeats: int, size: int = _MATMUL_SIZE) -> dict[str, float]:
  """A square matrix product: its times and its rate in GFLOP/s of wall-clock time."""
  x = jax.random.normal(jax.random.key(0), [size, size], jnp.dtype(dtype))
  multiply = jax.jit(lambda a, b: a @ b)
  times = timed(lambda: multiply(x, x), repeats)
  return times | {'size': size, 'gflops': round(2e-9 * size**3 / times['wall_secs'], 1)}


def resident_mib(pid: int | str = 'self') -> float:
  """Resident memory of a process on Linux."""
  status = pathlib.Path(f'/proc/{pid}/status').read_text()
  return round(int(re.search(r'VmRSS:\s+(\d+) kB', status)[1]) / 1024, 1)


def report(case: str, **figures: Any):
  """Prints one case as one line of JSON."""
  print(json.dumps({'case': case} | figures), flush=True)
