"""Root scripts: quick help, and a clear stop where `models` is somebody else's."""

import ast
import errno
import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags

from pipelines import startup

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = ('prepare', 'train', 'finetune', 'eval', 'generate', 'jam', 'plan')


@pytest.mark.parametrize('script', SCRIPTS)
def test_help_names_the_flags_without_heavy_imports(script):
  code = (
    'import runpy, sys\n'
    f'sys.argv = ["{script}.py", "--help"]\n'
    'try:\n'
    f'  runpy.run_path("{script}.py", run_name="__main__")\n'
    'except SystemExit:\n'
    '  pass\n'
    'heavy = {"jax", "tensorflow", "apache_beam", "seqio", "gin"} & set(sys.modules)\n'
    'print("HEAVY", sorted(heavy))\n'
  )
  result = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert 'HEAVY []' in result.stdout
  assert '--' in result.stdout


def _commands():
  """Root scripts, and modules of the rooms that are run by `python -m`."""
  rooms = (
    'models', 'tasks', 'preprocessing', 'inference', 'training', 'evaluation', 'pipelines',
    'recipes',
  )  # fmt: skip
  scripts = [ROOT / f'{script}.py' for script in SCRIPTS]
  for path in [*scripts, *sorted(path for room in rooms for path in (ROOT / room).rglob('*.py'))]:
    tree = ast.parse(path.read_text())
    if any(isinstance(node, ast.If) and '__main__' in ast.unparse(node.test) for node in tree.body):
      yield path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize('name', list(_commands()))
def test_every_command_tells_errors_in_the_one_place(name):
  """Its `main` is one `with startup.plain_errors(...)`, and its end is `startup`'s."""
  tree = ast.parse((ROOT / name).read_text())
  main = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == 'main')
  assert isinstance(main.body[-1], ast.With), f'{name} works outside of plain_errors'
  assert 'startup.plain_errors(' in ast.unparse(main.body[-1].items[0])
  end = ast.unparse(tree.body[-1])
  assert 'startup.run(main)' in end or 'run_module(main)' in end, name


def test_another_models_package_stops_the_run(tmp_path):
  (tmp_path / 'models').mkdir()
  (tmp_path / 'models' / '__init__.py').write_text('')
  code = (
    f'import sys; sys.path.append({str(ROOT)!r})\nfrom pipelines import startup; startup.begin()'
  )
  result = subprocess.run(
    [sys.executable, '-c', code],
    cwd=tmp_path,
    capture_output=True,
    text=True,
    env={**os.environ, 'PYTHONPATH': ''},
  )
  assert result.returncode == 1
  assert f'`import models` finds {tmp_path / "models"}' in result.stderr


def test_what_a_user_can_mend_is_one_line(capsys):
  with pytest.raises(SystemExit, match='^train.py: no such folder$'):
    with startup.plain_errors('train.py'):
      raise FileNotFoundError('no such folder')
  with pytest.raises(SystemExit, match="^train.py: File exists: '/a/file'. Remove it"):
    with startup.plain_errors('train.py'):
      raise FileExistsError(errno.EEXIST, 'File exists', '/a/file')
  with pytest.raises(SystemExit) as stopped, startup.plain_errors('train.py'):
    raise ValueError("seed=x\n  In call to configurable 'train' (<function train at 0x7f2>)")
  assert stopped.value.code == 'train.py: seed=x'
  with pytest.raises(ZeroDivisionError), startup.plain_errors('train.py'):
    raise ZeroDivisionError('ours')
  with pytest.raises(RuntimeError, match='ours'), startup.plain_errors('train.py'):
    raise RuntimeError('ours')
  assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
  'error', [KeyboardInterrupt(), RuntimeError("KeyboardInterrupt [while running 'Work']")]
)
def test_ctrl_c_says_how_to_go_on(error, capsys):
  with pytest.raises(SystemExit) as stopped, startup.plain_errors('prepare.py'):
    raise error
  assert stopped.value.code == 130
  message = 'prepare.py: interrupted; the same command goes on from here.\n'
  assert capsys.readouterr().err == message
  with pytest.raises(SystemExit), startup.plain_errors('eval.py', resumes=False):
    raise error
  assert 'starts anew' in capsys.readouterr().err


def test_flags_that_a_command_would_ignore_are_refused():
  values = flags.FlagValues()
  name = flags.DEFINE_string('name', 'x', 'A name.', flag_values=values)
  number = flags.DEFINE_integer('number', 3, 'A number.', flag_values=values)
  values(['script', '--number=3'])
  startup.check_flags('`look`', [name, number], {'number'})
  with pytest.raises(ValueError, match='^--number has no effect on `look`. Leave it out.$'):
    startup.check_flags('`look`', [name, number], {'name'})


@pytest.mark.parametrize('script', ['prepare', 'plan'])
def test_names_of_flags_in_a_script_are_right(script):
  """What a command is said to read are flags of its script."""
  code = (
    f'import {script} as s\n'
    'known = {flag.name for flag in s._FLAGS}\n'
    'names = ("_OF_INSPECT", "_INSPECT", "_BUILD", "_CORPUS", "_LAUNCH", "_PLAN")\n'
    'used = set().union(*(getattr(s, name, set()) for name in names))\n'
    'print(len(known) > 15 and len(used) > 15, sorted(used - known))\n'
  )
  told = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True
  )
  assert told.stdout == 'True []\n'
