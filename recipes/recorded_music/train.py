"""Trains codec, style model and language model on recorded and synthetic music, in this order.

    python -m recipes.recorded_music.train --output_dir=DIR

Makes the music, then runs the commands that a user would type, each as a process of its own and
printed before it starts. A stage that ended well is skipped when the command is given again; one
that was stopped goes on where it was. On two CPU cores the whole takes hours, most of it the codec;
it needs no change on a GPU. What comes out is a bundle that generate.py plays.
"""

import argparse
import pathlib
from collections.abc import Sequence

from models import folder_lock
from pipelines import demo, startup
from preprocessing import outputs

HOURS = 2.0
_MODELS = {name: f'gin/models/{name}_tiny.gin' for name in ('spectrostream', 'musiccoca')}


def stages(folder: pathlib.Path, sets: Sequence[str], hours: float) -> list[demo.Stage]:
  """The commands, in order, all writing below `folder`; budgets are those of two CPU cores.

  Args:
    folder: absolute.
    sets: of the table of recordings.
    hours: of synthetic music.
  """
  music, works, runs = folder / 'music', folder / 'works', folder / 'runs'
  recorded = music / 'recorded'
  codec, style = runs / 'spectrum' / 'codec.safetensors', runs / 'style' / 'style.safetensors'
  return [
    demo.Stage(
      'recorded', 'Recorded music, from Debian packages', 900,
      ('-m', 'recipes.recorded_music.build', f'--output_dir={recorded}', '--set', *sets),
      f'{recorded}/manifest.jsonl',
    ),
    demo.Stage(
      'synthetic', 'Synthetic music', 900,
      ('-m', 'recipes.recorded_music.synthetic', f'--output_dir={music}/synthetic',
       f'--hours={hours:g}'),
      f'{music}/synthetic/built_in/corpus.json',
    ),
    demo.Stage(
      'works', 'Short works in all styles, with captions', 900,
      ('-m', 'preprocessing.demo_corpus', f'--output_dir={works}', '--num_works=300',
       '--secs_per_work=24', '--seed=4207', '--formats', 'flac', '--styles', 'all'),
      f'{works}/corpus.json',
    ),
    _train('codec', 'Codec: latents and codebooks', 3600, 'spectrostream',
           'train_codec_recorded.gin', runs, music, 'codec.safetensors'),
    _train('decoder', 'Codec: the decoder alone, on codes', 900, 'spectrostream',
           'train_codec_tiny_decoder.gin', runs, music, 'codec.safetensors',
           start=runs / 'codec' / 'codec.safetensors'),
    _train('spectrum', 'Codec: the decoder alone, for the spectrum', 900, 'spectrostream',
           'train_codec_tiny_spectrum.gin', runs, music, 'codec.safetensors',
           start=runs / 'decoder' / 'codec.safetensors'),
    _train('style', 'Style model', 1800, 'musiccoca', 'train_style_recorded.gin', runs,
           (f'{recorded}', f'{works}'), 'style.safetensors'),
    demo.Stage(
      'prepare', 'Tokenize all of it', 1800,
      ('prepare.py', f'--audio_dir={music}', f'--audio_dir={works}',
       f'--output_dir={folder}/corpus', '--name=recorded', f'--codec={codec}', f'--style={style}'),
      f'{folder}/corpus/manifest.jsonl',
    ),
    demo.Stage(
      'language', 'Language model', 3600,
      ('train.py', '--gin_file=gin/models/tiny.gin', '--gin_file=gin/runs/pretrain_tiny.gin',
       f'--gin.DATA_DIR="{folder}/corpus"', f'--gin.MODEL_DIR="{runs}/language"'),
      f'{runs}/language/metrics.jsonl',
    ),
    demo.Stage(
      'bundle', 'A bundle to play', 60,
      ('-m', 'pipelines.export', f'--checkpoint={runs}/language',
       f'--output_dir={folder}/bundle'),
      f'{folder}/bundle/spec.json',
    ),
  ]  # fmt: skip


def _train(
  name: str, title: str, budget_secs: int, model: str, run_file: str, runs: pathlib.Path,
  data: pathlib.Path | tuple[str, ...], output: str, start: pathlib.Path | None = None,
) -> demo.Stage:  # fmt: skip
  """A training by a run file of gin/runs, in the folder of its name."""
  given = repr(data) if isinstance(data, tuple) else f'"{data}"'
  command = ('train.py', f'--gin_file={_MODELS[model]}', f'--gin_file=gin/runs/{run_file}',
             f'--gin.DATA_DIR={given}', f'--gin.MODEL_DIR="{runs}/{name}"')  # fmt: skip
  if start is not None:
    command += (f'--gin.INITIAL_CHECKPOINT_PATH="{start}"',)
  return demo.Stage(name, title, budget_secs, command, f'{runs}/{name}/{output}')


def main(argv: Sequence[str] | None = None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output_dir', required=True, help='gets music, runs, corpus and bundle')
  parser.add_argument(
    '--set', nargs='+', default=['train'], choices=['train', 'share_alike'],
    help='of the table; weights that have heard share_alike may have to be shared alike',
  )  # fmt: skip
  parser.add_argument('--hours', type=float, default=HOURS, help='of synthetic music')
  args = parser.parse_args(argv)
  with startup.plain_errors('train'):
    outputs.check_folder(args.output_dir)
    folder = pathlib.Path(args.output_dir).resolve()
    with folder_lock.locked(folder, 'train'):
      seconds = demo.run(stages(folder, args.set, args.hours), folder / 'stages.json')
    print(f'\n{sum(seconds.values()) / 60:.0f} minutes. The bundle: {folder}/bundle')


if __name__ == '__main__':
  startup.run_module(main)
