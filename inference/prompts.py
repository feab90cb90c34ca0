"""Prompts as people write them -> one style embedding.

A prompt is a text ('church organ'), an audio file ('loop.wav'), or a preset of the bundle
('preset:mean'); a number and a colon before it give its weight ('0.7:church organ'). Several
prompts are mixed to the weighted mean of their embeddings, sum(w e) / sum(w), as Magenta RealTime
does it: no renormalisation to unit length.
"""

import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from models.musiccoca import mixing
from models.musiccoca.inputs import (
  StyleError,
  check_audio,
  check_embeddings,
  check_prompt_text,
)

# A prompt that ends so is an audio file, which must be there; with another suffix only if it is.
AUDIO_SUFFIXES = (
  '.wav', '.wave', '.flac', '.mp3', '.ogg', '.oga', '.opus', '.aif', '.aiff', '.aifc', '.w64',
  '.caf', '.au', '.m4a', '.m4b', '.m4p', '.aac', '.wma', '.ape', '.wv', '.mpc', '.mka', '.weba',
  '.mp2', '.tta',
)  # fmt: skip
_BLOCK_FRAMES = 1 << 20
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
    PromptError: it is empty, too long or not valid Unicode, its weight is negative, not finite or
      not a plain number, or its audio file does not exist.
  """
  weight, content = split_weight(text)
  prompt = _parse_content(text, content, 1.0 if weight is None else weight)
  if prompt.kind != 'audio':
    _checked(check_prompt_text, prompt.content, f'The prompt {_shortened(text)}')
  return prompt


def split_weight(text: str) -> tuple[float | None, str]:
  """Splits '0.3:loop.wav' into (0.3, 'loop.wav'); without a weight gives (None, text).

  Raises:
    PromptError: the weight is negative, not finite or not a plain number.
  """
  match = _WEIGHTED.match(text)
  if not match:
    if wrong := _NEARLY_WEIGHTED.match(text):
      raise PromptError(
        f'The prompt {_shortened(text)} begins with {wrong.group(1)!r}, which is not a weight; '
        'write one as 0.7.'
      )
    return None, text.strip()
  weight = float(match.group(1))
  if weight < 0:
    raise PromptError(
      f'The prompt {_shortened(text)} has the weight {weight:g}. Weights are at least 0: a style '
      'cannot be subtracted, because the mean would leave the space that the model was trained on.'
    )
  if not math.isfinite(weight):
    raise PromptError(
      f'The prompt {_shortened(text)} has a weight that no float64 holds; write one such as 0.7.'
    )
  return weight, match.group(2).strip()


def _parse_content(text: str, content: str, weight: float) -> Prompt:
  shown = _shortened(text)
  if not content:
    raise PromptError(f'The prompt {shown} is empty; write a text or the path of an audio file.')
  if content.startswith(PRESET_PREFIX):
    return Prompt(content[len(PRESET_PREFIX) :], 'preset', weight)
  is_file = '\0' not in content and bool(pathlib.Path(content).suffix) and os.path.isfile(content)
  if not is_file and content.lower().endswith(AUDIO_SUFFIXES):
    raise PromptError(f'The prompt {shown} names an audio file, and there is none at {content}.')
  if is_file:
    return Prompt(content, 'audio', weight)
  return Prompt(content, 'text', weight)


def _shortened(text: str) -> str:
  return repr(text if len(text) <= 80 else f'{text[:77]}...')


def _checked(check: Callable[..., Any], *arguments: Any) -> Any:
  """What a check of `models.musiccoca` returns; its error becomes a `PromptError`."""
  try:
    return check(*arguments)
  except StyleError as error:
    raise PromptError(str(error)) from None


def lone_prompt(text: str, what: str) -> Prompt:
  """Reads a prompt that is not mixed with others, and for no bundle in particular.

  Args:
    text: as written.
    what: name of the value in the message.

  Raises:
    PromptError: it cannot be read, is a preset, or has a weight.
  """
  prompt = parse_prompt(text)
  if prompt.kind == 'preset':
    raise PromptError(f'{what}={text!r} is a preset of a bundle; write a text or an audio file.')
  if split_weight(text)[0] is not None:
    raise PromptError(
      f'{what}={text!r} has a weight, and nothing to be mixed with; write {prompt.content!r}.'
    )
  return prompt


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
    PromptError: a weight is negative, a weight or an embedding is not finite, or all weights are 0.
  """
  return _checked(mixing.weighted_mean, embeddings, weights)


def read_audio_file(path: str) -> tuple[np.ndarray, int]:
  """Audio file -> (float32 [samples, channels], sample rate in Hz).

  Raises:
    PromptError: it cannot be decoded.
  """
  import soundfile

  try:
    # A name need not be text.
    with soundfile.SoundFile(os.fsencode(path)) as file:
      sample_rate = file.samplerate
      # In blocks: memory is for what is there, not for what the header announces.
      blocks = [file.read(_BLOCK_FRAMES, dtype='float32', always_2d=True)]
      while len(blocks[-1]):
        blocks.append(file.read(_BLOCK_FRAMES, dtype='float32', always_2d=True))
  except (soundfile.LibsndfileError, RuntimeError, OSError) as error:
    raise PromptError(
      f'The audio file {path} cannot be decoded: {error} Convert it to WAV or FLAC.'
    ) from error
  return np.concatenate(blocks), sample_rate


def embed_prompts(
  prompts: Sequence[str | Prompt],
  style: Any,
  *,
  presets: Mapping[str, np.ndarray] | None = None,
  read_audio: AudioReader = read_audio_file,
  say: Callable[[str], Any] = print,
) -> np.ndarray:
  """Embeds a mix of prompts: float32 [style_dim].

  Args:
    prompts: as written, or parsed.
    style: a style model with `embed_text` and `embed_audio` (`models.musiccoca.MusicCoCa`).
    presets: embeddings by name, for 'preset:NAME'.
    read_audio: path -> (audio [samples, channels], sample rate).
    say: is called with a line about a prompt that is silent, cut or unknown to the model.

  Raises:
    PromptError: see `parse_prompts`; or a preset is unknown, or audio has samples that are not
      finite, is shorter than 0.1 s or far beyond full scale, or the style model gives NaN.
  """
  parsed = [parse_prompt(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
  if not parsed:
    raise PromptError('There is no prompt; give a text or the path of an audio file.')
  embeddings = [_embed_one(prompt, style, presets or {}, read_audio, say) for prompt in parsed]
  return weighted_mean(np.stack(embeddings), [prompt.weight for prompt in parsed])


def _embed_one(
  prompt: Prompt,
  style: Any,
  presets: Mapping[str, np.ndarray],
  read_audio: AudioReader,
  say: Callable[[str], Any],
) -> np.ndarray:
  if prompt.kind == 'preset':
    if prompt.content not in presets:
      raise PromptError(
        f'The bundle has no preset {prompt.content!r}; it has {sorted(presets) or "none"}.'
      )
    embedding = presets[prompt.content]
  elif prompt.kind == 'audio':
    audio, sample_rate = read_audio(prompt.content)
    for note in _checked(check_audio, audio, sample_rate, f'The audio prompt {prompt.content}'):
      say(f'{note} The style is that of silence.')
    embedding = _checked(style.embed_audio, audio, sample_rate)
  else:
    what = f'The prompt {_shortened(prompt.content)}'
    _checked(check_prompt_text, prompt.content, what)
    for note in text_notes(prompt.content, style):
      say(note)
    embedding = _checked(style.embed_text, [prompt.content])[0]
  name = f'The style of {_shortened(prompt.content)}'
  return _checked(check_embeddings, np.asarray(embedding, np.float32), name)


def text_notes(text: str, style: Any) -> list[str]:
  """Returns warnings about a text prompt: it is cut, or the style model knows no word of it."""
  vocabulary = getattr(style, 'vocabulary', None)
  if vocabulary is None:
    return []
  kept, shown = vocabulary.num_chars_read(text), _shortened(text)
  notes = []
  if kept < len(text):
    notes.append(f'The style model reads the first {kept} of {len(text)} characters of {shown}.')
  if not vocabulary.knows(text):
    notes.append(f'The style model knows no word or letter of {shown}; its style is arbitrary.')
  return notes
