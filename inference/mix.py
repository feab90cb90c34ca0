"""What a player is set to: prompts on a pad and their weights, sampling, seed, buffer."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from inference.prompts import PromptError, parse_prompt, split_weight
from inference.protocol import MAX_PROMPTS, MAX_WEIGHT, ProtocolError
from inference.sampling import SamplingOptions
from models.figures import exact

# How sharply weights fall with the distance, and within which distance a prompt stands alone.
_SHARPNESS = 3.0
_NEAR = 0.02


@dataclasses.dataclass(frozen=True)
class MixPrompt:
  """One prompt of a mix.

  Attributes:
    kind: 'text', 'preset' or 'audio'.
    content: the text, the preset's name, or the id of an upload.
    weight: its share before normalisation, 0..2.
    x: place on the pad, 0 is left.
    y: place on the pad, 0 is the top.
    label: what to show for it; only carried.
  """

  kind: str
  content: str
  weight: float = 1.0
  x: float = 0.5
  y: float = 0.5
  label: str = ''


@dataclasses.dataclass(frozen=True)
class Settings:
  """All that a player can be told, one version of it.

  Attributes:
    version: counts changes; chunks say which one they were made with.
    prompts: up to 6.
    cursor: place on the pad that gave the weights last; None where sliders did.
    sampling: temperature, top-k, guidance.
    seed: of the session.
    buffer_secs: how far ahead of playback to be.
    inject: id of the upload that is heard as context; None for none.
    inject_amount: its share of what the model hears, 0..1.
  """

  version: int = 0
  prompts: tuple[MixPrompt, ...] = ()
  cursor: tuple[float, float] | None = None
  sampling: SamplingOptions = SamplingOptions()
  seed: int = 0
  buffer_secs: float = 2.0
  inject: str | None = None
  inject_amount: float = 0.5

  @property
  def weights(self) -> tuple[float, ...]:
    return tuple(prompt.weight for prompt in self.prompts)

  def to_json(self) -> dict[str, Any]:
    """The fields of the `settings` message."""
    return {
      'version': self.version,
      'prompts': [dataclasses.asdict(prompt) for prompt in self.prompts],
      'cursor': list(self.cursor) if self.cursor else None,
      'sampling': {**dataclasses.asdict(self.sampling), 'seed': self.seed},
      'buffer_secs': self.buffer_secs,
      'inject': {'upload': self.inject, 'amount': self.inject_amount},
    }


def pad_weights(
  places: Sequence[tuple[float, float]], cursor: tuple[float, float]
) -> tuple[float, ...]:
  """Weights of prompts by the cursor's distance from them; they sum to 1.

  Shepard's inverse distance weighting, w_i = d_i^-p / sum_j d_j^-p with p = 3: continuous, and a
  prompt that the cursor stands on has all of it.

  Args:
    places: (x, y) of each prompt.
    cursor: (x, y).
  """
  if not places:
    return ()
  distances = np.hypot(*(np.asarray(places, np.float64) - np.asarray(cursor)).T)
  # Smoothly bounded, so that two prompts in one place share.
  powers = np.maximum(distances, _NEAR) ** -_SHARPNESS
  if distances.min() <= _NEAR:
    powers = np.where(distances <= _NEAR, powers, 0.0)
  return tuple(float(w) for w in powers / powers.sum())


def on_a_ring(texts: Sequence[str]) -> tuple[MixPrompt, ...]:
  """Prompts as written, around the pad's centre.

  Weights are those written ('0.7:organ'), 1 for a prompt without one; if no prompt has a weight,
  only the first is heard.

  Args:
    texts: texts, or 'preset:NAME'; see `inference.prompts`.

  Raises:
    ProtocolError: there are more than 6, or a weight is above 2.
    PromptError: one cannot be used, or is an audio file; those are added on the page.
  """
  if len(texts) > MAX_PROMPTS:
    raise ProtocolError(f'{len(texts)} prompts were given; a mix has at most {MAX_PROMPTS}.')
  parsed = [parse_prompt(text) for text in texts]
  weighted = any(split_weight(text)[0] is not None for text in texts)
  prompts = []
  for i, prompt in enumerate(parsed):
    if prompt.kind == 'audio':
      raise PromptError(
        f'The prompt {texts[i]!r} is an audio file. Jam begins with texts and presets; drop the '
        'file on the page.'
      )
    weight = prompt.weight if weighted else float(i == 0)
    if weight > MAX_WEIGHT:
      raise ProtocolError(
        f'The prompt {texts[i]!r} has the weight {exact(weight)}, which is not in '
        f'0..{MAX_WEIGHT:g}.'
      )
    angle = 2 * math.pi * i / len(texts) - math.pi / 2
    x, y = 0.5 + 0.36 * math.cos(angle), 0.5 + 0.36 * math.sin(angle)
    prompts.append(MixPrompt(prompt.kind, prompt.content, weight, x, y))
  return tuple(prompts)


def changed(settings: Settings, message: dict[str, Any]) -> Settings:
  """Settings after a `prompts`, `weights`, `cursor`, `sampling`, `buffer`, `inject` or `reset`.

  Raises:
    ProtocolError: there is another number of weights than of prompts, or see `SamplingOptions`.
  """
  kind, fields = message['type'], {k: v for k, v in message.items() if k != 'type'}
  update: dict[str, Any] = {}
  if kind == 'prompts':
    prompts = tuple(MixPrompt(**prompt) for prompt in fields['prompts'])
    cursor = tuple(fields['cursor']) if 'cursor' in fields else None
    update = {'prompts': _placed(prompts, cursor), 'cursor': cursor}
  elif kind == 'weights':
    weights = fields['weights']
    if len(weights) != len(settings.prompts):
      raise ProtocolError(
        f'{len(weights)} weights were sent; there are {len(settings.prompts)} prompts.'
      )
    pairs = zip(settings.prompts, weights, strict=True)
    prompts = tuple(dataclasses.replace(prompt, weight=weight) for prompt, weight in pairs)
    update = {'prompts': prompts, 'cursor': None}
  elif kind == 'cursor':
    cursor = (fields['x'], fields['y'])
    update = {'prompts': _placed(settings.prompts, cursor), 'cursor': cursor}
  elif kind == 'sampling':
    seed = fields.pop('seed', settings.seed)
    try:
      update = {'sampling': dataclasses.replace(settings.sampling, **fields), 'seed': seed}
    except ValueError as error:
      raise ProtocolError(str(error)) from None
  elif kind == 'buffer':
    update = {'buffer_secs': fields['secs']}
  elif kind == 'inject':
    amount = fields.get('amount', settings.inject_amount)
    update = {'inject': fields.get('upload'), 'inject_amount': amount}
  elif kind == 'reset' and 'seed' in fields:
    update = {'seed': fields['seed']}
  return dataclasses.replace(settings, version=settings.version + 1, **update)


def _placed(
  prompts: tuple[MixPrompt, ...], cursor: tuple[float, float] | None
) -> tuple[MixPrompt, ...]:
  if cursor is None:
    return prompts
  weights = pad_weights([(prompt.x, prompt.y) for prompt in prompts], cursor)
  return tuple(dataclasses.replace(p, weight=w) for p, w in zip(prompts, weights, strict=True))
