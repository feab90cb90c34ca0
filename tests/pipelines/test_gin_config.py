"""gin files: each parses; each name that leads nowhere stops with the nearest right one."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

import gin
from pipelines import gin_config

ROOT = pathlib.Path(__file__).parents[2]
MODELS = sorted((ROOT / 'gin' / 'models').glob('*.gin'))
RUNS = sorted((ROOT / 'gin' / 'runs').glob('*.gin'))
TINY = 'gin/models/tiny.gin'
PRETRAIN = 'gin/runs/pretrain.gin'
REQUIRED = ['DATA_DIR="data"', 'MODEL_DIR="model"']


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
  """Relative folders, such as MODEL_DIR, lie in a temporary one."""
  monkeypatch.chdir(tmp_path)
  yield
  gin.clear_config()


def _model_file(run: pathlib.Path) -> list[str]:
  """The model that a run file is made for, by the names of the two."""
  text = run.read_text()
  for kind in ('musiccoca', 'spectrostream'):
    if f'gin/models/{kind}_tiny.gin' in text:
      return [f'gin/models/{kind}_tiny.gin']
  if 'import evaluate_style' in text:  # Names a language model by its bundle.
    return []
  included = ("include 'gin/runs/pretrain", "include 'gin/runs/finetune")
  return [TINY] if 'depthformer' in text or any(line in text for line in included) else []


@pytest.mark.parametrize('model', MODELS, ids=lambda path: path.stem)
def test_every_model_file_parses_with_its_run(model):
  runs = {'spectrostream': 'train_codec', 'musiccoca': 'train_style'}
  run = runs.get(model.stem.split('_')[0], 'pretrain')
  gin_config.parse_gin([str(model), f'gin/runs/{run}.gin'], REQUIRED)
  assert callable(gin_config.macro_value('RUN')) and gin_config.macro_value('MODEL') is not None


@pytest.mark.parametrize('run', RUNS, ids=lambda path: path.stem)
def test_every_run_file_parses_with_its_model(run):
  names = [
    line.split('=')[0].strip()
    for line in run.read_text().splitlines()
    if line.endswith('%gin.REQUIRED')
  ]
  if "include 'gin/runs/" in run.read_text():
    names += ['DATA_DIR', 'MODEL_DIR']
  if "include 'gin/runs/finetune" in run.read_text():
    names += ['INITIAL_CHECKPOINT_PATH']
  bindings = [f'{name} = "here"' for name in set(names)]
  gin_config.parse_gin([*_model_file(run), str(run)], bindings)
  assert callable(gin_config.macro_value('RUN'))
  missing = bindings[1:]
  with pytest.raises(gin_config.GinError, match='must be given'):
    gin_config.parse_gin([*_model_file(run), str(run)], missing)


@pytest.mark.parametrize(
  'name, parameters', [('tiny', None), ('base', 347_873_472), ('large', 761_651_456)]
)
def test_language_models_have_their_sizes(name, parameters):
  import jax

  from models.depthformer import DepthformerConfig

  gin_config.parse_gin([f'gin/models/{name}.gin', PRETRAIN], [*REQUIRED, 'DROPOUT_RATE = 0.25'])
  model = gin_config.macro_value('MODEL')
  want = getattr(DepthformerConfig, name)(dropout_rate=0.25)
  assert model.config == want
  shapes = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))
  assert parameters in (None, sum(leaf.size for leaf in shapes))


def test_magenta_rt_figures_are_the_defaults():
  gin_config.parse_gin(['gin/models/large.gin', PRETRAIN], REQUIRED)
  assert gin_config.macro_value('BATCH_SIZE') == 512
  assert gin_config.macro_value('TRAIN_STEPS') == 1_860_000
  assert gin_config.macro_value('WARMUP_STEPS') == 10_000
  schedule = gin.query_parameter('optimizers.adafactor.learning_rate').scoped_configurable_fn()
  assert float(schedule(10_000)) == pytest.approx(0.01, rel=1e-5)
  assert float(schedule(1_000_000)) == pytest.approx(0.001, rel=1e-5)


def test_later_files_and_bindings_win(tmp_path):
  own = tmp_path / 'own.gin'
  own.write_text('BATCH_SIZE = 3\nTRAIN_STEPS = 4\n')
  files = [TINY, PRETRAIN, 'own.gin']
  gin_config.parse_gin(files, [*REQUIRED, 'TRAIN_STEPS = 5'], search_paths=[str(tmp_path)])
  assert gin_config.macro_value('BATCH_SIZE') == 3
  assert gin_config.macro_value('TRAIN_STEPS') == 5


@pytest.mark.parametrize(
  'files, bindings, message',
  [
    ([TINY, PRETRAIN], ['TRIAN_STEPS = 5'], 'Nothing uses TRIAN_STEPS. Did you mean TRAIN_STEPS'),
    ([TINY, PRETRAIN], ['runs.train.sed = 5'], 'Did you mean seed'),
    ([TINY, PRETRAIN], ['runs.tarin.seed = 5'], 'Did you mean runs.train'),
    ([TINY, PRETRAIN], ['runs.train.optimizer = @optimizers.adafctor'], 'optimizers.adafactor'),
    ([TINY, PRETRAIN], ['runs.train.seed = %RANDM_SEED'], 'RANDM_SEED is used and nowhere set'),
    ([TINY, PRETRAIN], ['BATCH_SIZE = (5'], 'not closed'),
    ([TINY, 'gin/runs/pretain.gin'], [], 'Did you mean gin/runs/pretrain.gin'),
    ([PRETRAIN], [], r'MODEL is used and nowhere set.*gin/models'),
  ],
)
def test_names_that_lead_nowhere(files, bindings, message):
  with pytest.raises(gin_config.GinError, match=message):
    gin_config.parse_gin(files, [*REQUIRED, *bindings])


@pytest.mark.parametrize(
  'binding, message',
  [
    ('TRAIN_STEPS = "many"', "TRAIN_STEPS = 'many' must be a whole number, such as 1860000"),
    ('RANDOM_SEED = 1.5', 'RANDOM_SEED = 1.5 must be a whole number, such as 42'),
    ('DROPOUT_RATE = "0.1"', "DROPOUT_RATE = '0.1' must be a number, such as 0.1"),
    ('CODEBOOK_START = 1', 'must be True or False, such as False'),
    ('MIXTURE_OR_TASK_NAME = 3', 'must be text in quotes'),
    ('FROZEN_PARAMETERS = "logits"', r"such as \(\) \('logits' alone is \('logits',\)\)"),
  ],
)
def test_values_of_another_kind(binding, message, tmp_path):
  with pytest.raises(gin_config.GinError, match=message):
    gin_config.parse_gin([TINY, PRETRAIN], [*REQUIRED, binding])
  (tmp_path / 'own.gin').write_text(binding)
  with pytest.raises(gin_config.GinError, match=message):
    gin_config.parse_gin([TINY, PRETRAIN, str(tmp_path / 'own.gin')], REQUIRED)


def test_values_that_may_stand_for_each_other():
  gin_config.parse_gin(
    [TINY, PRETRAIN],
    [*REQUIRED, 'DROPOUT_RATE = 0', 'TIME_BUDGET_SECS = 1.5', 'MIXTURE_OR_TASK_NAME = None',
     'FROZEN_PARAMETERS = ["logits"]', 'BATCH_SIZE = %TRAIN_STEPS'],
  )  # fmt: skip
  assert gin_config.macro_value('DROPOUT_RATE') == 0


def test_a_users_file_does_not_say_what_kind_a_value_is(tmp_path):
  (tmp_path / 'own.gin').write_text('DROPOUT_RATE = 0')
  files = [TINY, PRETRAIN, str(tmp_path / 'own.gin')]
  gin_config.parse_gin(files, [*REQUIRED, 'DROPOUT_RATE = 0.1'])
  assert gin_config.macro_value('DROPOUT_RATE') == 0.1
  (tmp_path / 'config.gin').write_text(gin_config.config().replace('= 0.1', '= 0'))
  gin_config.parse_gin([str(tmp_path / 'config.gin')], ['DROPOUT_RATE = 0.2'])
  assert gin_config.macro_value('DROPOUT_RATE') == 0.2
  (tmp_path / 'first.gin').write_text('OWN = "text"\nDATA_DIR = %OWN')
  files = [str(tmp_path / 'first.gin'), TINY, PRETRAIN]
  gin_config.parse_gin(files, [*REQUIRED, 'OWN = 3'])
  assert gin_config.macro_value('OWN') == 3


def test_unknown_names_inside_of_files(tmp_path):
  head = 'from __gin__ import dynamic_registration\n'
  for text, near in [
    ('from training import lop\n', 'loop'),
    ('from training import loop\nloop.trian.seed = 1\n', 'train'),
    ('from training import loop\nloop.train.total_step = 1\n', 'total_steps'),
  ]:
    (tmp_path / 'own.gin').write_text(head + text)
    with pytest.raises(gin_config.GinError, match=f'Did you mean {near}'):
      gin_config.parse_gin([str(tmp_path / 'own.gin')])


def test_a_use_that_a_binding_replaced_still_counts():
  """Nothing could unset EVAL_STEPS, so a run without the evaluator must not trip over it."""
  gin_config.parse_gin([TINY, PRETRAIN], [*REQUIRED, 'runs.HeldOutLoss.num_batches = 3'])
  assert gin.query_parameter('runs.HeldOutLoss.num_batches') == 3
  assert gin_config.macro_value('EVAL_STEPS') == 20


def test_a_macro_that_only_an_unused_macro_uses_is_found():
  with pytest.raises(gin_config.GinError, match='Nothing uses MY_STEPS'):
    gin_config.parse_gin([TINY, PRETRAIN], [*REQUIRED, 'MY_STEPS = %TRAIN_STEPS'])


def test_folders_become_full_paths(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv('HOME', '/home/me')
  gin_config.parse_gin(
    ['gin/models/tiny.gin', 'gin/runs/pretrain.gin'],
    ['DATA_DIR = "~/a b"', 'MODEL_DIR = "../runs/[1]"', 'INITIAL_CHECKPOINT_PATH = "tiny"'],
  )
  assert gin_config.macro_value('DATA_DIR') == '/home/me/a b'
  assert gin_config.macro_value('MODEL_DIR') == f'{tmp_path.parent}/runs/[1]'
  assert gin_config.macro_value('INITIAL_CHECKPOINT_PATH') == 'tiny'
  gin_config.parse_gin(
    ['gin/models/tiny.gin', 'gin/runs/pretrain.gin'],
    ['DATA_DIR = "gs://bucket/corpus"', 'MODEL_DIR = "runs"'],
  )
  assert gin_config.macro_value('DATA_DIR') == 'gs://bucket/corpus'
  assert f"MODEL_DIR = '{tmp_path}/runs'" in gin_config.config()


def test_split_flags():
  argv = ['train.py', '--gin_file=a.gin', '--gin.MODEL_DIR="x=y"', '--dry_run', '--gin.a.b.c=1']
  bindings, others = gin_config.split_flags(argv)
  assert bindings == ['MODEL_DIR="x=y"', 'a.b.c=1']
  assert others == ['train.py', '--gin_file=a.gin', '--dry_run']
  with pytest.raises(gin_config.GinError, match='--gin.MODEL_DIR=VALUE'):
    gin_config.split_flags(['--gin.MODEL_DIR'])


def test_nothing_to_run_is_said():
  gin_config.parse_gin([])
  with pytest.raises(gin_config.GinError, match='Add one of gin/runs'):
    gin_config.run()


def test_what_a_run_does_not_take_is_said():
  bindings = ['CHECKPOINT_PATH = "a"', 'DATA_DIR = "b"', 'INFER_OUTPUT_DIR = "c"']
  gin_config.parse_gin(['gin/runs/infer.gin'], bindings)
  with pytest.raises(gin_config.GinError, match='infer takes no profile_steps'):
    gin_config.run(profile_steps='1:2', precompile=False)


def test_help_imports_nothing_heavy():
  code = (
    'import sys, runpy; sys.argv = ["train.py", "--help"]\n'
    'try: runpy.run_path("train.py", run_name="__main__")\n'
    'except SystemExit: pass\n'
    'heavy = {"jax", "numpy", "tensorflow", "gin"} & set(sys.modules)\n'
    'sys.exit(str(heavy) if heavy else 0)'
  )
  done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert '--gin_file' in done.stdout


def test_a_mistyped_macro_ends_train_py_before_any_work(tmp_path):
  flags = [f'--gin_file={TINY}', f'--gin_file={PRETRAIN}', '--gin.DATA_DIR="x"']
  flags += [f'--gin.MODEL_DIR="{tmp_path / "model"}"', '--gin.BACH_SIZE=4']
  done = subprocess.run(
    [sys.executable, 'train.py', *flags], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 1
  assert 'Nothing uses BACH_SIZE. Did you mean BATCH_SIZE?' in done.stderr
  assert 'Traceback' not in done.stderr
  assert not (tmp_path / 'model').exists()


def test_codec_and_style_model_files_are_the_bundled_sizes():
  from models.spectrostream.config import SpectroStreamConfig

  codec = ['gin/models/spectrostream_tiny.gin', 'gin/runs/train_codec.gin']
  gin_config.parse_gin(codec, [*REQUIRED, 'TRAIN_STEPS = 7'])
  trainable = gin_config.macro_value('MODEL')
  assert trainable.config == SpectroStreamConfig.tiny()
  assert trainable.recipe.linear_start is not None
  assert trainable.discriminator_config.windows == (256, 1024, 4096)
  schedule = gin.query_parameter('optimizers.adam.learning_rate').scoped_configurable_fn()
  assert float(schedule(3)) == pytest.approx(1.5e-4, rel=1e-5)  # In the warmup of 30 steps.


@pytest.mark.parametrize(
  'size, run, optimizer, rate',
  [('tiny', 'train_style_tiny', 'adam', 1.5e-4), ('base', 'train_style', 'adafactor', 3e-7)],
)
def test_style_model_files_are_the_sizes_of_their_classes(size, run, optimizer, rate):
  from models.musiccoca import MusicCoCaConfig

  gin_config.parse_gin([f'gin/models/musiccoca_{size}.gin', f'gin/runs/{run}.gin'], REQUIRED)
  expected = MusicCoCaConfig.tiny() if size == 'tiny' else MusicCoCaConfig.real()
  assert gin_config.macro_value('MODEL') == expected
  assert gin_config.macro_value('OPTIMIZER').__name__ == optimizer
  schedule = gin.query_parameter(f'optimizers.{optimizer}.learning_rate').scoped_configurable_fn()
  assert float(schedule(3)) == pytest.approx(rate, rel=1e-5)  # In the warmup.


def test_the_base_codec_has_the_released_size_and_weights_come_from_macros():
  import jax

  files = ['gin/models/spectrostream_base.gin', 'gin/runs/train_codec.gin']
  gin_config.parse_gin(files, [*REQUIRED, 'MEL_WEIGHT = 3.0', "TRAIN_ONLY = 'decoder'"])
  trainable = gin_config.macro_value('MODEL')
  shapes = jax.eval_shape(trainable.init, jax.random.key(0))
  codebooks = jax.eval_shape(trainable.init_aux, jax.random.key(0))['codebooks']
  own = [*jax.tree.leaves((shapes['encoder'], shapes['decoder'])), codebooks]
  assert sum(leaf.size for leaf in own) == 61_713_666
  assert len(shapes['discriminators']) == 6 and trainable.discriminator_config.width == 32
  assert trainable.recipe.mel_weight == 3.0 and trainable.recipe.train_only == 'decoder'
  assert trainable.recipe.linear_start is None and trainable.recipe.balance
  optimizer = gin.query_parameter('codec_training.train_codec.optimizer').scoped_configurable_fn()
  params = {name: {'w': np.ones(3, np.float32)} for name in ('decoder', 'discriminators')}
  gradients = jax.tree.map(np.ones_like, params)
  updates, _ = optimizer.update(gradients, optimizer.init(params), params)
  # Adam's first step has the size of the learning rate: 1 of 30 warmup steps lies behind it.
  assert abs(float(updates['decoder']['w'][0])) == pytest.approx(0.0, abs=1e-4)
  assert float(updates['discriminators']['w'][0]) == pytest.approx(-3e-4, rel=1e-3)


def test_included_files_are_found_from_any_working_directory(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  bindings = ['DATA_DIR = "a"', 'MODEL_DIR = "b"']
  gin_config.parse_gin(['gin/models/tiny.gin', 'gin/runs/pretrain_demo.gin'], bindings)
  assert gin_config.macro_value('BATCH_SIZE') == 4


def test_an_include_beside_the_including_file_is_found(tmp_path, monkeypatch, caplog):
  """Before all other places, and one inside of another; nothing of the search is logged."""
  (tmp_path / 'own').mkdir()
  (tmp_path / 'cwd').mkdir()
  (tmp_path / 'own' / 'sizes.gin').write_text('BATCH_SIZE = 7\n')
  (tmp_path / 'cwd' / 'sizes.gin').write_text('BATCH_SIZE = 8\n')
  middle = "include 'gin/runs/pretrain.gin'\ninclude 'sizes.gin'\n"
  (tmp_path / 'own' / 'middle.gin').write_text(middle)
  (tmp_path / 'run.gin').write_text("include 'own/middle.gin'\n")
  monkeypatch.chdir(tmp_path / 'cwd')
  with caplog.at_level('INFO'):
    gin_config.parse_gin([TINY, str(tmp_path / 'run.gin')], REQUIRED)
    assert gin_config.macro_value('BATCH_SIZE') == 7
    (tmp_path / 'run.gin').write_text("include 'nowhere.gin'\n")
    with pytest.raises(gin_config.GinError, match=r"(?s)'nowhere.gin'.*run.gin.*line 1"):
      gin_config.parse_gin([TINY, str(tmp_path / 'run.gin')], REQUIRED)
  assert caplog.records == []


def test_files_that_are_no_gin_files(tmp_path):
  (tmp_path / 'bytes.gin').write_bytes(b'BATCH_SIZE = 7 # \xff')
  with pytest.raises(gin_config.GinError, match=r'bytes.gin is not a gin file: byte 17 is not'):
    gin_config.parse_gin([str(tmp_path / 'bytes.gin')])
  with pytest.raises(gin_config.GinError, match='is a folder, not a gin file'):
    gin_config.parse_gin([str(tmp_path)])
  (tmp_path / 'a.gin').write_text("include 'b.gin'\n")
  (tmp_path / 'b.gin').write_text("include 'a.gin'\n")
  with pytest.raises(gin_config.GinError, match=r'in a circle: .*a.gin -> .*b.gin -> .*a.gin'):
    gin_config.parse_gin([str(tmp_path / 'a.gin')])


FINETUNE = 'gin/runs/finetune.gin'


@pytest.mark.parametrize('run, binding, message', [
  (PRETRAIN, 'NUM_MICROBATCHES = 3', 'NUM_MICROBATCHES = 3 does not divide BATCH_SIZE = 512'),
  (PRETRAIN, 'BATCH_SIZE = 0', 'BATCH_SIZE = 0 must be at least 1'),
  (PRETRAIN, 'SAMPLE_SECS = 8.0', 'SAMPLE_SECS = 8.0 has no effect with SAMPLE_PERIOD = 0'),
  (PRETRAIN, 'RESTORE_OPTIMIZER = True', 'Nothing uses RESTORE_OPTIMIZER'),
  (PRETRAIN, 'EVAL_PERIOD = 0 | EVAL_STEPS = 3', 'EVAL_STEPS = 3 has no effect with EVAL_PERIOD'),
  (PRETRAIN, 'CODEBOOK_START = True | INITIAL_CHECKPOINT_PATH = "tiny"', 'beside INITIAL_CHECKPOI'),
  (FINETUNE, 'ADAPTER_RANK = 16', "ADAPTER_RANK = 16 has no effect with METHOD = 'full'"),
  ('gin/runs/finetune_depth_only.gin', 'ADAPTER_ALPHA = 2', "no effect with METHOD = 'depth_only'"),
  (FINETUNE, 'STYLE_PROMPT = "a" | STYLE_JITTER = 0.1', 'STYLE_JITTER = 0.1 has no effect beside'),
  (FINETUNE, 'REPLAY_RATE = 0.1', 'REPLAY_RATE = 0.1 has no effect with REPLAY_DATA_DIR = None'),
])  # fmt: skip
def test_values_that_do_not_go_together(run, binding, message):
  given = [*REQUIRED, *(one.strip() for one in binding.split('|'))]
  given += ['INITIAL_CHECKPOINT_PATH = "tiny"'] if 'finetune' in run else []
  with pytest.raises(gin_config.GinError, match=message):
    gin_config.parse_gin([TINY, run], given)


def test_values_that_go_together(tmp_path):
  adapter = ['ADAPTER_RANK = 16', 'INITIAL_CHECKPOINT_PATH = "tiny"']
  gin_config.parse_gin([TINY, 'gin/runs/finetune_lora.gin'], [*REQUIRED, *adapter])
  # The configuration that a run writes sets everything, and nothing of it was given in vain.
  (tmp_path / 'config.gin').write_text(gin_config.config())
  gin.clear_config()
  gin_config.parse_gin([str(tmp_path / 'config.gin')])
  assert gin_config.macro_value('ADAPTER_RANK') == 16
  assert gin_config.macro_value('METHOD') == 'lora'


def test_devices_are_asked_before_the_feed_is_built(monkeypatch, tmp_path):
  from pipelines import runs

  def built(data_dir):
    raise AssertionError('the feed was built')

  monkeypatch.setattr(runs, 'token_identity', built)
  here = [f'DATA_DIR = {str(tmp_path)!r}', f'MODEL_DIR = {str(tmp_path / "model")!r}']
  gin_config.parse_gin([TINY, PRETRAIN], [*here, 'NUM_PARTITIONS = 64'])
  with pytest.raises(ValueError, match='devices do not divide into groups of 64'):
    gin_config.run()


@pytest.mark.parametrize('binding, error, message', [
  ('DATA_DIR = "/none/here"', FileNotFoundError, "DATA_DIR = '/none/here' does not exist"),
  ('DATA_DIR = ("/", "/none/here")', FileNotFoundError, "DATA_DIR = '/none/here' does not exist"),
  ('DATA_DIR = ("/", "")', ValueError, 'DATA_DIR is empty'),
  ('DATA_DIR = ""', ValueError, 'DATA_DIR is empty'),
  ('MODEL_DIR = ""', ValueError, 'MODEL_DIR is empty'),
  ('MODEL_DIR = "/proc/none/model"', ValueError, '/proc/none/model cannot be written'),
])  # fmt: skip
def test_paths_of_macros_are_tried_before_any_work(binding, error, message, tmp_path):
  here = [f'DATA_DIR = {str(tmp_path)!r}', f'MODEL_DIR = {str(tmp_path / "model")!r}', binding]
  with pytest.raises(error, match=message):
    gin_config.parse_gin([TINY, PRETRAIN], here)
    gin_config.run()
  assert not (tmp_path / 'model').exists()
