"""The training loop: exact resume, clean stops, what it writes."""

import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training import (
  checkpoints,
  data_state,
  loop,
  metrics,
  optimizers,
  schedules,
  stopping,
  wrappers,
)
from training.state import create_state

ROOT = pathlib.Path(__file__).parents[2]


class Regression:
  """Linear regression with noise from the step's key, so that a wrong key shows."""

  def init(self, rng):
    return {'layer': {'w': jax.random.normal(rng, [3, 2]), 'b': jnp.zeros([2])}}

  def loss_fn(self, params, batch, rng):
    noise = 0.01 * jax.random.normal(rng, [2])
    predicted = batch['x'] @ params['layer']['w'] + params['layer']['b'] + noise
    loss = jnp.mean(jnp.square(predicted - batch['x'][:, :2]))
    return loss, {'first_index': batch['index'][0].astype(jnp.float32)}


class Feed:
  """Batches that carry their index; remembers which were asked for."""

  def __init__(self, poisoned=()):
    self.asked = []
    self._poisoned = poisoned

  def batch(self, index):
    self.asked.append(index)
    x = np.random.default_rng([7, index]).normal(size=[4, 3]).astype(np.float32)
    if index in self._poisoned:
      x[0, 0] = np.nan
    return {'x': x, 'index': np.full([4], index, np.int32)}


RATE = schedules.factor_schedule('constant * linear_warmup', 0.1, warmup_steps=4)
OPTIMIZER = optimizers.Optimizer.of(optax.sgd(RATE, momentum=0.9), RATE)


def _train(model_dir, total_steps=6, trainable=None, feed=None, **options):
  defaults = dict(
    optimizer=OPTIMIZER, log_period=2, checkpoint_period=2, tensorboard=False, progress=False,
  )  # fmt: skip
  return loop.train(
    trainable or Regression(), feed or Feed(), model_dir=model_dir, total_steps=total_steps,
    **(defaults | options),
  )  # fmt: skip


def _assert_equal(one, two):
  jax.tree.map(np.testing.assert_array_equal, one, two)


def test_restart_ends_bitwise_equal(tmp_path):
  optimizer = optimizers.adafactor(0.1)
  whole = _train(tmp_path / 'whole', optimizer=optimizer)
  assert _train(tmp_path / 'parts', total_steps=3, optimizer=optimizer).step == 3
  _assert_equal(_train(tmp_path / 'parts', optimizer=optimizer), whole)
  lines = [m for m in metrics.read_metrics(tmp_path / 'parts') if m['stream'] == 'train']
  assert [line['step'] for line in lines] == [2, 3, 4, 6]


def test_killed_while_saving_goes_on_from_the_step_before(tmp_path):
  """What SIGKILL leaves of a save: a folder under a temporary name, and lines that came after."""
  whole = _train(tmp_path / 'whole')
  run = tmp_path / 'killed'
  _train(run, total_steps=4)
  partial = run / 'checkpoint_5.orbax-checkpoint-tmp-1'
  (partial / 'state').mkdir(parents=True)
  (partial / 'state' / 'manifest.ocdbt').write_bytes(b'half')
  with open(run / metrics.FILE_NAME, 'a') as file:
    file.write('{"step": 5, "stream": "train", "loss": 123.0}\n{"step": 6, "str')
  assert checkpoints.find_checkpoint(run).name == 'checkpoint_4'
  _assert_equal(_train(run), whole)
  assert not partial.exists()
  assert [m['step'] for m in metrics.read_metrics(run)] == [2, 4, 6]


def test_prefetch_does_not_run_ahead_of_the_checkpoint(tmp_path):
  """Batches that lay ready when a run stopped are made again, and none is left out or repeated."""
  feed = Feed()
  _train(tmp_path, total_steps=3, feed=feed, log_period=1)
  assert max(feed.asked) > 2, 'the test needs batches that were made ahead'
  with checkpoints.Checkpoints(tmp_path) as store:
    _, data = store.restore(_state_like())
  assert data == {'next_batch': 3, 'batch_size': None}
  feed = Feed()
  _train(tmp_path, total_steps=5, feed=feed, log_period=1)
  assert feed.asked[0] == 3
  seen = [line['first_index'] for line in metrics.read_metrics(tmp_path)]
  assert seen == [0, 1, 2, 3, 4]


def test_another_batch_size_goes_on_with_the_same_example():
  feed = Feed()
  feed.batch_size = 6
  assert data_state.next_batch({'next_batch': 9, 'batch_size': 4}, feed) == 6
  assert data_state.next_batch({'next_batch': 9, 'batch_size': 6}, feed) == 9
  assert data_state.next_batch({'next_batch': 9, 'batch_size': None}, feed) == 9
  with pytest.raises(ValueError, match='before example 40 with batches of 4; batches of 6'):
    data_state.next_batch({'next_batch': 10, 'batch_size': 4}, feed)


class KnownFeed(Feed):
  """A feed that says what it reads."""

  def __init__(self, *fingerprints):
    super().__init__()
    self.content = [{'fingerprint': name, 'about': f'data {name}'} for name in fingerprints]


def test_a_mixture_is_the_same_data_where_all_of_its_parts_are():
  one, two = (KnownFeed(*names).content for names in ('ab', 'ac'))
  assert data_state.check_same_data('run', one, one) == ''
  for saved, given in ((one, two), (one[:1], one), (one, one[1:])):
    with pytest.raises(ValueError, match=r'^run was trained on data a \[a\].*; now it is given'):
      data_state.check_same_data('run', saved, given)


def test_a_run_does_not_go_on_with_other_data(tmp_path, capsys):
  _train(tmp_path, total_steps=2, feed=KnownFeed('a'))
  after = ['b', 'c']
  with pytest.raises(ValueError, match=r'checkpoint_2 was trained on data a \[a\]') as caught:
    _train(tmp_path, total_steps=4, feed=KnownFeed(*after))
  assert 'now it is given data b [b] and data c [c]. Give the data' in str(caught.value)
  assert '--gin.ALLOW_OTHER_DATA=True goes on' in str(caught.value)
  assert checkpoints.find_checkpoint(tmp_path).name == 'checkpoint_2'
  capsys.readouterr()
  _train(tmp_path, total_steps=4, feed=KnownFeed(*after), allow_other_data=True)
  assert 'ALLOW_OTHER_DATA is set: it goes on.' in capsys.readouterr().out
  assert _train(tmp_path, total_steps=6, feed=KnownFeed(*after)).step == 6
  assert 'was trained on' not in capsys.readouterr().out


def test_a_checkpoint_that_does_not_know_its_data_goes_on_with_a_line(tmp_path, capsys):
  _train(tmp_path, total_steps=2)
  assert _train(tmp_path, total_steps=4, feed=KnownFeed('a')).step == 4
  told = 'checkpoint_2 does not say which data it was trained on; it goes on with data a [a].'
  assert told in capsys.readouterr().out
  with pytest.raises(ValueError, match=r'trained on data a \[a\]; now it is given data b'):
    _train(tmp_path, feed=KnownFeed('b'))


def test_an_evaluation_that_failed_is_made_before_the_run_is_finished(tmp_path, capsys):
  """Its step is saved before it; the lines of the evaluators before it do not stand there twice."""
  told = []

  def second(state):
    if not told:
      raise ValueError('the held-out split is damaged')
    return [('loss', told[0])]

  evaluators = {'eval/first': lambda state: [('steps', int(state.step))], 'eval/second': second}
  options = dict(total_steps=4, eval_period=4, evaluators=evaluators)
  for _ in range(2):
    with pytest.raises(ValueError, match='held-out split is damaged'):
      _train(tmp_path, **options)
    assert 'finished' not in capsys.readouterr().out
  told.append(7.0)
  assert _train(tmp_path, **options).step == 4
  assert 'finished; 4 steps are saved' in capsys.readouterr().out
  lines = [line for line in metrics.read_metrics(tmp_path) if line['stream'] != 'train']
  assert [(line['step'], line['stream']) for line in lines] == [(4, 'eval/first'),
                                                                (4, 'eval/second')]  # fmt: skip
  _train(tmp_path, **options)
  assert len([x for x in metrics.read_metrics(tmp_path) if x['stream'] != 'train']) == 2


def test_a_run_that_waits_for_data_hears_that_it_should_stop(tmp_path, monkeypatch):
  """Its third batch never comes; the signal is sent once it is asked for."""
  asked, never = threading.Event(), threading.Event()

  class Stuck(Feed):
    def batch(self, index):
      if index == 2:
        asked.set()
        never.wait()
      return super().batch(index)

  class Asked(stopping.StopRequest):
    @property
    def reason(self):
      if asked.is_set() and not self.signalled:
        self.request('SIGTERM was received')
      return super().reason

  monkeypatch.setattr(loop, 'StopRequest', Asked)
  monkeypatch.setattr('training.prefetch._JOIN_SECS', 0.0)
  state = _train(tmp_path, feed=Stuck())
  never.set()
  assert state.step <= 2
  assert checkpoints.find_checkpoint(tmp_path).name == f'checkpoint_{int(state.step)}'


def _state_like():
  return jax.eval_shape(lambda k: create_state(Regression(), OPTIMIZER, k), jax.random.key(0))


def test_metrics_file(tmp_path):
  _train(tmp_path, evaluators={'training_eval/held': lambda s: [('x', s.step * 2)]}, eval_period=3)
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  train_lines = [line for line in lines if line['stream'] == 'train']
  assert [line['step'] for line in train_lines] == [2, 4, 6]
  # The rate of the last update made, which was the step before: warmup over 4 steps to 0.1.
  rates = [line['learning_rate'] for line in train_lines]
  np.testing.assert_allclose(rates, [0.1 * 1 / 4, 0.1 * 3 / 4, 0.1], rtol=1e-6)
  # Means over the two steps of each line.
  assert [line['first_index'] for line in train_lines] == [0.5, 2.5, 4.5]
  assert all(line['timing/steps_per_second'] > 0 for line in train_lines)
  evaluated = [(m['step'], m['x']) for m in lines if m['stream'] == 'training_eval/held']
  assert evaluated == [(3, 6.0), (6, 12.0)]


def test_losses_of_the_file_are_those_of_plain_gradient_descent(tmp_path):
  """An independent NumPy run of the same batches: loss and gradient by hand, noise switched off."""

  class Quiet(Regression):
    def loss_fn(self, params, batch, rng):
      del rng
      predicted = batch['x'] @ params['layer']['w'] + params['layer']['b']
      return jnp.mean(jnp.square(predicted - batch['x'][:, :2])), {}

  start = {'layer': {'w': np.ones([3, 2], np.float32), 'b': np.zeros([2], np.float32)}}
  _train(
    tmp_path, trainable=Quiet(), initial_params=start, optimizer=optax.sgd(0.1), log_period=1
  )
  w, b, feed = start['layer']['w'].astype(float), start['layer']['b'].astype(float), Feed()
  for line in metrics.read_metrics(tmp_path):
    x = feed.batch(line['step'] - 1)['x'].astype(float)
    error = x @ w + b - x[:, :2]
    assert line['loss'] == pytest.approx(np.mean(error**2), rel=1e-5)
    dw, db = 2 / 8 * x.T @ error, 2 / 8 * error.sum(0)
    norm = math.sqrt((dw**2).sum() + (db**2).sum())
    assert line['weight_gradient_norm'] == pytest.approx(norm, rel=1e-5)
    w, b = w - 0.1 * dw, b - 0.1 * db


def test_initial_params_are_left_alone_and_checked(tmp_path):
  start = {'layer': {'w': jnp.ones([3, 2]), 'b': jnp.zeros([2])}}
  _train(tmp_path / 'ok', initial_params=start)
  np.testing.assert_array_equal(start['layer']['w'], np.ones([3, 2]))  # Not donated.
  start['layer']['w'] = jnp.ones([3, 5])
  with pytest.raises(ValueError, match=r'layer/w has shape \(3, 5\).*\(3, 2\)'):
    _train(tmp_path / 'wrong', initial_params=start)


def test_checkpoint_of_another_model_is_refused(tmp_path):
  class Wider(Regression):
    def init(self, rng):
      return {'layer': {'w': jnp.zeros([3, 9]), 'b': jnp.zeros([9])}}

  _train(tmp_path)
  with pytest.raises(ValueError, match='another model or optimizer'):
    _train(tmp_path, trainable=Wider(), total_steps=7)


def test_not_a_number_stops_the_run_and_is_not_saved(tmp_path):
  with pytest.raises(FloatingPointError, match='at step 4'):
    _train(tmp_path, feed=Feed(poisoned=[3]))
  params, step = checkpoints.restore_params(tmp_path)
  assert step == 2
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_steps_that_are_not_finite_are_skipped_counted_and_told(tmp_path):
  # Batches 1 and 3 are poisoned: the run is that over 0, 2, 4, but for the momentum and the keys.
  state = _train(
    tmp_path, total_steps=5, feed=Feed(poisoned=[1, 3]), max_skipped_steps=1, log_period=1,
    optimizer=optimizers.adam(0.1),
  )  # fmt: skip
  assert int(state.step) == 5 and int(state.opt_state[0].count) == 3
  told = [json.loads(line) for line in (tmp_path / loop.SKIPPED_FILE).read_text().splitlines()]
  assert told == [{'step': 2, 'index': [1]}, {'step': 4, 'index': [3]}]
  lines = metrics.read_metrics(tmp_path)
  assert [line.get('skipped_steps', 0) for line in lines] == [0, 1, 1, 2, 2]
  assert ['loss' in line for line in lines] == [True, False, True, False, True]
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_too_many_skipped_steps_in_a_row_stop_the_run(tmp_path):
  with pytest.raises(FloatingPointError, match='not finite 3 steps in a row.* step 5'):
    _train(tmp_path, feed=Feed(poisoned=[2, 3, 4]), max_skipped_steps=2)


def test_where_all_is_finite_skipping_changes_nothing(tmp_path):
  one = _train(tmp_path / 'one')
  other = _train(tmp_path / 'other', max_skipped_steps=3)
  _assert_equal(one, other)


def test_the_average_is_in_the_checkpoint_and_goes_on_from_it(tmp_path):
  averaging = wrappers.averaging(OPTIMIZER, 0.5)
  whole = _train(tmp_path / 'whole', optimizer=averaging)
  _train(tmp_path / 'parts', optimizer=averaging, total_steps=3)
  parts = _train(tmp_path / 'parts', optimizer=averaging)
  _assert_equal(whole, parts)
  stored, step = checkpoints.restore_averaged_params(tmp_path / 'parts')
  assert step == 6
  np.testing.assert_array_equal(stored['layer']['w'], whole.opt_state.average['layer']['w'])
  assert not np.array_equal(stored['layer']['w'], whole.params['layer']['w'])
  _train(tmp_path / 'plain', total_steps=2)
  plain = [f(tmp_path / 'plain')[0]['layer']['b'] for f in (
    checkpoints.restore_averaged_params, checkpoints.restore_params
  )]  # fmt: skip
  np.testing.assert_array_equal(*plain)


@pytest.mark.parametrize(
  'name, value',
  [('total_steps', -5), ('log_period', 0), ('checkpoint_period', 0), ('eval_period', -1),
   ('keep_checkpoints', 0), ('total_steps', 'x')],
)  # fmt: skip
def test_numbers_that_make_no_run_are_refused_before_any_work(tmp_path, name, value):
  with pytest.raises(ValueError, match=f'{name}={value!r} is not a whole number of at least'):
    _train(tmp_path / 'run', **{name: value})
  assert not (tmp_path / 'run').exists()


def test_an_error_of_the_feed_reaches_the_caller(tmp_path):
  class Broken(Feed):
    def batch(self, index):
      if index == 2:
        raise OSError('disk is gone')
      return super().batch(index)

  with pytest.raises(OSError, match='disk is gone'):
    _train(tmp_path, feed=Broken())


class Clock:
  """Stands in for `time`."""

  now = 0.0

  def monotonic(self):
    return self.now


def test_time_budget_stops_cleanly(tmp_path, monkeypatch):
  monkeypatch.setattr(stopping, 'time', clock := Clock())

  class Slow(Feed):
    def batch(self, index):
      clock.now += 0.05
      return super().batch(index)

  state = _train(tmp_path, total_steps=10_000, feed=Slow(), time_budget_secs=2.0)
  assert 1 <= state.step <= 2.0 / 0.05
  assert checkpoints.find_checkpoint(tmp_path).name == f'checkpoint_{int(state.step)}'


def test_calibration_runs_before_its_steps(tmp_path):
  class Calibrated(Regression):
    calibration_steps = (0, 4)

    def __init__(self):
      self.calls = []

    def init_aux(self, rng):
      return {'calibrated_at': jnp.full([2], -1)}

    def calibrate(self, state, get_batch):
      self.calls.append((int(state.step), int(get_batch(5)['index'][0])))
      return state.replace(aux={'calibrated_at': state.aux['calibrated_at'].at[1].set(state.step)})

  trainable = Calibrated()
  whole = _train(tmp_path / 'whole', trainable=trainable)
  assert trainable.calls == [(0, 5), (4, 5)]
  np.testing.assert_array_equal(whole.aux['calibrated_at'], [-1, 4])
  # Stopped exactly where a calibration is due: it is made after the restart.
  trainable = Calibrated()
  _train(tmp_path / 'parts', trainable=trainable, total_steps=4)
  _assert_equal(_train(tmp_path / 'parts', trainable=trainable), whole)


@pytest.mark.parametrize('patterns', [(), ('layer/w',)])
def test_an_average_begins_with_the_calibrated_parameters(tmp_path, patterns):
  class Given(Regression):
    calibration_steps = (0,)

    def calibrate(self, state, get_batch):
      return state.replace(params=jax.tree.map(lambda p: jnp.full_like(p, 7.0), state.params))

  still = wrappers.wrapped(lambda: optax.sgd(0.0), average_decay=0.5, trained=patterns)
  state = _train(tmp_path, trainable=Given(), optimizer=still)
  for leaf in jax.tree.leaves(state.opt_state.average):
    np.testing.assert_array_equal(leaf, 7.0)
  assert len(jax.tree.leaves(state.opt_state.average)) == (1 if patterns else 2)


def test_own_train_step_is_used(tmp_path):
  class Counting(Regression):
    def train_step(self, state, batch, rng, optimizer):
      params = jax.tree.map(lambda p: p + 1, state.params)
      return state.replace(params=params), {'loss': batch['index'].sum().astype(jnp.float32)}

  start = {'layer': {'w': jnp.zeros([3, 2]), 'b': jnp.zeros([2])}}
  state = _train(tmp_path, trainable=Counting(), initial_params=start)
  assert state.step == 6
  np.testing.assert_array_equal(state.params['layer']['w'], np.full([3, 2], 6.0))


def test_ctrl_c_stops_after_the_step(tmp_path, capfd, stop_requested):
  class Interrupting(Feed):
    def batch(self, index):
      if index == 4:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop_requested.wait(600)  # Where the signal is handled, the machine decides.
      return super().batch(index)

  handler = signal.getsignal(signal.SIGINT)
  state = _train(tmp_path, total_steps=200, feed=Interrupting())
  assert state.step <= 6
  assert 'SIGINT was received' in capfd.readouterr().out
  assert checkpoints.find_checkpoint(tmp_path).name == f'checkpoint_{int(state.step)}'
  assert signal.getsignal(signal.SIGINT) is handler


def test_sigterm_saves_and_exits_0(tmp_path):
  program = textwrap.dedent(f"""
    import sys, time
    sys.path[:0] = [{str(ROOT)!r}, {str(pathlib.Path(__file__).parent)!r}]
    import test_loop
    class Slow(test_loop.Feed):
      def batch(self, index):
        time.sleep(0.02)
        return super().batch(index)
    test_loop._train(sys.argv[1], total_steps=100_000, feed=Slow(), checkpoint_period=100_000)
  """)
  process = subprocess.Popen(
    [sys.executable, '-c', program, str(tmp_path)], stdout=subprocess.PIPE, text=True,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
  )  # fmt: skip
  deadline = time.monotonic() + 600
  while not (tmp_path / metrics.FILE_NAME).exists():
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.05)
  process.send_signal(signal.SIGTERM)
  output, _ = process.communicate(timeout=600)
  assert process.returncode == 0
  assert 'SIGTERM was received' in output
  last_logged = metrics.read_metrics(tmp_path)[-1]['step']
  assert checkpoints.find_checkpoint(tmp_path).name == f'checkpoint_{last_logged}'
