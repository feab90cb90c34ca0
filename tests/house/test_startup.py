"""Root scripts: quick help, and a clear stop where `models` is somebody else's."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = ('prepare', 'train', 'finetune', 'eval', 'generate', 'plan')


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
