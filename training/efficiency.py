"""What a run makes of its machine and its time: MFU, tokens by chip, where the seconds went."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

_SECONDS, _TIMING = '_seconds', 'timing/'


@dataclasses.dataclass(frozen=True)
class Peak:
  """The most that the devices of a run can do.

  Attributes:
    flops_per_second: of all of them together.
    source: where the figure is from, in words.
  """

  flops_per_second: float
  source: str


def num_chips(devices: Sequence[Any]) -> int:
  """Chips behind JAX's devices: the two cores of a TPU v2 or v3 are one, and so is a host's CPU."""
  chips = set()
  for device in devices:
    if device.platform == 'cpu':
      chips.add(device.process_index)
    else:
      place = getattr(device, 'coords', None)
      chips.add((device.process_index, device.id if place is None else tuple(place)))
  return len(chips)


class Efficiency:
  """Adds to each line of metrics what follows from its times.

  * timing/mfu: operations of the model (no recomputation) in the time of the steps and their data
    wait, as a share of the peak (PaLM, arXiv 2204.02311, appendix B);
  * timing/target_tokens_per_second_per_chip;
  * goodput/step, goodput/data_wait, goodput/evaluate, ...: shares of all seconds since the process
    began to train, up to this line. They add up to 1; goodput/step is the goodput.
  """

  def __init__(self, chips: int, step_flops: float | None = None, peak: Peak | None = None):
    """Nothing has been spent yet.

    Args:
      chips: of the run.
      step_flops: operations of the model in one step; None where nobody has counted them.
      peak: of the devices; None leaves MFU out.
    """
    self.chips, self.step_flops, self.peak = chips, step_flops, peak
    self._seconds: collections.Counter = collections.Counter()

  def __call__(self, values: Mapping[str, float]) -> dict[str, float]:
    """From the 'timing/...' values of one line, what is to be added to it."""
    added = {}
    rate = values.get('timing/steps_per_second')
    if rate is not None and self.step_flops and self.peak:
      added['timing/mfu'] = self.step_flops * rate / self.peak.flops_per_second
    if 'timing/target_tokens_per_second' in values:
      tokens = values['timing/target_tokens_per_second']
      added['timing/target_tokens_per_second_per_chip'] = tokens / self.chips
    for name, secs in values.items():
      if name.startswith(_TIMING) and name.endswith(_SECONDS):
        self._seconds[name.removeprefix(_TIMING).removesuffix(_SECONDS)] += secs
    total = sum(self._seconds.values())
    if total > 0:
      added.update({f'goodput/{name}': secs / total for name, secs in self._seconds.items()})
    return added

  def __str__(self) -> str:
    """What MFU is measured against, in words."""
    if not self.step_flops or not self.peak:
      return 'no MFU: the operations of this model are not counted'
    peak = f'{_flops(self.peak.flops_per_second)}/s, {self.peak.source}'
    return f'MFU counts {_flops(self.step_flops)} a step against {peak}'


def _flops(number: float) -> str:
  """'1.23 TFLOP'."""
  for prefix, size in (('P', 1e15), ('T', 1e12), ('G', 1e9)):
    if number >= size:
      return f'{number / size:.3g} {prefix}FLOP'
  return f'{number:.3g} FLOP'
