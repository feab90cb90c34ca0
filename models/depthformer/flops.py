"""Floating-point operations of a Depthformer, counted from its matrix products (2 m n k each).

The model's own operations, as in PaLM's MFU (Chowdhery et al., arXiv 2204.02311, appendix B): what
a backward pass computes again does not count, attention counts in full although half of it is
masked, and everything that is no matrix product is left out.
"""

import dataclasses

from models.depthformer.config import DepthformerConfig
from models.spec import LiveMusicSpec


@dataclasses.dataclass(frozen=True)
class ForwardFlops:
  """Operations of one example's forward pass, by part of the model."""

  encoder: float
  temporal: float
  depth: float
  logits: float

  @property
  def total(self) -> float:
    return self.encoder + self.temporal + self.depth + self.logits


def forward_flops(config: DepthformerConfig, spec: LiveMusicSpec) -> ForwardFlops:
  """Operations to score the targets of one example, by part."""
  source, frames, targets = spec.inputs_length, spec.chunk_frames, spec.targets_length
  joined = config.num_heads * config.head_dim

  def projections(positions: int, number: int) -> float:
    return 2.0 * number * positions * config.embed_dim * joined

  def attention(queries: int, keys: int) -> float:
    return 4.0 * queries * keys * joined

  def mlp(positions: int) -> float:
    return 6.0 * positions * config.embed_dim * config.mlp_dim

  encoder_layer = projections(source, 4) + attention(source, source) + mlp(source)
  temporal_layer = (
    projections(frames, 4) + attention(frames, frames)  # Self-attention.
    + projections(frames, 2) + projections(source, 2) + attention(frames, source)
    + mlp(frames)
  )  # fmt: skip
  depth_layer = (
    projections(targets, 4) + attention(targets, spec.target_levels) + mlp(targets)
  )
  columns = spec.codebook_size if config.loss_over == 'level' else spec.vocab_size
  return ForwardFlops(
    encoder=config.num_encoder_layers * encoder_layer,
    temporal=config.num_temporal_layers * temporal_layer,
    depth=config.num_depth_layers * depth_layer,
    logits=2.0 * targets * config.embed_dim * columns,
  )


def train_step_flops(config: DepthformerConfig, spec: LiveMusicSpec, batch_size: int) -> float:
  """Operations of loss and gradient: the backward pass costs twice the forward pass."""
  return 3.0 * batch_size * forward_flops(config, spec).total


def executed_flops(config: DepthformerConfig, spec: LiveMusicSpec, batch_size: int) -> float:
  """Operations of a training step with those that its backward pass repeats.

  The encoder's attention always computes its weights twice; 'minimal' remat repeats all attention,
  'full' remat all layers.
  """
  forward = forward_flops(config, spec)
  joined = config.num_heads * config.head_dim
  source, frames, targets = spec.inputs_length, spec.chunk_frames, spec.targets_length
  pairs_by_stack = (
    config.num_encoder_layers * source**2,
    config.num_temporal_layers * frames * (frames + source),
    config.num_depth_layers * targets * spec.target_levels,
  )
  repeated = 2.0 * pairs_by_stack[0] * joined
  if config.remat == 'minimal':
    repeated += 4.0 * sum(pairs_by_stack) * joined
  elif config.remat == 'full':
    repeated += forward.total - forward.logits
  return batch_size * (3.0 * forward.total + repeated)


def chunk_flops(config: DepthformerConfig, spec: LiveMusicSpec, *, guided: bool) -> float:
  """Operations to generate one chunk with the level's logits, of two rows where guided."""
  by_level = dataclasses.replace(config, loss_over='level')
  return (2.0 if guided else 1.0) * forward_flops(by_level, spec).total
