"""Damage to small valid files, drawn by hypothesis, and how many cases a fuzz test tries.

A fuzz test of this folder draws `mutations(valid)` for the bytes of a small valid file, gives the
result to one reader, and asserts one property: the right content, or an error of the kind that
users are shown, which names the file. Never another exception, and never other content in silence.

`make test` tries a fixed list of cases, so that its result depends on neither the machine nor the
day. WOODSHED_FUZZ_EXAMPLES=N tries N fresh ones for each test; `make test-slow` sets it.
"""

import dataclasses
import os

import hypothesis
from hypothesis import strategies

_EXAMPLES = os.environ.get('WOODSHED_FUZZ_EXAMPLES')


@dataclasses.dataclass(frozen=True)
class Mutation:
  """Damaged bytes and how they came about.

  Attributes:
    data: the damaged file.
    story: each change in words, for the failure's message.
  """

  data: bytes
  story: str


def settings(examples: int) -> hypothesis.settings:
  """Settings of a fuzz test: `examples` fixed cases, or WOODSHED_FUZZ_EXAMPLES fresh ones."""
  return hypothesis.settings(
    max_examples=int(_EXAMPLES or examples),
    derandomize=not _EXAMPLES,
    database=None,
    deadline=None,  # A slow machine is not a failure.
    suppress_health_check=list(hypothesis.HealthCheck),
  )


@strategies.composite
def mutations(draw, valid: bytes, head: int = 64, most_changes: int = 3) -> Mutation:
  """A file of the bytes `valid` with one to `most_changes` changes; see `CHANGES`.

  Args:
    draw: given by hypothesis.
    valid: the undamaged file.
    head: the first bytes, where headers stand; half of all places are drawn from them.
    most_changes: upper limit of the number of changes.
  """
  data, story = valid, []
  for _ in range(draw(strategies.integers(1, most_changes))):
    name = draw(strategies.sampled_from(sorted(CHANGES)))
    data, said = CHANGES[name](draw, data, valid, head)
    story.append(f'{name} {said}')
  return Mutation(data, '; '.join(story))


def _place(draw, size: int, head: int) -> int:
  """A place in a file of `size` bytes, at most its end."""
  if draw(strategies.booleans()):
    return draw(strategies.integers(0, min(head, size)))
  return draw(strategies.integers(0, size))


def _cut(draw, data, valid, head):
  place = _place(draw, len(data), head)
  return data[:place], f'at {place}'


def _flip_bit(draw, data, valid, head):
  if not data:
    return data, 'nothing'
  place = min(_place(draw, len(data), head), len(data) - 1)
  bit = draw(strategies.integers(0, 7))
  return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :], f'{bit} of {place}'


def _overwrite(draw, data, valid, head):
  place = _place(draw, len(data), head)
  new = draw(strategies.one_of(strategies.sampled_from(_EXTREMES), strategies.binary(max_size=8)))
  return data[:place] + new + data[place + len(new) :], f'{place} by {new.hex()}'


def _insert(draw, data, valid, head):
  place = _place(draw, len(data), head)
  new = draw(strategies.binary(min_size=1, max_size=16))
  return data[:place] + new + data[place:], f'{new.hex()} at {place}'


def _remove(draw, data, valid, head):
  place = _place(draw, len(data), head)
  count = draw(strategies.integers(1, 64))
  return data[:place] + data[place + count :], f'{count} at {place}'


def _zero(draw, data, valid, head):
  place = _place(draw, len(data), head)
  count = min(draw(strategies.integers(1, 512)), len(data) - place)
  return data[:place] + bytes(count) + data[place + count :], f'{count} at {place}'


def _append(draw, data, valid, head):
  new = draw(strategies.one_of(strategies.binary(max_size=64), strategies.just(valid)))
  return data + new, f'{len(new)} bytes'


def _repeat(draw, data, valid, head):
  begin = _place(draw, len(data), head)
  end = min(len(data), begin + draw(strategies.integers(1, 256)))
  return data[:end] + data[begin:end] + data[end:], f'{begin} to {end}'


_EXTREMES = (b'\x00' * 4, b'\xff' * 4, b'\x7f\xff\xff\xff', b'\xff\xff\xff\x7f', b'\xff' * 8)
CHANGES = {
  'append': _append,
  'cut': _cut,
  'flip bit': _flip_bit,
  'insert': _insert,
  'overwrite': _overwrite,
  'remove': _remove,
  'repeat': _repeat,
  'zero': _zero,
}
