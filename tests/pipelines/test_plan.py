"""plan.py end to end: figures, verdicts, exits, the cache; the TPU compiler itself where it is."""

import dataclasses
import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import pytest

import gin
from models.depthformer import DepthformerConfig, DepthformerModel
from pipelines import plan, plan_compile, plan_launch
from pipelines.plan_chips import parse_topology
from pipelines.plan_compile import Compiled, needed_bytes
from pipelines.plan_memory import Setting, state_shapes, step_memory
from training import optimizers

ROOT = pathlib.Path(__file__).parents[2]
TINY = 'gin/models/tiny.gin'
SMALL = DepthformerModel(
  DepthformerConfig(
    embed_dim=128, num_heads=4, head_dim=32, mlp_dim=256, num_encoder_layers=3,
    num_temporal_layers=3, num_depth_layers=3, dtype='bfloat16', loss_over='vocabulary',
  )
)  # fmt: skip


@pytest.fixture(autouse=True)
def clean():
  yield
  gin.clear_config()


def test_a_run_that_fits(capsys):
  assert plan.plan(gin_files=[TINY], topology='v6e-4', batch_size=8, steps=1000, analytic=True)
  text = capsys.readouterr().out
  assert 'Place: v6e-4: 4 chips as 2x2, 1 host' in text
  assert 'Batch: 8 over a mesh of 4 x 1 (data x model), 2 for each group of 1, in 1 part' in text
  # 4 bytes for each of the parameters that the table of a run counts.
  number = int(re.search(r'Model: ([\d,]+) parameters', text)[1].replace(',', ''))
  in_gib = float(re.search(r'parameters +([\d.]+)\n', text)[1])
  assert in_gib == pytest.approx(4 * number / 2**30, abs=6e-4)
  assert 'FITS' in text and 'not compiled, not run' in text
  assert '1,000 steps: 0.0-0.0 days' in text


def test_a_run_that_does_not_fit_says_what_would(capsys):
  assert not plan.plan(gin_files=[TINY], topology='h100-1', batch_size=1500)
  text = capsys.readouterr().out
  assert 'DOES NOT FIT' in text
  assert """--gin.depthformer.DepthformerConfig.remat='"full"'""" in text
  batch = int(re.search(r'--gin.BATCH_SIZE=(\d+)', text)[1])
  assert plan.plan(gin_files=[TINY], topology='h100-1', batch_size=batch)


def test_a_plan_follows_the_gin_flags():
  run = plan.read_run(
    [TINY, 'gin/runs/finetune.gin'],
    ['NUM_PARTITIONS = 2', 'PARAMETER_PARTITIONING_DIMS = 2', 'NUM_MICROBATCHES = 4'],
    steps=7,
  )
  assert (run.setting.num_microbatches, run.setting.skip_nonfinite) == (4, True)
  assert (run.setting.batch_size, run.steps) == (8, 7)  # finetune.gin's batch.
  assert run.setting.partitioner.model_size == run.setting.parameter_dims == 2
  assert run.setting.model.config.embed_dim == 128
  assert float(run.optimizer.learning_rate(25)) == pytest.approx(1e-3 / 2)  # Half of the warmup.


@pytest.mark.parametrize(
  'arguments, message',
  [
    (dict(topology='v7-8'), 'no slice of a chip that is known'),
    (dict(topology='v6e-4', batch_size=6), 'choose a multiple of 4'),
    (dict(topology='v6e-4', bindings=['NUM_PARTITION = 2']), 'Did you mean NUM_PARTITIONS'),
  ],
)
def test_errors_name_the_way_out(arguments, message):
  with pytest.raises(ValueError, match=message):
    plan.plan(gin_files=[TINY], analytic=True, **arguments)


def test_other_models_are_not_planned():
  with pytest.raises(ValueError, match='plans language models; MODEL is'):
    plan.read_run(['gin/models/spectrostream_tiny.gin', 'gin/runs/train_codec.gin'])


def test_without_the_compiler(monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ValueError, match=re.escape("pip install -e '.[tpu]'")):
    plan.plan(gin_files=[TINY], topology='v6e-4', batch_size=8)


def test_the_script_exits_with_1_where_it_does_not_fit():
  result = subprocess.run(
    [sys.executable, 'plan.py', f'--gin_file={TINY}', '--topology=h100-1', '--batch=4096'],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert result.returncode == 1
  assert 'DOES NOT FIT' in result.stdout
  assert not result.stderr


def test_needed_bytes_are_read_off_the_compilers_errors():
  used = 'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.'  # noqa: E501
  temporaries = 'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (480.00G) exceeds available HBM (31.25G).'  # noqa: E501
  assert needed_bytes(used, 7.0) == 20.5 * 2**30
  assert needed_bytes(temporaries, 7.0) == 480 * 2**30 + 7
  assert needed_bytes('INTERNAL: Used 20.50G of 15.75G hbm.', 7.0) is None
  assert needed_bytes('RESOURCE_EXHAUSTED: of something else', 7.0) is None


class _Program:
  """Stands in for a lowered program."""

  def __init__(self, text):
    self.text = text

  def as_text(self):
    return self.text


@pytest.fixture
def compiler(monkeypatch):
  """A compiler that counts its programs; what it is given is the setting itself."""
  made = []

  def compile_program(lowered, resident):
    made.append(lowered.text)
    return Compiled(1e9 * len(made), 1e8, True, '', 60.0, 'jax 1, libtpu 2', '2026-11-22')

  monkeypatch.setattr(plan_compile, 'require_compiler', lambda: None)
  monkeypatch.setattr(plan_compile, '_versions', lambda: 'jax 1, libtpu 2')
  monkeypatch.setattr(plan_compile, '_compile', compile_program)
  monkeypatch.setattr(
    plan_compile, 'lower_step', lambda setting, place, optimizer: (_Program(str(setting)), 1e8)
  )
  return made


def test_a_program_is_compiled_once(compiler, monkeypatch, tmp_path):
  setting, place = Setting(SMALL, 8), parse_topology('v6e-4')
  first = plan_compile.compile_step(setting, place, None, tmp_path)
  again = plan_compile.compile_step(setting, place, None, tmp_path)
  assert (first.from_cache, again.from_cache, len(compiler)) == (False, True, 1)
  assert dataclasses.replace(again, from_cache=False) == first
  # Another batch, another slice, another compiler: other programs.
  plan_compile.compile_step(Setting(SMALL, 4), place, None, tmp_path)
  plan_compile.compile_step(setting, parse_topology('v5e-4'), None, tmp_path)
  plan_compile.compile_step(setting, parse_topology('v6e-4', 2), None, tmp_path)
  monkeypatch.setattr(plan_compile, '_versions', lambda: 'jax 1, libtpu 3')
  plan_compile.compile_step(setting, place, None, tmp_path)
  assert len(compiler) == 5


def test_a_damaged_cache_compiles_again(compiler, tmp_path):
  setting, place = Setting(SMALL, 8), parse_topology('v6e-4')
  plan_compile.compile_step(setting, place, None, tmp_path)
  (path,) = tmp_path.glob('*.json')
  for damage in ('{"peak', json.dumps({'peak_bytes': 1}), '[]'):
    path.write_text(damage)
    assert not plan_compile.compile_step(setting, place, None, tmp_path).from_cache
  assert len(compiler) == 4
  assert plan_compile.compile_step(setting, place, None, tmp_path).from_cache


def test_the_verdict_is_the_compilers(compiler, monkeypatch, tmp_path, capsys):
  """Counted, the run fits; the compiler says no; the first way out is compiled, too."""

  def compile_program(lowered, resident):
    compiler.append(lowered.text)
    fits = len(compiler) > 1
    return Compiled(
      2**30 * (12 if fits else 40), 1e8, fits, '', 60.0, 'jax 1, libtpu 2', '2026-11-22'
    )

  monkeypatch.setattr(plan_compile, '_compile', compile_program)
  arguments = dict(gin_files=[TINY], topology='v6e-4', batch_size=32, cache_dir=str(tmp_path))
  assert not plan.plan(**arguments)
  text = capsys.readouterr().out
  assert 'DOES NOT FIT: 128%, compiled in 60 s (0 s of CPU) with jax 1, libtpu 2, not run' in text
  assert 'fits: 12.00 GiB a chip' in text
  assert len(compiler) == 2
  assert not plan.plan(**arguments)
  assert 'compiled on 2026-11-22' in capsys.readouterr().out
  assert len(compiler) == 2


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='needs the extra [tpu]')
@pytest.mark.parametrize('name, batch, partitions', [('v6e-4', 8, 1), ('v5p-8', 8, 2)])
def test_the_real_compiler(name, batch, partitions, tmp_path):
  place = parse_topology(name)
  setting = Setting(SMALL, batch).with_sharding(partitions, 1)
  optimizer = optimizers.adafactor(1.0, stacked=SMALL.layer_axes())
  compiled = plan_compile.compile_step(setting, place, optimizer, tmp_path)
  memory = step_memory(setting, place, state_shapes(SMALL, optimizer))
  assert compiled.fits
  # The arguments are the state and the batch, and lie as counted but for padding to tiles.
  assert compiled.resident_bytes == pytest.approx(memory.resident, rel=0.05)
  assert 0.2 < memory.calibrated(compiled.peak_bytes) < 1.5
  assert plan_compile.compile_step(setting, place, optimizer, tmp_path).from_cache


# plan.py launch.


def test_launch_on_one_slice():
  text = plan_launch.commands(
    'v5e-16', 1, ['gin/models/large.gin'], ['MODEL_DIR="/data/run"'], 'lm', 'us-west4-a'
  )
  commands = [line for line in text.splitlines() if line and line[0] != '#']
  assert len(commands) == 4  # Ask, install, train, give back.
  assert '--node-id=lm ' in commands[0] and '--accelerator-type=v5litepod-16' in commands[0]
  assert all('ssh lm --zone=us-west4-a --worker=all' in command for command in commands[1:3])
  assert '4 hosts' in text and 'MEGASCALE' not in text
  # What the workers' shells see, after the quotes of the outer one.
  outer = subprocess.run(
    ['sh', '-c', 'gcloud() { printf %s "${@#--command=}" | sed "s/.*cd woodshed/cd woodshed/"; }; '
     + commands[2]],
    capture_output=True, text=True, check=True,
  )  # fmt: skip
  assert outer.stdout == (
    'cd woodshed && .venv/bin/python train.py --gin_file=gin/models/large.gin '
    """'--gin.MODEL_DIR="/data/run"'"""
  )


def test_launch_on_several_slices():
  text = plan_launch.commands('v6e-64', 3, ['a.gin'], [], 'lm')
  assert '--node-count=3 --node-prefix=lm' in text
  assert [f'ssh lm-{k} ' in text for k in range(4)] == [True, True, True, False]
  for k in range(3):
    assert f'MEGASCALE_NUM_SLICES=3 MEGASCALE_SLICE_ID={k}' in text


def test_launch_on_gpu_hosts():
  text = plan_launch.commands('h100-32', 1, ['a.gin'], [], 'node')
  runs = [line for line in text.splitlines() if 'train.py' in line and line[0] != '#']
  assert len(runs) == 4
  for k, line in enumerate(runs):
    assert line.endswith(
      f'--coordinator_address=node-0:8476 --process_count=4 --process_index={k}'
    )
  assert '--coordinator' not in plan_launch.commands('h100-8', 1, ['a.gin'], [])
