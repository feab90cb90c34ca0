"""Sizes of a Depthformer, read off the names and shapes of its parameters in v1's tree."""

import dataclasses
import re
from collections.abc import Mapping

from models.depthformer.config import DepthformerConfig
from models.spec import MAGENTA_RT_V1, LiveMusicSpec

Shape = tuple[int, ...]
_TEMPORAL = 'decoder/decoder/temporal_decoder'
_DEPTH = 'decoder/decoder/depth_decoder'


def sizes_from_v1(
  shapes: Mapping[str, Shape], spec: LiveMusicSpec | None = None
) -> tuple[DepthformerConfig, LiveMusicSpec]:
  """The config and the token layout that fit v1's parameters.

  A model of the size of base or large gets v1's numerics (bfloat16, loss over the vocabulary),
  any other the defaults. The largest relative distance is not stored; it is taken to be the number
  of buckets, as in v1.

  Args:
    shapes: {'token_embedder/embedding': (29824, 1024), ...}.
    spec: token layout; None for v1's.

  Raises:
    ValueError: an array that sizes are read off is missing or misshapen, or `spec` does not fit.
  """

  def shape(name: str, rank: int = 2) -> Shape:
    if name not in shapes:
      raise ValueError(f'{name} is missing; these are no parameters of a Depthformer.')
    if len(shapes[name]) != rank:
      raise ValueError(f'{name} has shape {tuple(shapes[name])}, a matrix was expected.')
    return tuple(shapes[name])

  spec = spec or MAGENTA_RT_V1
  vocab_size, embed_dim = shape('token_embedder/embedding')
  num_heads, buckets = shape(f'{_TEMPORAL}/relpos_bias/rel_embedding')
  levels = shape(f'{_DEPTH}/relpos_bias_depth/rel_embedding')[1]
  if (vocab_size, levels) != (spec.vocab_size, spec.target_levels):
    raise ValueError(
      f'The parameters are for {vocab_size} ids and {levels} levels per frame, the token layout '
      f'has {spec.vocab_size} and {spec.target_levels}: give the one that the model was trained on.'
    )
  joined = shape('encoder/layers_0/attention/query/kernel')[1]
  if joined % num_heads:
    raise ValueError(
      f'encoder/layers_0/attention/query/kernel has {joined} columns, which {num_heads} heads '
      f'(rows of {_TEMPORAL}/relpos_bias/rel_embedding) do not divide.'
    )
  config = DepthformerConfig(
    embed_dim=embed_dim,
    num_heads=num_heads,
    head_dim=joined // num_heads,
    mlp_dim=shape('encoder/layers_0/mlp/wi_0/kernel')[1],
    num_encoder_layers=_count(shapes, 'encoder/layers_'),
    num_temporal_layers=_count(shapes, f'{_TEMPORAL}/layers_'),
    num_depth_layers=_count(shapes, f'{_DEPTH}/depth_layers_'),
    temporal_buckets=buckets,
    temporal_max_distance=buckets,
  )
  for known in (DepthformerConfig.base(), DepthformerConfig.large()):
    if dataclasses.replace(config, dtype=known.dtype, loss_over=known.loss_over) == known:
      return known, spec
  return config, spec


def _count(shapes: Mapping[str, Shape], prefix: str) -> int:
  """One more than the highest layer number after `prefix`."""
  pattern = re.compile(re.escape(prefix) + r'(\d+)/')
  return 1 + max((int(match[1]) for name in shapes if (match := pattern.match(name))), default=-1)
