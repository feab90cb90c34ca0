"""T5X's own trainer and checkpoints, over the bridge, beside the built-in engine.

Skipped where T5X cannot be imported. It is not on PyPI: put checkouts of google-research/t5x,
google/airio and google-research/jestimator on PYTHONPATH, and install without their dependencies
the packages that docs/t5x.md names.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import weights
from models.depthformer import DepthformerConfig, DepthformerModel, from_v1
from models.spec import LiveMusicSpec
from pipelines import runs
from pipelines.checkpoint_sources import load_source, write_model_file
from pipelines.export import export_run, export_t5x
from preprocessing.features import ClipTokens
from preprocessing.records import RecordInfo, encode_record, shard_name, write_shard
from training import loop, t5x_checkpoints
from training.metrics import read_metrics
from training.optimizers import adafactor
from training.schedules import factor_schedule

trainer_lib = pytest.importorskip(
  't5x.trainer',
  reason='T5X is not importable: put checkouts of google-research/t5x, google/airio and '
  'google-research/jestimator on PYTHONPATH, and install the packages that docs/t5x.md names',
  exc_type=ImportError,
)

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / 'tests' / 'golden'
SPEC = LiveMusicSpec(
  codebook_size=64, codec_levels=4, context_frames=10, context_levels=2, chunk_frames=8,
  target_levels=4, style_levels=3, style_offset=322, vocab_size=640,
)  # fmt: skip
# Wide enough that Adafactor keeps rows and columns; `tiny` but for widths and lengths.
CONFIG = DepthformerConfig(
  embed_dim=128, num_heads=4, head_dim=32, mlp_dim=160, num_encoder_layers=1,
  num_temporal_layers=2, num_depth_layers=1, dropout_rate=0.1, loss_over='level',
)  # fmt: skip
MODEL = DepthformerModel(CONFIG, SPEC)
SEED = 7
NUM_STEPS = 20
HALF = NUM_STEPS // 2
SCHEDULE = dict(
  factors='constant * linear_warmup * rsqrt_decay', base_learning_rate=0.2, warmup_steps=5
)
IDENTITY = dict(codec_name='tiny', codec_hash='c0de', style_name='tiny', style_hash='5717e')
LOSS_TOLERANCE = dict(rtol=1e-4)


def _batches():
  """Two contexts with their targets in turn, so that there is something to learn; some padding."""
  rng = np.random.default_rng(0)
  examples = []
  for _ in range(8):
    levels = np.arange(SPEC.target_levels) * SPEC.codebook_size
    codes = rng.integers(0, SPEC.codebook_size, [SPEC.context_frames, SPEC.context_levels])
    context = (codes + levels[: SPEC.context_levels] + SPEC.codec_offset).reshape(-1)
    style = rng.integers(0, SPEC.codebook_size, [SPEC.style_levels]) + SPEC.style_offset
    style += np.arange(SPEC.style_levels) * SPEC.codebook_size
    codes = rng.integers(0, SPEC.codebook_size, [SPEC.chunk_frames, SPEC.target_levels])
    targets = (codes + levels + SPEC.codec_offset).reshape(-1)
    examples.append((np.concatenate([context, style]), targets))
  examples[3][1][-5:] = SPEC.pad_id
  for step in range(NUM_STEPS):
    rows = [examples[i] for i in (4 * step + np.arange(4)) % 8]
    yield {
      'encoder_input_tokens': np.stack([row[0] for row in rows]).astype(np.int32),
      'decoder_target_tokens': np.stack([row[1] for row in rows]).astype(np.int32),
    }


BATCHES = list(_batches())


class _Feed:
  """The batches from number `first` on, as the built-in engine reads them."""

  batch_size = 4

  def __init__(self, first=0):
    self._first = first

  def batches(self, start=0):
    yield from BATCHES[self._first + start :]


class _T5X:
  """T5X's trainer as t5x.train sets it up: keys, initial values, Adafactor, partitioner."""

  def __init__(self, num_microbatches=None):
    from t5x import adafactor as t5x_adafactor
    from t5x import partitioning, utils

    from training.t5x_bridge import T5XDepthformer

    rules = t5x_adafactor.standard_logical_factor_rules()
    self.model = T5XDepthformer(MODEL, t5x_adafactor.Adafactor(logical_factor_rules=rules))
    self.partitioner = partitioning.PjitPartitioner(num_partitions=1)
    init_rng, trainer_rng = jax.random.split(jax.random.PRNGKey(SEED))
    self.initializer = utils.TrainStateInitializer(
      self.model.optimizer_def,
      self.model.get_initial_variables,
      {name: x.shape for name, x in BATCHES[0].items()},
      self.partitioner,
    )
    self.trainer = trainer_lib.Trainer(
      model=self.model,
      train_state=self.initializer.from_scratch(init_rng),
      partitioner=self.partitioner,
      eval_names=[],
      summary_dir=None,
      train_state_axes=self.initializer.train_state_axes,
      rng=trainer_rng,
      learning_rate_fn=utils.create_learning_rate_scheduler(**SCHEDULE),
      num_microbatches=num_microbatches,
    )

  def params(self):
    flat = weights.flatten(self.trainer.train_state.state_dict()['target'])
    return from_v1({name: np.asarray(x) for name, x in flat.items()}, CONFIG, SPEC)

  def train(self, batches):
    """Metrics of every step, {tag: value}."""
    rows = []
    for batch in batches:
      summary = self.trainer.train(iter([batch]), 1).result()
      rows.append({name: float(np.mean(value.value)) for name, value in summary.items()})
    return rows

  def manager(self, layout, folder):
    from t5x import checkpoints

    arguments = dict(
      train_state=self.initializer.global_train_state_shape, partitioner=self.partitioner
    )
    if layout == 't5x':
      return checkpoints.Checkpointer(checkpoints_dir=str(folder), **arguments)
    return checkpoints.OrbaxCheckpointManagerInterface(directory=str(folder), **arguments)

  def save(self, layout, folder):
    folder.mkdir()  # T5X's Orbax manager would otherwise save beside it.
    manager = self.manager(layout, folder)
    manager.save(self.trainer.train_state)
    if layout == 't5x-orbax':
      manager.wait_until_finished()

  def restore(self, layout, folder):
    self.trainer.train_state = self.manager(layout, folder.parent).restore(path=str(folder))


def _train(model_dir, total_steps, first_batch=0, **options):
  """Metrics of every step that the built-in engine makes, and its last state."""
  schedule = factor_schedule(**SCHEDULE)
  state = loop.train(
    MODEL, _Feed(first_batch), model_dir=model_dir, total_steps=total_steps, seed=SEED,
    optimizer=adafactor(schedule, stacked=MODEL.layer_axes()), log_period=1, tensorboard=False,
    progress=False, **options,
  )  # fmt: skip
  return read_metrics(model_dir), state


@pytest.fixture(scope='module')
def both(tmp_path_factory):
  """20 steps of both engines from the same initial values: metrics, parameters, first values."""
  t5x = _T5X()
  initial = t5x.params()
  theirs = t5x.train(BATCHES)
  ours, state = _train(tmp_path_factory.mktemp('own'), NUM_STEPS, initial_params=initial)
  return {'t5x': theirs, 'own': ours, 'final': (t5x.params(), state.params), 'initial': initial}


def _losses(rows):
  return [row['loss'] for row in rows]


def test_twenty_steps_have_the_built_in_engines_losses(both):
  theirs, ours = _losses(both['t5x']), _losses(both['own'])
  assert len(theirs) == len(ours) == NUM_STEPS
  np.testing.assert_allclose(theirs, ours, **LOSS_TOLERANCE)
  assert ours[-1] < 0.8 * ours[0]  # It learns, so the losses of a wrong update would differ.


def test_tags_that_both_write_have_the_same_values(both):
  shared = {'accuracy', 'cross_ent_loss', 'z_loss', 'loss_per_nonpadding_target_token'}
  shared |= {f'{tag}/level_{i:02d}' for tag in ('loss', 'accuracy') for i in range(4)}
  for theirs, ours in zip(both['t5x'], both['own'], strict=True):
    for name in shared | {'learning_rate'}:
      np.testing.assert_allclose(theirs[name], ours[name], rtol=2e-4, atol=1e-6, err_msg=name)


def test_parameters_after_twenty_steps(both):
  theirs, ours = both['final']
  moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).mean()), ours, both['initial'])
  apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).mean()), ours, theirs)
  # The two stack layers at other moments, so sums are rounded otherwise.
  for name, distance in weights.flatten(apart).items():
    assert distance < 2e-3 * weights.flatten(moved)[name], name


def test_initial_values_are_the_models_own(both):
  rng = jax.random.split(jax.random.PRNGKey(SEED))[0]
  for name, value in weights.flatten(MODEL.init(rng)).items():
    found = weights.flatten(both['initial'])[name]
    np.testing.assert_allclose(found, value, atol=1e-6, err_msg=name)


def test_microbatches_add_up_without_dropout(monkeypatch):
  model = DepthformerModel(dataclasses.replace(CONFIG, dropout_rate=0.0), SPEC)
  monkeypatch.setattr(sys.modules[__name__], 'MODEL', model)
  whole, parts = (_T5X(num).train(BATCHES[:3]) for num in (None, 2))
  np.testing.assert_allclose(_losses(parts), _losses(whole), rtol=1e-5)
  np.testing.assert_allclose(parts[-1]['loss/level_03'], whole[-1]['loss/level_03'], rtol=1e-5)


@pytest.mark.parametrize('layout', t5x_checkpoints.LAYOUTS)
def test_the_built_in_engine_goes_on_from_t5x(both, layout, tmp_path):
  t5x = _T5X()
  t5x.train(BATCHES[:HALF])
  t5x.save(layout, tmp_path / 'theirs')
  write_model_file(tmp_path / 'theirs', MODEL, **IDENTITY)
  folder, notes = export_run(tmp_path / 'theirs', tmp_path / 'ours')
  assert (folder.name, notes) == (f'checkpoint_{HALF}', [])
  rows, _ = _train(tmp_path / 'ours', NUM_STEPS, first_batch=HALF)
  np.testing.assert_allclose(_losses(rows), _losses(both['own'])[HALF:], **LOSS_TOLERANCE)


@pytest.mark.parametrize('layout', t5x_checkpoints.LAYOUTS)
def test_t5x_goes_on_from_the_built_in_engine(both, layout, tmp_path):
  _train(tmp_path / 'ours', HALF, initial_params=both['initial'])
  write_model_file(tmp_path / 'ours', MODEL, **IDENTITY)
  folder, notes = export_t5x(tmp_path / 'ours', tmp_path / 'theirs', layout)
  assert folder.name == f'checkpoint_{HALF}' and len(notes) == 1
  t5x = _T5X()
  t5x.restore(layout, folder)
  assert int(t5x.trainer.train_state.step) == HALF
  rows = t5x.train(BATCHES[HALF:])
  np.testing.assert_allclose(_losses(rows), _losses(both['t5x'])[HALF:], **LOSS_TOLERANCE)


# What v1's own code computed.


@pytest.fixture(scope='module')
def v1():
  """(bridge, parameters, batch, golden arrays, golden metrics) of v1's tiny model."""
  from training.t5x_bridge import T5XDepthformer

  config = DepthformerConfig(
    embed_dim=32, num_heads=4, head_dim=8, mlp_dim=64, num_encoder_layers=2,
    num_temporal_layers=2, num_depth_layers=2, dropout_rate=0.0, loss_over='vocabulary',
  )  # fmt: skip
  with np.load(GOLDEN / 'llm_tiny.npz') as file:
    golden = {name: file[name] for name in file.files}
  params = {n.removeprefix('params/'): x for n, x in golden.items() if n.startswith('params/')}
  batch = {n.removeprefix('batch/'): x for n, x in golden.items() if n.startswith('batch/')}
  metrics = json.loads((GOLDEN / 'llm_tiny.json').read_text())['metrics']
  spec = dataclasses.replace(SPEC, codec_levels=LiveMusicSpec().codec_levels)
  bridge = T5XDepthformer(DepthformerModel(config, spec), None, temperature=0.0)
  return bridge, weights.unflatten(params), batch, golden, metrics


def test_loss_and_t5x_tags_are_v1s(v1):
  bridge, params, batch, golden, expected = v1
  tokens = {n: batch[n] for n in ('encoder_input_tokens', 'decoder_target_tokens')}
  loss, metrics = jax.jit(lambda p, b: bridge.loss_fn(p, b, None))(params, tokens)
  np.testing.assert_allclose(loss, golden['loss'], rtol=1e-6)
  compared = {name for name in expected if name in metrics}
  assert compared >= {n for n in expected if not n.startswith('timing')}, set(expected) - compared
  for name in compared:
    value = metrics[name].compute_value().value
    np.testing.assert_allclose(value, expected[name], rtol=2e-5, err_msg=name)


def test_scores_are_v1s(v1):
  bridge, params, batch, golden, _ = v1
  scores = jax.jit(bridge.score_batch)(params, batch)
  np.testing.assert_allclose(scores, golden['score_batch'], rtol=1e-5)
  again, aux = bridge.score_batch(params, batch, return_intermediates=True)
  np.testing.assert_allclose(aux['token_log_probs'][0].sum(-1), again, rtol=1e-6)


def test_predictions_are_the_models_own(v1):
  bridge, params, batch, _, _ = v1
  model, tokens = bridge.model, batch['encoder_input_tokens']
  ids, aux = jax.jit(bridge.predict_batch_with_aux)(params, {'encoder_input_tokens': tokens})
  stacked = from_v1(weights.flatten(params), model.config, model.spec)
  expected = model.generate(stacked, tokens, temperature=0.0)
  np.testing.assert_array_equal(ids, expected.reshape(len(tokens), -1))
  assert ids.shape[1] == model.spec.targets_length and aux['scores'].shape == (len(tokens),)
  key = jax.random.PRNGKey(3)
  batch = {'encoder_input_tokens': tokens}
  drawn, _ = bridge.predict_batch_with_aux(params, batch, key, temperature=1.0, top_k=5)
  expected = model.generate(stacked, tokens, rng=key, temperature=1.0, top_k=5)
  np.testing.assert_array_equal(drawn, expected.reshape(len(tokens), -1))


def test_other_lengths_are_refused():
  with pytest.raises(ValueError, match="'inputs': 23, 'targets': 32"):
    _T5X().model.get_initial_variables(
      jax.random.PRNGKey(0), {'encoder_input_tokens': (4, 23), 'decoder_target_tokens': (4, 31)}
    )


# Token records.


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """Seven and two clips of 15 s, in two shards each."""
  spec = LiveMusicSpec()
  root = tmp_path_factory.mktemp('prepared')
  folder = root / 'toy' / '1.0.0'
  folder.mkdir(parents=True)
  splits = []
  for split, count in {'train': 7, 'validation': 2}.items():
    shards = [[], []]
    for index in range(count):
      rng = np.random.default_rng([index, count])
      codes = rng.integers(0, spec.codebook_size, [375, spec.codec_levels], dtype=np.int32)
      style = np.full([2, spec.style_rvq_levels], index, np.int32)
      tokens = ClipTokens(0.0, codes, style, np.zeros([2, spec.style_dim], np.float32))
      record = encode_record(tokens, RecordInfo(index, f'{split}-{index}', 0.0))
      shards[index % 2].append(record)
    for number, records in enumerate(shards):
      write_shard(folder / shard_name('toy', split, number, 2), records)
    splits.append({'name': split, 'shardLengths': [str(len(s)) for s in shards]})
  (folder / 'dataset_info.json').write_text(json.dumps({'splits': splits}))
  stats = {'codec': 'tiny', 'codec_hash': 'c0de', 'style': 'tiny', 'style_hash': '5717e'}
  (folder / 'stats.json').write_text(json.dumps(stats))
  (folder / 'COMPLETED').write_text('')
  return str(root)


def _dataset_config(task, **options):
  from t5x import utils

  lengths = {'inputs': 1006, 'targets': 800}
  defaults = dict(split='train', batch_size=4, shuffle=False, seed=7)
  return utils.DatasetConfig(
    mixture_or_task_name=task, task_feature_lengths=lengths, **(defaults | options)
  )


def test_t5x_reads_the_batches_of_the_built_in_engine(data_dir, tmp_path):
  from training import t5x_bridge

  expected = runs.token_feed(data_dir, batch_size=4, seed=7)
  task = expected.feed.task_name

  def first_batches(hosts=1, **options):
    sets = [
      t5x_bridge.get_dataset(_dataset_config(task), host, hosts, None, **options)
      for host in range(hosts)
    ]
    return zip(*(itertools.islice(s.as_numpy_iterator(), 3) for s in sets), strict=True)

  def check(found, start):
    for parts, whole in zip(found, itertools.islice(expected.batches(start), 3), strict=True):
      for name in ('encoder_input_tokens', 'decoder_target_tokens'):
        rows = np.stack([part[name] for part in parts], axis=1).reshape(whole[name].shape)
        np.testing.assert_array_equal(rows, whole[name])

  check(first_batches(), 0)
  check(first_batches(hosts=2), 0)
  options = dict(model_dir=str(tmp_path), initial_checkpoint_path='gs://runs/checkpoint_5')
  check(first_batches(**options), 5)
  (tmp_path / 'checkpoint_8').mkdir()
  check(first_batches(**options), 8)
  with pytest.raises(ValueError, match='RANDOM_SEED'):
    t5x_bridge.get_dataset(_dataset_config(task, seed=None), 0, 1, None)
  with pytest.raises(ValueError, match='utils.get_dataset'):
    t5x_bridge.get_dataset(_dataset_config(task, use_cached=True), 0, 1, None)


NARROW = [
  '--gin_file=gin/models/tiny.gin',
  *(
    f'--gin.depthformer.DepthformerConfig.{name}={value}'
    for name, value in dict(embed_dim=16, num_heads=2, head_dim=8, mlp_dim=16).items()
  ),
]


def _t5x_main(script, *arguments):
  command = [sys.executable, '-m', f't5x.{script}', *NARROW, *arguments]
  done = subprocess.run(
    command, cwd=ROOT, env=os.environ | {'TF_CPP_MIN_LOG_LEVEL': '3'}, capture_output=True,
    text=True,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr[-4000:]
  return done.stderr


def test_t5x_programs_run_the_gin_files(data_dir, tmp_path):
  pytest.importorskip('fiddle', reason='t5x.train imports fiddle: pip install --no-deps fiddle')
  data = f'--gin.DATA_DIR="{data_dir}"'
  sizes = ['--gin.BATCH_SIZE=2', '--gin.LOG_PERIOD=1', '--gin.CHECKPOINT_PERIOD=2',
           '--gin.EVAL_PERIOD=2', '--gin.EVAL_STEPS=1']  # fmt: skip
  first, second, report = (tmp_path / name for name in ('first', 'second', 'report'))
  _t5x_main(
    'train', '--gin_file=gin/t5x/pretrain.gin', data, f'--gin.MODEL_DIR="{first}"', *sizes,
    '--gin.TRAIN_STEPS=3',
  )  # fmt: skip
  source = load_source(first)
  assert (source.kind, source.step, source.bundle.codec_hash) == ('t5x', 3, 'c0de')
  assert source.bundle.model.config.embed_dim == 16
  assert 'mixture_or_task_name' in (first / 'config.gin').read_text()

  _t5x_main(
    'train', '--gin_file=gin/t5x/finetune.gin', data, f'--gin.MODEL_DIR="{second}"', *sizes,
    f'--gin.INITIAL_CHECKPOINT_PATH="{first / "checkpoint_3"}"', '--gin.TRAIN_STEPS=5',
  )  # fmt: skip
  tuned = t5x_checkpoints.read(second, with_optimizer=True)
  assert tuned.step == int(tuned.opt_state.count) == 5

  _t5x_main(
    'eval', '--gin_file=gin/t5x/eval.gin', data, f'--gin.EVAL_OUTPUT_DIR="{report}"',
    f'--gin.CHECKPOINT_PATH="{second / "checkpoint_5"}"', '--gin.BATCH_SIZE=2',
    '--gin.EVAL_STEPS=3',
  )  # fmt: skip
  line = json.loads((report / 'inference_eval' / 'held_out-metrics.jsonl').read_text())
  model = load_source(second).bundle
  batches = list(runs.held_out_token_feed(data_dir, batch_size=2).batches(0))
  expected = np.mean([
    model.model.token_log_probs(
      model.params, batch['encoder_input_tokens'], batch['decoder_target_tokens'], over='level'
    ).sum(-1)
    for batch in batches
  ])  # fmt: skip
  np.testing.assert_allclose(line['log_likelihood'], expected, rtol=1e-4)
  np.testing.assert_allclose(line['log_likelihood_per_token'], expected / 800, rtol=1e-4)


def test_a_checkpoint_of_other_tokens_is_refused(data_dir, tmp_path):
  write_model_file(tmp_path, MODEL, **(IDENTITY | {'codec_hash': 'other'}))
  with pytest.raises(ValueError, match='codec model other, the data holds tokens of c0de'):
    runs.describe_model(
      str(tmp_path / 'new'), model=MODEL, data_dir=data_dir,
      initial_checkpoint_path=str(tmp_path / 'checkpoint_3'),
    )  # fmt: skip
