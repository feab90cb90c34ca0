"""Before a run: the memory that it needs, by count and by XLA; the peak of its devices."""

import types

import jax
import numpy as np
import pytest

from models.depthformer import DepthformerConfig, DepthformerModel, flops
from models.spec import LiveMusicSpec
from pipelines import device_peak, precompile, runs
from pipelines.plan_chips import CHIPS
from pipelines.precompile import StepOptions
from training import optimizers
from training.partitioning import PjitPartitioner

SPEC = LiveMusicSpec(
  codec_levels=4, codebook_size=16, context_frames=5, context_levels=2, chunk_frames=3,
  target_levels=4, style_rvq_levels=3, style_levels=2, style_offset=66, vocab_size=128,
)  # fmt: skip
MODEL = DepthformerModel(
  DepthformerConfig(
    embed_dim=16, num_heads=2, head_dim=8, mlp_dim=16, num_encoder_layers=1,
    num_temporal_layers=1, num_depth_layers=1, dropout_rate=0.0,
  ),
  SPEC,
)  # fmt: skip
ADAM = optimizers.adam(0.01)


class Feed:
  batch_size = 4

  def batch(self, index):
    return {
      'encoder_input_tokens': np.full([4, SPEC.inputs_length], SPEC.mask_id, np.int32),
      'decoder_target_tokens': np.full([4, SPEC.targets_length], SPEC.codec_offset, np.int32),
    }


@pytest.fixture(scope='module')
def sizes():
  """Bytes of the parameters and of a batch."""
  shapes = jax.tree.leaves(jax.eval_shape(MODEL.init, jax.random.key(0)))
  return 4 * sum(leaf.size for leaf in shapes), 4 * 4 * (SPEC.inputs_length + SPEC.targets_length)


def test_xla_is_given_the_state_and_the_batch(sizes):
  params, batch = sizes
  got = precompile.compile_step(MODEL, Feed(), ADAM, PjitPartitioner().fit(4))
  # Adam has two moments and a counter; the step and the key (two words) come on top.
  assert got.arguments == pytest.approx(3 * params + batch + 16, abs=16)
  assert got.aliased >= 3 * params  # The state is replaced in place.
  assert got.temporary > 0 and got.compile_secs > 0
  assert got.sum == got.arguments + got.outputs - got.aliased + got.temporary
  text = str(got)
  assert 'compiled in' in text and 'state and batch' in text and 'peak, at most' in text


def test_memory_by_shapes(sizes):
  params, batch = sizes
  text = precompile.describe_memory(
    MODEL, ADAM, Feed().batch(0), PjitPartitioner().fit(4), options=StepOptions(2, True)
  )
  rows = {line[2:26].strip(): line[26:].split() for line in text.splitlines()[1:-1]}
  assert float(rows['parameters'][0]) == pytest.approx(params / 2**20, abs=1e-3)
  assert float(rows['optimizer'][0]) == pytest.approx(2 * params / 2**20, abs=1e-3)
  assert float(rows['batch'][0]) == pytest.approx(batch / 2**20, abs=1e-3)
  parts = [float(rows[name][0]) for name in rows if name != 'peak']
  assert float(rows['peak'][0]) == pytest.approx(sum(parts), abs=2.5e-3)
  assert 'on one device), MiB' in text


def test_precompiling_and_dry_runs_write_nothing(tmp_path, capsys):
  options = dict(
    model_dir=str(tmp_path / 'run'), trainable=MODEL, feed=Feed(), optimizer=ADAM, total_steps=3
  )
  assert runs.train(**options, precompile=True) is None
  output = capsys.readouterr().out
  assert 'Total number of parameters' in output and 'Memory of a device by XLA, MiB' in output
  assert runs.train(**options, dry_run=True) is None
  output = capsys.readouterr().out
  assert 'gradients, activations' in output and '--run_mode=precompile' in output
  with pytest.raises(ValueError, match='FIRST:LAST'):
    runs.train(**options, profile_steps='9:1')
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  'kind, chip',
  [('TPU v6 lite', 'v6e'), ('TPU v5 lite', 'v5e'), ('TPU v5', 'v5p'), ('TPU v5p', 'v5p'),
   ('TPU v4', 'v4'), ('TPU v4 lite', None), ('TPU v3', None), ('NVIDIA H100 80GB HBM3', 'h100'),
   ('NVIDIA H100 PCIe', None), ('NVIDIA H200', 'h200'), ('NVIDIA A100-SXM4-40GB', 'a100'),
   ('NVIDIA L4', None), ('cpu', None)],
)  # fmt: skip
def test_chips_by_what_jax_calls_them(kind, chip):
  assert device_peak.chip_of_kind(kind) == (CHIPS[chip] if chip else None)


def test_peak_of_a_slice_and_of_a_cpu():
  chips = [
    types.SimpleNamespace(
      device_kind='TPU v5 lite', platform='tpu', process_index=i // 4, id=i, coords=(i, 0, 0)
    )
    for i in range(8)
  ]
  peak = device_peak.device_peak(chips)
  assert peak.flops_per_second == 8 * 197e12 and "8 x v5e, the maker's" in peak.source
  measured = device_peak.device_peak(jax.devices())
  assert 1e8 < measured.flops_per_second < 1e15
  assert 'measured on a float32 matrix product of 1024' in measured.source


def test_efficiency_of_a_run_counts_its_model():
  partitioning = PjitPartitioner().fit(4)
  got = device_peak.run_efficiency(MODEL, 4, partitioning)
  assert got.step_flops == flops.train_step_flops(MODEL.config, SPEC, 4)
  line = got({'timing/steps_per_second': 2.0})
  assert line['timing/mfu'] == pytest.approx(2 * got.step_flops / got.peak.flops_per_second)
  assert device_peak.run_efficiency(object(), 4, partitioning).peak is None
