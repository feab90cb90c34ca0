"""Which checkpoints stay because they are the best."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from training import metrics
from training.best import KeepBest
from training.checkpoints import Checkpoints
from training.state import TrainState

HELD_OUT = 'training_eval/held_out'


def _evaluated(model_dir, values, stream=HELD_OUT, name='accuracy'):
  writers = metrics.Writers(model_dir, tensorboard=False)
  for step, value in values.items():
    writers.write(step, {name: value, 'other': -value}, stream=stream)


@pytest.mark.parametrize(
  'mode, keep, expected',
  [('max', 1, {30: 0.5}), ('max', 2, {30: 0.5, 10: 0.4}), ('min', 2, {20: 0.1, 50: 0.1}),
   ('min', 9, {20: 0.1, 50: 0.1, 10: 0.4, 30: 0.5}), ('max', 0, {})],
)  # fmt: skip
def test_best_of_the_steps_that_are_there(tmp_path, mode, keep, expected):
  _evaluated(tmp_path, {10: 0.4, 15: 9.0, 20: 0.1, 30: 0.5, 40: float('nan'), 50: 0.1})
  _evaluated(tmp_path, {10: -7.0, 60: -9.0}, stream='train')
  best = KeepBest(f'{HELD_OUT}/accuracy', mode, keep)
  got = best.best_steps(tmp_path, [10, 20, 30, 40, 50, 60])
  assert list(got.items()) == list(expected.items())


def test_a_metric_of_training_and_one_that_nobody_wrote(tmp_path):
  _evaluated(tmp_path, {10: 0.4, 20: 0.3}, stream='train', name='loss')
  with open(tmp_path / metrics.FILE_NAME, 'a') as file:
    file.write(json.dumps({'step': 30, 'stream': 'train', 'loss': 0.0})[:-5])  # Cut short.
  assert KeepBest('train/loss').best_steps(tmp_path, [10, 20, 30]) == {20: 0.3}
  assert KeepBest('train/los').best_steps(tmp_path, [10, 20, 30]) == {}
  (tmp_path / 'checkpoint_10').mkdir()
  (tmp_path / 'checkpoint_20.orbax-checkpoint-tmp').mkdir()
  best = KeepBest('train/loss').describe(tmp_path)
  assert best == 'the best is checkpoint_10, by train/loss 0.4.'
  assert 'no checkpoint has a value of train/los.' in KeepBest('train/los').describe(tmp_path)


@pytest.mark.parametrize('options', [{'metric_mode': 'least'}, {'keep': -1}])
def test_what_makes_no_sense_is_refused(options):
  with pytest.raises(ValueError, match='least|-1'):
    KeepBest(**options)


def test_the_best_the_newest_and_the_pinned_stay_through_a_restart(tmp_path):
  losses = {10: 3.0, 20: 1.0, 30: 2.0, 40: 5.0, 50: 4.0, 60: 0.5}
  best = KeepBest(f'{HELD_OUT}/loss', 'min', 1)

  def make(steps):
    with Checkpoints(tmp_path, keep=1, keep_best=best) as store:
      for step in steps:
        params = {'w': jnp.full([2], step)}
        store.save(TrainState(jnp.int32(step), params, {}, {}), {})
        store.wait()
        # As in a run: evaluated after it was saved.
        _evaluated(tmp_path, {step: losses[step]}, name='loss')
        if step == 10:
          (tmp_path / 'checkpoint_10' / 'PINNED').touch()
    return sorted(int(path.name[11:]) for path in tmp_path.glob('checkpoint_*'))

  assert make([10, 20, 30, 40]) == [10, 20, 40]
  assert make([50]) == [10, 20, 50]
  assert make([60]) == [10, 20, 60]  # 60 is better, but 20 goes only at the next save.
  like = TrainState(jnp.int32(0), {'w': jnp.zeros(2, jnp.int32)}, {}, {})
  with Checkpoints(tmp_path, keep=1, keep_best=best) as store:
    np.testing.assert_array_equal(store.restore(like, 20)[0].params['w'], [20, 20])
