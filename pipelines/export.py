"""A language model as a bundle, as a T5X checkpoint (for v1 and T5X), or as a run to go on with."""

import argparse
import dataclasses
import json
import pathlib

import jax
import numpy as np

from models import assets, folder_lock
from models.bundle import save_bundle
from pipelines import startup
from pipelines.checkpoint_sources import (
  IDENTITY_FIELDS,
  MODEL_FILE,
  Source,
  load_source,
  model_description,
  write_model_file,
)
from preprocessing import files, outputs
from training import t5x_checkpoints
from training.checkpoints import Checkpoints, restore_part
from training.optimizers import AdafactorState, adafactor
from training.state import TrainState
from training.t5x_checkpoints import LAYOUTS

FORMATS = ('bundle', *LAYOUTS, 'run')


def export(
  checkpoint: str | pathlib.Path,
  output_dir: str | pathlib.Path,
  *,
  licence: str = '',
  data: str = '',
) -> pathlib.Path:
  """Writes the newest step of a MODEL_DIR, or a checkpoint_<step>, as a bundle.

  Args:
    checkpoint: see `load_source`.
    output_dir: folder of the bundle.
    licence: of the weights, for the card.
    data: what the model was trained on, for the card.

  Returns:
    `output_dir`.

  Raises:
    FileNotFoundError: there is no model at `checkpoint`.
  """
  outputs.check_folder(output_dir)
  source = load_source(checkpoint)
  card = {'step': source.step, 'licence': licence, 'data': data}
  if source.model_dir is not None:
    card['held_out'] = held_out_metrics(source.model_dir, source.step)
  bundle = dataclasses.replace(source.bundle, card=card)
  return save_bundle(output_dir, bundle)


def export_t5x(
  checkpoint: str | pathlib.Path, output_dir: str | pathlib.Path, layout: str = 't5x'
) -> tuple[pathlib.Path, list[str]]:
  """Writes `output_dir`/checkpoint_<step> as T5X does: float32, v1's names, Adafactor's statistics.

  Where the source has no such statistics (a bundle, a run with another optimizer) those of T5X
  before the first update are written, since v1's runtime asks for them. A model.json beside the
  checkpoint says whose tokens it speaks.

  Args:
    checkpoint: see `load_source`.
    output_dir: made if it does not exist.
    layout: 't5x' (msgpack + zarr, what v1 releases) or 't5x-orbax'.

  Returns:
    The checkpoint's folder, and what its user should know.

  Raises:
    FileExistsError: `output_dir` holds this step, or another model, already.
    FileNotFoundError: there is no model at `checkpoint`.
    ValueError: the layout is unknown, or an array does not fit.
  """
  outputs.check_folder(output_dir)
  source = load_source(checkpoint)
  model = source.bundle.model
  opt_state, notes = _adafactor_state(source)
  if source.kind in ('bundle', 'bundled') or model.config.loss_over == 'level':
    notes.append(
      "The ids of other levels were never trained or are left out: confine v1's sampler, which by "
      'default draws over all ids, to those of the level.'
    )
  _write_model_file(pathlib.Path(output_dir), source)
  folder = t5x_checkpoints.write(
    output_dir, source.bundle.params, model.config, model.spec, step=_step(source),
    opt_state=opt_state, layout=layout,
  )  # fmt: skip
  return folder, notes


def export_run(
  checkpoint: str | pathlib.Path, output_dir: str | pathlib.Path
) -> tuple[pathlib.Path, list[str]]:
  """Writes a MODEL_DIR with one checkpoint, with which train.py goes on: step and Adafactor too.

  The data is read from its start.

  Args:
    checkpoint: see `load_source`; a T5X checkpoint, as a rule.
    output_dir: made if it does not exist.

  Returns:
    The checkpoint's folder, and what its user should know.

  Raises:
    FileExistsError: `output_dir` holds this step, or another model, already.
    FileNotFoundError: there is no model at `checkpoint`.
  """
  outputs.check_folder(output_dir)
  source = load_source(checkpoint)
  opt_state, notes = _adafactor_state(source)
  step = _step(source)
  folder = pathlib.Path(output_dir) / f'checkpoint_{step}'
  if folder.exists():
    raise FileExistsError(f'{folder} exists; remove it or choose another folder.')
  state = TrainState(step=np.int32(step), params=source.bundle.params, opt_state=opt_state, aux={})
  with folder_lock.locked(output_dir, 'run'), Checkpoints(output_dir) as checkpoints:
    _write_model_file(pathlib.Path(output_dir), source)
    checkpoints.save(state, {'next_batch': 0})
  return folder, notes


def held_out_metrics(model_dir: pathlib.Path, step: int | None) -> dict[str, float]:
  """The last held-out metrics that a run logged up to `step`; {} where it logged none."""
  path = model_dir / 'metrics.jsonl'
  if not path.is_file():  # Such as a run that `export_run` made.
    return {}
  rows = [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines() if line]
  rows = [row for row in rows if row['stream'].startswith('training_eval/')]
  rows = [row for row in rows if step is None or row['step'] <= step]
  if not rows:
    return {}
  return {name: value for name, value in rows[-1].items() if isinstance(value, float)}


def _adafactor_state(source: Source) -> tuple[AdafactorState, list[str]]:
  """Adafactor's statistics of a source, or those of no updates and a line that says so."""
  model, state = source.bundle.model, None
  if source.kind == 't5x':
    state = t5x_checkpoints.read(
      source.folder, config=model.config, spec=model.spec, with_optimizer=True
    ).opt_state
  elif source.kind == 'checkpoint':
    stored = restore_part(source.folder, 'state')[0]
    state = t5x_checkpoints.adafactor_state(stored['param_states'])
  if state is not None:
    return state, []
  fresh = jax.jit(adafactor(0.0, stacked=model.layer_axes()).init)(source.bundle.params)
  return fresh, ["Adafactor's statistics are those before the first update."]


def _step(source: Source) -> int:
  """Updates made; a bundle's card may know them, 0 where nothing does."""
  return int(source.step or source.bundle.card.get('step') or 0)


def _write_model_file(output_dir: pathlib.Path, source: Source):
  """Says in `output_dir`/model.json what the checkpoints there are.

  Raises:
    FileExistsError: it says something else already.
  """
  path, bundle = output_dir / MODEL_FILE, source.bundle
  before = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else None
  identity = {field: getattr(bundle, field) for field in IDENTITY_FIELDS}
  if before not in (None, model_description(bundle.model, **identity)):
    raise FileExistsError(f'{path} describes another model; choose another --output_dir.')
  write_model_file(output_dir, bundle.model, **identity)


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--checkpoint',
    required=True,
    help="a MODEL_DIR, a checkpoint_<step>, a bundle, a T5X checkpoint or a released model's name",
  )
  parser.add_argument('--output_dir', required=True)
  parser.add_argument(
    '--format',
    choices=FORMATS,
    default='bundle',
    help='t5x is the layout of v1 (msgpack + zarr), t5x-orbax the present one of T5X, run a '
    'MODEL_DIR with which train.py goes on',
  )
  parser.add_argument('--assets_dir', help=f'where released files lie; default ${assets.VARIABLE}')
  parser.add_argument('--licence', default='', help='of the weights, for the card of a bundle')
  parser.add_argument('--data', default='', help='what the model was trained on, for the card')
  args = parser.parse_args(argv)
  with startup.plain_errors('export', resumes=False):
    startup.begin(args.assets_dir)
    _export(args)


def _export(args: argparse.Namespace):
  notes = []
  outputs.check_folder(args.output_dir)
  args.output_dir = files.absolute(args.output_dir)
  if args.format == 'bundle':
    folder = export(args.checkpoint, args.output_dir, licence=args.licence, data=args.data)
  elif args.format == 'run':
    folder, notes = export_run(args.checkpoint, args.output_dir)
  else:
    folder, notes = export_t5x(args.checkpoint, args.output_dir, args.format)
  size = sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6
  print(f'{folder}: {size:.1f} MB.', *notes, sep='\n')


if __name__ == '__main__':
  startup.run_module(main)
