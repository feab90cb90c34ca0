"""Style embeddings of a mix: texts are embedded once and kept, uploads belong to their player."""

import collections
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from inference.mix import Settings
from inference.prompts import text_notes, weighted_mean
from inference.protocol import ProtocolError
from models.musiccoca.inputs import StyleError, check_embeddings

_CACHED_TEXTS = 256


class StyleBook:
  """Embeds prompts with one style model for all players; safe to call from any thread."""

  def __init__(self, style_model: Any, presets: Mapping[str, np.ndarray]):
    self._model, self.presets = style_model, dict(presets)
    self._texts: collections.OrderedDict[str, np.ndarray] = collections.OrderedDict()
    self._lock = threading.Lock()

  def notes(self, text: str) -> list[str]:
    """Returns warnings about a text prompt; see `prompts.text_notes`."""
    return text_notes(text, self._model)

  def warm(self):
    """Compiles what a text prompt needs."""
    self.tokens(self.text('warm'))

  def text(self, text: str) -> np.ndarray:
    """Text -> float32 [style_dim]."""
    with self._lock:
      if text not in self._texts:
        self._texts[text] = _finite(self._model.embed_text([text]), f'The style of {text!r}')[0]
        if len(self._texts) > _CACHED_TEXTS:
          self._texts.popitem(last=False)
      self._texts.move_to_end(text)
      return self._texts[text]

  def audio(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Audio [samples, channels] -> float32 [style_dim]."""
    with self._lock:
      return _finite(self._model.embed_audio(audio, sample_rate), 'The style of the audio')

  def preset(self, name: str) -> np.ndarray:
    """A preset of the bundle.

    Raises:
      ProtocolError: it has none of this name, or it is not finite.
    """
    if name not in self.presets:
      raise ProtocolError(
        f'The bundle has no preset {name!r}; it has {sorted(self.presets) or "none"}.',
        'unknown_preset',
      )
    return _finite(self.presets[name], f'The preset {name!r}')

  def tokens(self, embedding: np.ndarray | None) -> np.ndarray | None:
    """Embedding -> style tokens int32 [style_rvq_levels]; None stays None."""
    return None if embedding is None else np.asarray(self._model.tokenize(embedding))


def _finite(embedding: np.ndarray, what: str) -> np.ndarray:
  """Embeddings as float32; where one is not finite it never gets into a mix.

  Raises:
    ProtocolError: see above.
  """
  try:
    return check_embeddings(np.asarray(embedding, np.float32), what)
  except StyleError as error:
    raise ProtocolError(str(error), 'bad_style') from None


def mixed_style(
  settings: Settings, embed: Callable[[str, str], np.ndarray]
) -> np.ndarray | None:
  """The weighted mean of a mix, float32 [style_dim]; None where no prompt has any weight.

  Args:
    settings: prompts and weights.
    embed: (kind, content) -> embedding.
  """
  heard = [prompt for prompt in settings.prompts if prompt.weight > 0]
  if not heard:
    return None
  embeddings = np.stack([embed(prompt.kind, prompt.content) for prompt in heard])
  return weighted_mean(embeddings, [prompt.weight for prompt in heard])
