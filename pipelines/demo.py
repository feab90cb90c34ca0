"""The whole road in six minutes: music -> tokens -> pretrained -> fine-tuned -> measured -> heard.

`make demo` runs this. Each stage is one of the commands that a user would type, run as a process of
its own and printed before it starts. A stage that ended well is recorded with its command in
`stages.json` and skipped by the next run; a stage that was interrupted is run again and picks up
where it stopped, because every command can.
"""

import argparse
import dataclasses
import json
import pathlib
import shlex
import subprocess
import sys
import time

from models import folder_lock
from pipelines import startup
from preprocessing import outputs

ROOT = pathlib.Path(__file__).parents[1]

# One seed for each set, far apart, so that no work of one set is a work of another.
CORPUS_SEED = 11_000
CATALOG_SEED = 12_000
PROMPT = 'ritual gamelan with gongs'


@dataclasses.dataclass(frozen=True)
class Stage:
  """One command of the demo.

  Attributes:
    name: key in the record of finished stages.
    title: what the reader sees.
    budget_secs: the time it should take on 2 cores.
    command: arguments after the Python interpreter.
    output: the file that proves that it ended.
  """

  name: str
  title: str
  budget_secs: int
  command: tuple[str, ...]
  output: str


def stages(output_dir: pathlib.Path, unseen_style: str, prompt: str) -> list[Stage]:
  """The commands of the demo, in order, all writing below `output_dir`."""
  audio, catalog = output_dir / 'audio', output_dir / 'catalog'
  corpus, pretrained = output_dir / 'corpus', output_dir / 'pretrained'
  tuned, report = output_dir / 'tuned', output_dir / 'report'
  tuned_report = output_dir / 'tuned_report'
  before, after = output_dir / 'before_tuning.wav', output_dir / 'after_tuning.wav'
  compose = ('-m', 'preprocessing.demo_corpus')
  # What fits into about a minute; eval.gin's own defaults look at more.
  evaluate = (
    'eval.py', '--gin_file=gin/runs/eval.gin', '--budget=1min', '--gin.NUM_AUDIO_SECS=4.0',
    '--gin.STREAM_SECS=60.0', '--gin.evaluate.EvaluationOptions.codec_depths=(4, 16)',
  )  # fmt: skip
  generate = ('generate.py', f'--prompt={prompt}', '--secs=20', '--seed=7')
  return [
    Stage(
      'corpus', 'Compose and render a corpus of 10 minutes', 40,
      (*compose, f'--output_dir={audio}', '--num_works=30', '--secs_per_work=20',
       f'--seed={CORPUS_SEED}'),
      f'{audio}/corpus.json',
    ),
    Stage(
      'catalog', f'Compose a catalog of 3 minutes in a style not heard before: {unseen_style}', 15,
      (*compose, f'--output_dir={catalog}', '--num_works=6', '--secs_per_work=30',
       f'--seed={CATALOG_SEED}', '--styles', unseen_style),
      f'{catalog}/corpus.json',
    ),
    Stage(
      'prepare', 'Tokenize the corpus with SpectroStream and MusicCoCa', 110,
      ('prepare.py', f'--audio_dir={audio}', f'--output_dir={corpus}', '--name=demo'),
      f'{corpus}/manifest.jsonl',
    ),
    Stage(
      'pretrain', 'Pretrain a language model from scratch', 160,
      ('train.py', '--gin_file=gin/models/tiny.gin', '--gin_file=gin/runs/pretrain_demo.gin',
       f'--gin.DATA_DIR="{corpus}"', f'--gin.MODEL_DIR="{pretrained}"'),
      f'{pretrained}/metrics.jsonl',
    ),
    Stage(
      'finetune', 'Fine-tune the bundled language model on the catalog', 90,
      ('finetune.py', f'--catalog={catalog}', '--base=tiny', f'--output_dir={tuned}',
       '--batch_size=4', '--steps=100', '--minutes=1.5', '--nojudge',
       '--gin.output_health.OutputHealth.num_clips=4'),
      f'{tuned}/bundle/spec.json',
    ),
    Stage(
      'report', 'Measure: the pretrained and the bundled model on the corpus', 60,
      (*evaluate, f'--gin.CHECKPOINT_PATH=("{pretrained}", "tiny")',
       '--gin.CHECKPOINT_NAMES=("pretrained here", "bundled")',
       f'--gin.DATA_DIR="{corpus}"', f'--gin.EVAL_OUTPUT_DIR="{report}"'),
      f'{report}/report.html',
    ),
    Stage(
      'tuned_report', 'Measure: before and after the tuning, on the catalog', 60,
      (*evaluate, f'--gin.CHECKPOINT_PATH=("tiny", "{tuned}/bundle")',
       '--gin.CHECKPOINT_NAMES=("before tuning", "after tuning")',
       f'--gin.DATA_DIR="{tuned}/corpus"', f'--gin.EVAL_OUTPUT_DIR="{tuned_report}"'),
      f'{tuned_report}/report.html',
    ),
    Stage(
      'before', 'Generate 20 s with the bundled model', 20,
      (*generate, '--bundle=tiny', f'--output={before}'), f'{before}',
    ),
    Stage(
      'after', 'Generate 20 s with the tuned model, same prompt and seed', 20,
      (*generate, f'--bundle={tuned}/bundle', f'--output={after}'), f'{after}',
    ),
  ]  # fmt: skip


def run(all_stages: list[Stage], record_path: pathlib.Path) -> dict[str, float]:
  """Runs what is not recorded yet; returns the seconds of every stage.

  Raises:
    SystemExit: a stage failed; its own message stands above.
  """
  done = json.loads(record_path.read_text()) if record_path.exists() else {}
  seconds = {}
  for number, stage in enumerate(all_stages, 1):
    head = f'[{number}/{len(all_stages)}] {stage.title}'
    record = done.get(stage.name)
    if record and record['command'] == list(stage.command) and pathlib.Path(stage.output).exists():
      print(f'{head}: done before ({record["seconds"]:.0f} s).', flush=True)
      seconds[stage.name] = record['seconds']
      continue
    print(f'\n{head} (budget {stage.budget_secs} s)', flush=True)
    print(f'$ python {shlex.join(stage.command)}', flush=True)
    start = time.monotonic()
    status = subprocess.call([sys.executable, *stage.command], cwd=ROOT)
    seconds[stage.name] = time.monotonic() - start
    if status or not pathlib.Path(stage.output).exists():
      sys.exit(
        f'The stage "{stage.name}" stopped with exit status {status}. Given again, the command '
        'goes on from here.'
      )
    done[stage.name] = {'command': list(stage.command), 'seconds': round(seconds[stage.name], 1)}
    partial = record_path.with_suffix('.partial')
    partial.write_text(json.dumps(done, indent=2))
    partial.replace(record_path)
  return seconds


def _summary(all_stages: list[Stage], seconds: dict[str, float]) -> str:
  lines = [f'{"stage":<12}{"seconds":>9}{"budget":>9}']
  lines += [f'{s.name:<12}{seconds[s.name]:>9.0f}{s.budget_secs:>9}' for s in all_stages]
  budget = sum(stage.budget_secs for stage in all_stages)
  return '\n'.join([*lines, f'{"all":<12}{sum(seconds.values()):>9.0f}{budget:>9}'])


def main(argv: list[str] | None = None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output_dir', default='demo')
  parser.add_argument('--style', default='gamelan', help='the unseen style of the catalog')
  parser.add_argument('--prompt', default=PROMPT, help='text for the two WAV files')
  args = parser.parse_args(argv)
  with startup.plain_errors('demo'):
    outputs.check_folder(args.output_dir)
    _run_all(pathlib.Path(args.output_dir).resolve(), args.style, args.prompt)


def _run_all(output_dir: pathlib.Path, style: str, prompt: str):
  plan = stages(output_dir, style, prompt)
  with folder_lock.locked(output_dir, 'demo'):
    seconds = run(plan, output_dir / 'stages.json')
  print(f'\n{_summary(plan, seconds)}\n')
  print(f'Reports         {output_dir}/report/report.html')
  print(f'                {output_dir}/tuned_report/report.html')
  print(f'Before tuning   {output_dir}/before_tuning.wav')
  print(f'After tuning    {output_dir}/after_tuning.wav')


if __name__ == '__main__':
  startup.run_module(main)
