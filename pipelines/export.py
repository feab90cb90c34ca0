"""A training run's language model as a bundle that generate.py and finetune.py take."""

import argparse
import dataclasses
import json
import pathlib
import sys

from models.bundle import save_bundle
from pipelines.checkpoint_sources import load_source


def export(
  checkpoint: str | pathlib.Path,
  output_dir: str | pathlib.Path,
  *,
  licence: str = '',
  data: str = '',
) -> pathlib.Path:
  """Writes the newest step of a MODEL_DIR, or a checkpoint_<step>, as a bundle.

  Args:
    checkpoint: MODEL_DIR, checkpoint_<step>, or a bundle to write anew.
    output_dir: folder of the bundle.
    licence: of the weights, for the card.
    data: what the model was trained on, for the card.

  Returns:
    `output_dir`.

  Raises:
    FileNotFoundError: there is no model at `checkpoint`.
  """
  source = load_source(checkpoint)
  card = {'step': source.step, 'licence': licence, 'data': data}
  if source.model_dir is not None:
    card['held_out'] = held_out_metrics(source.model_dir, source.step)
  bundle = dataclasses.replace(source.bundle, card=card)
  return save_bundle(output_dir, bundle)


def held_out_metrics(model_dir: pathlib.Path, step: int | None) -> dict[str, float]:
  """The last held-out metrics that a run logged up to `step`; {} where it logged none."""
  path = model_dir / 'metrics.jsonl'
  rows = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines() if line]
  rows = [row for row in rows if row['stream'].startswith('training_eval/')]
  rows = [row for row in rows if step is None or row['step'] <= step]
  if not rows:
    return {}
  return {name: value for name, value in rows[-1].items() if isinstance(value, float)}


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--checkpoint', required=True, help='a MODEL_DIR or a checkpoint_<step>')
  parser.add_argument('--output_dir', required=True)
  parser.add_argument('--licence', default='', help='of the weights')
  parser.add_argument('--data', default='', help='what the model was trained on')
  args = parser.parse_args(argv)
  try:
    folder = export(args.checkpoint, args.output_dir, licence=args.licence, data=args.data)
  except (ValueError, FileNotFoundError) as error:
    sys.exit(f'export: {error}')
  size = (folder / 'weights.safetensors').stat().st_size / 1e6
  print(f'{folder}: {size:.1f} MB.')


if __name__ == '__main__':
  main()
