"""Does fine-tuning work? The bundled model on one style that it has not heard, over three seeds.

    python -m benchmarks.finetune --work_dir=/tmp/finetune             # everything, about an hour
    python -m benchmarks.finetune --work_dir=/tmp/finetune --seeds 0   # one seed
    python -m benchmarks.finetune --work_dir=/tmp/finetune --plot=curves.svg

Composes three catalogs of the style (30, 10 and 5 works; the last leaves three to train on) and
general music, tokenizes them, and for each seed tunes by `finetune.py`'s own functions:

    full   everything, with replay        lora   an adapter, with replay
    less   as `full`, on 10 works
    early  everything, on three tracks, until the guards stop it
    long   the same far too long, without guards, dropout or average; the last step is judged

One line of JSON a run, then the table. What is there already is not done again. Gains are on the
first catalog's test tracks, which chose nothing.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import time
from typing import Any

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import numpy as np

from evaluation import bootstrap
from evaluation.page import plain
from models import adapters
from models.bundle import load_bundle
from pipelines import finetune as finetune_lib
from pipelines import finetune_choice
from pipelines.checkpoint_sources import load_source
from pipelines.finetune import FinetuneOptions
from pipelines.finetune_gate import Gate
from pipelines.finetune_report import AFTER, BEFORE, Judge

CASES = ('full', 'lora', 'less', 'early', 'long')
GOALS = {
  'coarse_gain': 'coarse held-out loss better by, % (goal 10)',
  'worst_level': 'worst level worse by, % (goal: at most 1)',
  'general_worse': 'general held-out loss worse by, % (goal: below 5)',
  'style_moved': 'cosine to the catalog, change (interval above 0)',
  'train_secs': 'seconds to tune (goal: below 300)',
  'trained_share': 'trained numbers, % of the model (goal for lora: below 10)',
  'lora_of_full': "lora's gain, % of full's (goal 70)",
  'copies': 'copies beyond those of unseen music, % (marked above 5)',
}

# Nothing ends the run or slows it down that is to be far too long.
_UNGUARDED = (
  'MAX_WORSENING=0', 'DROPOUT_RATE=0.0', 'OUTPUT_PERIOD=0', 'EVAL_PERIOD=100',
  'CHECKPOINT_PERIOD=100', 'AVERAGE_DECAY=None',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Music:
  """Prepared data sets; `general` is of all styles, the others are of one."""

  catalog: pathlib.Path
  less: pathlib.Path
  small: pathlib.Path
  general: pathlib.Path

  def of(self, case: str) -> pathlib.Path:
    """What a case tunes on."""
    return {'less': self.less, 'early': self.small, 'long': self.small}.get(case, self.catalog)


def compose(work_dir: pathlib.Path, args: argparse.Namespace) -> Music:
  """Composes and tokenizes what is missing."""
  from preprocessing import corpus, demo_corpus

  def prepared(name: str, works: int, secs: float, seed: int, styles: Any, **options: Any):
    data_dir = work_dir / f'{name}_tokens'
    if not (data_dir / 'manifest.jsonl').is_file():
      demo_corpus.write_corpus(
        work_dir / name, num_works=works, secs_per_work=secs, seed=seed, styles=styles
      )
      corpus.prepare_corpus(
        corpus.PrepareOptions(
          audio_dir=str(work_dir / name), output_dir=str(data_dir), name=name, **options
        )
      )
    return data_dir

  style = (args.style,)
  return Music(
    args.catalog or prepared(
      'catalog', args.num_works, 30, 71_000, style, validation_fraction=0.15, test_fraction=0.15
    ),
    prepared('less', 10, 30, 74_000, style, validation_fraction=0.2, test_fraction=0.0),
    prepared('small', 5, 30, 72_000, style, test_fraction=0.0),
    args.general or prepared('general', 42, 20, 73_000, None, test_fraction=0.15),
  )  # fmt: skip


def tune(
  case: str, seed: int, music: Music, folder: pathlib.Path, args: argparse.Namespace
) -> dict[str, Any]:
  """One run and its figures, read from figures.json where it is known."""
  path = folder / 'figures.json'
  if path.is_file():
    return json.loads(path.read_text(encoding='utf-8'))
  data = music.of(case)
  options = FinetuneOptions(seed=seed, judge=False, total_steps=args.steps)
  if case in ('full', 'lora', 'less'):
    options = dataclasses.replace(
      options, method='lora' if case == 'lora' else 'full', replay=str(music.general),
      replay_rate=args.replay_rate, time_budget_secs=args.seconds,
    )  # fmt: skip
  elif case == 'long':
    options = dataclasses.replace(
      options, total_steps=args.long_steps, batch_size=4, patience=0, gin_bindings=_UNGUARDED
    )
  source = load_source('tiny')
  gate = Gate(data, source.bundle.spec, folder / 'memorization')
  gate.calibrate(source.bundle)
  began = time.monotonic()
  finetune_lib.finetune(data, folder, options=options)
  secs = time.monotonic() - began
  measured = _judge_last(folder, gate) if case == 'long' else _judge(music, folder, gate, seed)
  figures = measured | {
    'case': case, 'seed': seed, 'train_secs': _train_secs(folder), 'wall_secs': secs,
    'curves': finetune_choice.choose(folder / 'run').curves,
  }  # fmt: skip
  path.write_text(json.dumps(plain(figures), indent=2) + '\n', encoding='utf-8')
  return json.loads(path.read_text(encoding='utf-8'))


def _judge_last(folder: pathlib.Path, gate: Gate) -> dict[str, Any]:
  """The verdict on the last step, whatever the held-out loss says."""
  last = finetune_choice.choose(folder / 'run').last_step
  verdict, _ = gate.judge(load_source(folder / 'run' / f'checkpoint_{last}').bundle)
  return {'step': last, **_copies(verdict)}


def _judge(music: Music, folder: pathlib.Path, gate: Gate, seed: int) -> dict[str, Any]:
  """What the bundle of a run has gained, lost and copied."""
  source, choice = load_source('tiny'), finetune_choice.choose(folder / 'run')
  judge = Judge(source, folder / 'bundle', music.catalog, gate, seed=seed, takes=3)
  rows = judge.losses()
  coarse = next(row for row in rows if row['kind'] == 'coarse')
  levels = [(row['before'], row['after']) for row in rows if row['kind'] == 'level']
  style, diversity = judge.style_figures()
  general = finetune_choice.general_losses(folder / 'run', (0, choice.step))
  before, after = (values.get(finetune_choice.HELD_OUT_LOSS) for values in general)
  verdict, _ = gate.judge(load_bundle(folder / 'bundle'))
  return {
    'step': choice.step,
    'coarse': [coarse['before'], coarse['after']],
    'coarse_gain': 100 * (1 - coarse['after'] / coarse['before']),
    'worst_level': max(100 * (after / before - 1) for before, after in levels),
    'levels': levels,
    **({} if before is None else {'general_worse': 100 * (after / before - 1)}),
    'style': style,
    'style_moved': style['after'] - style['before'],
    'diversity': diversity,
    'trained_share': 100 * _trained_share(folder),
    **_copies(verdict),
  }


def _copies(verdict: dict[str, Any]) -> dict[str, Any]:
  return {'copies': 100 * verdict['excess'], 'marked': verdict['memorized'], 'verdict': verdict}


def _trained_share(folder: pathlib.Path) -> float:
  whole = adapters.num_numbers(load_bundle(folder / 'bundle').params)
  path = folder / 'adapter' / adapters.FILE_NAME
  return adapters.num_numbers(adapters.load_adapter(path)[0]) / whole if path.is_file() else 1.0


def _train_secs(folder: pathlib.Path) -> float:
  """Seconds of steps, data, compilation and evaluation, as the run itself counted them."""
  from training.metrics import read_metrics

  names = ('step', 'data_wait', 'compilation', 'evaluate', 'checkpoint', 'init_or_restore')
  lines = [line for line in read_metrics(folder / 'run') if line['stream'] == 'train']
  return sum(line.get(f'timing/{name}_seconds', 0.0) for line in lines for name in names)


def table(found: list[dict[str, Any]]) -> str:
  """Goals by case: the mean over seeds, and each seed."""
  seeds = sorted({row['seed'] for row in found})
  lines = [f'{"":<62}{"mean":>9}' + ''.join(f'{"seed " + str(seed):>10}' for seed in seeds)]
  by_case = {(row['case'], row['seed']): row for row in found}
  for case in CASES:
    rows = [by_case[case, seed] for seed in seeds if (case, seed) in by_case]
    for name, title in GOALS.items():
      values = [row[name] for row in rows if name in row]
      if name == 'lora_of_full' and case == 'lora':
        values = [
          100 * row['coarse_gain'] / by_case['full', row['seed']]['coarse_gain']
          for row in rows
          if ('full', row['seed']) in by_case
        ]
      if values:
        cells = ''.join(f'{value:>10.3f}' for value in values)
        lines.append(f'{case + ": " + title:<62}{np.mean(values):>9.3f}{cells}')
    for row in rows:
      if 'style' in row:
        low, high = row['style']['low'], row['style']['high']
        lines.append(f'{case}: style interval, seed {row["seed"]}: {low:+.3f} to {high:+.3f}')
      lines.append(f'{case}: seed {row["seed"]} {"MARKED" if row["marked"] else "not marked"}')
  full = [row for row in found if row['case'] == 'full']
  if len(full) > 1:
    mean, low, high = bootstrap.mean_interval(np.array([row['coarse_gain'] for row in full]))
    lines.append(f'full: coarse gain {mean:.2f} %, 95 % over seeds {low:.2f} to {high:.2f}')
  return '\n'.join(lines)


def plot(found: list[dict[str, Any]], path: pathlib.Path):
  """Held-out loss by step, % of the base's: each case's own catalog, and general music."""
  import matplotlib.pyplot as plt

  from evaluation import plots

  titles = {'catalog': "the catalog's held-out tracks", 'general': 'held-out general music'}
  grey = {name: '#808080' for name in ('text.color', 'axes.labelcolor', 'xtick.color',
                                       'ytick.color', 'axes.edgecolor')}  # fmt: skip
  with plots.styled(grey):
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4))
    for panel, (stream, title) in zip(panels, titles.items(), strict=True):
      for row in found:
        number, points = CASES.index(row['case']), row['curves'].get(stream)
        if points:
          steps, losses = np.array(points).T
          label = row['case'] if row['seed'] == found[0]['seed'] else None
          panel.plot(
            steps, 100 * (losses / losses[0] - 1), label=label, linewidth=1.2, markersize=3,
            color=plots.COLOURS[number], marker=plots.MARKERS[number],
          )  # fmt: skip
      panel.axhline(0, color=plots.ANCHOR_COLOUR, linewidth=1)
      panel.set(xlabel='step', ylabel='loss against the base, %', title=title)
    panels[0].set_ylim(top=12)  # What is far too long leaves the picture.
    panels[0].legend(fontsize=8)
    figure.savefig(path, bbox_inches='tight', transparent=True, metadata={'Date': None})


def main(argv: list[str] | None = None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--work_dir', type=pathlib.Path, required=True)
  parser.add_argument('--style', default='gamelan', help='not in the training of the base')
  parser.add_argument('--num_works', type=int, default=30, help='of 30 s each')
  parser.add_argument('--catalog', type=pathlib.Path, help='prepared already, with a test split')
  parser.add_argument('--general', type=pathlib.Path, help='prepared already')
  parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
  parser.add_argument('--cases', nargs='+', choices=CASES, default=CASES)
  parser.add_argument('--steps', type=int, help="default: the run file's")
  parser.add_argument('--long_steps', type=int, default=400, help='of four examples')
  parser.add_argument('--plot', type=pathlib.Path, help='draws the curves to this file')
  parser.add_argument('--replay_rate', type=float, default=0.25)
  parser.add_argument('--seconds', type=float, default=280, help='of training, at most')
  args = parser.parse_args(argv)
  music = compose(args.work_dir, args)
  found = []
  for seed in args.seeds:
    for case in args.cases:
      figures = tune(case, seed, music, args.work_dir / f'seed{seed}' / case, args)
      found.append(figures)
      shown = {name: figures[name] for name in ('case', 'seed', 'step', *GOALS) if name in figures}
      print(json.dumps(shown), flush=True)
  if args.plot:
    plot(found, args.plot)
  print(f'\n{BEFORE} and {AFTER}, test tracks:\n{table(found)}')


if __name__ == '__main__':
  main()
