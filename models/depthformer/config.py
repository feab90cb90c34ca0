"""Sizes and numerics of one Depthformer."""

import dataclasses
from typing import Any

from models.config import Config

LOSSES = ('level', 'vocabulary')
REMAT_POLICIES = ('none', 'minimal', 'full')
DTYPES = ('float32', 'bfloat16')


@dataclasses.dataclass(frozen=True)
class DepthformerConfig(Config):
  """Sizes and numerics; what the tokens mean is in `models.spec.LiveMusicSpec`.

  Attributes:
    embed_dim: width D of every residual stream.
    num_heads: attention heads H.
    head_dim: width K of one head (H * K need not equal D).
    mlp_dim: hidden width of the gated MLPs.
    num_encoder_layers: encoder layers (over the context and style tokens).
    num_temporal_layers: decoder layers over frames, with cross-attention.
    num_depth_layers: decoder layers over the levels of one frame.
    temporal_buckets: relative-position buckets of the temporal stack.
    temporal_max_distance: distance in frames from which on the last bucket is used.
    dropout_rate: dropout in training; the depth stack only drops attention weights.
    z_loss: weight of logsumexp^2 per token.
    dtype: activations, 'float32' or 'bfloat16'; parameters are always float32.
    loss_over: 'level' normalises over the codes of the target's own level, 'vocabulary' over all
      ids (Magenta RT v1).
    remat: what the backward pass recomputes: 'none', 'minimal' (all but matrix products with
      weights) or 'full' (everything within a layer).
  """

  embed_dim: int = 128
  num_heads: int = 4
  head_dim: int = 32
  mlp_dim: int = 256
  num_encoder_layers: int = 1
  num_temporal_layers: int = 2
  num_depth_layers: int = 1
  temporal_buckets: int = 128
  temporal_max_distance: int = 128
  dropout_rate: float = 0.1
  z_loss: float = 1e-4
  dtype: str = 'float32'
  loss_over: str = 'level'
  remat: str = 'none'

  def __post_init__(self):
    _check_choice('loss_over', self.loss_over, LOSSES)
    _check_choice('remat', self.remat, REMAT_POLICIES)
    _check_choice('dtype', self.dtype, DTYPES)
    for field in dataclasses.fields(self):
      value = getattr(self, field.name)
      if field.type is int and value < 1:
        raise ValueError(f'{field.name}={value} must be at least 1.')
    if self.embed_dim % 2 or self.embed_dim < 4:
      raise ValueError(
        f'embed_dim={self.embed_dim} must be even and at least 4: half of the position code is '
        'sine, half cosine.'
      )
    half = self.temporal_buckets // 2
    if not 1 <= half < self.temporal_max_distance:
      raise ValueError(
        f'temporal_buckets={self.temporal_buckets} and temporal_max_distance='
        f'{self.temporal_max_distance}: at least 2 buckets, half of them fewer than the distance.'
      )
    if not 0.0 <= self.dropout_rate < 1.0:
      raise ValueError(f'dropout_rate={self.dropout_rate} is not in [0, 1).')

  @classmethod
  def tiny(cls, **overrides: Any) -> 'DepthformerConfig':
    """The size of the bundled model: trains on a laptop's CPU."""
    return cls(**overrides)

  @classmethod
  def base(cls, **overrides: Any) -> 'DepthformerConfig':
    """Magenta RT v1 base, 347,873,472 parameters."""
    sizes = dict(embed_dim=768, num_heads=12, head_dim=64, mlp_dim=2048, num_encoder_layers=12)
    return cls(**(sizes | _V1_NUMERICS | overrides))

  @classmethod
  def large(cls, **overrides: Any) -> 'DepthformerConfig':
    """Magenta RT v1 large, 761,651,456 parameters."""
    sizes = dict(embed_dim=1024, num_heads=16, head_dim=64, mlp_dim=2816, num_encoder_layers=24)
    return cls(**(sizes | _V1_NUMERICS | overrides))


_V1_NUMERICS = dict(
  num_temporal_layers=20, num_depth_layers=4, dtype='bfloat16', loss_over='vocabulary'
)


def _check_choice(name: str, value: str, choices: tuple[str, ...]):
  if value not in choices:
    raise ValueError(f'{name}={value!r} is not one of {choices}.')
