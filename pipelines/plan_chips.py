"""Accelerators and the names of their slices: 'v6e-256', 'v5p-128', 'v5p:4x4x4', 'h100-64'.

Figures are the makers' (cloud.google.com/tpu/docs, NVIDIA's datasheets, read 2026-11-22), except
for the memory of TPUs, which is what libtpu 0.0.42's compiler lets a program use, and for the
rates of links and network of v4, which are second-hand.
"""

import dataclasses
import difflib
import math
import re

# Chips -> shape of the torus: flat ones up to a pod of 256, cubic ones from a host's 2x2x1 on.
_FLAT = {
  1: (1, 1), 4: (2, 2), 8: (2, 4), 16: (4, 4), 32: (4, 8), 64: (8, 8), 128: (8, 16), 256: (16, 16),
}  # fmt: skip
_CUBIC = {
  4: (2, 2, 1), 8: (2, 2, 2), 16: (2, 2, 4), 32: (2, 4, 4), 64: (4, 4, 4), 128: (4, 4, 8),
  256: (4, 8, 8), 512: (8, 8, 8), 1024: (8, 8, 16), 2048: (8, 16, 16),
}  # fmt: skip
_LARGER_CUBIC = {4096: (16, 16, 16), 6144: (16, 16, 24)}
_CHIPS_PER_HOST, _GPUS_PER_HOST = 4, 8


@dataclasses.dataclass(frozen=True)
class Chip:
  """One kind of accelerator.

  Attributes:
    name: as slices of it are called.
    peak_flops: dense bfloat16 operations per second.
    float32_share: speed of products of float32 arrays at JAX's default precision, as a share of
      `peak_flops` (TPUs round their factors to bfloat16, GPUs to TF32).
    memory_bytes: what one program may use.
    memory_rate: bytes per second between chip and memory.
    link_rate: bytes per second that a chip sends to the others of its slice or host.
    network_rate: bytes per second that a chip sends beyond it.
    cores: counted by the numbers in its slices' names; they act as one device.
    shapes: of the slices that can be had, by chips; None for GPUs, which have none.
  """

  name: str
  peak_flops: float
  float32_share: float
  memory_bytes: float
  memory_rate: float
  link_rate: float
  network_rate: float
  cores: int = 1
  shapes: dict[int, tuple[int, ...]] | None = None

  @property
  def is_tpu(self) -> bool:
    return self.shapes is not None


def _tpu(
  name: str, tflops: float, gib: float, memory: float, link: float, network: float,
  cores: int, shapes: dict[int, tuple[int, ...]],
) -> Chip:  # fmt: skip
  rates = (memory * 1e9, link * 1e9, network * 1e9)
  return Chip(name, tflops * 1e12, 1.0, gib * 2**30, *rates, cores=cores, shapes=shapes)


def _gpu(
  name: str, tflops: float, gigabytes: float, memory: float, link: float, network: float
) -> Chip:
  return Chip(
    name, tflops * 1e12, 0.5, gigabytes * 1e9, memory * 1e9, link * 1e9, network * 1e9
  )


CHIPS = {
  chip.name: chip
  for chip in (
    _tpu('v4', 275, 30.75, 1200, 300, 6.25, 2, _CUBIC),
    _tpu('v5e', 197, 15.75, 819, 200, 3.125, 1, _FLAT),
    _tpu('v5p', 459, 95.74, 2765, 600, 6.25, 2, _CUBIC | _LARGER_CUBIC),
    _tpu('v6e', 918, 31.25, 1640, 400, 12.5, 1, _FLAT),
    _gpu('a100', 312, 80, 2039, 300, 25),
    _gpu('h100', 989, 80, 3350, 450, 50),
    _gpu('h200', 989, 141, 4800, 450, 50),
  )
}
_ALIASES = {'v5litepod': 'v5e'}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Chips joined by fast links, one or several times.

  Attributes:
    chip: their kind.
    chips: in one slice; of GPUs, all.
    shape: of the torus; () for GPUs.
    num_slices: how often.
  """

  chip: Chip
  chips: int
  shape: tuple[int, ...] = ()
  num_slices: int = 1

  @property
  def total_chips(self) -> int:
    return self.chips * self.num_slices

  @property
  def name(self) -> str:
    """'v5p-128', counted as its maker counts."""
    return f'{self.chip.name}-{self.chips * self.chip.cores}'

  @property
  def accelerator_type(self) -> str:
    """What Google Cloud calls it."""
    return self.name.replace('v5e', 'v5litepod')

  @property
  def hosts(self) -> int:
    """Virtual machines of one slice, each with one process."""
    if not self.chip.is_tpu:
      return -(-self.chips // _GPUS_PER_HOST)
    if self.chip.cores == 1 and self.chips <= 8:
      return 1
    return -(-self.chips // _CHIPS_PER_HOST)

  @property
  def linked_chips(self) -> int:
    """Chips that fast links join: a slice, or the GPUs of one host."""
    return self.chips if self.chip.is_tpu else min(self.chips, _GPUS_PER_HOST)

  @property
  def topology_name(self) -> str:
    """'v5p:4x4x4', the name for the compiler."""
    return f'{self.chip.name}:{"x".join(map(str, self.shape))}'

  def describe(self) -> str:
    """'v5p-128: 64 chips (128 cores) as 4x4x4, 16 hosts'."""
    cores = f' ({self.chips * self.chip.cores} cores)' if self.chip.cores > 1 else ''
    kind = 'chip' if self.chip.is_tpu else 'GPU'
    shape = f' as {"x".join(map(str, self.shape))}' if self.shape else ''
    one = (
      f'{self.name}: {self.chips} {kind}{"s" * (self.chips > 1)}{cores}{shape}, '
      f'{self.hosts} host{"s" * (self.hosts > 1)}'
    )
    return one if self.num_slices == 1 else f'{self.num_slices} slices of {one}'


def parse_topology(name: str, num_slices: int = 1) -> Slice:
  """A slice by its name.

  Args:
    name: 'v6e-256' or 'v5e-16' (chips), 'v5p-128' or 'v4-8' (cores, two to a chip), 'v5p:4x4x4'
      (the shape in chips), 'h100-64' (GPUs).
    num_slices: of TPUs, joined by the data centre's network.

  Raises:
    ValueError: there is no such slice; says which ones there are.
  """
  match = re.fullmatch(r'(tpu)?([a-z0-9]+?)(?:-(\d+)|:(\d+(?:x\d+)*))', name.strip().lower())
  kind = _ALIASES.get(match[2], match[2]) if match else ''
  if kind not in CHIPS:
    near = difflib.get_close_matches(re.split('[-:]', name.lower())[0], CHIPS, n=1, cutoff=0.3)
    hint = f' Did you mean {near[0]}?' if near else ''
    raise ValueError(
      f'--topology={name} is no slice of a chip that is known: write CHIP-NUMBER with CHIP one of '
      f'{", ".join(CHIPS)}, such as v6e-256.{hint}'
    )
  chip = CHIPS[kind]
  if num_slices < 1 or (num_slices > 1 and not chip.is_tpu):
    raise ValueError(f'--num_slices={num_slices}: TPUs have slices, at least 1; GPUs have none.')
  if not chip.is_tpu:
    number = int(match[3] or 0)
    if number < 1 or (number > _GPUS_PER_HOST and number % _GPUS_PER_HOST):
      raise ValueError(
        f'--topology={name}: write 1 to {_GPUS_PER_HOST} GPUs or a multiple of {_GPUS_PER_HOST}, '
        f'such as {kind}-{_GPUS_PER_HOST}.'
      )
    return Slice(chip, number)
  if match[4]:
    shape = tuple(map(int, match[4].split('x')))
    chips = math.prod(shape)
    fits = sorted(shape) == sorted(chip.shapes.get(chips, ()))
  else:
    chips, rest = divmod(int(match[3]), chip.cores)
    shape, fits = chip.shapes.get(chips), not rest and chips in chip.shapes
  if not fits:
    unit = 'cores, two to a chip' if chip.cores == 2 else 'chips'
    sizes = ', '.join(f'{kind}-{number * chip.cores}' for number in chip.shapes)
    raise ValueError(f'--topology={name}: {kind} counts {unit}, and there are {sizes}.')
  return Slice(chip, chips, shape, num_slices)
