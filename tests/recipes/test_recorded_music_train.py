"""The script that trains all three models: its commands are commands that exist."""

import json
import pathlib
import sys

import pytest

from pipelines import demo, gin_config
from recipes.recorded_music import train

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def plan(tmp_path):
  return {stage.name: stage for stage in train.stages(tmp_path, ['train'], 2.0)}


def test_every_training_parses(plan, tmp_path):
  trainings = {name: stage for name, stage in plan.items() if stage.command[0] == 'train.py'}
  assert list(trainings) == ['codec', 'decoder', 'spectrum', 'style', 'language']
  for name, stage in trainings.items():
    files = [arg.partition('=')[2] for arg in stage.command if arg.startswith('--gin_file=')]
    bindings, others = gin_config.split_flags(
      [arg for arg in stage.command[1:] if arg.startswith('--gin.')]
    )
    assert not others
    gin_config.parse_gin(files, bindings)
    assert gin_config.macro_value('MODEL_DIR') == f'{tmp_path}/runs/{name}'


def test_each_stage_reads_what_an_earlier_one_wrote(plan, tmp_path):
  """Every path below the folder in a command is an output of a stage before it, or its own."""
  known = {f'{tmp_path}/music', f'{tmp_path}/runs/language'}
  for stage in plan.values():
    own = {value.partition('=')[2].strip('"') for value in stage.command}
    read = {value for value in own if value.startswith(str(tmp_path))}
    written = {stage.output, str(pathlib.Path(stage.output).parent),
               str(pathlib.Path(stage.output).parents[1])}  # fmt: skip
    assert read - written <= known, stage.name
    known |= written


def test_stages_that_ended_are_skipped(tmp_path, monkeypatch, capsys):
  calls = []

  def call(command, cwd):
    assert command[0] == sys.executable and cwd == demo.ROOT
    plan = train.stages(tmp_path, ['train'], 1.0)
    stage = next(stage for stage in plan if list(stage.command) == command[1:])
    calls.append(stage.name)
    output = pathlib.Path(stage.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text('{}')
    return int(stage.name == 'style' and calls.count('style') == 1)

  monkeypatch.setattr(demo.subprocess, 'call', call)
  flags = [f'--output_dir={tmp_path}', '--hours=1']
  with pytest.raises(SystemExit):
    train.main(flags)
  train.main(flags)
  assert calls == ['recorded', 'synthetic', 'works', 'codec', 'decoder', 'spectrum', 'style',
                   'style', 'prepare', 'language', 'bundle']  # fmt: skip
  assert len(json.loads((tmp_path / 'stages.json').read_text())) == 10
  assert f'The bundle: {tmp_path}/bundle' in capsys.readouterr().out
