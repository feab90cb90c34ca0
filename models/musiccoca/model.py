"""The style model in use: text and audio in, embeddings and style tokens out."""

import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from models import weights
from models.musiccoca import frontend, towers
from models.musiccoca.config import OFFICIAL_NAMES, MusicCoCaConfig
from models.musiccoca.embedder import StyleEmbedder
from models.musiccoca.quantizer import Quantizer, quantizer_from_tree
from models.musiccoca.vocabulary import TextVocabulary
from models.spec import LiveMusicSpec

_BUNDLED = pathlib.Path(__file__).parent / 'bundled'
_BLOCK = 8  # Windows or texts of one call: short lists use blocks of 1, nothing else compiles.


class MusicCoCa(StyleEmbedder):
  """Two towers into one space of `spec.style_dim` dimensions, and its residual quantizer."""

  def __init__(
    self,
    config: MusicCoCaConfig,
    params: dict[str, Any],
    vocabulary: TextVocabulary,
    quantizer: Quantizer,
    spec: LiveMusicSpec | None = None,
    card: dict[str, Any] | None = None,
    *,
    mel_matrix: np.ndarray | None = None,
    dtype: Any = np.float16,
    identity: str | None = None,
  ):
    """Wraps trained parts.

    Args:
      config: sizes.
      params: {'audio': ..., 'text': ...}; other entries (the caption decoder) are left out.
      vocabulary: of the text tower.
      quantizer: fitted on this model's embeddings.
      spec: rates and sizes of the system.
      card: what describes the weights (recipe, data, figures), saved with them.
      mel_matrix: power spectrum -> mel bands [fft_length / 2 + 1, mel_bins] of a released model;
        None for the one that the sizes define.
      dtype: what weights are saved in. All values are rounded to it here, so that saving and
        loading change nothing; they compute in float32.
      identity: `content_hash` of the released files that the weights are; None for own weights.
    """
    self.config = config
    self.spec = spec or LiveMusicSpec()
    self.vocabulary = vocabulary
    self.card = dict(card or {})
    self.dtype = np.dtype(dtype)
    rounded = functools.partial(jax.tree.map, self._rounded)
    self.quantizer = quantizer_from_tree(rounded(quantizer.tree()))
    self.mel_matrix = None if mel_matrix is None else self._rounded(mel_matrix)
    self.params = {
      name: jax.tree.map(jnp.asarray, rounded(params[name])) for name in ('audio', 'text')
    }
    self._codebooks = self.quantizer.codebooks
    self._identity = identity
    rate, matrix = self.spec.style_sample_rate, self.mel_matrix

    @jax.jit
    def run_audio(params: dict[str, Any], clips: jax.Array) -> jax.Array:
      return towers.embed_log_mel(params, frontend.log_mel(clips, config, rate, matrix), config)

    @jax.jit
    def run_text(params: dict[str, Any], ids: jax.Array, paddings: jax.Array) -> jax.Array:
      return towers.embed_text_ids(params, ids, paddings, config)

    self._run_audio = run_audio
    self._run_text = run_text

  def _rounded(self, x: np.ndarray) -> np.ndarray:
    return np.asarray(x, self.dtype).astype(np.float32)

  @classmethod
  def load(cls, name_or_path: str | pathlib.Path = 'tiny') -> StyleEmbedder:
    """Loads a bundled model by name, an official one, or a .safetensors file that `save` wrote.

    Official names (`models.musiccoca.official`) are looked up in the asset directory.

    Raises:
      FileNotFoundError: neither a name nor a file; or a released file is missing, with where to
        put it.
      ValueError: the file is not a MusicCoCa model.
    """
    if str(name_or_path) in OFFICIAL_NAMES:
      from models.musiccoca import official

      return official.load(str(name_or_path))
    path = pathlib.Path(name_or_path).expanduser()
    bundled = _BUNDLED / f'{name_or_path}.safetensors'
    if path.suffix != '.safetensors':
      if not bundled.is_file():
        names = sorted(p.stem for p in _BUNDLED.glob('*.safetensors'))
        raise FileNotFoundError(
          f'{str(name_or_path)!r} is neither a bundled style model ({names}) nor a .safetensors '
          f'file nor an official model ({list(OFFICIAL_NAMES)}).'
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
      quantizer_from_tree(tree['quantizer']),
      LiveMusicSpec.from_dict(metadata['spec']),
      metadata.get('card', {}),
      mel_matrix=tree.get('front_end', {}).get('mel_matrix'),
      dtype=metadata.get('dtype', 'float16'),
      identity=metadata.get('identity'),
    )

  def save(self, path: str | pathlib.Path) -> pathlib.Path:
    """Writes towers, vocabulary, codebooks and card to one .safetensors file, in `dtype`."""
    metadata = {
      'kind': 'musiccoca',
      'config': self.config.to_dict(),
      'spec': self.spec.to_dict(),
      'card': self.card,
      'dtype': self.dtype.name,
    }
    if self._identity:
      metadata['identity'] = self._identity
    return weights.save(path, self._tree(), metadata, self.dtype)

  def _tree(self) -> dict[str, Any]:
    tree = {
      **jax.tree.map(np.asarray, self.params),
      'quantizer': self.quantizer.tree(),
      'vocabulary': np.frombuffer(self.vocabulary.model, np.uint8),
    }
    return tree if self.mel_matrix is None else tree | {
      'front_end': {'mel_matrix': self.mel_matrix}
    }

  @functools.cached_property
  def content_hash(self) -> str:
    """Identity of towers, vocabulary and codebooks: 16 hex digits."""
    return self._identity or weights.tree_hash(self._tree())

  @property
  def codebooks(self) -> np.ndarray:
    """float32 [style_rvq_levels, codebook_size, style_dim]."""
    return self._codebooks

  def embed_clips(self, clips: np.ndarray) -> np.ndarray:
    """Mono windows [N, window_samples] at the model's rate -> float32 [N, style_dim]."""
    return self._in_blocks(functools.partial(self._run_audio, self.params['audio']), clips)

  def embed_ids(self, ids: np.ndarray, paddings: np.ndarray) -> np.ndarray:
    """What the vocabulary makes of N texts -> float32 [N, style_dim]."""
    return self._in_blocks(functools.partial(self._run_text, self.params['text']), ids, paddings)

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
