"""What can be heard in a recording without anybody's words: tags, features, pitch classes, tempo.

Two networks of others that have heard recorded music (musicnn), the pitch-class profile and the
tempo of a track, kept on disk by the content of its file. They serve twice: as captions of
recordings that come without any, and as a teacher of the audio tower, which learns to say from its
embedding what they found.
"""

import dataclasses
import hashlib
import io
import os
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from evaluation import rhythm, tonality
from models import notices
from models.musicnn import NAMES, Musicnn
from pipelines.style_feed import StyleTrack
from preprocessing import heard_tags
from preprocessing.audio import AudioError, read_audio
from preprocessing.captions import CaptionFacts

PATCH_SECS = 3.0
_RATE = 16_000
_VERSION = 1
# Below, the profile of a track fits no key clearly, or its onsets no tempo.
_CLEAR_KEY, _CLEAR_TEMPO = 0.7, 0.2
_TEMPO_SECS = 60.0


@dataclasses.dataclass(frozen=True)
class Heard:
  """What was heard in a track; P patches of 3 s, in order.

  Attributes:
    features: float32 [P, 400], the layer before the tags of both networks.
    probabilities: float32 [P, 100], of the tags of `heard_tags.VOCABULARY`, in its order.
    chroma: float32 [P, 12], pitch classes from C up, each row summing to 1, or 0 for silence.
    tempo: float32 [2], beats per minute and how clear they are, 0..1; of a minute in the middle.
  """

  features: np.ndarray
  probabilities: np.ndarray
  chroma: np.ndarray
  tempo: np.ndarray

  def key(self) -> str:
    """Such as 'F# minor'; '' where no key fits clearly."""
    correlations = tonality.key_correlations(self.chroma.mean(0))
    best = int(np.argmax(correlations))
    return tonality.key_name(best) if correlations[best] >= _CLEAR_KEY else ''

  def bpm(self) -> float | None:
    """Beats per minute; None where they are not clear."""
    bpm, strength = self.tempo
    return float(bpm) if strength >= _CLEAR_TEMPO else None


class Hearing:
  """Hears tracks, each once."""

  def __init__(self, cache_dir: str | pathlib.Path):
    """Loads the bundled networks.

    Args:
      cache_dir: folder in which it is kept what was heard, by the content of the files.
    """
    self._networks = [Musicnn.load(name) for name in NAMES]
    self.tags = tuple(
      (name, tag) for name, net in zip(NAMES, self._networks) for tag in net.tags
    )
    hashes = '-'.join(net.content_hash for net in self._networks)
    self._folder = pathlib.Path(cache_dir) / f'heard-{_VERSION}-{hashes}'
    self._folder.mkdir(parents=True, exist_ok=True)

  def hear_all(self, tracks: Sequence[StyleTrack]) -> dict[str, Heard]:
    """What is heard in each track, by its path, with a progress bar; what is known is read.

    Tracks that cannot be read are left out and named.
    """
    found = {}
    for track in tqdm(tracks, desc='hear', unit='track'):
      try:
        found[track.path] = self.hear(track.path)
      except (AudioError, OSError) as error:
        notices.say(f'{track.path} is left out: {error}')
    return found

  def hear(self, path: str) -> Heard:
    """What is heard in a file.

    Raises:
      AudioError: it cannot be read.
    """
    place = self._folder / f'{_file_digest(path)}.npz'
    known = _load(place)
    if known is not None:
      return known
    audio = read_audio(path, sample_rate=_RATE, channels=1)[:, 0]
    found = self._listen(audio)
    _save(place, found)
    return found

  def _listen(self, audio: np.ndarray) -> Heard:
    samples = round(PATCH_SECS * _RATE)
    padded = np.pad(audio, (0, -len(audio) % samples or (0 if len(audio) else samples)))
    heard = [network.hear(padded, _RATE) for network in self._networks]
    number = min(len(padded) // samples, *(len(one.penultimate) for one in heard))
    hop = 0.1
    per_patch = round(PATCH_SECS / hop)
    frames = tonality.chroma(padded[:, None], _RATE, hop)
    frames = np.pad(frames, [(0, max(number * per_patch - len(frames), 0)), (0, 0)])
    chroma = frames[: number * per_patch].reshape(number, per_patch, 12).mean(1)
    middle = max(len(audio) - round(_TEMPO_SECS * _RATE), 0) // 2
    found = rhythm.rhythm(audio[middle : middle + round(_TEMPO_SECS * _RATE), None], _RATE)
    tempo = np.nan_to_num([found['tempo_bpm'], found['pulse_clarity']])
    return Heard(
      np.concatenate([one.penultimate[:number] for one in heard], 1).astype(np.float32),
      np.concatenate([one.probabilities[:number] for one in heard], 1).astype(np.float32),
      chroma.astype(np.float32),
      tempo.astype(np.float32),
    )

  def facts(self, heard: Heard, own: CaptionFacts) -> CaptionFacts:
    """What is known of a track with what was heard in it, and a caption that says it.

    Args:
      heard: of the track.
      own: what its manifest says; its styles and instruments come first, its caption is replaced.
    """
    words = heard_tags.words(dict(zip(self.tags, heard.probabilities.mean(0))))
    bpm, key = heard.bpm(), heard.key()
    styles = _unique([*(part for style in own.styles for part in _parts(style)), *words.styles])
    instruments = _unique([*own.instruments, *words.instruments])
    parts = [', '.join(styles)]
    if instruments:
      parts[0] = f'{parts[0] or "music"} with {" and ".join(instruments[:4])}'
    parts += [' and '.join(words.moods), words.voice]
    if words.vocal == 'instrumental':
      parts.append(words.vocal)
    caption = ', '.join(part for part in parts if part)
    caption += f', {bpm:.0f} bpm' if bpm else ''
    caption += f', in {key}' if key else ''
    return CaptionFacts(
      caption.lstrip(', '), styles, instruments, bpm, key, own.vocal or words.vocal, own.tradition
    )


class Teacher:
  """Targets for the audio tower: what was heard in the window that it sees.

  A target is a row of three parts of equal weight, two of musicnn's features, each reduced to its
  principal directions, and the pitch classes; every part has a variance of 1 in all over the
  training tracks, so that the mean alone has a loss of 1 a part.
  """

  def __init__(self, heard: Sequence[Heard], rank: int = 48):
    """Fits means and directions to the training tracks.

    Args:
      heard: of each track, in the order of the feed's tracks.
      rank: directions kept of each network's features.
    """
    self._secs = PATCH_SECS
    width = heard[0].features.shape[1] // len(NAMES)
    columns = [[one.features[:, i * width : (i + 1) * width] for one in heard]
               for i in range(len(NAMES))]  # fmt: skip
    columns.append([one.chroma for one in heard])
    parts = [_reduced(rows, rank) for rows in columns]
    self._rows = [np.concatenate(rows, 1).astype(np.float32) for rows in zip(*parts)]
    self.width = self._rows[0].shape[1]

  def targets(self, track: int, start_secs: float, secs: float) -> np.ndarray:
    """The mean of a track's patches, by how much of each lies in a window; float32 [width]."""
    rows = self._rows[track]
    edges = np.arange(len(rows)) * self._secs
    overlap = np.minimum(edges + self._secs, start_secs + secs) - np.maximum(edges, start_secs)
    weights = np.maximum(overlap, 0.0)
    if not weights.any():
      weights[-1] = 1.0
    return (weights @ rows / weights.sum()).astype(np.float32)


def _reduced(rows: Sequence[np.ndarray], rank: int) -> list[np.ndarray]:
  """Rows of each track without the mean, in `rank` main directions, of variance 1 in all."""
  everything = np.concatenate(rows).astype(np.float64)
  mean = everything.mean(0)
  values, vectors = np.linalg.eigh(np.cov(everything - mean, rowvar=False))
  basis = vectors[:, ::-1][:, :rank] / np.sqrt(max(values[::-1][:rank].sum(), 1e-12))
  return [(part - mean) @ basis for part in rows]


def _parts(style: str) -> list[str]:
  """'hardcore techno, breakbeat' holds two styles."""
  return [part.strip() for part in style.split(',') if part.strip()]


def _unique(words: Sequence[str]) -> tuple[str, ...]:
  found: dict[str, str] = {}
  for word in words:
    found.setdefault(word.lower(), word)
  return tuple(found.values())


def _file_digest(path: str) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _load(path: pathlib.Path) -> Heard | None:
  """What `_save` wrote; None where it is not there or damaged."""
  try:
    with np.load(path) as arrays:
      return Heard(**{field.name: arrays[field.name] for field in dataclasses.fields(Heard)})
  except (FileNotFoundError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
    return None


def _save(path: pathlib.Path, heard: Heard):
  """Writes a file in one go; a folder that is full costs a line, not the run."""
  content = io.BytesIO()
  np.savez(content, **dataclasses.asdict(heard))
  partial = path.with_suffix(f'.{os.getpid()}.partial')
  try:
    partial.write_bytes(content.getvalue())
    partial.replace(path)
  except OSError as error:
    partial.unlink(missing_ok=True)
    notices.say(f'What was heard is not kept in {path.parent}: {error}')
