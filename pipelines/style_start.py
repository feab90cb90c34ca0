"""Where a style run starts: its vocabulary, its mel matrix and, from a style model, its towers."""

import dataclasses
import io
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from models import folder_marker
from models.musiccoca import MusicCoCa, MusicCoCaConfig
from models.musiccoca.config import OFFICIAL_NAMES
from models.musiccoca.vocabulary import TextVocabulary
from models.spec import LiveMusicSpec
from training.checkpoints import find_checkpoint

VOCABULARY_FILE = 'vocabulary.spm.model'
MEL_MATRIX_FILE = 'mel_matrix.npy'
_TUNABLE = 'musiccoca_v2_jax'


@dataclasses.dataclass(frozen=True)
class StyleStart:
  """What a run takes over from its own earlier start, from another run or from a style model.

  Attributes:
    vocabulary: of the text tower.
    mel_matrix: power spectrum -> mel bands; None for the one that the sizes define.
    towers: {'audio': ..., 'text': ...} of a style model; None where a run's checkpoint, or nothing,
      has the parameters.
    checkpoint: of the run that this one starts from, if it does.
  """

  vocabulary: TextVocabulary
  mel_matrix: np.ndarray | None = None
  towers: dict[str, Any] | None = None
  checkpoint: str | None = None

  def write(self, model_dir: str | pathlib.Path):
    """Keeps vocabulary and mel matrix in `model_dir`; `find_start` reads them there."""
    folder = pathlib.Path(model_dir)
    folder_marker.mark(folder, 'run')
    matrix = folder / MEL_MATRIX_FILE
    if self.mel_matrix is None:
      if (folder / VOCABULARY_FILE).is_file():  # Then it is an earlier start's.
        matrix.unlink(missing_ok=True)
    else:
      content = io.BytesIO()
      np.save(content, self.mel_matrix)
      _replace(matrix, content.getvalue())
    _replace(folder / VOCABULARY_FILE, self.vocabulary.model)  # Last: it says that both are there.


def find_start(
  model_dir: str,
  initial_checkpoint_path: str | None,
  config: MusicCoCaConfig,
  spec: LiveMusicSpec,
  new_vocabulary: Callable[[], TextVocabulary],
) -> StyleStart:
  """Where a run starts: its own last checkpoint, `initial_checkpoint_path`, or from nothing.

  Args:
    model_dir: of the run.
    initial_checkpoint_path: MODEL_DIR of a style run or a checkpoint in it; or what
      `MusicCoCa.load` takes, of which towers, vocabulary and mel matrix are taken over, and not the
      codebooks.
    config: sizes of the run; `vocab_size` follows from the vocabulary.
    spec: rate, window and width of the embedding.
    new_vocabulary: makes the vocabulary of a run from nothing.

  Raises:
    FileNotFoundError: `initial_checkpoint_path` is none of these.
    ValueError: it is a style model of other sizes, or one that can only be used.
  """
  own = pathlib.Path(model_dir)
  if initial_checkpoint_path is None or _checkpoint(own):
    if (own / VOCABULARY_FILE).is_file():
      return _front_end(own, config)
    return StyleStart(new_vocabulary())
  checkpoint = _checkpoint(initial_checkpoint_path)
  if checkpoint is None:
    return _from_style_model(initial_checkpoint_path, config, spec)
  if not (checkpoint.parent / VOCABULARY_FILE).is_file():
    raise FileNotFoundError(
      f'{checkpoint.parent} has no {VOCABULARY_FILE}: it is not a style run\'s MODEL_DIR.'
    )
  return dataclasses.replace(_front_end(checkpoint.parent, config), checkpoint=str(checkpoint))


def _from_style_model(path: str, config: MusicCoCaConfig, spec: LiveMusicSpec) -> StyleStart:
  if path in OFFICIAL_NAMES and path != _TUNABLE:
    raise ValueError(
      f'INITIAL_CHECKPOINT_PATH={path!r} runs the released files as they are, which cannot be '
      f'trained: take {_TUNABLE!r}, their weights in the towers of this project.'
    )
  try:
    model = MusicCoCa.load(path)
  except FileNotFoundError as error:
    if path in OFFICIAL_NAMES:
      raise
    raise FileNotFoundError(
      f'INITIAL_CHECKPOINT_PATH={path!r} holds no checkpoint of a style run. {error}'
    ) from None
  _check_sizes(path, _sizes(model.config, model.spec), _sizes(config, spec))
  text, pieces = model.params['text'], len(model.vocabulary)
  if len(text['tokens']) < pieces:
    raise ValueError(
      f'{path} has {len(text["tokens"])} text embeddings for a vocabulary of {pieces} pieces.'
    )
  # A table may be longer than its vocabulary; no text reaches the rest.
  towers = {'audio': model.params['audio'], 'text': {**text, 'tokens': text['tokens'][:pieces]}}
  print(f'The style model starts from {path}, {model.content_hash}.', flush=True)
  return StyleStart(model.vocabulary, model.mel_matrix, towers)


def _sizes(config: MusicCoCaConfig, spec: LiveMusicSpec) -> dict[str, Any]:
  """{'audio.num_layers': 12, ..., 'style_dim': 768}: what must agree for towers to fit."""
  values = config.to_dict()
  del values['vocab_size']
  flat = {}
  for name, value in values.items():
    inner = value if isinstance(value, dict) else None
    flat.update({f'{name}.{key}': x for key, x in inner.items()} if inner else {name: value})
  for name in ('style_sample_rate', 'style_window_secs', 'style_dim'):
    flat[name] = getattr(spec, name)
  return flat


def _check_sizes(path: str, given: dict[str, Any], expected: dict[str, Any]):
  different = [
    f'{name}={given.get(name)} (the run: {value})'
    for name, value in expected.items()
    if given.get(name) != value
  ]
  if different:
    raise ValueError(
      f'{path} is a style model of other sizes than this run: {", ".join(different)}. Give the '
      'model file of its sizes: gin/models/musiccoca_base.gin for released ones, '
      'gin/models/musiccoca_tiny.gin for the bundled one.'
    )


def _front_end(folder: pathlib.Path, config: MusicCoCaConfig) -> StyleStart:
  """What `StyleStart.write` left in a MODEL_DIR."""
  content = (folder / VOCABULARY_FILE).read_bytes()
  matrix = folder / MEL_MATRIX_FILE
  return StyleStart(
    TextVocabulary(content, config.max_text_length), np.load(matrix) if matrix.is_file() else None
  )


def _checkpoint(path: str | pathlib.Path) -> pathlib.Path | None:
  try:
    return find_checkpoint(path)
  except FileNotFoundError:
    return None


def _replace(path: pathlib.Path, content: bytes):
  """Writes a file in one go: another process may be looking for it."""
  partial = path.with_suffix('.partial')
  partial.write_bytes(content)
  partial.replace(path)
