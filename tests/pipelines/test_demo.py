"""The demo's stages: recorded when they end well, skipped then, run again after a failure."""

import json
import pathlib

import pytest

from pipelines import demo

COUNT = 'import pathlib, sys; p = pathlib.Path(sys.argv[1]); p.open("a").write("x")'


def _stage(name, path, code=COUNT):
  return demo.Stage(name, name, 1, ('-c', code, str(path)), str(path))


def test_a_finished_stage_is_skipped(tmp_path):
  record = tmp_path / 'stages.json'
  plan = [_stage('one', tmp_path / 'one'), _stage('two', tmp_path / 'two')]
  assert list(demo.run(plan, record)) == ['one', 'two']
  demo.run(plan, record)
  assert (tmp_path / 'one').read_text() == 'x'
  # Another command, or a lost output, runs again.
  (tmp_path / 'two').unlink()
  demo.run([_stage('one', tmp_path / 'one', COUNT + ';'), plan[1]], record)
  assert (tmp_path / 'one').read_text() == 'xx'
  assert (tmp_path / 'two').read_text() == 'x'


def test_a_failed_stage_stops_and_is_not_recorded(tmp_path):
  record = tmp_path / 'stages.json'
  plan = [_stage('one', tmp_path / 'one'), _stage('two', tmp_path / 'two', 'raise SystemExit(3)')]
  with pytest.raises(SystemExit, match='"two" stopped with exit status 3'):
    demo.run(plan, record)
  assert list(json.loads(record.read_text())) == ['one']


def test_stages_run_root_scripts_and_files_that_exist():
  plan = demo.stages(pathlib.Path('out'), 'gamelan', 'gongs')
  assert [stage.name for stage in plan][:4] == ['corpus', 'catalog', 'prepare', 'pretrain']
  for stage in plan:
    if stage.command[0] != '-m':
      assert (demo.ROOT / stage.command[0]).is_file()
    for argument in stage.command:
      if argument.startswith('--gin_file='):
        assert (demo.ROOT / argument.split('=')[1]).is_file()
  assert sum(stage.budget_secs for stage in plan) <= 600
