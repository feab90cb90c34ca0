"""Prompts as people write them -> one style embedding.

A prompt is a text ('church organ'), an audio file ('loop.wav'), or a preset of the bundle
('preset:mean'); a number and a colon before it give its weight ('0.7:church organ'). Several
prompts are mixed to the weighted mean of their embeddings, sum(w e) / sum(w), as Magenta RealTime
does it: no renormalisation to unit length.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from models.musiccoca import mixing

# What soundfile decodes, and what a user may well try but it does not.
AUDIO_SUFFIXES = (
  '.wav', '.flac', '.mp3', '.ogg', '.oga', '.opus', '.aif', '.aiff', '.aifc', '.w64', '.caf',
)  # fmt: skip
UNSUPPORTED_SUFFIXES = ('.m4a', '.mp4', '.aac', '.wma')
PRESET_PREFIX = 'preset:'
_WEIGHTED = re.compile(r'^\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*:(.*)$', re.DOTALL)
# What somebody may well mean as a weight: 0,7 or 70% or 1e-3 or nan.
_NEARLY_WEIGHTED = re.compile(r'^\s*([+-]?(?:[\d.,]+(?:e[+-]?\d+)?%?|nan|inf))\s*:', re.IGNORECASE)

AudioReader = Callable[[str], tuple[np.ndarray, int]]


class PromptError(ValueError):
  """A prompt that cannot be read; the message says why and what would do."""


@dataclasses.dataclass(frozen=True)
class Prompt:
  """One prompt: `kind` is 'text', 'audio' (content is a path) or 'preset' (content is its name)."""

  content: str
  kind: str = 'text'
  weight: float = 1.0


def parse_prompt(text: str) -> Prompt:
  """Reads one prompt, e.g. '0.3:loop.wav' -> Prompt('loop.wav', 'audio', 0.3).

  A text that itself begins with a number and a colon is written with a weight: '1:4:4 swing'.

  Raises:
    PromptError: it is empty, its weight is negative or no plain number, or its audio file does not
      exist or is of a format that cannot be decoded.
  """
  match = _WEIGHTED.match(text)
  weight = float(match.group(1)) if match else 1.0
  if not match and (wrong := _NEARLY_WEIGHTED.match(text)):
    raise PromptError(
      f'The prompt {text!r} begins with {wrong.group(1)!r}, which is no weight; write one as 0.7.'
    )
  content = (match.group(2) if match else text).strip()
  if not content:
    raise PromptError(f'The prompt {text!r} is empty; write a text or the path of an audio file.')
  if weight < 0:
    raise PromptError(
      f'The prompt {text!r} has the weight {weight:g}. Weights are at least 0: a style cannot be '
      'subtracted, because the mean would leave the space that the model was trained on.'
    )
  if content.startswith(PRESET_PREFIX):
    return Prompt(content[len(PRESET_PREFIX) :], 'preset', weight)
  if content.lower().endswith(AUDIO_SUFFIXES):
    if not pathlib.Path(content).is_file():
      raise PromptError(f'The prompt {text!r} names an audio file, and there is none at {content}.')
    return Prompt(content, 'audio', weight)
  if content.lower().endswith(UNSUPPORTED_SUFFIXES):
    raise PromptError(
      f'The prompt {text!r} names a file that cannot be decoded here; convert it to WAV or FLAC.'
    )
  return Prompt(content, 'text', weight)


def parse_prompts(texts: Sequence[str]) -> list[Prompt]:
  """Reads a mix of prompts.

  Raises:
    PromptError: a prompt cannot be read, there is none, or all weights are 0.
  """
  prompts = [parse_prompt(text) for text in texts]
  if not prompts:
    raise PromptError('There is no prompt; give a text or the path of an audio file.')
  if not any(prompt.weight for prompt in prompts):
    raise PromptError('All prompts have the weight 0; at least one must be above 0.')
  return prompts


def weighted_mean(embeddings: np.ndarray, weights: Sequence[float]) -> np.ndarray:
  """sum(w e) / sum(w) of embeddings [N, style_dim] -> float32 [style_dim].

  Raises:
    PromptError: a weight is negative or all are 0.
  """
  try:
    return mixing.weighted_mean(embeddings, weights)
  except mixing.StyleError as error:
    raise PromptError(str(error)) from None


def read_audio_file(path: str) -> tuple[np.ndarray, int]:
  """Audio file -> (float32 [samples, channels], sample rate in Hz).

  Raises:
    PromptError: it cannot be decoded.
  """
  import soundfile

  try:
    audio, sample_rate = soundfile.read(path, dtype='float32', always_2d=True)
  except soundfile.LibsndfileError as error:
    raise PromptError(f'The audio file {path} cannot be decoded: {error}') from error
  return audio, sample_rate


def embed_prompts(
  prompts: Sequence[str | Prompt],
  style: Any,
  *,
  presets: Mapping[str, np.ndarray] | None = None,
  read_audio: AudioReader = read_audio_file,
) -> np.ndarray:
  """A mix of prompts -> its style embedding, float32 [style_dim].

  Args:
    prompts: as written, or parsed.
    style: a style model with `embed_text` and `embed_audio` (`models.musiccoca.MusicCoCa`).
    presets: embeddings by name, for 'preset:NAME'.
    read_audio: path -> (audio [samples, channels], sample rate).

  Raises:
    PromptError: see `parse_prompts`; or a preset is unknown, or an audio file is empty.
  """
  parsed = [parse_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
  if not parsed:
    raise PromptError('There is no prompt; give a text or the path of an audio file.')
  embeddings = [_embed_one(prompt, style, presets or {}, read_audio) for prompt in parsed]
  return weighted_mean(np.stack(embeddings), [prompt.weight for prompt in parsed])


def _embed_one(
  prompt: Prompt, style: Any, presets: Mapping[str, np.ndarray], read_audio: AudioReader
) -> np.ndarray:
  if prompt.kind == 'preset':
    if prompt.content not in presets:
      raise PromptError(
        f'The bundle has no preset {prompt.content!r}; it has {sorted(presets) or "none"}.'
      )
    return np.asarray(presets[prompt.content], np.float32)
  if prompt.kind == 'audio':
    audio, sample_rate = read_audio(prompt.content)
    if not len(audio):
      raise PromptError(f'The audio prompt {prompt.content} holds no samples.')
    return np.asarray(style.embed_audio(audio, sample_rate), np.float32)
  return np.asarray(style.embed_text([prompt.content]), np.float32)[0]
