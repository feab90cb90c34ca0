"""What all configurations share: plain values out, and the same plain values in again."""

import dataclasses
from typing import Any, Self


class Config:
  """Base of frozen dataclasses that are stored as JSON beside weights."""

  def to_dict(self) -> dict[str, Any]:
    """Field name -> plain value, nested configurations included."""
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, values: dict[str, Any]) -> Self:
    """Builds one from `to_dict`'s output; what is left out keeps its default.

    Raises:
      ValueError: a field is unknown, so the values were written by another version; names it.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
      raise ValueError(f'Unknown {cls.__name__} fields {unknown}; it has {sorted(known)}.')
    return cls(**values)
