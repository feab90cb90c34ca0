"""Plan files: what is to be done, a unit a line; only ranges of them travel through the graph.

A plan lies where all workers can read it. However large a corpus is, the graph holds at most
`MAX_RANGES` short descriptions: services limit the size of a job's description, and a payload would
be copied at every hand-over.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from etils import epath

from preprocessing import parts

MAX_RANGES = 8192


@dataclasses.dataclass(frozen=True)
class WorkRange:
  """Neighbouring lines of a plan file.

  Attributes:
    plan: path of the file.
    offset, length: bytes.
    count: lines.
    target: a file that the range becomes; '' where each line is a unit of its own.
  """

  plan: str
  offset: int
  length: int
  count: int
  target: str = ''


def write_plan(
  path: epath.PathLike, groups: Iterable[tuple[str, Iterable[dict[str, Any]]]]
) -> list[WorkRange]:
  """Writes (target, lines) after each other and returns the range of each group."""
  ranges, offset = [], 0
  with parts.atomic_file(path) as file:
    for target, lines in groups:
      count, begin = 0, offset
      for line in lines:
        # ASCII: file names need not be valid Unicode.
        offset += file.write(json.dumps(line).encode('ascii') + b'\n')
        count += 1
      ranges.append(WorkRange(str(path), begin, offset - begin, count, target))
  return ranges


def read_range(part: WorkRange) -> Iterator[dict[str, Any]]:
  """The lines of a range.

  Raises:
    RuntimeError: the plan is not the one that the range was made for.
  """
  with epath.Path(part.plan).open('rb') as file:
    file.seek(part.offset)
    text = file.read(part.length)
  lines = text.splitlines()
  if len(lines) != part.count or len(text) != part.length:
    raise RuntimeError(
      f'{part.plan} has {len(lines)} lines of {part.count} at {part.offset}: another run has '
      'written it. Let one run at a time work in an output folder, and run again.'
    )
  yield from map(json.loads, lines)


def deal(units: Sequence[Any], most: int = MAX_RANGES) -> list[list[Any]]:
  """Units in at most `most` groups, dealt like cards: neighbours go to different groups.

  With the largest units first, groups come out alike.
  """
  count = min(len(units), most)
  return [list(units[i::count]) for i in range(count)]
