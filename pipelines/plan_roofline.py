"""How long a training step takes at best, and is likely to take: arithmetic on counts and rates."""

import dataclasses

from pipelines.plan_chips import Slice

# Share of the roofline that training of this kind reaches. From below, T5 Large under T5X on A100
# (32 % MFU where little is recomputed); from above, MaxText's 8B model on v6e-256, 45 % MFU where
# everything is recomputed, so that the roofline stands at 75 %.
EXPECTED_SHARE = (0.35, 0.60)
SECS_PER_DAY = 86_400


@dataclasses.dataclass(frozen=True)
class StepWork:
  """What one step does; bytes are of one chip.

  Attributes:
    model_flops: operations of the model, over all chips: what MFU counts.
    executed_flops: with what the backward pass computes again.
    float32_flops: those of `executed_flops` whose factors are float32.
    memory_bytes: moved between chip and memory.
    link_bytes: sent to chips of the same slice or host.
    network_bytes: sent beyond it.
  """

  model_flops: float
  executed_flops: float
  float32_flops: float
  memory_bytes: float
  link_bytes: float
  network_bytes: float


@dataclasses.dataclass(frozen=True)
class StepTime:
  """Seconds of a step, were each part alone; at best they overlap and the longest one counts."""

  compute: float
  memory: float
  links: float
  network: float
  model_flops_time: float

  @property
  def roofline(self) -> float:
    return max(self.compute, self.memory, self.links, self.network)

  @property
  def serial(self) -> float:
    """Seconds if nothing overlaps: what ways to train are ranked by."""
    return self.compute + self.memory + self.links + self.network

  @property
  def bound(self) -> str:
    """The part that takes longest."""
    parts = ('compute', 'memory', 'links', 'network')
    return max(parts, key=lambda part: getattr(self, part))

  @property
  def best_mfu(self) -> float:
    """Share of the chips' peak that the model's own operations reach at the roofline."""
    return self.model_flops_time / self.roofline

  @property
  def expected_mfu(self) -> tuple[float, float]:
    low, high = EXPECTED_SHARE
    return low * self.best_mfu, high * self.best_mfu

  @property
  def expected_secs(self) -> tuple[float, float]:
    """Seconds of a step, the shorter first."""
    low, high = EXPECTED_SHARE
    return self.roofline / high, self.roofline / low


def step_time(work: StepWork, place: Slice) -> StepTime:
  """Lower bounds of a step's parts."""
  chip, chips = place.chip, place.total_chips
  peak = chips * chip.peak_flops
  slow = work.float32_flops * (1 / chip.float32_share - 1)
  return StepTime(
    compute=(work.executed_flops + slow) / peak,
    memory=work.memory_bytes / chip.memory_rate,
    links=work.link_bytes / chip.link_rate,
    network=work.network_bytes / chip.network_rate,
    model_flops_time=work.model_flops / peak,
  )


def all_reduce_bytes(size: float, members: int) -> float:
  """Bytes that each of `members` sends to sum an array of `size` bytes that all of them hold."""
  return 2.0 * size * (members - 1) / members


def gather_bytes(size: float, members: int) -> float:
  """Bytes that each sends to collect the parts of an array of `size` bytes, or to scatter sums."""
  return size * (members - 1) / members


def run_cost(step_secs: float, steps: int, chips: int) -> tuple[float, float]:
  """(days, chip-hours) of `steps` steps, without evaluation, checkpoints and interruptions."""
  secs = step_secs * steps
  return secs / SECS_PER_DAY, secs / 3600 * chips
