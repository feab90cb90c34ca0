"""What prepare.py wrote, as an evaluation reads it: token records, held-out audio, identity."""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from evaluation import identity
from evaluation.excerpts import TokenRecord
from models.spec import LiveMusicSpec

TRAIN = 'train'
HELD_OUT_SPLITS = ('test', 'validation')


@dataclasses.dataclass(frozen=True)
class HeldOutAudio:
  """The beginning of a held-out track.

  Attributes:
    track_id: of the manifest.
    title: what the reader sees.
    caption: of the manifest, or ''.
    audio: float32 [samples, channels].
  """

  track_id: str
  title: str
  caption: str
  audio: np.ndarray


class PreparedData:
  """placeholder"""

  @classmethod
  def open(cls, *args):
    raise NotImplementedError
