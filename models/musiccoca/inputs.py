"""Checks of what goes into a style model: valid text, finite audio, finite embeddings.

All code that embeds, mixes or tokenizes a style checks it here, so that NaN never becomes style
tokens, which would be those of an arbitrary style.
"""

from collections.abc import Sequence

import numpy as np

from models.figures import apart

MAX_PROMPT_CHARS = 500
# Shorter audio says next to nothing in a window of 10 s.
MIN_PROMPT_SECS = 0.1
# 40 dB beyond full scale: no mix is that loud, but integers written as floats are.
MAX_PEAK = 100.0
# -80 dBFS: below the noise of 16 bits after dither.
_SILENT_PEAK = 1e-4


class StyleError(ValueError):
  """A style cannot be used; the message says why and what to change."""


def check_unicode(text: str, what: str):
  """Refuses text that UTF-8 cannot encode, such as a command-line argument in Latin-1.

  Args:
    text: to check.
    what: name of the value in the message.

  Raises:
    StyleError: it has a lone surrogate.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise StyleError(
      f'{what} has the lone surrogate {text[error.start]!a} at character {error.start + 1}, which '
      'is not valid Unicode; write it in UTF-8.'
    ) from None


def check_prompt_text(text: str, what: str, max_chars: int = MAX_PROMPT_CHARS):
  """Refuses a text that cannot be a prompt.

  Args:
    text: to check.
    what: name of the value in the message.
    max_chars: the longest.

  Raises:
    StyleError: it is not a string, blank, too long, not valid Unicode, or has a NUL character.
  """
  if not isinstance(text, str):
    raise StyleError(f'{what} is of type {type(text).__name__}; a text is a str.')
  check_unicode(text, what)
  if '\0' in text:
    raise StyleError(f'{what} has a NUL character at character {text.index(chr(0)) + 1}; drop it.')
  if not text.strip():
    raise StyleError(f'{what} is empty; write a text or the path of an audio file.')
  if len(text) > max_chars:
    raise StyleError(f'{what} has {len(text)} characters, longer than {max_chars}; shorten it.')


def check_finite(audio: np.ndarray, what: str, sample_rate: float | None = None):
  """Refuses audio [samples] or [samples, channels] with NaN or infinite samples.

  Args:
    audio: to check.
    what: name of the value in the message.
    sample_rate: Hz, to give the place in seconds, too.

  Raises:
    StyleError: it has some; the first one's value and place are named.
  """
  finite = np.isfinite(audio)
  if finite.all():
    return
  index = np.unravel_index(np.argmin(finite), finite.shape)
  place = f'sample {index[0]}' + (f' of channel {index[1] + 1}' if len(index) > 1 else '')
  if sample_rate:
    place = f'{index[0] / sample_rate:.3f} s ({place})'
  raise StyleError(
    f'{what} holds NaN or infinite samples, {audio.size - finite.sum()} of {audio.size}; the first '
    f'is {audio[index]} at {place}. Cut them out, or export the audio again.'
  )


def check_peak(audio: np.ndarray, what: str) -> float:
  """Returns the peak of finite audio, at least one sample of any shape.

  Raises:
    StyleError: it is 40 dB above full scale or more.
  """
  peak = float(np.abs(audio).max())
  if peak > MAX_PEAK:
    raise StyleError(
      f'{what} has a peak of {peak:.3g}, {20 * np.log10(peak):.0f} dB above full scale; scale it '
      'to -1..1.'
    )
  return peak


def check_audio(
  audio: np.ndarray, sample_rate: float, what: str, min_secs: float = MIN_PROMPT_SECS
) -> list[str]:
  """Refuses audio that cannot be used; returns warnings about other audio, such as silence.

  Args:
    audio: float [samples] or [samples, channels].
    sample_rate: Hz.
    what: name of the value in messages.
    min_secs: the shortest.

  Raises:
    StyleError: it is too short, has NaN or infinite samples, or a peak of 40 dB above full scale.
  """
  if not len(audio):
    raise StyleError(f'{what} holds no samples.')
  if len(audio) < min_secs * sample_rate:
    secs = apart(len(audio) / sample_rate, min_secs, 4)
    raise StyleError(f'{what} has {secs} s of audio; at least {min_secs:g} s are needed.')
  check_finite(audio, what, sample_rate)
  peak = check_peak(audio, what)
  if peak < _SILENT_PEAK:
    return [f'{what} is silent (peak {peak:.1g} of full scale 1).']
  return []


def check_embeddings(embeddings: np.ndarray, what: str = 'The style embedding') -> np.ndarray:
  """Returns embeddings [..., style_dim] unchanged if they are finite.

  Raises:
    StyleError: one has NaN or infinite coordinates.
  """
  finite = np.isfinite(embeddings).all(-1)
  if not finite.all():
    number = np.size(finite) - np.sum(finite)
    raise StyleError(
      f'{what} has NaN or infinite coordinates (in {number} of {np.size(finite)}); it is not a '
      'style. Look at the audio, the weights or the preset that it was made from.'
    )
  return embeddings


def check_weights(weights: Sequence[float]) -> np.ndarray:
  """Returns weights of a mix as float64 [N], scaled so that their sum is 1.

  Raises:
    StyleError: a weight is negative or not finite, or all are 0.
  """
  weights = np.asarray(weights, np.float64)
  if not np.isfinite(weights).all():
    raise StyleError(f'The weights {weights.tolist()} are not all finite.')
  if (weights < 0).any():
    raise StyleError(
      f'The weight {weights.min():g} is below 0. A style cannot be subtracted, because the mean '
      'would leave the space that the model was trained on.'
    )
  if not weights.any():
    raise StyleError('All prompts have the weight 0; at least one must be above 0.')
  # The largest becomes 1 first: a sum of two weights of 1e308 would overflow.
  weights = weights / weights.max()
  return weights / weights.sum()
