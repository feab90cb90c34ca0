"""Batches of audio crops for the codec, straight from a manifest or a folder.

Every crop is a pure function of (seed, batch, row), so the feed has no state to save, and each of
several processes can make its own rows. Audio is decoded once and stays in memory as int16, 11.5 MB
a minute of 48 kHz stereo; or every crop is read from its file, for corpora that memory cannot hold.
"""

import concurrent.futures
import copy
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from models import notices
from models.figures import apart
from models.spec import MAGENTA_RT_V1, LiveMusicSpec
from pipelines.audio_content import audio_content
from preprocessing.audio import AudioError, read_audio, read_header
from preprocessing.manifest import find_audio_files, read_manifest
from preprocessing.measurement import first_not_finite

MANIFEST_FILE = 'manifest.jsonl'
_FULL_SCALE = 32_767.0
# Crops that are drawn in place of one that cannot be read, and threads that read a batch.
_MAX_DRAWS = 20
_READERS = 8


def find_audio(source: str | pathlib.Path, split: str | None = 'train') -> dict[str, float | None]:
  """Path -> seconds, as far as they are known, of the audio that `source` means, in a fixed order.

  Args:
    source: a manifest.jsonl, a folder that holds one, or any folder with audio files in it.
    split: of a manifest; None for all. A folder without a manifest has no splits.

  Raises:
    ValueError: `source` does not exist or gives no audio.
  """
  source = pathlib.Path(source)
  manifest = source / MANIFEST_FILE if source.is_dir() else source
  if not manifest.is_file():
    paths, rejects = find_audio_files(source)
    for reject in rejects:
      notices.say(f'{reject.path} is left out: {reject.detail}')
    return dict.fromkeys(paths)
  tracks = [track for track in read_manifest(manifest) if split in (None, track.split)]
  if not tracks:
    raise ValueError(f'{manifest} lists no track of split {split!r}.')
  return {track.path: track.duration_secs for track in tracks}


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
        notices.say(f'{path} is left out: {error}')
        continue
      if len(x) < crop_samples:
        secs, least = len(x) / sample_rate, crop_samples / sample_rate
        notices.say(f'{path} is left out: {apart(secs, least, 1)} s; at least {least:g} s')
        continue
      if (place := first_not_finite(x)) is not None:
        notices.say(f'{path} is left out: NaN or infinity at {place / sample_rate:.4f} s')
        continue
      self.audio.append(np.round(_at_most_full_scale(x) * _FULL_SCALE).astype(np.int16))
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


def _at_most_full_scale(x: np.ndarray) -> np.ndarray:
  """Audio whose peak exceeds full scale is scaled down to it, not cut off there."""
  return x / np.float32(max(1.0, np.abs(x).max(initial=0.0)))


class AudioOnDisk:
  """Files of which every crop is read when it is drawn."""

  def __init__(
    self,
    durations: Mapping[str, float | None],
    sample_rate: int,
    channels: int,
    crop_samples: int,
  ):
    """Reads the headers of files whose length is not known.

    Args:
      durations: path -> seconds; None where they are not known.
      sample_rate: in Hz, of the crops.
      channels: 1 or 2.
      crop_samples: length of a crop; shorter files are left out.

    Raises:
      ValueError: no file is left.
    """
    self._rate, self._channels, self._crop_samples = sample_rate, channels, crop_samples
    self._crop_secs = crop_samples / sample_rate
    self._paths, spans = [], []
    self._told: set[str] = set()
    for path, secs in durations.items():
      try:
        secs = read_header(path).duration_secs if secs is None else secs
      except AudioError as error:
        notices.say(f'{path} is left out: {error}')
        continue
      if secs >= self._crop_secs:
        self._paths.append(path)
        spans.append(secs - self._crop_secs + 1 / sample_rate)
      else:
        least = self._crop_secs
        notices.say(f'{path} is left out: {apart(secs, least, 1)} s; at least {least:g} s')
    if not self._paths:
      raise ValueError(f'None of {len(durations)} files is {self._crop_secs:g} s long.')
    self._ends = np.cumsum(spans)

  def crop(self, rng: np.random.Generator) -> np.ndarray:
    """A crop whose start is uniform over all starts, float32 [crop_samples, channels].

    Raises:
      ValueError: of many crops drawn one after the other none could be read.
    """
    reason = ''
    for _ in range(_MAX_DRAWS):
      place = rng.uniform(0, self._ends[-1])
      index = min(int(np.searchsorted(self._ends, place, side='right')), len(self._paths) - 1)
      # A few samples more: lengths at another sample rate are rounded.
      start = place - (self._ends[index - 1] if index else 0.0)
      first, extra = int(start * self._rate) / self._rate, 8 / self._rate
      path = self._paths[index]
      try:
        x = read_audio(path, self._rate, self._channels, max(0.0, first - extra / 2),
                       self._crop_secs + extra)  # fmt: skip
        if len(x) < self._crop_samples:
          reason = f'{path} is shorter than it says.'
        elif (place := first_not_finite(x)) is not None:
          reason = f'{path} has NaN or infinity at {first + place / self._rate:.4f} s.'
        else:
          return _at_most_full_scale(x[: self._crop_samples])
      except AudioError as error:
        reason = str(error)
      if path not in self._told:
        self._told.add(path)
        notices.say(f'Another crop is drawn: {reason}')
    raise ValueError(f'{_MAX_DRAWS} crops could not be read, the last because {reason}')


@dataclasses.dataclass(frozen=True)
class Augmentation:
  """Changes that keep music music.

  Attributes:
    gain_db: (lowest, highest) gain, drawn evenly; the peak is kept from exceeding full scale.
    swap_probability: of exchanging left and right.
    invert_probability: of turning the polarity of both channels.
    mono_probability: of folding the channels to their mean, the same in both.
  """

  gain_db: tuple[float, float] = (-9.0, 3.0)
  swap_probability: float = 0.5
  invert_probability: float = 0.5
  mono_probability: float = 0.05

  def apply(self, rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """x float32 [n, channels] -> the same shape."""
    gain = 10.0 ** (rng.uniform(*self.gain_db) / 20.0)
    swap, invert, mono = rng.random(3)
    if swap < self.swap_probability:
      x = x[:, ::-1]
    if mono < self.mono_probability:
      x = np.broadcast_to(x.mean(axis=1, keepdims=True), x.shape)
    sign = -1.0 if invert < self.invert_probability else 1.0
    peak = float(np.abs(x).max(initial=0.0))
    return np.ascontiguousarray(x * np.float32(sign * min(gain, 1.0 / max(peak, 1e-9))))


DEFAULT_AUGMENTATION = Augmentation()


class CodecFeed:
  """Random crops for the codec: {'audio': float32 [batch_size, samples, channels]}.

  Attributes:
    batch_size: crops in a batch.
    content: identifies their files; see `training.data_state`.
  """

  def __init__(
    self,
    source: str | pathlib.Path,
    *,
    batch_size: int,
    crop_secs: float = 1.0,
    seed: int = 0,
    split: str | None = 'train',
    augmentation: Augmentation | None = DEFAULT_AUGMENTATION,
    in_memory: bool = True,
    spec: LiveMusicSpec = MAGENTA_RT_V1,
  ):
    """Decodes the source, or finds out how long its files are; see `find_audio`.

    Args:
      source: manifest or folder.
      batch_size: crops in a batch.
      crop_secs: length of a crop; must be a whole number of codec frames.
      seed: of all draws.
      split: of a manifest.
      augmentation: None leaves the crops as they are.
      in_memory: decode everything once, rather than each crop when it is drawn.
      spec: sample rate, channels and frame rate.
    """
    frames = crop_secs * spec.frame_rate
    if frames < 1 or abs(frames - round(frames)) > 1e-6:
      raise ValueError(f'crop_secs={crop_secs} is not a whole number of frames, {frames}.')
    sizes = (spec.sample_rate, spec.num_channels, round(frames) * spec.samples_per_frame)
    found = find_audio(source, split)
    self._audio = DecodedAudio(list(found), *sizes) if in_memory else AudioOnDisk(found, *sizes)
    self.content = audio_content(found)
    self.batch_size, self._seed, self._augmentation = batch_size, seed, augmentation
    self._rows = range(batch_size)

  def shard(self, index: int, count: int) -> 'CodecFeed':
    """The same batches, of which this one makes row `index` and every `count`-th after it."""
    feed = copy.copy(self)
    feed._rows = range(index, self.batch_size, count)
    return feed

  def batch(self, index: int) -> dict[str, np.ndarray]:
    """Batch `index`, always the same."""

    def row(number: int) -> np.ndarray:
      rng = np.random.default_rng([self._seed, index, number])
      x = self._audio.crop(rng)
      return self._augmentation.apply(rng, x) if self._augmentation else x

    if isinstance(self._audio, DecodedAudio):
      return {'audio': np.stack([row(number) for number in self._rows])}
    with concurrent.futures.ThreadPoolExecutor(_READERS) as readers:
      return {'audio': np.stack(list(readers.map(row, self._rows)))}


def held_out_feed(
  source: str | pathlib.Path, held_out_dir: str | pathlib.Path | None, **options: Any
) -> CodecFeed | None:
  """Fixed crops that training does not see, as they are; read when they are drawn.

  Args:
    source: what training reads; where it has a manifest, its validation split is taken.
    held_out_dir: instead, all audio of this manifest or folder.
    **options: of `CodecFeed`.

  Returns:
    None where neither holds anything out.
  """
  options = {'augmentation': None, 'in_memory': False, **options}
  if held_out_dir:
    return CodecFeed(held_out_dir, split=None, **options)
  source = pathlib.Path(source)
  manifest = source / MANIFEST_FILE if source.is_dir() else source
  if not manifest.is_file() or not any(t.split == 'validation' for t in read_manifest(manifest)):
    notices.say(
      f'{source} holds no validation split: nothing is evaluated. HELD_OUT_DIR names other audio.'
    )
    return None
  return CodecFeed(source, split='validation', **options)
