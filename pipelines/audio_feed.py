"""Batches of audio crops for the codec.

Every crop is a pure function of (seed, batch, row), so the feed has no state to save. Decoded audio
stays in memory as int16: 11.5 MB a minute of 48 kHz stereo.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import logging
from tqdm import tqdm

from models.spec import MAGENTA_RT_V1, LiveMusicSpec
from preprocessing.audio import AudioError, read_audio
from preprocessing.manifest import find_audio_files, read_manifest

MANIFEST_FILE = 'manifest.jsonl'
_FULL_SCALE = 32_767.0


def find_audio(source: str | pathlib.Path, split: str | None = 'train') -> list[str]:
  """Paths of the audio that `source` means, in a fixed order.

  Args:
    source: a manifest.jsonl, a folder that holds one, or any folder with audio files in it.
    split: of a manifest; None for all. A folder without a manifest has no splits.

  Raises:
    ValueError: `source` does not exist or gives no audio.
  """
  source = pathlib.Path(source)
  manifest = source / MANIFEST_FILE if source.is_dir() else source
  if not manifest.is_file():
    return sorted(find_audio_files(source)[0])
  paths = [track.path for track in read_manifest(manifest) if split in (None, track.split)]
  if not paths:
    raise ValueError(f'{manifest} lists no track of split {split!r}.')
  return paths


class DecodedAudio:
  """Files decoded into memory; those that cannot be read or are too short are left out.

  Attributes:
    audio: one int16 [n, channels] array per file.
  """

  def __init__(
    self, paths: Sequence[str], sample_rate: int, channels: int, crop_samples: int
  ):
    """Decodes.

    Args:
      paths: of the files.
      sample_rate: in Hz, of the arrays.
      channels: 1 or 2.
      crop_samples: length of a crop; shorter files are left out.

    Raises:
      ValueError: no file is left.
    """
    self.audio: list[np.ndarray] = []
    self._crop_samples = crop_samples
    for path in tqdm(paths, desc='decoding', unit='file'):
      try:
        x = read_audio(path, sample_rate=sample_rate, channels=channels)
      except AudioError as error:  # One broken file costs a line, not the run.
        logging.warning('%s is left out: %s', path, error)
        continue
      if len(x) < crop_samples:
        logging.warning('%s is left out: %.1f s are too short.', path, len(x) / sample_rate)
        continue
      self.audio.append(np.round(np.clip(x, -1, 1) * _FULL_SCALE).astype(np.int16))
    if not self.audio:
      raise ValueError(
        f'None of {len(paths)} files is readable and {crop_samples / sample_rate:g} s long.'
      )
    self._ends = np.cumsum([len(x) - crop_samples + 1 for x in self.audio])

  def crop(self, rng: np.random.Generator) -> np.ndarray:
    """A crop whose start is uniform over all starts, float32 [crop_samples, channels]."""
    place = int(rng.integers(self._ends[-1]))
    index = int(np.searchsorted(self._ends, place, side='right'))
    start = place - (int(self._ends[index - 1]) if index else 0)
    return self.audio[index][start : start + self._crop_samples] / np.float32(_FULL_SCALE)


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


DEFAULT_AUGMENTATION = Augmentation()


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
    augmentation: Augmentation | None = DEFAULT_AUGMENTATION,
    spec: LiveMusicSpec = MAGENTA_RT_V1,
  ):
    """Decodes the source; see `find_audio`.

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
    self._audio = DecodedAudio(
      find_audio(source, split),
      spec.sample_rate,
      spec.num_channels,
      round(frames) * spec.samples_per_frame,
    )
    self.batch_size, self._seed, self._augmentation = batch_size, seed, augmentation

  def batch(self, index: int) -> dict[str, np.ndarray]:
    """Batch `index`, always the same."""
    crops = []
    for row in range(self.batch_size):
      rng = np.random.default_rng([self._seed, index, row])
      x = self._audio.crop(rng)
      crops.append(self._augmentation.apply(rng, x) if self._augmentation else x)
    return {'audio': np.stack(crops)}
