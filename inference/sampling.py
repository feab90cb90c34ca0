"""How the next tokens are drawn: one set of options with one set of defaults.

v1's defaults differ by place (guidance 4 in the model's config, 5 in the streaming system); here
every caller takes them from `SamplingOptions`, which holds those of v1's streaming system.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
  """Temperature, top-k and guidance.

  Attributes:
    temperature: divides the logits; 0 takes the most probable token.
    top_k: tokens that may be drawn, the most probable ones; 0 allows all of the level.
    guidance_weight: w in (1 + w) * conditioned - w * unconditioned logits; 0 turns guidance off.

  Raises:
    ValueError: a value is not finite or below zero.
  """

  temperature: float = 1.1
  top_k: int = 40
  guidance_weight: float = 5.0

  def __post_init__(self):
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if not math.isfinite(value) or value < 0:
        raise ValueError(f'{field.name}={value} is not a finite number of at least 0.')
    if int(self.top_k) != self.top_k:
      raise ValueError(f'top_k={self.top_k} is not a whole number.')
