"""The released MusicCoCa models, run as they were published, from the asset directory.

Three names, for `MusicCoCa.load`:

* `musiccoca_mv212`: Magenta RealTime v1's TensorFlow SavedModels, on the CPU, one item at a time.
* `musiccoca_v2`: Magenta RealTime v2's TFLite files, through LiteRT (ai-edge-litert), likewise.
* `musiccoca_v2_jax`: the weights of these TFLite files in this project's own towers: batches, GPUs
  and TPUs, and tuning (`models.musiccoca.official_weights`).

Nothing is downloaded. TensorFlow and LiteRT are imported when a model that needs them is loaded.
"""

import functools
import hashlib
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from models import assets, tflite
from models.musiccoca.config import OFFICIAL_NAMES
from models.musiccoca.embedder import StyleEmbedder
from models.musiccoca.inputs import check_embeddings
from models.musiccoca.vocabulary import TextVocabulary
from models.spec import LiveMusicSpec

V2_FOLDER = 'resources/musiccoca'
V2_FILES = (
  'spm.model', 'text_encoder.tflite', 'audio_preprocessor.tflite', 'music_encoder.tflite',
  'pretrained_vector_quantizer.tflite',
)  # fmt: skip
V2_MAPPER = 'mapper.tflite'
V1_TOWERS = 'savedmodels/musiccoca_mv212f_cpu_novocab'
V1_QUANTIZER = f'savedmodels/{assets.STYLE_MODEL}_quant'
V1_VOCABULARY = 'vocabularies/musiccoca_mv212f_vocab.model'
# Level k of the quantizer is this variable of its checkpoint: names were sorted as text there.
V1_LEVEL_ORDER = tuple(sorted(range(12), key=str).index(level) for level in range(12))
MAX_TEXT_LENGTH = 128


def load(name: str) -> StyleEmbedder:
  """Loads a released model by name.

  Args:
    name: one of `OFFICIAL_NAMES`.

  Raises:
    FileNotFoundError: a file is not in the asset directory; says where to put it.
    ImportError: LiteRT is not installed; says how to install it.
    ValueError: unknown name, or a file is truncated.
  """
  if name == 'musiccoca_mv212':
    return SavedModelMusicCoCa(*(assets.find_asset(x) for x in (V1_TOWERS, V1_QUANTIZER,
                                                                V1_VOCABULARY)))  # fmt: skip
  if name == 'musiccoca_v2':
    return TFLiteMusicCoCa(v2_folder())
  if name == 'musiccoca_v2_jax':
    from models.musiccoca import official_weights

    return official_weights.import_model(v2_folder())
  raise ValueError(f'{name!r} is no official style model; they are {list(OFFICIAL_NAMES)}.')


def v2_folder() -> pathlib.Path:
  """The folder of v2's files in the asset directory.

  Raises:
    FileNotFoundError: one of them is not there; says where to put it. The mapper is optional.
  """
  paths = [
    assets.find_asset(f'{V2_FOLDER}/{file}', assets.PUBLISHED_V2_AT) for file in V2_FILES
  ]
  return paths[0].parent


def files_hash(paths: Sequence[pathlib.Path]) -> str:
  """SHA-256 over names and contents of files, and of all files in folders, as 16 hex digits."""
  files = []
  for path in paths:
    inner = sorted(p for p in path.rglob('*') if p.is_file()) if path.is_dir() else [path]
    files += [(file.relative_to(path.parent).as_posix(), file) for file in inner]
  digest = hashlib.sha256()
  for name, file in sorted(files):
    with file.open('rb') as content:
      digest.update(name.encode() + b'\0' + hashlib.file_digest(content, 'sha256').digest())
  return digest.hexdigest()[:16]


class TFLiteMusicCoCa(StyleEmbedder):
  """v2's TFLite files, run by LiteRT on the CPU.

  `use_mapper` sends text embeddings through mapper.tflite, which turns them and Gaussian noise of
  `seed` into unit vectors that look like audio embeddings; it is off by default as in v2's Python
  interface (its bulk generation and its C++ runtime use it).
  """

  def __init__(
    self,
    folder: str | pathlib.Path,
    spec: LiveMusicSpec | None = None,
    *,
    use_mapper: bool = False,
    seed: int = 0,
  ):
    """Opens the vocabulary; the TFLite files are opened when they are first needed.

    Args:
      folder: holds `V2_FILES` and, for `use_mapper`, `V2_MAPPER`.
      spec: rates and sizes of the system.
      use_mapper: the default of `embed_text`.
      seed: of the mapper's noise, the default of `embed_text`.
    """
    interpreter_class()  # What is not installed is said now, not after an hour of work.
    self.folder = pathlib.Path(folder)
    self.spec = spec or LiveMusicSpec()
    self.vocabulary = read_vocabulary(self.folder / 'spm.model')
    self.use_mapper = use_mapper
    self.seed = seed
    self._files: dict[str, TFLiteFile] = {}
    self._lock = threading.Lock()

  @functools.cached_property
  def content_hash(self) -> str:
    return files_hash([self.folder / file for file in V2_FILES])

  @functools.cached_property
  def codebooks(self) -> np.ndarray:
    from models.musiccoca.official_weights import read_codebooks

    return read_codebooks(self.folder / 'pretrained_vector_quantizer.tflite', self.spec)

  def _file(self, name: str) -> 'TFLiteFile':
    with self._lock:
      if name not in self._files:
        self._files[name] = TFLiteFile(self.folder / name)
      return self._files[name]

  @property
  def variant(self) -> str:
    return f'litert-mapper{self.seed}' if self.use_mapper else 'litert'

  def embed_text(
    self, texts: Sequence[str], *, use_mapper: bool | None = None, seed: int | None = None
  ) -> np.ndarray:
    """Texts -> float32 [N, style_dim]; of unit length if mapped. See `StyleEmbedder.embed_text`.

    Every text gets the same noise: that of `numpy.random.RandomState(seed)`, as in v2.
    """
    embeddings = self._encode(*self.vocabulary.encode(texts))
    if not (self.use_mapper if use_mapper is None else use_mapper):
      return embeddings
    return self._mapped(embeddings, self.seed if seed is None else seed)

  def embed_ids(self, ids: np.ndarray, paddings: np.ndarray) -> np.ndarray:
    embeddings = self._encode(ids, paddings)
    return self._mapped(embeddings, self.seed) if self.use_mapper else embeddings

  def _encode(self, ids: np.ndarray, paddings: np.ndarray) -> np.ndarray:
    encode = self._file('text_encoder.tflite')
    ids, paddings = np.asarray(ids, np.int32), np.asarray(paddings, np.float32)
    return _rows([encode(*pair) for pair in zip(ids, paddings)], self.spec.style_dim)

  def _mapped(self, embeddings: np.ndarray, seed: int) -> np.ndarray:
    random = np.random.RandomState(seed)  # noqa: NPY002 (v2's noise)
    noise = random.randn(self.spec.style_dim).astype(np.float32)
    mapped = [self._file(V2_MAPPER)(embedding, noise) for embedding in embeddings]
    return _rows([x / np.linalg.norm(x) for x in mapped], self.spec.style_dim)

  def embed_clips(self, clips: np.ndarray) -> np.ndarray:
    prepare, encode = self._file('audio_preprocessor.tflite'), self._file('music_encoder.tflite')
    clips = np.asarray(clips, np.float32)
    return _rows([encode(prepare(clip)) for clip in clips], self.spec.style_dim)

  def tokenize(self, embeddings: np.ndarray) -> np.ndarray:
    """Embeddings [..., style_dim] -> style tokens [..., style_rvq_levels] int32, codes 0..1023."""
    embeddings = check_embeddings(np.asarray(embeddings, np.float32))
    quantize, levels = self._file('pretrained_vector_quantizer.tflite'), self.spec.style_rvq_levels
    tokens = [quantize(row)[:levels] for row in embeddings.reshape(-1, embeddings.shape[-1])]
    return np.asarray(tokens, np.int32).reshape(*embeddings.shape[:-1], levels)


class SavedModelMusicCoCa(StyleEmbedder):
  """v1's SavedModels, run by TensorFlow on the CPU."""

  variant = 'tensorflow'

  def __init__(
    self,
    towers: str | pathlib.Path,
    quantizer: str | pathlib.Path,
    vocabulary: str | pathlib.Path,
    spec: LiveMusicSpec | None = None,
  ):
    """Loads the towers and the codebooks.

    Args:
      towers: SavedModel with the signatures `embed_text` and `embed_music`.
      quantizer: SavedModel whose checkpoint has the codebooks.
      vocabulary: SentencePiece model.
      spec: rates and sizes of the system.
    """
    import tensorflow as tf

    self._tf = tf
    self.paths = [pathlib.Path(path) for path in (towers, quantizer, vocabulary)]
    self.spec = spec or LiveMusicSpec()
    self.vocabulary = read_vocabulary(self.paths[2])
    try:
      with tf.device('/cpu:0'):
        self._towers = tf.saved_model.load(str(self.paths[0]))
    except (OSError, tf.errors.OpError) as error:
      raise ValueError(
        f'{towers} is truncated or no SavedModel: {error}; fetch it again.'
      ) from error
    missing = {'embed_text', 'embed_music'} - set(self._towers.signatures)
    if missing:
      raise ValueError(f'{towers} has no signature {sorted(missing)}; fetch it again.')
    self._codebooks = _v1_codebooks(self.paths[1], self.spec)

  @functools.cached_property
  def content_hash(self) -> str:
    return files_hash(self.paths)

  @property
  def codebooks(self) -> np.ndarray:
    return self._codebooks

  def embed_ids(self, ids: np.ndarray, paddings: np.ndarray) -> np.ndarray:
    run = self._towers.signatures['embed_text']
    rows = []
    with self._tf.device('/cpu:0'):
      for row, padding in zip(np.asarray(ids, np.int32), np.asarray(paddings, np.float32)):
        outputs = run(inputs_0=self._tf.constant(row[None]),
                      inputs_0_1=self._tf.constant(padding[None]))  # fmt: skip
        rows.append(outputs['contrastive_txt_embed'].numpy()[0])
    return _rows(rows, self.spec.style_dim)

  def embed_clips(self, clips: np.ndarray) -> np.ndarray:
    run = self._towers.signatures['embed_music']
    rows = []
    with self._tf.device('/cpu:0'):
      for clip in np.asarray(clips, np.float32):
        outputs = run(inputs_0=self._tf.constant(clip[None]))
        rows.append(outputs['contrastive_music_embed'].numpy()[0])
    return _rows(rows, self.spec.style_dim)

  def tokenize(self, embeddings: np.ndarray) -> np.ndarray:
    """Embeddings [..., style_dim] -> style tokens [..., style_rvq_levels] int32, codes 0..1023.

    Distances are taken as v1 does: float32 differences, not expanded squares.
    """
    embeddings = check_embeddings(np.asarray(embeddings, np.float32))
    residual = embeddings.reshape(-1, embeddings.shape[-1]).copy()
    tokens = np.zeros([len(residual), len(self._codebooks)], np.int32)
    for row, rest in enumerate(residual):
      for level, codebook in enumerate(self._codebooks):
        tokens[row, level] = np.linalg.norm(codebook - rest, axis=1).argmin()
        rest -= codebook[tokens[row, level]]
    return tokens.reshape(*embeddings.shape[:-1], len(self._codebooks))


def _v1_codebooks(folder: pathlib.Path, spec: LiveMusicSpec) -> np.ndarray:
  """Codebooks [levels, codes, style_dim]; the checkpoint holds them transposed and out of order."""
  import tensorflow as tf

  checkpoint = str(folder / 'variables' / 'variables')
  levels = []
  for variable in V1_LEVEL_ORDER[: spec.style_rvq_levels]:
    name = f'variables/{variable}/.ATTRIBUTES/VARIABLE_VALUE'
    levels.append(tf.train.load_variable(checkpoint, name).T)
  codebooks = np.stack(levels).astype(np.float32)
  expected = (spec.style_rvq_levels, spec.codebook_size, spec.style_dim)
  if codebooks.shape != expected:
    raise ValueError(f'{folder} holds codebooks of shape {codebooks.shape}, not {expected}.')
  return codebooks


class TFLiteFile:
  """One TFLite file as a function of one example; calls from several threads take turns."""

  def __init__(self, path: str | pathlib.Path):
    """Opens the file.

    Raises:
      FileNotFoundError: it is not there; says where to put it.
      ValueError: it is truncated or no TFLite file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
      raise FileNotFoundError(
        f'{path} is missing; {V2_FOLDER}/{path.name} is published at {assets.PUBLISHED_V2_AT}.'
      )
    self._path = path
    self._lock = threading.Lock()
    tflite.read(path)  # LiteRT does not look whether a file is whole before it uses it.
    try:
      self._interpreter = interpreter_class()(model_path=str(path), num_threads=os.cpu_count())
      self._interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
      raise ValueError(
        f'{path} ({path.stat().st_size} bytes) is truncated or no TFLite file: {error}; fetch it '
        'again.'
      ) from error
    self._inputs = self._interpreter.get_input_details()
    self._output = self._interpreter.get_output_details()[0]['index']

  def __call__(self, *arrays: np.ndarray) -> np.ndarray:
    """Runs one example; the first output, flat.

    Args:
      *arrays: each goes to the first input of its dtype that is still free, since the order of
        inputs differs between exports. Any shape of the right size.

    Raises:
      ValueError: an array fits no input.
    """
    with self._lock:
      free = list(self._inputs)
      for array in arrays:
        detail = next((x for x in free if x['dtype'] == array.dtype), None)
        if detail is None or array.size != np.prod(detail['shape']):
          wanted = [(x['dtype'].__name__, x['shape'].tolist()) for x in self._inputs]
          raise ValueError(
            f'{self._path} has the inputs {wanted}; {array.dtype} {list(array.shape)} fits none '
            'that is free.'
          )
        free.remove(detail)
        self._interpreter.set_tensor(detail['index'], array.reshape(detail['shape']))
      self._interpreter.invoke()
      return self._interpreter.get_tensor(self._output).reshape(-1).copy()


def interpreter_class() -> Any:
  """LiteRT's interpreter, or the one that TensorFlow had before LiteRT became its own package.

  Raises:
    ImportError: neither is installed; says how to install LiteRT.
  """
  try:
    from ai_edge_litert.interpreter import Interpreter
  except ImportError:
    try:
      from tensorflow.lite.python.interpreter import Interpreter
    except ImportError as error:
      raise ImportError(
        "Released TFLite files need LiteRT: pip install 'woodshed[litert]' (ai-edge-litert). The "
        "style model 'musiccoca_v2_jax' reads the same files without it."
      ) from error
  return Interpreter


def read_vocabulary(path: pathlib.Path) -> TextVocabulary:
  """A released SentencePiece model.

  Raises:
    ValueError: it is truncated or no SentencePiece model.
  """
  try:
    return TextVocabulary(path.read_bytes(), MAX_TEXT_LENGTH)
  except RuntimeError as error:
    raise ValueError(
      f'{path} ({path.stat().st_size} bytes) is truncated or no SentencePiece model: {error}; '
      'fetch it again.'
    ) from error


def _rows(rows: list[np.ndarray], width: int) -> np.ndarray:
  return np.asarray(rows, np.float32).reshape(len(rows), width)
