"""Batches of audio crops for the codec, and of crops with captions for the style model.

Every crop is a pure function of (seed, batch, row), so a feed has no state to save. Decoded audio
stays in memory as int16: 11.5 MB a minute at 48 kHz stereo, 1.9 MB at 16 kHz mono.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import logging
from tqdm import tqdm

from models.spec import MAGENTA_RT_V1, LiveMusicSpec
from preprocessing.audio import read_audio
from preprocessing.captions import CaptionFacts, caption_variant
from preprocessing.composer_styles import style_named

MANIFEST_FILE = 'manifest.jsonl'
CORPUS_FILE = 'corpus.json'
SUFFIXES = ('.wav', '.flac', '.mp3', '.ogg', '.opus', '.aif', '.aiff')
_FULL_SCALE = 32_767.0


@dataclasses.dataclass(frozen=True)
class Clip:
  """One audio file and the words that go with it.

  Attributes:
    path: of the file.
    facts: what can be said about it.
  """

  path: pathlib.Path
  facts: CaptionFacts = CaptionFacts()


def find_clips(source: str | pathlib.Path, split: str | None = 'train') -> list[Clip]:
  """The audio files that `source` means, in a fixed order.

  Args:
    source: a manifest.jsonl, a folder that holds one, a demo corpus (corpus.json), or any folder
      with audio files in it.
    split: rows of a manifest to take; None for all. Folders without a manifest have no splits.

  Raises:
    FileNotFoundError: `source` does not exist or has no audio in it.
  """
  source = pathlib.Path(source)
  manifest = source / MANIFEST_FILE if source.is_dir() else source
  if manifest.is_file():
    clips = _manifest_clips(manifest, split)
  elif (source / CORPUS_FILE).is_file():
    clips = _corpus_clips(source / CORPUS_FILE)
  else:
    paths = source.rglob('*') if source.is_dir() else []
    clips = [Clip(path) for path in sorted(paths) if path.suffix.lower() in SUFFIXES]
  if not clips:
    raise FileNotFoundError(
      f'{source} gives no audio' + (f' of split {split!r}' if manifest.is_file() else '')
      + f': it must be a {MANIFEST_FILE} or a folder with {", ".join(SUFFIXES)} files.'
    )  # fmt: skip
  return clips


def _manifest_clips(manifest: pathlib.Path, split: str | None) -> list[Clip]:
  rows = [json.loads(line) for line in manifest.read_text(encoding='utf-8').splitlines() if line]
  return [
    Clip(
      manifest.parent / row['path'],
      CaptionFacts(
        caption=row.get('caption') or '',
        styles=(row['genre'],) if row.get('genre') else (),
        instruments=tuple(row.get('tags') or ()),
      ),
    )
    for row in rows
    if split is None or row.get('split') == split
  ]


def _corpus_clips(corpus: pathlib.Path) -> list[Clip]:
  works = json.loads(corpus.read_text(encoding='utf-8'))['works']
  return [
    Clip(
      corpus.parent / work['path'],
      CaptionFacts(
        caption=work['caption'],
        styles=(style_named(work['style']).label,),  # As its captions have it.
        instruments=tuple(work['instruments']),
        bpm=work['bpm'],
        key=work['key'],
      ),
    )
    for work in works
    if (corpus.parent / work['path']).is_file()
  ]


class DecodedAudio:
  """Clips decoded into memory; those that cannot be read or are too short are left out.

  Attributes:
    clips: what could be read.
    audio: one int16 [n, channels] array per clip.
  """

  def __init__(
    self, clips: Sequence[Clip], sample_rate: int, channels: int, min_samples: int
  ):
    """Decodes.

    Args:
      clips: to read.
      sample_rate: in Hz, of the arrays.
      channels: 1 or 2.
      min_samples: shorter clips are left out.

    Raises:
      ValueError: no clip is left.
    """
    self.clips: list[Clip] = []
    self.audio: list[np.ndarray] = []
    for clip in tqdm(clips, desc='decoding', unit='file'):
      try:
        x = read_audio(clip.path, sample_rate=sample_rate, channels=channels)
      except Exception as error:  # One broken file costs a line, not the run.
        logging.warning('%s is left out: %s', clip.path, error)
        continue
      if len(x) < min_samples:
        logging.warning('%s is left out: %.1f s are too short.', clip.path, len(x) / sample_rate)
        continue
      self.clips.append(clip)
      self.audio.append(np.round(np.clip(x, -1, 1) * _FULL_SCALE).astype(np.int16))
    if not self.audio:
      raise ValueError(
        f'None of {len(clips)} clips is readable and {min_samples / sample_rate:g} s long.'
      )
    lengths = np.array([len(x) - min_samples + 1 for x in self.audio], np.int64)
    self._ends = np.cumsum(lengths)

  def crop(self, rng: np.random.Generator, samples: int) -> tuple[int, np.ndarray]:
    """A crop whose start is uniform over all starts: (index of the clip, float32 [samples, ch])."""
    place = int(rng.integers(self._ends[-1]))
    index = int(np.searchsorted(self._ends, place, side='right'))
    start = place - (int(self._ends[index - 1]) if index else 0)
    return index, self.audio[index][start : start + samples].astype(np.float32) / _FULL_SCALE


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Changes that keep music music.

  Attributes:
    gain_db: (lowest, highest) gain, drawn evenly; the peak is kept from exceeding full scale.
    swap_probability: of exchanging left and right.
    invert_probability: of turning the polarity of both channels.
  """

  gain_db: tuple[float, float] = (-9.0, 3.0)
  swap_probability: float = 0.5
  invert_probability: float = 0.5

  def apply(self, rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """x float32 [n, channels] -> the same shape."""
    gain = 10.0 ** (rng.uniform(*self.gain_db) / 20.0)
    swap, invert = rng.random(2)
    if swap < self.swap_probability:
      x = x[:, ::-1]
    sign = -1.0 if invert < self.invert_probability else 1.0
    peak = float(np.abs(x).max(initial=0.0))
    return np.ascontiguousarray(x * np.float32(sign * min(gain, 1.0 / max(peak, 1e-9))))


STEREO = Augmentation()
MONO = Augmentation(swap_probability=0.0)


class CodecFeed:
  """Random crops for the codec: {'audio': float32 [batch_size, samples, channels]}."""

  def __init__(
    self,
    source: str | pathlib.Path,
    *,
    batch_size: int,
    crop_secs: float = 1.0,
    seed: int = 0,
    split: str | None = 'train',
    augmentation: Augmentation | None = STEREO,
    spec: LiveMusicSpec = MAGENTA_RT_V1,
  ):
    """Decodes the source; see `find_clips`.

    Args:
      source: manifest or folder.
      batch_size: crops in a batch.
      crop_secs: length of a crop; must be a whole number of codec frames.
      seed: of all draws.
      split: of a manifest.
      augmentation: None leaves the crops as they are.
      spec: sample rate, channels and frame rate.
    """
    frames = crop_secs * spec.frame_rate
    if frames < 1 or abs(frames - round(frames)) > 1e-6:
      raise ValueError(f'crop_secs={crop_secs} is not a whole number of frames, {frames}.')
    self._samples = round(frames) * spec.samples_per_frame
    self._audio = DecodedAudio(
      find_clips(source, split), spec.sample_rate, spec.num_channels, self._samples
    )
    self._batch_size, self._seed, self._augmentation = batch_size, seed, augmentation

  def batch(self, index: int) -> dict[str, np.ndarray]:
    """Batch `index`, always the same."""
    crops = []
    for row in range(self._batch_size):
      rng = np.random.default_rng([self._seed, index, row])
      _, x = self._audio.crop(rng, self._samples)
      crops.append(self._augmentation.apply(rng, x) if self._augmentation else x)
    return {'audio': np.stack(crops)}


class StyleFeed:
  """Crops with one of their captions, for the style model.

  A batch is {'audio': float32 [batch_size, samples] mono, 'text_ids': int32 [batch_size, T],
  'text_paddings': float32 [batch_size, T]}. What the texts say: see `preprocessing.captions`.
  """

  def __init__(
    self,
    source: str | pathlib.Path,
    tokenize: Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]],
    *,
    batch_size: int,
    seed: int = 0,
    split: str | None = 'train',
    caption: Callable[[CaptionFacts, np.random.Generator], str] = caption_variant,
    augmentation: Augmentation | None = MONO,
    spec: LiveMusicSpec = MAGENTA_RT_V1,
  ):
    """Decodes the source; see `find_clips`.

    Args:
      source: manifest or folder whose clips have captions or genres.
      tokenize: texts -> (ids, paddings), such as `TextVocabulary.encode`.
      batch_size: pairs in a batch; two pairs of a batch may come from one clip.
      seed: of all draws.
      split: of a manifest.
      caption: (facts, rng) -> text.
      augmentation: None leaves the crops as they are.
      spec: rate and window of the style model.

    Raises:
      ValueError: no clip has any text.
    """
    self._samples = spec.style_window_secs * spec.style_sample_rate
    clips = [clip for clip in find_clips(source, split) if not clip.facts.is_empty]
    if not clips:
      raise ValueError(f'No clip of {source} has a caption, a genre or tags to learn from.')
    self._audio = DecodedAudio(clips, spec.style_sample_rate, 1, self._samples)
    self._tokenize, self._caption, self._augmentation = tokenize, caption, augmentation
    self._batch_size, self._seed = batch_size, seed

  def batch(self, index: int) -> dict[str, Any]:
    """Batch `index`, always the same."""
    crops, texts = [], []
    for row in range(self._batch_size):
      rng = np.random.default_rng([self._seed, index, row])
      clip, x = self._audio.crop(rng, self._samples)
      crops.append((self._augmentation.apply(rng, x) if self._augmentation else x)[:, 0])
      texts.append(self._caption(self._audio.clips[clip].facts, rng))
    ids, paddings = self._tokenize(texts)
    return {'audio': np.stack(crops), 'text_ids': ids, 'text_paddings': paddings}
