"""The commands in README.md and docs/: flags and gin macros exist, and they run as written."""

import ast
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest
import soundfile

from pipelines import gin_config
from preprocessing import demo_corpus

ROOT = pathlib.Path(__file__).parents[2]
PAGES = tuple(
  path.relative_to(ROOT).as_posix()
  for pattern in ('README.md', 'docs/*.md', 'recipes/*/README.md')
  for path in sorted(ROOT.glob(pattern))
)

# What is run, in this order: the beginning of each command, and what is added to make it short.
RUN = {
  'python prepare.py --audio_dir=~/music --output_dir=work/corpus': '--clip_secs=10 --seed=3',
  'python prepare.py tokens inspect': '--output_dir=heard',
  'python prepare.py manifest check': '',
  'python prepare.py manifest stats': '',
  'python train.py --gin_file=gin/models/tiny.gin --gin_file=gin/runs/pretrain_tiny.gin': (
    '--gin.TRAIN_STEPS=1 --gin.BATCH_SIZE=2 --gin.EVAL_PERIOD=0'
  ),
  'python train.py --gin_file=gin/models/tiny.gin --gin_file=gin/runs/pretrain_demo.gin': (
    '--gin.TRAIN_STEPS=2 --gin.BATCH_SIZE=2 --gin.EVAL_PERIOD=0'
  ),
  'python eval.py --gin_file=gin/runs/infer.gin': '--gin.BATCH_SIZE=1 --gin.NUM_EXAMPLES=1',
  "python generate.py --prompt='0.7:church organ' --prompt='0.3:loop.wav' --secs=30 --bundle": (
    '--bundle=runs/tiny --secs=2'
  ),
  "python generate.py --prompt='0.7:church organ' --prompt='0.3:loop.wav' --secs=30 --output": (
    '--secs=2'
  ),
  'python plan.py --gin_file=gin/models/large.gin': '--analytic',
}
# What is not, and why. Flags and macros of these are looked up, too.
NOT_RUN = {
  'python -m benchmarks.recorded_anchors': 'needs music; tests/benchmarks runs a small one',
  'python -m benchmarks.truth': 'takes minutes',
  'python -m pipelines.import_musicnn': 'needs a wheel of PyPI; its flags are looked up',
  'python -m preprocessing.demo_corpus': 'takes minutes for 60 works; its flags are looked up',
  'python -m recipes.recorded_music.': 'needs a mirror of Debian; tests/recipes runs small ones',
  'python -m t5x.': 'needs T5X, which is not on PyPI',
  'python eval.py --compare': 'needs two finished reports; tests/evaluation runs it',
  'python eval.py --gin_file=gin/runs/eval.gin': 'takes minutes; test_evaluate runs a small one',
  'python eval.py --gin_file=gin/runs/eval_codec.gin': 'takes minutes; so test_evaluate_codec',
  'python eval.py --gin_file=gin/runs/eval_style.gin': 'takes minutes; so test_evaluate_style',
  'python finetune.py': 'takes minutes; test_finetune runs a small one',
  'python jam.py': 'serves until it is stopped; test_jam',
  'python plan.py corpus': 'measures for a minute; test_plan_corpus',
  'python prepare.py --manifest=gs://BUCKET': 'needs a bucket and Dataflow',
  'python prepare.py manifest build': 'needs a bucket',
  'python train.py ...': 'is cut short; needs two machines',
  'python train.py --gin_file=gin/models/musiccoca_base.gin': 'needs a released model',
  'python train.py --gin_file=gin/models/musiccoca_tiny.gin': 'takes minutes; test_style_training',
  'python train.py --gin_file=gin/models/spectrostream_tiny.gin': 'takes minutes; so does '
  'test_codec_training a small one',
}  # fmt: skip


def _commands(page):
  """The shell commands in fenced blocks of a page, a line each."""
  text = (ROOT / page).read_text(encoding='utf-8')
  for language, block in re.findall(r'^```(\w*)\n(.*?)^```', text, re.S | re.M):
    for line in [] if language else re.sub(r' *\\\n *', ' ', block).splitlines():
      line = line.partition('    #')[0].partition('   #')[0].strip()
      if line.startswith('python '):
        yield line


COMMANDS = [(page, command) for page in PAGES for command in _commands(page)]


def _begins(command, beginnings):
  return [beginning for beginning in beginnings if command.startswith(beginning)]


def test_every_command_is_run_or_listed():
  assert len(COMMANDS) > 25
  for page, command in COMMANDS:
    assert len(_begins(command, [*RUN, *NOT_RUN])) == 1, f'{page}: {command}'
  for beginning in [*RUN, *NOT_RUN]:
    assert any(command.startswith(beginning) for _, command in COMMANDS), f'{beginning}: gone'


def _flags(script):
  """Names that a script's flags have: absl's or argparse's."""
  path = ROOT / (script if script.endswith('.py') else f'{script.replace(".", "/")}.py')
  names = set()
  for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
      first = node.args[0]
      if isinstance(first, ast.Constant) and isinstance(first.value, str):
        if node.func.attr.startswith('DEFINE_'):
          names.add(first.value)
        elif node.func.attr == 'add_argument':
          names.add(first.value.removeprefix('--'))
  return names


@pytest.mark.parametrize('page, command', COMMANDS, ids=lambda value: value[:60])
def test_flags_and_macros_exist(page, command, monkeypatch, tmp_path):
  if '...' in command:
    command = command.replace(' ...', '')
  monkeypatch.chdir(tmp_path)
  words = shlex.split(command.replace('$PWD', str(tmp_path)))[1:]
  script = words.pop(0)
  if script == '-m':
    script = words.pop(0)
  given = [word for word in words if word.startswith('--') and not word.startswith('--gin.')]
  bindings, _ = gin_config.split_flags([word for word in words if word.startswith('--gin.')])
  files = [word.partition('=')[2] for word in given if word.startswith('--gin_file=')]
  if script.startswith('t5x.'):
    text = ''.join((ROOT / 'gin/t5x' / name).read_text() for name in os.listdir(ROOT / 'gin/t5x'))
    for binding in bindings:
      assert re.search(f'^{binding.partition("=")[0]} = ', text, re.M), f'{page}: {binding}'
    assert all((ROOT / name).is_file() for name in files)
    return
  known = _flags(script)
  for flag in given:
    name = flag[2:].partition('=')[0]
    assert name in known or name.removeprefix('no') in known, f'{page}: {script} has no {flag}'
  if files and script in ('train.py', 'eval.py'):
    gin_config.parse_gin(files, bindings)


def _small_checkout(folder):
  """Links to the scripts, packages and gin files, so that what commands write lies elsewhere."""
  for path in ROOT.iterdir():
    if path.suffix == '.py' or (path / '__init__.py').is_file() or path.name == 'gin':
      (folder / path.name).symlink_to(path)


@pytest.mark.slow
def test_commands_run_as_written(tmp_path):
  """Below a folder whose name is a pattern, with relative paths and '~', as the pages have them."""
  home, checkout = tmp_path / 'home', tmp_path / 'album [2024]'
  home.mkdir()
  checkout.mkdir()
  _small_checkout(checkout)
  demo_corpus.write_corpus(home / 'music', num_works=6, secs_per_work=12.0, seed=1)
  songs = sorted(path for path in (home / 'music').rglob('*') if path.suffix in ('.wav', '.flac'))
  (checkout / 'loop.wav').write_bytes(songs[0].read_bytes())
  for link, target in {
    'prepared': 'work/corpus', 'runs/tiny': '../work/pretrained', 'out': 'work/corpus',
  }.items():  # fmt: skip
    (checkout / link).parent.mkdir(exist_ok=True)
    (checkout / link).symlink_to(target)
  environment = {**os.environ, 'HOME': str(home), 'JAX_PLATFORMS': 'cpu'}
  done = set()
  for beginning, added in RUN.items():
    for command in (command for _, command in COMMANDS if command.startswith(beginning)):
      if command in done:
        continue
      done.add(command)
      print(command, added, flush=True)
      script = f'python() {{ {shlex.quote(sys.executable)} "$@"; }}\n{command} {added}'
      result = subprocess.run(
        ['bash', '-c', script], cwd=checkout, env=environment, capture_output=True, text=True
      )
      assert result.returncode == 0, f'{command}\n{result.stdout}\n{result.stderr}'
      assert 'Traceback' not in result.stderr, f'{command}\n{result.stderr}'
  assert len(list((checkout / 'heard').glob('*.wav'))) == 3
  scored = checkout / 'output/held_out-score.jsonl-00000-of-00001'
  [line] = map(json.loads, scored.read_text().splitlines())
  assert line['num_tokens'] == 800 and -8000 < line['score'] < 0
  metrics = (checkout / 'work/pretrained/metrics.jsonl').read_text().splitlines()
  assert [json.loads(line)['step'] for line in metrics] == [1, 2]
  for name in ('organ.wav', 'work/organ.wav'):
    assert soundfile.info(checkout / name).duration == 2.0
