"""Training a part of the parameters: the part is cut out, and its values are put back.

What is not trained gets no gradient and no optimizer state, unlike what `wrappers.freezing` holds
still. Trees are nested dictionaries, names those of model-info.txt.
"""

import re
from collections.abc import Sequence
from typing import Any

from models import weights

Tree = dict[str, Any]


def part_of(tree: Tree, patterns: Sequence[str]) -> Tree:
  """The leaves whose name contains a match of one of `patterns`; all of them without patterns."""
  if not patterns:
    return tree
  return _selected(tree, [re.compile(pattern) for pattern in patterns], '')


def with_part(tree: Tree, part: Tree) -> Tree:
  """`tree` with the leaves of `part` in their places."""
  return {
    name: value if name not in part
    else with_part(value, part[name]) if isinstance(value, dict)
    else part[name]
    for name, value in tree.items()
  }  # fmt: skip


def like_part(tree: Tree, part: Tree) -> Tree:
  """The leaves of `tree` that `part` has, too."""
  return {
    name: like_part(tree[name], value) if isinstance(value, dict) else tree[name]
    for name, value in part.items()
  }


def check_patterns(tree: Tree, patterns: Sequence[str]):
  """Raises ValueError for a pattern that names no parameter."""
  names = list(weights.flatten(tree))
  for pattern in patterns:
    if not any(re.search(pattern, name) for name in names):
      raise ValueError(
        f'{pattern!r} matches no parameter to train; names are {names[0]!r}, {names[-1]!r} and the '
        'like (see model-info.txt).'
      )


def _selected(tree: Tree, patterns: list[re.Pattern], prefix: str) -> Tree:
  found = {}
  for name, value in tree.items():
    path = f'{prefix}{name}'
    if isinstance(value, dict):
      below = _selected(value, patterns, f'{path}/')
      if below:
        found[name] = below
    elif any(pattern.search(path) for pattern in patterns):
      found[name] = value
  return found
