"""How fast the devices of a run could be: the maker's figure, or a measured matrix product."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from models.depthformer import DepthformerModel, flops
from pipelines.plan_chips import CHIPS, Chip
from training.efficiency import Efficiency, Peak, num_chips
from training.partitioning import Partitioning

# What JAX calls a device -> what `plan_chips` calls the chip. The first match counts.
_KINDS = (
  ('TPU v6 lite', 'v6e'), ('TPU v6e', 'v6e'), ('TPU v5 lite', 'v5e'), ('TPU v5e', 'v5e'),
  ('TPU v5', 'v5p'), ('H200', 'h200'), ('H100', 'h100'), ('A100', 'a100'),
)  # fmt: skip
_OTHER_FIGURES = ('PCIe', 'NVL', 'MIG')  # Of the same name, and slower than the table says.
_CPU_SIZE, _DEVICE_SIZE = 1024, 8192
_REPEATS = 5


def run_efficiency(
  trainable: Any, batch_size: int | None, partitioning: Partitioning
) -> Efficiency:
  """What turns the times of a run into MFU and rates by chip.

  Args:
    trainable: operations are counted for language models; others have no MFU.
    batch_size: examples of a step.
    partitioning: of the run.
  """
  devices = list(partitioning.mesh.devices.flat)
  if not isinstance(trainable, DepthformerModel) or not batch_size:
    return Efficiency(num_chips(devices))
  step_flops = flops.train_step_flops(trainable.config, trainable.spec, batch_size)
  return Efficiency(num_chips(devices), step_flops, device_peak(devices))


def device_peak(devices: Sequence[jax.Device]) -> Peak:
  """Peak of all `devices` together.

  Chips of `plan_chips` have their maker's dense bfloat16 figure, whatever the dtype of the run, as
  MFU is usually told. Of CPUs and chips that are not in the table, the rate of a large matrix
  product is measured: float32 and one for each process on CPUs, bfloat16 elsewhere.
  """
  kind = devices[0].device_kind
  chip = chip_of_kind(kind)
  number = num_chips(devices)
  if chip is not None:
    source = f"{number} x {chip.name}, the maker's dense bfloat16 figure"
    return Peak(number * chip.peak_flops, source)
  on_cpu = devices[0].platform == 'cpu'
  dtype = jnp.float32 if on_cpu else jnp.bfloat16
  local = next(device for device in devices if device.process_index == jax.process_index())
  size = _CPU_SIZE if on_cpu else _DEVICE_SIZE
  rate = matmul_rate(local, size, dtype)
  source = f'{number} x {kind}, measured on a {jnp.dtype(dtype).name} matrix product of {size}'
  return Peak(number * rate, source)


def chip_of_kind(kind: str) -> Chip | None:
  """The chip behind JAX's `device_kind`; None for those whose figures are not known."""
  if any(other in kind for other in _OTHER_FIGURES):
    return None
  if kind == 'TPU v4':
    return CHIPS['v4']
  return next((CHIPS[name] for part, name in _KINDS if part in kind), None)


def matmul_rate(device: jax.Device, size: int, dtype: Any) -> float:
  """Operations per second of a [size, size] product with itself: the best of a few."""
  x = jax.device_put(jnp.ones([size, size], dtype), device)
  multiply = jax.jit(lambda x: x @ x)
  jax.block_until_ready(multiply(x))
  secs = []
  for _ in range(_REPEATS):
    start = time.perf_counter()
    jax.block_until_ready(multiply(x))
    secs.append(time.perf_counter() - start)
  return 2.0 * size**3 / min(secs)
