"""What every style model does, however its towers are run: texts, audio of any length, tokens."""

import abc
import functools
import math
from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import soxr

from models import rvq
from models.musiccoca.inputs import check_embeddings, check_finite
from models.musiccoca.vocabulary import TextVocabulary
from models.spec import LiveMusicSpec

_WINDOWS_AT_ONCE = 64  # 41 MB of audio at 16 kHz: what `embed_audios` holds at a time.

_quantize = jax.jit(rvq.quantize)


class StyleEmbedder(abc.ABC):
  """Text and audio in, embeddings and style tokens out; NumPy in and out.

  Embeddings are not L2-normalised: normalise them to compare, mix them as they are.

  Attributes:
    spec: rates and sizes of the system.
    vocabulary: of the text tower.
    variant: what changes embeddings besides the weights (the runtime, a mapper); '' for nothing.
  """

  spec: LiveMusicSpec
  vocabulary: TextVocabulary
  variant = ''

  @property
  @abc.abstractmethod
  def content_hash(self) -> str:
    """Identity of towers, vocabulary and codebooks: 16 hex digits."""

  @property
  @abc.abstractmethod
  def codebooks(self) -> np.ndarray:
    """float32 [style_rvq_levels, codebook_size, style_dim]."""

  @abc.abstractmethod
  def embed_clips(self, clips: np.ndarray) -> np.ndarray:
    """Mono windows [N, window_samples] at the model's rate -> float32 [N, style_dim]."""

  @abc.abstractmethod
  def embed_ids(self, ids: np.ndarray, paddings: np.ndarray) -> np.ndarray:
    """What the vocabulary makes of N texts -> float32 [N, style_dim]."""

  @property
  def window_samples(self) -> int:
    """Samples of one window at the style model's own rate (160,000)."""
    return self.spec.style_window_secs * self.spec.style_sample_rate

  def embed_text(self, texts: Sequence[str]) -> np.ndarray:
    """Texts -> float32 [N, style_dim].

    Text is lower-cased; more than `max_text_length - 1` pieces are cut; an empty text is legal and
    gives the embedding of the start id alone; letters and words that the vocabulary lacks become
    the unknown id, so a text of them alone says nothing but its length.

    Raises:
      StyleError: a text has a lone surrogate.
      TypeError: a bare string instead of a list.
    """
    return self.embed_ids(*self.vocabulary.encode(texts))

  def embed_audio(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Audio of any length -> the mean of its windows' embeddings, [style_dim] or [B, style_dim].

    Args:
      audio: [n], [n, channels] or [B, n, channels] float. Two axes are read as [n, channels]; a
        batch of mono clips needs its channel axis.
      sample_rate: Hz; other rates than the model's are resampled.

    Returns:
      float32 [style_dim], or [B, style_dim] for a batch; zeros where there are no samples.
    """
    audio = np.asarray(audio)
    if audio.ndim == 3:
      windows = np.stack([self.windows(item, sample_rate) for item in audio])
      flat = self.embed_clips(windows.reshape(-1, self.window_samples))
      embeddings = flat.reshape(*windows.shape[:2], self.spec.style_dim)
    else:
      embeddings = self.embed_windows(audio, sample_rate)
    if not embeddings.shape[-2]:
      return np.zeros([*embeddings.shape[:-2], self.spec.style_dim], np.float32)
    return embeddings.mean(-2)

  def embed_audios(self, items: Iterable[tuple[np.ndarray, int]]) -> np.ndarray:
    """Recordings of any lengths and rates -> float32 [N, style_dim], each the mean of its windows.

    Windows of neighbouring recordings go through the tower together.

    Args:
      items: (audio [n] or [n, channels], sample rate in Hz); may be a generator, which is read as
        it is used.
    """
    counts: list[int] = []
    pending: list[np.ndarray] = []
    embeddings = [np.zeros([0, self.spec.style_dim], np.float32)]
    for audio, sample_rate in items:
      pending.append(self.windows(audio, sample_rate))
      counts.append(len(pending[-1]))
      if sum(map(len, pending)) >= _WINDOWS_AT_ONCE:
        embeddings.append(self.embed_clips(np.concatenate(pending)))
        pending = []
    if pending:
      embeddings.append(self.embed_clips(np.concatenate(pending)))
    sums = np.zeros([len(counts), self.spec.style_dim])
    np.add.at(sums, np.repeat(np.arange(len(counts)), counts), np.concatenate(embeddings))
    return (sums / np.maximum(counts, 1).reshape(-1, 1)).astype(np.float32)

  def embed_windows(
    self,
    audio: np.ndarray,
    sample_rate: int,
    *,
    hop_secs: float | None = None,
    pad_end: bool = True,
  ) -> np.ndarray:
    """Audio [n] or [n, channels] -> float32 [windows, style_dim], one row a window.

    `hop_secs` and `pad_end` are those of `windows`.
    """
    return self.embed_clips(self.windows(audio, sample_rate, hop_secs=hop_secs, pad_end=pad_end))

  def windows(
    self,
    audio: np.ndarray,
    sample_rate: int,
    *,
    hop_secs: float | None = None,
    pad_end: bool = True,
  ) -> np.ndarray:
    """Audio [n] or [n, channels] -> mono windows at the model's rate, float32 [count, samples].

    Channels are averaged, then resampled. A window starts every `hop_secs` as long as there is
    audio: ceil(secs / hop) of them. How many there are follows from the length before resampling.

    Args:
      audio: samples, time first.
      sample_rate: Hz.
      hop_secs: between starts of windows; None for the window's own length (no overlap).
      pad_end: whether windows that reach beyond the end are padded with zeros, or left out.

    Raises:
      ValueError: more than two axes, or a channel axis longer than the time axis, or a rate or hop
        that is not above 0, or a sample that is not finite.
    """
    audio = np.asarray(audio, np.float32)
    check_finite(audio, 'The audio', sample_rate)
    if audio.ndim == 2:
      if audio.shape[1] > max(audio.shape[0], 8):
        raise ValueError(f'Audio of shape {audio.shape}: time comes first, then channels.')
      audio = audio.mean(1)
    if audio.ndim != 1:
      raise ValueError(f'Audio of shape {audio.shape} is not [n] or [n, channels].')
    hop_secs = self.spec.style_window_secs if hop_secs is None else hop_secs
    if not (sample_rate > 0 and hop_secs > 0):
      raise ValueError(f'sample_rate={sample_rate} and hop_secs={hop_secs} must be above 0.')
    secs = len(audio) / sample_rate
    if pad_end:
      count = math.ceil(len(audio) / (sample_rate * hop_secs))
    else:
      count = max(0, math.floor((secs - self.spec.style_window_secs) / hop_secs) + 1)
    if sample_rate != self.spec.style_sample_rate and len(audio):
      audio = soxr.resample(audio, sample_rate, self.spec.style_sample_rate)
    starts = [round(i * hop_secs * self.spec.style_sample_rate) for i in range(count)]
    windows = np.zeros([count, self.window_samples], np.float32)
    for window, start in zip(windows, starts):
      samples = audio[start : start + self.window_samples]
      window[: len(samples)] = samples
    return windows

  def tokenize(self, embeddings: np.ndarray) -> np.ndarray:
    """Embeddings [..., style_dim] -> style tokens [..., style_rvq_levels] int32, codes 0..1023.

    Raises:
      StyleError: an embedding is not finite.
    """
    embeddings = jnp.asarray(check_embeddings(np.asarray(embeddings, np.float32)))
    return np.asarray(_quantize(embeddings, self._codebooks_on_device), np.int32)

  @functools.cached_property
  def _codebooks_on_device(self) -> jax.Array:
    return jnp.asarray(self.codebooks)
