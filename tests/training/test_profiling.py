"""Profiler windows: the steps asked for are traced, and no others."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from training.profiling import ProfileWindow


def _steps_traced(model_dir):
  (path,) = (model_dir / 'profile').rglob('*.trace.json.gz')
  events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
  return sorted(int(e['args']['step_num']) for e in events if 'step_num' in e.get('args', {}))


def test_a_window_of_steps_is_traced(tmp_path):
  window = ProfileWindow.parse(tmp_path, '12:13')
  step = window.wrap(jax.jit(lambda x: x + 1), made=10)
  x = jnp.zeros(4)
  with window:
    for _ in range(5):
      x = step(x)
  assert float(x[0]) == 5
  assert _steps_traced(tmp_path) == [12, 13]


def test_a_run_that_stops_inside_of_the_window_keeps_the_trace(tmp_path):
  with ProfileWindow(tmp_path, 1, 100) as window:
    window.wrap(lambda x: x, made=0)(jnp.zeros(2))
  assert _steps_traced(tmp_path) == [1]


def test_a_run_behind_the_window_traces_nothing(tmp_path):
  with ProfileWindow(tmp_path, 3, 4) as window:
    window.wrap(lambda x: x, made=3)(jnp.zeros(2))
  assert not (tmp_path / 'profile').exists()


@pytest.mark.parametrize('steps', ['', '3:', 'a:b', '0:3', '5:4', '-1:2', '1:2:3'])
def test_windows_that_are_none(tmp_path, steps):
  with pytest.raises(ValueError, match='FIRST:LAST'):
    ProfileWindow.parse(tmp_path, steps)
  one = ProfileWindow.parse(tmp_path, '7')
  assert (one.first, one.last) == (7, 7)
