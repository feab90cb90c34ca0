"""Sizes of a MusicCoCa model: the two towers, the log-mel front end, the text."""

import dataclasses
from typing import Any, Self

from models.config import Config

# Released models that `MusicCoCa.load` knows: v1 (TensorFlow), v2 (LiteRT), v2's weights in JAX.
OFFICIAL_NAMES = ('musiccoca_mv212', 'musiccoca_v2', 'musiccoca_v2_jax')


@dataclasses.dataclass(frozen=True)
class TowerConfig:
  """Sizes of one Transformer tower with its one-query attention pooler.

  Attributes:
    num_layers: pre-norm layers.
    model_dim: width of the residual stream.
    num_heads: attention heads of a layer.
    head_dim: width of a head.
    mlp_dim: hidden width of the feed-forward part.
    pooler_heads: attention heads of the pooler.
    pooler_head_dim: width of such a head.
  """

  num_layers: int
  model_dim: int
  num_heads: int
  head_dim: int
  mlp_dim: int
  pooler_heads: int
  pooler_head_dim: int


_REAL_TOWER = TowerConfig(
  num_layers=12, model_dim=768, num_heads=12, head_dim=64, mlp_dim=3072,
  pooler_heads=12, pooler_head_dim=256,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MusicCoCaConfig(Config):
  """Sizes of the model; sample rate, window, width of the embedding and RVQ stand in the spec.

  Attributes:
    audio: the audio tower.
    text: the text tower.
    vocab_size: SentencePiece pieces.
    max_text_length: text positions, the start id included.
    frame_length: samples of one analysis frame.
    hop_length: samples between frames.
    fft_length: points of the FFT.
    mel_bins: mel bands.
    mel_lower_hz: lower edge of the lowest band.
    mel_upper_hz: upper edge of the highest band.
    pre_emphasis: x[n] - pre_emphasis * x[n - 1].
    log_floor: natural log of (mel + log_floor).
    patch_size: frames and bands of one square patch.
    attention_cap: logits of the layers are capped to cap * tanh(logits / cap).
    norm_epsilon: of the layer norms.
  """

  audio: TowerConfig = _REAL_TOWER
  text: TowerConfig = _REAL_TOWER
  vocab_size: int = 16_000
  max_text_length: int = 128
  frame_length: int = 400
  hop_length: int = 160
  fft_length: int = 2048
  mel_bins: int = 128
  mel_lower_hz: float = 20.0
  mel_upper_hz: float = 8_000.0
  pre_emphasis: float = 0.97
  log_floor: float = 1e-3
  patch_size: int = 16
  attention_cap: float = 50.0
  norm_epsilon: float = 1e-6

  def __post_init__(self):
    if self.mel_bins % self.patch_size:
      raise ValueError(f'patch_size={self.patch_size} does not divide mel_bins={self.mel_bins}.')
    if self.frame_length > self.fft_length:
      raise ValueError(
        f'frame_length={self.frame_length} is longer than fft_length={self.fft_length}.'
      )

  @classmethod
  def real(cls) -> 'MusicCoCaConfig':
    """The released model's sizes: text 104,531,712 and audio 92,722,944 parameters."""
    return cls()

  @classmethod
  def tiny(cls) -> 'MusicCoCaConfig':
    """For CPUs: about 1.3 M parameters in both towers."""
    tower = TowerConfig(
      num_layers=3, model_dim=128, num_heads=4, head_dim=32, mlp_dim=384,
      pooler_heads=4, pooler_head_dim=32,
    )  # fmt: skip
    return cls(audio=tower, text=dataclasses.replace(tower, num_layers=2), vocab_size=1024)

  def num_frames(self, num_samples: int) -> int:
    """Frames of `num_samples` that the audio tower sees: whole patches, no padding."""
    frames = (num_samples - self.frame_length) // self.hop_length + 1
    return max(frames, 0) // self.patch_size * self.patch_size

  def num_patches(self, num_samples: int) -> int:
    """Patches (tokens of the audio tower) of `num_samples`."""
    return self.num_frames(num_samples) // self.patch_size * (self.mel_bins // self.patch_size)

  @classmethod
  def from_dict(cls, values: dict[str, Any]) -> Self:
    """See `Config.from_dict`; the towers come as dictionaries."""
    towers = {name: TowerConfig(**values[name]) for name in ('audio', 'text') if name in values}
    return super().from_dict({**values, **towers})
