"""The released style model as one file of ours: `python -m pipelines.import_style --output=FILE`.

Reads the TFLite files of Magenta RealTime v2 from the asset directory into this project's own
towers, compares both where LiteRT is installed, and writes a .safetensors file (820 MB, float32)
that `MusicCoCa.load`, `prepare.py --style` and style runs take, on GPUs and TPUs too.
"""

import argparse
import pathlib

import numpy as np

from models.musiccoca import MusicCoCa, official, official_weights
from pipelines import startup
from preprocessing import outputs

TEXTS = ('a jazz piano trio', 'heavy metal guitar riff', 'ambient electronic', 'disco funk', '')


def compare(imported: MusicCoCa, released: official.TFLiteMusicCoCa) -> dict[str, float]:
  """How far an imported model is from the released files, on a few texts and a clip of noise.

  Returns:
    'text' and 'audio': largest absolute difference of embeddings; 'tokens': share of equal tokens.
  """
  noise = np.random.default_rng(0).standard_normal([1, imported.window_samples])
  pairs = [
    (model.embed_text(TEXTS), model.embed_clips(0.1 * noise.astype(np.float32)))
    for model in (imported, released)
  ]
  embeddings = np.concatenate(pairs[1])
  same = imported.tokenize(embeddings) == released.tokenize(embeddings)
  return {
    'text': float(np.abs(pairs[0][0] - pairs[1][0]).max()),
    'audio': float(np.abs(pairs[0][1] - pairs[1][1]).max()),
    'tokens': float(same.mean()),
  }


def import_style(output: pathlib.Path) -> str:
  """Writes the imported model; what to tell the user.

  Raises:
    ValueError: a file is broken or another export, or the imported model does not compute what the
      released files do.
  """
  folder = official.v2_folder()
  model = official_weights.import_model(folder)
  try:
    differences = compare(model, official.TFLiteMusicCoCa(folder))
  except ImportError as error:
    checked = f'Not compared with the released files. {error}'
  else:
    told = ', '.join(f'{name} {value:.2g}' for name, value in differences.items())
    if max(differences['text'], differences['audio']) > 1e-2 or differences['tokens'] < 1:
      raise ValueError(f'The imported model is not the released one: {told}. Nothing was written.')
    checked = f'Largest differences to the released files, and share of equal tokens: {told}.'
  return f'{checked}\n{model.save(output)}: hash {model.content_hash}, the released one.'


def main(argv: list[str] | None = None):
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--output', type=pathlib.Path, required=True, help='a .safetensors file')
  parser.add_argument('--assets_dir', help='folder of released files; default $WOODSHED_ASSETS')
  args = parser.parse_args(argv)
  with startup.plain_errors('import_style', resumes=False):
    startup.begin(args.assets_dir)
    if args.output.suffix != '.safetensors':
      raise ValueError(f'--output={args.output} must end in .safetensors.')
    outputs.check_file(args.output)
    print(import_style(args.output))


if __name__ == '__main__':
  startup.run_module(main)
