"""The style model in use: text and audio in, embeddings and style tokens out."""

import functools
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import soxr

from models import rvq, weights
from models.musiccoca import frontend, towers
from models.musiccoca.config import MusicCoCaConfig
from models.musiccoca.quantizer import StyleQuantizer, float16_values
from models.musiccoca.vocabulary import TextVocabulary
from models.spec import LiveMusicSpec

_BUNDLED = pathlib.Path(__file__).parent / 'bundled'
_BLOCK = 8  # Windows or texts of one call: short lists use blocks of 1, nothing else compiles.


class MusicCoCa:
  """Two towers into one space of `spec.style_dim` dimensions, and its residual quantizer.

  Embeddings are not L2-normalised: normalise them to compare, mix them as they are. NumPy in and
  out.
  """

  def __init__(
    self,
    config: MusicCoCaConfig,
    params: dict[str, Any],
    vocabulary: TextVocabulary,
    quantizer: StyleQuantizer,
    spec: LiveMusicSpec | None = None,
    card: dict[str, Any] | None = None,
  ):
    """Wraps trained parts.

    Args:
      config: sizes.
      params: {'audio': ..., 'text': ...}; other entries (the caption decoder) are left out.
        Values are rounded to float16, so that saving and loading change nothing.
      vocabulary: of the text tower.
      quantizer: fitted on this model's embeddings.
      spec: rates and sizes of the system.
      card: what describes the weights (recipe, data, figures), saved with them.
    """
    self.config = config
    self.spec = spec or LiveMusicSpec()
    self.vocabulary = vocabulary
    self.quantizer = quantizer
    self.card = dict(card or {})
    self.params = {
      name: jax.tree.map(lambda x: jnp.asarray(float16_values(x)), params[name])
      for name in ('audio', 'text')
    }
    self._codebooks = jnp.asarray(quantizer.codebooks)
    rate = self.spec.style_sample_rate

    @jax.jit
    def embed_clips(params: dict[str, Any], clips: jax.Array) -> jax.Array:
      return towers.embed_log_mel(params, frontend.log_mel(clips, config, rate), config)

    @jax.jit
    def embed_ids(params: dict[str, Any], ids: jax.Array, paddings: jax.Array) -> jax.Array:
      return towers.embed_text_ids(params, ids, paddings, config)

    self._embed_clips = embed_clips
    self._embed_ids = embed_ids
    self._quantize = jax.jit(rvq.quantize)

  @classmethod
  def load(cls, name_or_path: str | pathlib.Path = 'tiny') -> 'MusicCoCa':
    """Loads a bundled model by name, or a .safetensors file that `save` wrote.

    Raises:
      FileNotFoundError: neither a bundled name nor a file.
      ValueError: the file is not a MusicCoCa model.
    """
    path = pathlib.Path(name_or_path)
    bundled = _BUNDLED / f'{name_or_path}.safetensors'
    if path.suffix != '.safetensors':
      if not bundled.is_file():
        names = sorted(p.stem for p in _BUNDLED.glob('*.safetensors'))
        raise FileNotFoundError(
          f'{str(name_or_path)!r} is neither a bundled style model ({names}) nor a .safetensors '
          'file.'
        )
      path = bundled
    tree, metadata = weights.load(path)
    if metadata.get('kind') != 'musiccoca':
      raise ValueError(f'{path} holds {metadata.get("kind", "something else")}, not a style model.')
    config = MusicCoCaConfig.from_dict(metadata['config'])
    return cls(
      config,
      {'audio': tree['audio'], 'text': tree['text']},
      TextVocabulary(tree['vocabulary'].tobytes(), config.max_text_length),
      StyleQuantizer(**tree['quantizer']),
      LiveMusicSpec.from_dict(metadata['spec']),
      metadata.get('card', {}),
    )

  def save(self, path: str | pathlib.Path) -> pathlib.Path:
    """Writes towers, vocabulary, codebooks and card to one .safetensors file in float16."""
    metadata = {
      'kind': 'musiccoca',
      'config': self.config.to_dict(),
      'spec': self.spec.to_dict(),
      'card': self.card,
    }
    return weights.save(path, self._tree(), metadata)

  def _tree(self) -> dict[str, Any]:
    return {
      **jax.tree.map(np.asarray, self.params),
      'quantizer': self.quantizer.tree(),
      'vocabulary': np.frombuffer(self.vocabulary.model, np.uint8),
    }

  @functools.cached_property
  def content_hash(self) -> str:
    """Identity of towers, vocabulary and codebooks: 16 hex digits."""
    return weights.tree_hash(self._tree())

  @property
  def codebooks(self) -> np.ndarray:
    """float32 [style_rvq_levels, codebook_size, style_dim]."""
    return np.asarray(self._codebooks)

  @property
  def window_samples(self) -> int:
    """Samples of one window at the style model's own rate (160,000)."""
    return self.spec.style_window_secs * self.spec.style_sample_rate

  def embed_text(self, texts: Sequence[str]) -> np.ndarray:
    """Texts -> float32 [N, style_dim].

    Text is lower-cased; more than `max_text_length - 1` pieces are cut; an empty text is legal and
    gives the embedding of the start id alone.

    Raises:
      TypeError: a bare string instead of a list.
    """
    ids, paddings = self.vocabulary.encode(texts)
    return self._in_blocks(functools.partial(self._embed_ids, self.params['text']), ids, paddings)

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

  def embed_windows(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Audio [n] or [n, channels] -> float32 [ceil(secs / 10), style_dim], one row a window."""
    return self.embed_clips(self.windows(audio, sample_rate))

  def windows(self, audio: np.ndarray, sample_rate: int) -> np.ndarray:
    """Audio [n] or [n, channels] -> mono windows at the model's rate, [ceil(secs / 10), samples].

    Channels are averaged, then resampled; the last window is padded with zeros. The number of
    windows follows from the length before resampling.

    Raises:
      ValueError: more than two axes, or a channel axis longer than the time axis.
    """
    audio = np.asarray(audio, np.float32)
    if audio.ndim == 2:
      if audio.shape[1] > max(audio.shape[0], 8):
        raise ValueError(f'Audio of shape {audio.shape}: time comes first, then channels.')
      audio = audio.mean(1)
    if audio.ndim != 1:
      raise ValueError(f'Audio of shape {audio.shape} is not [n] or [n, channels].')
    count = math.ceil(len(audio) / (sample_rate * self.spec.style_window_secs))
    if sample_rate != self.spec.style_sample_rate and len(audio):
      audio = soxr.resample(audio, sample_rate, self.spec.style_sample_rate)
    windows = np.zeros([count, self.window_samples], np.float32)
    length = min(windows.size, len(audio))
    windows.reshape(-1)[:length] = audio[:length]
    return windows

  def embed_clips(self, clips: np.ndarray) -> np.ndarray:
    """Mono windows [N, window_samples] at the model's rate -> float32 [N, style_dim]."""
    return self._in_blocks(functools.partial(self._embed_clips, self.params['audio']), clips)

  def _in_blocks(self, embed: Any, *arrays: np.ndarray) -> np.ndarray:
    """Runs `embed` over rows in blocks of `_BLOCK` (the last one padded), or one by one if few."""
    count = len(arrays[0])
    size = _BLOCK if count >= _BLOCK else 1
    parts = [np.zeros([0, self.spec.style_dim], np.float32)]
    for start in range(0, count, size):
      rows = [array[start : start + size] for array in arrays]
      missing = size - len(rows[0])
      rows = [np.pad(row, [(0, missing)] + [(0, 0)] * (row.ndim - 1)) for row in rows]
      parts.append(np.asarray(embed(*rows))[: size - missing])
    return np.concatenate(parts)

  def tokenize(self, embeddings: np.ndarray) -> np.ndarray:
    """Embeddings [..., style_dim] -> style tokens [..., style_rvq_levels] int32, codes 0..1023."""
    embeddings = jnp.asarray(embeddings, jnp.float32)
    return np.asarray(self._quantize(embeddings, self._codebooks), np.int32)
