"""Around an optimizer: clipping, freezing, averaging; and gradients of a batch in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from training import optimizers, wrappers
from training.partitioning import optimizer_specs
from training.state import create_state, flat_names
from training.step import make_train_step

PARAMS = {'a': {'w': jnp.float32([3.0, 4.0])}, 'b': jnp.float32([1.0])}
SGD = optimizers.Optimizer.of(optax.sgd(0.5), lambda step: 0.5)


def _update(optimizer, gradients):
  state = optimizer.init(PARAMS)
  return optimizer.update(gradients, state, PARAMS)


@pytest.mark.parametrize('max_norm, scale', [(6.5, 0.5), (13.0, 1.0), (20.0, 1.0)])
def test_clipping_scales_to_the_norm(max_norm, scale):
  gradients = {'a': {'w': jnp.float32([3.0, 4.0])}, 'b': jnp.float32([12.0])}  # Norm 13.
  updates, _ = _update(wrappers.clipped(SGD, max_norm), gradients)
  np.testing.assert_allclose(updates['b'], [-0.5 * 12 * scale], rtol=1e-6)
  np.testing.assert_allclose(updates['a']['w'], [-1.5 * scale, -2 * scale], rtol=1e-6)


def test_frozen_parameters_stay_and_are_no_gradient():
  optimizer = wrappers.wrapped(lambda: SGD, frozen=['^a/'])
  updates, _ = _update(optimizer, jax.tree.map(jnp.ones_like, PARAMS))
  np.testing.assert_array_equal(updates['a']['w'], [0.0, 0.0])
  np.testing.assert_array_equal(updates['b'], [-0.5])
  # Adafactor's statistics of a frozen array see zeros.
  adafactor = wrappers.freezing(optimizers.adafactor(0.1), ['b'])
  updates, state = _update(adafactor, jax.tree.map(jnp.ones_like, PARAMS))
  assert float(updates['b'][0]) == 0.0 and float(state.v['b'][0]) < 1e-20
  assert (np.asarray(updates['a']['w']) != 0).all()


@pytest.mark.parametrize(
  'patterns, message', [(['encoder'], "'encoder' matches no parameter"), (['.'], 'nothing is left')]
)
def test_patterns_that_make_no_sense_are_refused(patterns, message):
  with pytest.raises(ValueError, match=message):
    wrappers.freezing(SGD, patterns).init(PARAMS)


def test_average_by_hand():
  """w goes 0, -1, -2 under a gradient of 2 and a rate of 0.5; the average starts at 0."""
  params = {'w': jnp.zeros([1])}
  optimizer = wrappers.averaging(SGD, 0.75)
  state = optimizer.init(params)
  for expected in (-0.25, -0.25 * 0.75 - 0.5):
    updates, state = optimizer.update({'w': jnp.float32([2.0])}, state, params)
    params = optax.apply_updates(params, updates)
    assert float(state.average['w'][0]) == pytest.approx(expected)
  assert optimizer.learning_rate(0) == 0.5


def test_parts_have_optimizers_of_their_own_and_rest_without_gradient():
  adam = optimizers.adam(0.1)
  optimizer = wrappers.by_part(lambda: SGD, {'a': adam, 'not there': adam})
  assert optimizer.learning_rate(0) == 0.5
  gradients = jax.tree.map(jnp.ones_like, PARAMS)
  updates, state = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
  np.testing.assert_allclose(updates['b'], [-0.5])
  np.testing.assert_allclose(updates['a']['w'], [-0.1, -0.1], rtol=1e-4)  # Adam's first step.
  # Clipping of one part does not see the other.
  clipped = wrappers.by_part(lambda: wrappers.clipped(SGD, 1.0), {'a': wrappers.clipped(SGD, 1.0)})
  large = {'a': {'w': jnp.float32([30.0, 40.0])}, 'b': jnp.float32([0.5])}
  small, _ = clipped.update(large, clipped.init(PARAMS), PARAMS)
  np.testing.assert_allclose(small['a']['w'], [-0.3, -0.4], rtol=1e-5)
  np.testing.assert_allclose(small['b'], [-0.25], rtol=1e-5)
  # Without a gradient a part stays, momentum and count included.
  still = {'a': {'w': jnp.zeros(2)}, 'b': jnp.ones(1)}
  updates, after = optimizer.update(still, state, PARAMS)
  np.testing.assert_array_equal(updates['a']['w'], [0.0, 0.0])
  np.testing.assert_array_equal(updates['b'], [-0.5])
  for one, two in zip(jax.tree.leaves(after['a']), jax.tree.leaves(state['a']), strict=True):
    np.testing.assert_array_equal(one, two)


def test_states_of_parts_lie_as_their_parameters():
  params = {'codec': {'w': jnp.ones([4, 4])}, 'judges': {'w': jnp.ones([4, 6])}}
  specs = {'codec': {'w': PartitionSpec(None, 'model')}, 'judges': {'w': PartitionSpec('model')}}
  optimizer = wrappers.by_part(lambda: optimizers.adam(0.1), {'judges': optimizers.adam(0.1)})
  found = flat_names(optimizer_specs(optimizer.init(params), params, specs))
  assert {name: spec for name, spec in found.items() if name.endswith('/w')} == {
    'others/0/mu/codec/w': PartitionSpec(None, 'model'),
    'others/0/nu/codec/w': PartitionSpec(None, 'model'),
    'judges/0/mu/judges/w': PartitionSpec('model', None),
    'judges/0/nu/judges/w': PartitionSpec('model', None),
  }


def test_wrapped_hands_on_the_stacked_layers_and_puts_on_all_three():
  seen = []

  def make(*, stacked=None):
    seen.append(stacked)
    return SGD

  optimizer = wrappers.wrapped(
    make, stacked='layers', max_gradient_norm=1.0, frozen=['b'], average_decay=0.5
  )
  gradients = {'a': {'w': jnp.float32([30.0, 40.0])}, 'b': jnp.float32([1e6])}
  updates, state = _update(optimizer, gradients)
  assert seen == ['layers'] and wrappers.wrapped(make) is SGD
  np.testing.assert_allclose(updates['a']['w'], [-0.3, -0.4], rtol=1e-6)  # b is not in the norm.
  np.testing.assert_allclose(state.average['a']['w'], [2.85, 3.8], rtol=1e-6)
  state = create_state(Summed(), wrappers.averaging(SGD, 0.5), jax.random.key(0))
  assert wrappers.averaged_params(state)['w'] is state.opt_state.average['w']
  assert wrappers.averaged_params(state.replace(opt_state=())) is state.params


@pytest.mark.parametrize('decay', [1.0, -0.1])
def test_decay_out_of_range_is_refused(decay):
  with pytest.raises(ValueError, match='average_decay'):
    wrappers.averaging(SGD, decay)


class Summed:
  """A loss that is a sum over the batch, with a sum and a weight for metrics."""

  def init(self, rng):
    return {'w': jax.random.normal(rng, [3, 2])}

  def loss_fn(self, params, batch, rng):
    loss = jnp.sum(jnp.square(jnp.tanh(batch['x'] @ params['w']) - 0.3))
    return loss, {'weight_sum': jnp.float32(len(batch['x'])), 'per': jnp.sum(batch['x'], axis=0)}


@pytest.mark.parametrize('number', [2, 3, 6])
def test_microbatches_equal_the_full_batch(number):
  batch = {'x': np.random.default_rng(0).normal(size=[6, 3]).astype(np.float32)}
  results = []
  for parts in (1, number):
    state = create_state(Summed(), SGD, jax.random.key(0))
    step = make_train_step(Summed(), SGD, num_microbatches=parts)
    results.append(step(state, batch, jax.random.key(1)))
  (whole, metrics), (parted, part_metrics) = results
  np.testing.assert_allclose(parted.params['w'], whole.params['w'], rtol=1e-5)
  assert metrics.keys() == part_metrics.keys()
  for name, value in metrics.items():
    np.testing.assert_allclose(part_metrics[name], value, rtol=1e-5, err_msg=name)


def test_microbatches_must_divide_the_batch_and_fit_the_trainable():
  state = create_state(Summed(), SGD, jax.random.key(0))
  with pytest.raises(ValueError, match='num_microbatches=4 does not divide the batch of 6'):
    step = make_train_step(Summed(), SGD, num_microbatches=4)
    step(state, {'x': np.zeros([6, 3], np.float32)}, jax.random.key(1))

  class Own(Summed):
    def train_step(self, state, batch, rng, optimizer):
      return state, {}

  with pytest.raises(ValueError, match='num_microbatches=2 must be 1: Own makes its own steps'):
    make_train_step(Own(), SGD, num_microbatches=2)
  with pytest.raises(ValueError, match='num_microbatches=0 must be at least 1'):
    make_train_step(Summed(), SGD, num_microbatches=0)
