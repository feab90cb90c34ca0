"""The analytic count of operations, beside what XLA counts in the compiled program."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from models.depthformer import DepthformerConfig, DepthformerModel
from models.depthformer.flops import (
  chunk_flops,
  executed_flops,
  forward_flops,
  train_step_flops,
)
from models.spec import LiveMusicSpec

SPEC = LiveMusicSpec()
CONFIG = DepthformerConfig(
  embed_dim=64, num_heads=4, head_dim=32, mlp_dim=192, num_encoder_layers=1,
  num_temporal_layers=2, num_depth_layers=2, dropout_rate=0.0,
)  # fmt: skip


def test_forward_by_hand():
  """One layer each, all widths 1: the lengths 1006, 50, 800, 16 and 1024 alone are left."""
  ones = DepthformerConfig(
    embed_dim=4, num_heads=1, head_dim=1, mlp_dim=1, num_encoder_layers=1, num_temporal_layers=1,
    num_depth_layers=1,
  )  # fmt: skip
  flops = forward_flops(ones, SPEC)
  assert flops.encoder == 1006 * (8 * 4 + 4 * 1006 + 6 * 4)
  assert flops.temporal == 50 * (8 * 4 + 4 * 50 + 4 * 4 + 4 * 1006 + 6 * 4) + 1006 * 4 * 4
  assert flops.depth == 800 * (8 * 4 + 4 * 16 + 6 * 4)
  assert flops.logits == 800 * 2 * 4 * 1024
  vocabulary = forward_flops(dataclasses.replace(ones, loss_over='vocabulary'), SPEC)
  assert vocabulary.logits == 800 * 2 * 4 * 29824
  assert train_step_flops(ones, SPEC, 5) == 15 * flops.total
  assert chunk_flops(ones, SPEC, guided=True) == 2 * flops.total


@pytest.mark.parametrize(
  'remat, repeated',
  [
    ('none', 2 * 1006**2),
    ('minimal', 6 * 1006**2 + 4 * (50 * 50 + 50 * 1006 + 800 * 16)),
    ('full', None),  # All layers.
  ],
)
def test_what_the_backward_pass_repeats_by_hand(remat, repeated):
  config = DepthformerConfig(
    embed_dim=4, num_heads=1, head_dim=1, mlp_dim=1, num_encoder_layers=1, num_temporal_layers=1,
    num_depth_layers=1, remat=remat,
  )  # fmt: skip
  flops = forward_flops(config, SPEC)
  if remat == 'full':
    repeated = 2 * 1006**2 + flops.encoder + flops.temporal + flops.depth
  assert executed_flops(config, SPEC, 5) == 5 * (3 * flops.total + repeated)


@pytest.mark.parametrize('over', ['level', 'vocabulary'])
def test_xla_counts_about_the_same(over):
  config = dataclasses.replace(CONFIG, loss_over=over)
  # Long attention loops over (row, head) pairs, whose body XLA counts once; one head leaves one.
  config = dataclasses.replace(config, num_heads=1, head_dim=128)
  model = DepthformerModel(config, SPEC)
  batch = {
    'encoder_input_tokens': jax.ShapeDtypeStruct([1, SPEC.inputs_length], jnp.int32),
    'decoder_target_tokens': jax.ShapeDtypeStruct([1, SPEC.targets_length], jnp.int32),
  }
  params = jax.eval_shape(model.init, jax.random.key(0))
  lowered = jax.jit(lambda p, b: model.loss_fn(p, b, None)[0]).lower(params, batch)
  counted = lowered.compile().cost_analysis()['flops']
  # Softmax, norms and the like come on top of the matrix products.
  assert 1.0 <= counted / forward_flops(config, SPEC).total < 1.15
