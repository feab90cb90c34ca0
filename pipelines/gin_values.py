"""Checks values of macros together: ranges, divisors, values without effect.

It runs when the files are parsed, not after minutes of reading data.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_LEAST = {
  'BATCH_SIZE': 1,
  'NUM_MICROBATCHES': 1,
  'NUM_PARTITIONS': 1,
  'ADAPTER_RANK': 1,
  'LOG_PERIOD': 1,
  'CHECKPOINT_PERIOD': 1,
  'TRAIN_STEPS': 0,
  'EVAL_PERIOD': 0,
  'SAMPLE_PERIOD': 0,
  'OUTPUT_PERIOD': 0,
  'WARMUP_STEPS': 0,
  'MAX_SKIPPED_STEPS': 0,
  'PATIENCE': 0,
}
# A macro and its values with which others have no effect; None is a macro that is not set.
_WITHOUT_EFFECT: tuple[tuple[str, tuple[Any, ...], tuple[str, ...]], ...] = (
  ('OUTPUT_PERIOD', (0,), ('CHOOSE_BY',)),
  ('METHOD', ('full', 'depth_only'), ('ADAPTER_RANK', 'ADAPTER_ALPHA', 'ADAPTER_PATTERNS')),
  ('REPLAY_DATA_DIR', (None, ''), ('REPLAY_RATE',)),
  ('INITIAL_CHECKPOINT_PATH', (None, ''), ('RESTORE_OPTIMIZER',)),
  ('SAMPLE_PERIOD', (0,), ('SAMPLE_PROMPTS', 'SAMPLE_SECS')),
  ('EVAL_PERIOD', (0,), ('SAMPLE_PERIOD', 'PATIENCE', 'EVAL_STEPS')),
  ('MODE', ('score',), ('WRITE_AUDIO', 'TEMPERATURE', 'TOP_K', 'GUIDANCE_WEIGHT')),
  ('MODE', ('embed',), ('NUM_WORKS', 'DEPTHFORMER', 'NUM_ENCODER_WORKS')),
)
# A macro that, once set, takes the place of another.
_IN_PLACE_OF = (
  ('STYLE_PROMPT', 'STYLE_JITTER'),
  ('STYLE_PROMPT', 'PRESET_RATE'),
  ('INITIAL_CHECKPOINT_PATH', 'CODEBOOK_START'),
)


def mistake(values: Mapping[str, Any], shipped: Mapping[str, Any]) -> str | None:
  """Returns what is wrong with the values of macros together; None if nothing was found.

  Args:
    values: of all macros; references (@..., %...) are not judged.
    shipped: what files of gin/ set; a macro that still has this value was not given by the user.
  """
  return next(_mistakes(values, shipped), None)


def _mistakes(values: Mapping[str, Any], shipped: Mapping[str, Any]) -> Iterator[str]:
  for name, least in _LEAST.items():
    value = values.get(name)
    if isinstance(value, int) and value < least:
      yield f'{name} = {value} must be at least {least}.'
  batch, parts = values.get('BATCH_SIZE'), values.get('NUM_MICROBATCHES')
  if isinstance(batch, int) and isinstance(parts, int) and batch % parts:
    divisors = [str(n) for n in range(1, min(batch, 64) + 1) if batch % n == 0]
    yield (
      f'NUM_MICROBATCHES = {parts} does not divide BATCH_SIZE = {batch} into equal parts. '
      f'It may be {", ".join(divisors)}.'
    )

  def given(name: str) -> bool:
    return name in values and name in shipped and _differs(values[name], shipped[name])

  for name, without, ignored in _WITHOUT_EFFECT:
    if name in values and _is_among(values[name], without):
      for other in filter(given, ignored):
        yield (
          f'{other} = {values[other]!r} has no effect with {name} = {values[name]!r}. Leave it '
          f'out, or change {name}.'
        )
  for name, other in _IN_PLACE_OF:
    if values.get(name) and isinstance(values[name], str) and given(other):
      yield (
        f'{other} = {values[other]!r} has no effect beside {name} = {values[name]!r}, which takes '
        'its place. Leave one of them out.'
      )


def _is_among(value: Any, choices: tuple[Any, ...]) -> bool:
  return any(type(value) is type(choice) and value == choice for choice in choices)


def _differs(value: Any, other: Any) -> bool:
  plain = (bool, int, float, str, tuple, list, dict, type(None))
  if not (isinstance(value, plain) and isinstance(other, plain)):
    return False
  return value != other
