"""musicnn's weights as files of ours: `python -m pipelines.import_musicnn --wheel=FILE`.

`pip download --no-deps musicnn==0.1.0` fetches the wheel, which holds the weights. This reads the
two networks of the musicnn kind out of it and writes `msd.safetensors`, `mtt.safetensors` and
`LICENSE.txt` to --output_dir. That is how the bundled files were made: the same wheel gives the
same files, to the bit.
"""

import argparse
import ast
import hashlib
import pathlib
import tempfile
import zipfile

import numpy as np

from models.musicnn import NAMES, Musicnn, released
from pipelines import startup
from preprocessing import outputs

# Bundled name -> folder in the wheel, name of its list of tags, what it was trained on.
_NETWORKS = {
  'msd': ('MSD_musicnn', 'MSD_LABELS', 'Million Song Dataset, 50 tags of Last.fm listeners'),
  'mtt': ('MTT_musicnn', 'MTT_LABELS', 'MagnaTagATune, 50 tags of players of a game'),
}
LICENCE_FILE = 'LICENSE.txt'
_LICENCE_ENDING = '.dist-info/LICENSE.md'
_SOURCE = 'https://pypi.org/project/musicnn/0.1.0/'


def import_musicnn(wheel: pathlib.Path, output_dir: pathlib.Path) -> str:
  """Writes both networks and their licence; returns what to tell the user.

  Raises:
    FileNotFoundError: there is no such wheel.
    OutputError: `output_dir` cannot be written.
    ValueError: the file is not a wheel of musicnn 0.1.0; says what it lacks.
  """
  if not wheel.is_file():
    raise FileNotFoundError(
      f'No wheel at {wheel}. Fetch it with: pip download --no-deps musicnn==0.1.0'
    )
  outputs.check_folder(output_dir)
  try:
    with zipfile.ZipFile(wheel) as file:
      models = {name: _read(file, name, _digest(wheel)) for name in NAMES}
      licence = _licence(file)
  except zipfile.BadZipFile as error:
    raise ValueError(f'{wheel} is not a wheel: {error}.') from error
  except KeyError as error:
    raise ValueError(
      f'{wheel} is not the wheel of musicnn 0.1.0: {error.args[0]}'
    ) from error
  output_dir.mkdir(parents=True, exist_ok=True)
  (output_dir / LICENCE_FILE).write_text(licence, encoding='utf-8')
  lines = []
  for name, model in models.items():
    path = model.save(output_dir / f'{name}.safetensors')
    lines.append(
      f'{path}: {len(model.tags)} tags, {path.stat().st_size / 1e6:.2f} MB, SHA-256 {_digest(path)}'
    )
  return '\n'.join(lines)


def _read(wheel: zipfile.ZipFile, name: str, digest: str) -> Musicnn:
  folder, labels, data = _NETWORKS[name]
  tags = _tags(wheel.read('musicnn/configuration.py').decode(), labels)
  variables = _variables(wheel, f'musicnn/{folder}')
  card = {
    'name': f'musicnn 0.1.0, {folder}',
    'source': _SOURCE,
    'wheel_sha256': digest,
    'trained_on': data,
    'licence': 'ISC',
    'licence_text': _licence(wheel),
  }
  return Musicnn(released.from_variables(variables, len(tags)), tags, card)


def _variables(wheel: zipfile.ZipFile, folder: str) -> dict[str, np.ndarray]:
  """Variables of a TensorFlow checkpoint whose files have endings and no name."""
  import tensorflow as tf

  with tempfile.TemporaryDirectory() as place:
    prefix = pathlib.Path(place) / 'checkpoint'
    for ending in ('.index', '.data-00000-of-00001'):
      pathlib.Path(f'{prefix}{ending}').write_bytes(wheel.read(f'{folder}/{ending}'))
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def _tags(source: str, name: str) -> tuple[str, ...]:
  """The list of texts that a Python file assigns to `name`; nothing of the file is run."""
  for node in ast.parse(source).body:
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
      return tuple(ast.literal_eval(node.value))
  raise KeyError(f'its configuration.py has no {name}.')


def _licence(wheel: zipfile.ZipFile) -> str:
  found = [name for name in wheel.namelist() if name.endswith(_LICENCE_ENDING)]
  if not found:
    raise KeyError(f'it has no *{_LICENCE_ENDING}.')
  return wheel.read(found[0]).decode().strip() + '\n'


def _digest(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def main(argv: list[str] | None = None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument(
    '--wheel', type=pathlib.Path, required=True, help='musicnn-0.1.0-py3-none-any.whl'
  )
  parser.add_argument(
    '--output_dir', type=pathlib.Path, required=True, help='folder of the .safetensors files'
  )
  args = parser.parse_args(argv)
  with startup.plain_errors('import_musicnn', resumes=False):
    startup.begin()
    print(import_musicnn(args.wheel, args.output_dir))


if __name__ == '__main__':
  startup.run_module(main)
