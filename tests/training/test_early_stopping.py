"""Early stopping: the rule on curves, and a run that it ends and that stays ended."""

import math

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from training import loop
from training.early_stopping import EarlyStopping, StoppingRule
from training.metrics import values_by_step


@pytest.mark.parametrize(
  'values, rule, says',
  [
    ([5, 4, 3, 3.5, 3.2], StoppingRule(3, 0, 1), None),
    ([5, 4, 3, 3.5, 3.2, 3.1], StoppingRule(3, 0, 1), r'below 3.0000 \(step 20\) in 3 eval'),
    ([5, 4, 3, 3.5, 2.9, 3.1, 3.1], StoppingRule(3, 0, 1), None),
    ([5, 4.99, 4.98, 4.97], StoppingRule(3, 0.1, 1), 'below 5.0000'),
    ([5, 5.1, 5.2, 5.3], StoppingRule(0, 0, 1), None),
    ([5, 4, 4.6], StoppingRule(0, 0, 0.5), 'diverges: the held-out loss is 4.6000 at step 20'),
    ([5, math.nan], StoppingRule(9, 0, 0.5), 'diverges'),
    ([math.nan], StoppingRule(9, 0, 0.5), 'diverges: the held-out loss is nan at step 0$'),
    ([5, 9, 9.5], StoppingRule(9, 0, 0), None),
    ([], StoppingRule(), None),
  ],
)
def test_rule_on_curves(values, rule, says):
  reason = rule.why_stop({10 * i: value for i, value in enumerate(values)})
  if says is None:
    assert reason is None
  else:
    import re

    assert re.search(says, reason)


def test_negative_values_are_refused():
  with pytest.raises(ValueError, match='patience=-1 must be at least 0'):
    StoppingRule(-1)


class _Trainable:
  """Its parameter counts its steps."""

  def init(self, rng):
    return {'x': jnp.zeros([])}

  def loss_fn(self, params, batch, rng):
    return -params['x'] * batch['x'].sum(), {'weight_sum': jnp.float32(1)}


class _Feed:
  batch_size = 1

  def batches(self, start):
    while True:
      yield {'x': np.ones([1], np.float32)}


class _Loss:
  """Falls for five steps, then rises."""

  def __call__(self, state):
    yield 'loss_per_nonpadding_target_token', abs(float(state.params['x']) - 5.0)


def _run(folder, total_steps=60):
  evaluators = {
    'training_eval/held_out': _Loss(),
    'training_eval/early_stopping': EarlyStopping(str(folder), patience=3, max_worsening=90),
  }
  return loop.train(
    _Trainable(), _Feed(), model_dir=folder, total_steps=total_steps, optimizer=optax.sgd(1.0),
    log_period=10, checkpoint_period=100, eval_period=1, eval_at_start=True,
    evaluators=evaluators, tensorboard=False, progress=False,
  )  # fmt: skip


def test_a_run_ends_by_the_rule_and_stays_ended(tmp_path, capsys):
  assert int(_run(tmp_path).step) == 8
  assert 'has not fallen below 0.0000 (step 5) in 3 evaluations' in capsys.readouterr().out
  name = 'training_eval/held_out/loss_per_nonpadding_target_token'
  values = values_by_step(tmp_path, name)
  assert values == {step: abs(step - 5.0) for step in range(9)}
  assert int(_run(tmp_path).step) == 8
  assert values_by_step(tmp_path, name) == values
