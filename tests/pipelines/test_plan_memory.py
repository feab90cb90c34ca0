"""The count of memory: exact for what stays, JAX's own for what the backward pass keeps."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from models.depthformer import DepthformerConfig, DepthformerModel
from pipelines import plan_memory, plan_search
from pipelines.plan_chips import parse_topology
from pipelines.plan_memory import Setting, state_shapes, step_memory
from training import optimizers
from training.partitioning import PjitPartitioner

CONFIG = DepthformerConfig(
  embed_dim=128, num_heads=4, head_dim=32, mlp_dim=256, num_encoder_layers=3,
  num_temporal_layers=4, num_depth_layers=3, dtype='bfloat16', loss_over='vocabulary',
)  # fmt: skip
MODEL = DepthformerModel(CONFIG)
V6E_4, V6E_16 = parse_topology('v6e-4'), parse_topology('v6e-16')


@pytest.fixture(scope='module')
def like():
  return state_shapes(MODEL, optimizers.adafactor(1.0, stacked=MODEL.layer_axes()))


def _nbytes(tree):
  return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def test_without_sharding_each_chip_holds_the_whole_state(like):
  memory = step_memory(Setting(MODEL, 8), V6E_4, like)
  assert memory.params == memory.gradients == _nbytes(like.params)
  assert memory.optimizer == _nbytes(like.opt_state)
  assert memory.inputs == 2 * (1006 + 800) * 4


@pytest.mark.parametrize('partitions, dims', [(2, 1), (1, 2), (4, 2), (16, 1)])
def test_shards_are_those_of_the_partition_specs(like, partitions, dims):
  setting = Setting(MODEL, 16).with_sharding(partitions, dims)
  groups = 16 // partitions
  layout = plan_memory.abstract_partitioning(setting, groups)
  specs = jax.tree.leaves(
    layout.param_specs(MODEL, like.params), is_leaf=lambda x: isinstance(x, PartitionSpec)
  )
  sizes = {'data': groups, 'model': partitions, None: 1}
  expected = sum(
    math.prod(leaf.shape) * 4 / math.prod(sizes[axis] for axis in spec)
    for leaf, spec in zip(jax.tree.leaves(like.params), specs, strict=True)
  )
  memory = step_memory(setting, V6E_16, like)
  assert memory.params == expected < _nbytes(like.params)


def test_kept_arrays_are_those_of_any_batch():
  """What batches of 1 and 2 say, holds for 5, too."""
  kept, copies = plan_memory._kept(MODEL, True)
  arrays = plan_memory._kept_arrays(MODEL, 5, True)
  once = sum(plan_memory._nbytes(x) for x in arrays)
  unscaled = sum(
    plan_memory._nbytes(x) for x in arrays if x.dtype == jnp.float32 and 5 not in x.shape
  )
  assert once - unscaled == pytest.approx(5 * sum(size for _, size in kept) + copies, rel=1e-3)
  # A bfloat16 copy of nearly all stacked kernels: half of their bytes.
  stacked = [x for x in jax.tree.leaves(_params()) if x.ndim == 3]
  assert copies == pytest.approx(_nbytes(stacked) / 2, rel=0.05)


def _params():
  return jax.eval_shape(MODEL.init, jax.random.key(0))


def test_activations_follow_the_rows_of_a_chip(like):
  one, two, four = (step_memory(Setting(MODEL, n), V6E_4, like) for n in (4, 8, 16))
  for moment in ('kept', 'at_loss', 'in_encoder'):
    first, second, fourth = (getattr(memory, moment) for memory in (one, two, four))
    assert fourth - second == pytest.approx(2 * (second - first), rel=1e-9)
    assert second > 1.5 * first
  assert one.gradients == four.gradients
  # Among what a batch of 1 a chip needs are its logits and their gradient, in float32.
  logits = 4 * 800 * 29_824
  assert one.at_loss - one.kept == logits < one.kept


def test_moments_of_the_backward_pass():
  memory = plan_memory.StepMemory(
    params=10.0, optimizer=2.0, inputs=1.0, gradients=10.0, kept=30.0, at_loss=40.0,
    in_encoder=50.0, scale=0.5,
  )  # fmt: skip
  assert (memory.resident, memory.temporary, memory.peak) == (13.0, 25.0, 38.0)


def test_remat_and_sharding_keep_less(like):
  setting = Setting(MODEL, 16)
  none, minimal, full = (
    step_memory(setting.with_remat(remat), V6E_4, like).kept
    for remat in ('none', 'minimal', 'full')
  )
  assert full < minimal < none
  halves = step_memory(setting.with_sharding(2, 1), V6E_4, like)
  # Twice the rows, of which the residual streams are whole and all else is halved.
  assert none < halves.kept < 2 * none
  everything = dataclasses.replace(
    setting,
    partitioner=PjitPartitioner(
      2, None, plan_memory.partitioning.standard_logical_axis_rules(2, 1)
    ),
  )
  assert step_memory(everything, V6E_4, like).kept == pytest.approx(none, rel=0.1)


def test_microbatches_need_the_memory_of_a_part_and_the_sums(like):
  whole, part = (step_memory(Setting(MODEL, n), V6E_4, like) for n in (32, 8))
  parts = step_memory(dataclasses.replace(Setting(MODEL, 32), num_microbatches=4), V6E_4, like)
  assert parts.kept == part.kept
  assert parts.at_loss == part.at_loss + whole.gradients
  assert parts.in_encoder == part.in_encoder + whole.gradients
  assert parts.inputs == whole.inputs


def test_a_scale_is_what_a_compiled_program_says(like):
  memory = step_memory(Setting(MODEL, 8), V6E_4, like)
  scale = memory.calibrated(memory.resident + 12_345.0)
  assert step_memory(Setting(MODEL, 8), V6E_4, like, scale).peak == pytest.approx(
    memory.resident + 12_345.0
  )
  assert memory.calibrated(0.0) == 0.0


def test_batches_that_cannot_be_shared(like):
  with pytest.raises(ValueError, match='A batch of 6 cannot be shared evenly by 4 groups of 1'):
    step_memory(Setting(MODEL, 6), V6E_4, like)
  with pytest.raises(ValueError, match='NUM_PARTITIONS=3 does not divide the 4 chips'):
    step_memory(Setting(MODEL, 6, PjitPartitioner(3)), V6E_4, like)
  with pytest.raises(ValueError, match='NUM_MICROBATCHES=3 does not divide the 2 examples'):
    step_memory(Setting(MODEL, 8, num_microbatches=3), V6E_4, like)


def test_largest_batch_fits_and_the_next_does_not(like):
  largest = plan_search.largest_batch(Setting(MODEL, 4), V6E_4, like, 1.0)
  assert largest % 4 == 0
  for batch, expected in ((largest, True), (largest + 4, False)):
    assert plan_search.fits(step_memory(Setting(MODEL, batch), V6E_4, like), V6E_4) == expected


def test_the_same_batch_by_the_fastest_other_way(like):
  largest = plan_search.largest_batch(Setting(MODEL, 4), V6E_4, like, 1.0)
  setting = Setting(MODEL, largest + largest // 16 * 4)
  found = plan_search.same_batch(setting, V6E_4, like, 1.0)
  assert found.batch_size == setting.batch_size
  assert plan_search.fits(step_memory(found, V6E_4, like), V6E_4)
  flags = plan_search.gin_flags(setting, found)
  assert flags and 'BATCH_SIZE' not in flags
  assert plan_search.same_batch(Setting(MODEL, 1000 * largest), V6E_4, like, 1.0) is None


def test_flags_name_what_changed():
  setting = Setting(MODEL, 8)
  other = setting.with_remat('full').with_sharding(2, 2)
  other = dataclasses.replace(other, batch_size=4, num_microbatches=2)
  assert plan_search.gin_flags(setting, other) == (
    '--gin.BATCH_SIZE=4 --gin.NUM_PARTITIONS=2 --gin.PARAMETER_PARTITIONING_DIMS=2 '
    '--gin.NUM_MICROBATCHES=2 '
    """--gin.depthformer.DepthformerConfig.remat='"full"'"""
  )
