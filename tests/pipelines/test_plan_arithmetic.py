"""Roofline, traffic and cost, beside values worked out by hand."""

import dataclasses

import pytest

from models.depthformer import DepthformerConfig, DepthformerModel
from pipelines.plan_chips import Chip, Slice, parse_topology
from pipelines.plan_memory import Setting, StepMemory
from pipelines.plan_roofline import StepWork, all_reduce_bytes, gather_bytes, run_cost, step_time
from pipelines.plan_work import step_work
from training.partitioning import PjitPartitioner

# 100 operations a second, 10 bytes a second to memory, 5 to neighbours, 1 beyond.
SLOW = Chip('slow', 100.0, 0.5, 1000.0, 10.0, 5.0, 1.0, shapes={4: (2, 2)})
GIB = 2**30


def test_roofline_is_the_slowest_part():
  place = Slice(SLOW, 4, (2, 2))
  work = StepWork(
    model_flops=800.0, executed_flops=1000.0, float32_flops=200.0, memory_bytes=5.0,
    link_bytes=10.0, network_bytes=0.0,
  )  # fmt: skip
  time = step_time(work, place)
  # 1000 operations, 200 of which count twice, at 400 a second.
  assert time.compute == pytest.approx(3.0)
  assert (time.memory, time.links, time.network) == (0.5, 2.0, 0.0)
  assert (time.roofline, time.bound) == (time.compute, 'compute')
  assert time.best_mfu == pytest.approx(2 / 3)
  assert time.expected_mfu == pytest.approx((0.35 * 2 / 3, 0.6 * 2 / 3))
  assert time.expected_secs == pytest.approx((5.0, 3 / 0.35))


def test_sums_and_gathers():
  assert all_reduce_bytes(100.0, 4) == 150.0
  assert gather_bytes(100.0, 4) == 75.0
  assert all_reduce_bytes(100.0, 1) == gather_bytes(100.0, 1) == 0.0


def test_cost():
  assert run_cost(0.5, 1_728_000, 256) == pytest.approx((10.0, 61_440.0))


MODEL = DepthformerModel(
  DepthformerConfig(
    embed_dim=128, num_heads=4, head_dim=32, mlp_dim=256, num_encoder_layers=1,
    num_temporal_layers=2, num_depth_layers=1, dtype='bfloat16',
  )
)  # fmt: skip
MEMORY = StepMemory(
  params=1000.0, optimizer=10.0, inputs=1.0, gradients=1000.0, kept=4500.0, at_loss=4800.0,
  in_encoder=3000.0, scale=0.5,
)  # fmt: skip


def test_gradients_are_summed_near_and_far():
  near = step_work(Setting(MODEL, 16), parse_topology('v6e-16'), MEMORY)
  assert near.link_bytes == 2 * 1000 * 15 / 16
  assert near.network_bytes == 0
  several = step_work(Setting(MODEL, 32), parse_topology('v6e-16', 2), MEMORY)
  assert several.link_bytes == 2 * 1000 * 15 / 16
  assert several.network_bytes == 2 * (1000 / 16) * 1 / 2
  gpus = step_work(Setting(MODEL, 32), parse_topology('h100-16'), MEMORY)
  assert (gpus.link_bytes, gpus.network_bytes) == (2 * 1000 * 7 / 8, 2 * (1000 / 8) / 2)


def test_spread_parameters_are_collected_twice_and_their_gradients_scattered():
  setting = Setting(MODEL, 16).with_sharding(1, 2)
  work = step_work(setting, parse_topology('v6e-16'), MEMORY)
  whole = 1000 * 16  # A chip holds a sixteenth; the copies that travel are bfloat16.
  assert work.link_bytes == pytest.approx((0.5 + 0.5 + 1) * whole * 15 / 16)


def test_a_spread_model_sums_its_residual_streams():
  setting = Setting(MODEL, 16, PjitPartitioner(2))
  work = step_work(setting, parse_topology('v6e-16'), MEMORY)
  rows, positions = 2, 2 * 1006 + 2 * 3 * 50 + 2 * 800
  streams = 2 * rows * positions * 128 * 2  # Forward and backward, 128 wide, two bytes.
  assert work.link_bytes == pytest.approx(2 * 1000 * 7 / 8 + 2 * streams * 1 / 2)


def test_memory_traffic():
  work = step_work(Setting(MODEL, 16), parse_topology('v6e-16'), MEMORY)
  assert work.memory_bytes == 4 * 1000 + 2 * (1000 + 10 + 0.5 * 4500)


def test_only_the_output_layer_is_float32():
  work = step_work(Setting(MODEL, 16), parse_topology('v6e-16'), MEMORY)
  # Loss over the levels: 800 positions, 1024 columns each, forward and backward.
  assert work.float32_flops == 3 * 16 * 2 * 800 * 128 * 1024


def test_microbatches_move_and_send_again():
  setting = dataclasses.replace(Setting(MODEL, 32), num_microbatches=2)
  work = step_work(setting, parse_topology('v6e-16'), MEMORY)
  # Twice: parameters in both passes, gradients, their sums, what is kept. Once: the update.
  assert work.memory_bytes == 2 * 2 * (1000 + 1000 + 1000 + 0.5 * 4500) + 2 * (1000 + 10)
  assert work.link_bytes == 2 * (2 * 1000 * 15 / 16)
