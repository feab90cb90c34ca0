"""How the next tokens are drawn: one set of options with one set of defaults, and seeds.

v1's defaults differ by place (guidance 4 in the model's config, 5 in the streaming system); here
every caller takes them from `SamplingOptions`, which holds those of v1's streaming system.
"""

import dataclasses
import math
import numbers

from models.figures import exact

MAX_SEED = 2**32 - 1  # JAX makes its keys of 32 bits: others would play as a seed in this range.


def check_seed(seed: int, name: str = 'seed') -> int:
  """Returns the seed if it is in 0..2**32 - 1.

  Raises:
    ValueError: it is not.
  """
  if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed <= MAX_SEED:
    raise ValueError(f'{name}={seed!r} is not a whole number in 0..{MAX_SEED} (2**32 - 1).')
  return int(seed)


# Beyond these, float32 logits could overflow, and NaN would choose the tokens.
_MOST = {'temperature': 1000.0, 'guidance_weight': 1000.0}
_LEAST_TEMPERATURE = 1e-3


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
  """Temperature, top-k and guidance.

  Attributes:
    temperature: divides the logits; 0 takes the most probable token.
    top_k: tokens that may be drawn, the most probable ones; 0 allows all of the level.
    guidance_weight: w in (1 + w) * conditioned - w * unconditioned logits; 0 turns guidance off.

  Raises:
    ValueError: a value is not finite, below zero or so large that logits would overflow.
  """

  temperature: float = 1.1
  top_k: int = 40
  guidance_weight: float = 5.0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not math.isfinite(value) or value < 0:
        raise ValueError(f'{field.name}={value} is not a finite number of at least 0.')
      if value > _MOST.get(field.name, math.inf):
        raise ValueError(f'{field.name}={exact(value)} is above {_MOST[field.name]:g}.')
    if 0 < self.temperature < _LEAST_TEMPERATURE:
      raise ValueError(
        f'temperature={exact(self.temperature)} is not 0 and below {_LEAST_TEMPERATURE:g}; 0 takes '
        'the most probable token.'
      )
    if int(self.top_k) != self.top_k:
      raise ValueError(f'top_k={self.top_k} is not a whole number.')
