"""Runs as train.py makes them: what a MODEL_DIR holds, where a run starts from, held-out losses."""

import os
import signal
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gin
from models.bundle import Bundle, save_bundle
from models.depthformer import DepthformerConfig, DepthformerModel
from models.spec import LiveMusicSpec
from pipelines import gin_config, initial_params, runs
from pipelines.checkpoint_sources import load_source
from training import metrics, optimizers
from training.checkpoints import restore_params

SPEC = LiveMusicSpec(
  codec_levels=4, codebook_size=16, context_frames=5, context_levels=2, chunk_frames=3,
  target_levels=4, style_rvq_levels=3, style_levels=2, style_offset=66, vocab_size=128,
)  # fmt: skip
CONFIG = DepthformerConfig(
  embed_dim=16, num_heads=2, head_dim=8, mlp_dim=16, num_encoder_layers=1, num_temporal_layers=1,
  num_depth_layers=1, dropout_rate=0.0,
)  # fmt: skip
MODEL = DepthformerModel(CONFIG, SPEC)
IDENTITY = {'codec_name': 'c', 'codec_hash': 'c0de', 'style_name': 's', 'style_hash': '5717e'}


class TokenBatches:
  """Four examples a batch, whose codes repeat: easy to learn."""

  batch_size = 4
  identity = IDENTITY

  def batch(self, index):
    rng = np.random.default_rng([3, index])
    offsets = SPEC.codec_offset + SPEC.codebook_size * np.arange(SPEC.target_levels)
    codes = np.tile(rng.integers(0, 4, [4, 1, SPEC.target_levels]), [1, SPEC.chunk_frames, 1])
    inputs = np.full([4, SPEC.inputs_length], SPEC.mask_id, np.int32)
    inputs[0, -2:] = SPEC.style_offset + SPEC.codebook_size * np.arange(2) + [5, 7]
    targets = (codes + offsets).reshape(4, -1).astype(np.int32)
    return {'encoder_input_tokens': inputs, 'decoder_target_tokens': targets}


class Line:
  """y = slope, to be found."""

  def init(self, rng):
    return {'slope': jnp.zeros([]) + 0.5}

  def loss_fn(self, params, batch, rng):
    return jnp.square(params['slope'] - 3.0) * batch['x'].mean(), {}


class Ones:
  def batch(self, index):
    return {'x': np.ones([2], np.float32)}


def _train_line(model_dir, rate=0.25, **options):
  defaults = dict(total_steps=2, tensorboard=False, feed=Ones(), optimizer=optimizers.adam(rate))
  return runs.train(model_dir=str(model_dir), trainable=Line(), **(defaults | options))


@pytest.fixture(scope='module')
def language_model_run(tmp_path_factory):
  """A small Depthformer, trained for 30 steps: (MODEL_DIR, the last state, its evaluator)."""
  model_dir = tmp_path_factory.mktemp('run')
  evaluator = runs.HeldOutLoss(MODEL, TokenBatches(), num_batches=3)
  state = runs.train(
    model_dir=str(model_dir), trainable=MODEL, feed=TokenBatches(), total_steps=30, log_period=15,
    optimizer=lambda: optimizers.adam(0.01), eval_period=15, evaluators=[evaluator],
  )  # fmt: skip
  return model_dir, state, evaluator


def test_model_dir_can_be_used_without_gin(language_model_run):
  model_dir, state, _ = language_model_run
  source = load_source(model_dir)
  assert source.bundle.model == MODEL and source.bundle.codec_hash == 'c0de'
  assert source.step == 30
  jax.tree.map(np.testing.assert_array_equal, source.bundle.params, state.params)
  lines = (model_dir / 'model-info.txt').read_text().splitlines()
  total = sum(leaf.size for leaf in jax.tree.leaves(state.params))
  assert lines[-1] == f'Total number of parameters: {total:,}'
  (gate,) = [line.split() for line in lines if line.startswith('encoder/layers/mlp/gate ')]
  assert gate[1:] == ['256', '(1,', '16,', '16)', 'layers,', 'embed,', 'mlp']


def test_language_model_metrics_are_means_over_tokens(language_model_run):
  """Against log p of every target, from the model's scoring method."""
  _, state, evaluator = language_model_run
  got = dict(evaluator(state))
  batches = [TokenBatches().batch(i) for i in range(3)]
  inputs, targets = (np.concatenate([b[name] for b in batches]) for name in batches[0])
  scores = np.asarray(MODEL.token_log_probs(state.params, jnp.array(inputs), jnp.array(targets)))
  for level, want in enumerate(scores.reshape(-1, SPEC.target_levels).mean(0)):
    assert got[f'loss/level_{level:02d}'] == pytest.approx(-want, rel=1e-4)
  want = -scores.mean()
  assert got['cross_ent_loss_per_nonpadding_target_token'] == pytest.approx(want, rel=1e-4)
  # T5X's 'loss' is the sum over a batch: 3 batches, their mean.
  assert got['cross_ent_loss'] == pytest.approx(-scores.sum() / 3, rel=1e-4)


def test_training_writes_levels_and_tokens_per_second(language_model_run):
  model_dir, _, _ = language_model_run
  lines = metrics.read_metrics(model_dir)
  train = [line for line in lines if line['stream'] == 'train']
  held_out = [line for line in lines if line['stream'] == 'training_eval/held_out']
  assert [line['step'] for line in train] == [line['step'] for line in held_out] == [15, 30]
  assert held_out[1]['loss/level_00'] < held_out[0]['loss/level_00'] < np.log(16) + 1
  tokens = 4 * SPEC.targets_length
  for line in train:
    assert line['timing/target_tokens_per_second'] == pytest.approx(
      tokens * line['timing/steps_per_second'], rel=1e-6
    )
    assert 0 <= line['accuracy'] <= 1 and 0 <= line['accuracy/level_03'] <= 1
    assert 0 < line['timing/mfu'] < 1
    assert line['timing/target_tokens_per_second_per_chip'] == pytest.approx(
      line['timing/target_tokens_per_second'], rel=1e-6
    )
    shares = {name: x for name, x in line.items() if name.startswith('goodput/')}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert {'goodput/step', 'goodput/data_wait', 'goodput/compilation'} < set(shares)
  assert 'goodput/evaluate' in train[1]


def test_events_hold_what_the_lines_hold(language_model_run):
  from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
  from tensorboard.util.tensor_util import make_ndarray

  model_dir, _, _ = language_model_run
  lines = metrics.read_metrics(model_dir)
  for stream in ('train', 'training_eval/held_out'):
    events = EventAccumulator(str(model_dir / stream), size_guidance={'tensors': 0})
    events.Reload()
    got = [
      (event.step, float(make_ndarray(event.tensor_proto)))
      for event in events.Tensors('loss/level_02')
    ]
    want = [(m['step'], m['loss/level_02']) for m in lines if m['stream'] == stream]
    assert [step for step, _ in got] == [step for step, _ in want]
    np.testing.assert_allclose([x for _, x in got], [x for _, x in want], rtol=1e-6)


def test_start_precedence(tmp_path):
  """The newest checkpoint, then INITIAL_CHECKPOINT_PATH, then initial values."""
  scratch = _train_line(tmp_path / 'first')
  assert float(scratch.params['slope']) == pytest.approx(1.0, rel=1e-2)  # 0.5 + 2 * 0.25.
  second = tmp_path / 'second'
  state = _train_line(second, rate=0.0, initial_checkpoint_path=str(tmp_path / 'first'))
  assert state.params == scratch.params
  assert state.step == 2  # Counted from 0: only the parameters were taken.
  on = _train_line(second, rate=0.0, initial_checkpoint_path='/nowhere', total_steps=3)
  assert on.params == scratch.params and on.step == 3
  with pytest.raises(FileNotFoundError, match='/nowhere'):
    _train_line(tmp_path / 'third', initial_checkpoint_path='/nowhere')


def test_what_finishes_a_run(tmp_path, stop_requested):
  finished = []

  def finish(state, trainable, model_dir):
    finished.append((int(state.step), type(trainable), model_dir))

  class Interrupting(Ones):
    def batch(self, index):
      if index == 3:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_requested.wait(600)
      return super().batch(index)

  options = dict(finish=finish, feed=Interrupting(), total_steps=1000)
  _train_line(tmp_path, **options)
  assert not finished  # A signal ends the process, not the run.
  step = restore_params(tmp_path)[1]
  assert step < 1000
  _train_line(tmp_path, finish=finish, total_steps=step + 1)
  assert finished == [(step + 1, Line, str(tmp_path))]
  _train_line(tmp_path, finish=finish, total_steps=10**9, time_budget_secs=0.2)
  assert finished[1][0] >= step + 1


def test_bundles_of_other_tokens_are_refused(tmp_path, language_model_run):
  _, state, _ = language_model_run
  params = state.params
  bundle = Bundle(MODEL, params, SPEC, card={'name': 'test'}, presets={}, **IDENTITY)
  save_bundle(tmp_path / 'bundle', bundle)
  path = str(tmp_path / 'bundle')
  got = jax.tree.leaves(initial_params.read(path, IDENTITY)['encoder'])
  for x, want in zip(got, jax.tree.leaves(params['encoder']), strict=True):
    np.testing.assert_allclose(x, want, rtol=2e-3, atol=1e-4)  # The bundle holds float16.
  with pytest.raises(ValueError, match='c0de.*another'):
    initial_params.read(path, IDENTITY | {'codec_hash': 'another'})


def test_adafactor_is_told_the_stacked_layers():
  optimizer = runs.make_optimizer(
    lambda *, stacked: optimizers.adafactor(0.1, stacked=stacked), MODEL
  )
  state = jax.eval_shape(lambda key: optimizer.init(MODEL.init(key)), jax.random.key(0))
  assert state.v_row['encoder']['layers']['mlp']['gate'].shape == (1, 1)  # One unused slot a layer.
  assert state.v_row['embedding'].shape == (1,)
  ready = optimizers.adam(0.1)
  assert runs.make_optimizer(ready, MODEL) is ready


GIN = '''
from __gin__ import dynamic_registration
import toy_line_model
from pipelines import runs
from training import optimizers
MODEL_DIR = %gin.REQUIRED
RATE = 0.25
RUN = @runs.train
runs.train:
  model_dir = %MODEL_DIR
  trainable = @toy_line_model.Line()
  feed = @toy_line_model.Ones()
  optimizer = @optimizers.adam
  total_steps = 3
  tensorboard = False
optimizers.adam.learning_rate = %RATE
'''


@pytest.fixture
def toy_gin(tmp_path, monkeypatch):
  """A gin file over the classes of this file, which gin imports by name."""
  module = types.ModuleType('toy_line_model')
  module.Line, module.Ones = Line, Ones
  monkeypatch.setitem(sys.modules, 'toy_line_model', module)
  (tmp_path / 'toy.gin').write_text(GIN)
  yield str(tmp_path / 'toy.gin')
  gin.clear_config()


def test_gin_run_and_its_configuration(tmp_path, toy_gin):
  model_dir = tmp_path / 'model'
  gin_config.parse_gin([toy_gin], [f'MODEL_DIR = "{model_dir}"', 'runs.train.seed = 5'])
  state = gin_config.run(dry_run=False)
  # Adam moves by its rate while the gradient keeps its sign: 0.5 + 3 * 0.25.
  assert float(state.params['slope']) == pytest.approx(1.25, rel=1e-2)
  assert 'RATE = 0.25' in (model_dir / 'config.gin').read_text()
  operative = (model_dir / 'operative_config.gin').read_text()
  assert 'keep_checkpoints = 5' in operative and 'seed = 5' in operative
  # The file that was kept makes the same run again.
  again = tmp_path / 'again'
  gin_config.parse_gin([str(model_dir / 'config.gin')], [f'MODEL_DIR = "{again}"'])
  assert gin_config.run(dry_run=False).params == state.params


def test_dry_run_shows_and_writes_nothing(tmp_path, toy_gin, capsys):
  gin_config.parse_gin([toy_gin], [f'MODEL_DIR = "{tmp_path / "model"}"'])
  assert gin_config.run(dry_run=True) is None
  output = capsys.readouterr().out
  assert 'Total number of parameters: 1\n' in output
  assert 'x: float32 (2,)' in output and 'rms 1.000' in output
  assert 'total_steps = 3' in output and 'learning_rate = %RATE' in output
  assert not (tmp_path / 'model').exists()


def test_first_example_is_decoded():
  text = runs.describe_batch(TokenBatches().batch(0), SPEC)
  codes = np.random.default_rng([3, 0]).integers(0, 4, [4, 1, SPEC.target_levels])[0, 0].tolist()
  assert 'context: 5 frames, the first 5 masked' in text
  assert 'style codes: [5, 7]' in text
  assert f'first target frame, codes by level: {codes}' in text


def test_lengths_of_another_model_are_refused():
  with pytest.raises(ValueError, match='1006'):
    runs.token_feed('x', batch_size=1, task_feature_lengths={'inputs': 512, 'targets': 800})
