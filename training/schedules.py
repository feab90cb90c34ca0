"""Learning-rate schedules in T5X's factor syntax: 'constant * linear_warmup * rsqrt_decay'."""

import difflib
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

Schedule = Callable[[Any], Any]


def factor_schedule(
  factors: str = 'constant * linear_warmup * rsqrt_decay',
  base_learning_rate: float = 0.5,
  warmup_steps: int = 1000,
  decay_factor: float = 0.5,
  steps_per_decay: int = 20_000,
  steps_per_cycle: int = 100_000,
  step_offset: int = 0,
  min_learning_rate: float = 1e-8,
) -> Schedule:
  """A schedule that multiplies the named factors, as T5X's does.

  With s the steps made, less `step_offset` and at least 0, and w the warmup:

    constant                base_learning_rate
    linear_warmup           min(1, s / w)
    linear_decay            base_learning_rate * min(s / w, 1 + decay_factor * (w - s))
    rsqrt_decay             1 / sqrt(max(s, w))
    rsqrt_normalized_decay  sqrt(w) / sqrt(max(s, w))
    decay_every             decay_factor ** (s // steps_per_decay)
    cosine_decay            (1 + cos(pi * (max(0, s - w) / steps_per_cycle mod 1))) / 2

  Note that linear_decay brings its own base rate and warmup, and that cosine_decay starts a new
  cycle after `steps_per_cycle` steps.

  Args:
    factors: names joined by '*'.
    base_learning_rate: see above.
    warmup_steps: see above.
    decay_factor: see above.
    steps_per_decay: see above.
    steps_per_cycle: see above.
    step_offset: steps that do not count.
    min_learning_rate: the result is at least this.

  Returns:
    A function from the number of steps made to the rate, float32.

  Raises:
    ValueError: a factor is unknown, or the warmup below 0.
  """

  def linear_decay(s: Any) -> Any:
    return base_learning_rate * jnp.minimum(
      s / warmup_steps, 1.0 + decay_factor * (warmup_steps - s)
    )

  def cosine_decay(s: Any) -> Any:
    cycles = jnp.maximum(0.0, (s - warmup_steps) / steps_per_cycle)
    return 0.5 * (1.0 + jnp.cos(jnp.pi * (cycles % 1.0)))

  if warmup_steps < 0:
    raise ValueError(f'warmup_steps={warmup_steps} is below 0; 0 is no warmup.')
  warmup = max(warmup_steps, 1)  # No warmup at all must not divide by zero.
  known: dict[str, Schedule] = {
    'constant': lambda s: base_learning_rate,
    'linear_warmup': lambda s: jnp.minimum(1.0, s / warmup) if warmup_steps else 1.0,
    'linear_decay': linear_decay,
    'rsqrt_decay': lambda s: 1.0 / jnp.sqrt(jnp.maximum(s, warmup)),
    'rsqrt_normalized_decay': lambda s: jnp.sqrt(warmup / jnp.maximum(s, warmup)),
    'decay_every': lambda s: decay_factor ** (s // steps_per_decay),
    'cosine_decay': cosine_decay,
  }
  names = [name.strip() for name in factors.split('*')]
  for name in names:
    if name not in known:
      near = difflib.get_close_matches(name, known, n=1)
      hint = f'; did you mean {near[0]!r}?' if near else ''
      raise ValueError(f'{name!r} is not a factor of a schedule: {sorted(known)}{hint}')

  def schedule(step: Any) -> Any:
    since = jnp.maximum(0.0, jnp.asarray(step, jnp.float32) - step_offset)
    rate = jnp.float32(1.0)
    for name in names:
      rate = rate * known[name](since)
    return jnp.maximum(rate, min_learning_rate).astype(jnp.float32)

  return schedule
