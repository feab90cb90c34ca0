"""Which recordings a codec is measured on: excerpts of a manifest's split or of a folder."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterator

import numpy as np

from models import notices
from models.figures import apart
from models.spec import LiveMusicSpec
from preprocessing.audio import AudioError, read_audio, read_header
from preprocessing.manifest import MANIFEST_FILE, find_audio_files, read_manifest

HELD_OUT_SPLITS = ('test', 'validation')
# BS.1770 needs a block of 0.4 s; below that the other measures say little either.
LEAST_SECS = 0.4
_SILENCE = 1e-4


@dataclasses.dataclass(frozen=True)
class Recording:
  """A file that may be measured: what the reader sees, and where it lies."""

  title: str
  path: str


@dataclasses.dataclass(frozen=True)
class Excerpt:
  """What is measured of a recording.

  Attributes:
    recording: where it comes from.
    start_secs: where it begins.
    audio: float32 [samples, channels].
    beginning: float32 [samples, channels], the recording's first seconds, whose codes are counted.
  """

  recording: Recording
  start_secs: float
  audio: np.ndarray
  beginning: np.ndarray


def find_recordings(source: str | pathlib.Path, split: str | None) -> tuple[list[Recording], str]:
  """The recordings that `source` means, sorted, and what they are in words.

  Args:
    source: a manifest.jsonl, a folder that holds one (such as prepare.py's), or any folder with
      audio files in it.
    split: of a manifest; None takes the first of 'test' and 'validation' that has tracks.

  Raises:
    FileNotFoundError: `source` does not exist.
    ValueError: there is no audio, no track of that split, or a split of a folder is asked for.
  """
  source = pathlib.Path(source).expanduser()
  manifest = _manifest_of(source)
  if manifest is None:
    if split is not None:
      raise ValueError(f'{source} has no manifest, so it has no split {split!r}; leave SPLIT None.')
    root = source.absolute()
    paths, rejects = find_audio_files(source)
    for reject in rejects:
      notices.say(f'{reject.path} is set aside: {reject.detail}')
    titles = [pathlib.Path(path).relative_to(root).with_suffix('').as_posix() for path in paths]
    return [Recording(*pair) for pair in zip(titles, paths)], f'all audio below {source}'
  tracks = read_manifest(manifest)
  wanted = HELD_OUT_SPLITS if split is None else (split,)
  known = sorted({track.split for track in tracks if track.split})
  chosen = next((name for name in wanted if name in known), None)
  if chosen is None:
    raise ValueError(f'{manifest} has no track of split {" or ".join(wanted)}; it has {known}.')
  recordings = [
    Recording(f'{track.title} ({track.artist})' if track.artist else track.title, track.path)
    for track in tracks
    if track.split == chosen
  ]
  return sorted(recordings, key=lambda item: item.path), f'split {chosen!r} of {manifest}'


def _manifest_of(source: pathlib.Path) -> pathlib.Path | None:
  """The manifest that `source` is, holds, or has one or two folders down, as prepare.py does."""
  if source.is_file():
    return source
  below = (sorted(source.glob(f'{depth}/{MANIFEST_FILE}')) for depth in ('*', '*/*'))
  found = [source / MANIFEST_FILE, *itertools.chain(*below)]
  found = [path for path in found if path.is_file()]
  if len(found) > 1 and found[0].parent != source:
    raise ValueError(f'{source} has several manifests: {", ".join(map(str, found))}. Name one.')
  return found[0] if found else None


def read_excerpts(
  recordings: list[Recording],
  spec: LiveMusicSpec,
  problems: list[dict[str, str]],
  *,
  number: int,
  secs: float,
  start_secs: float,
  code_secs: float,
  seed: int,
) -> Iterator[Excerpt]:
  """Yields up to `number` excerpts, of recordings drawn without replacement.

  A recording that ends before the excerpt would gives its last `secs` seconds, or all it has. What
  cannot be read, is silent, not finite or shorter than 0.4 s is added to `problems` as {'what',
  'why'}, and another is taken for it.
  """
  given = 0
  # A larger number adds to the recordings of a smaller one.
  for index in np.random.default_rng(seed).permutation(len(recordings)):
    if given == number:
      return
    recording = recordings[index]
    try:
      excerpt = read_excerpt(recording, spec, secs, start_secs, code_secs)
    except (AudioError, OSError) as error:
      problems.append({'what': f'Audio of {recording.title}', 'why': f'set aside: {error}'})
      continue
    given += 1
    yield excerpt


def read_excerpt(
  recording: Recording, spec: LiveMusicSpec, secs: float, start_secs: float, code_secs: float
) -> Excerpt:
  """Reads one; see `read_excerpts`.

  Raises:
    AudioError: it cannot be used.
  """
  start = max(0.0, min(start_secs, read_header(recording.path).duration_secs - secs))
  rate, channels = spec.sample_rate, spec.num_channels
  audio = read_audio(recording.path, rate, channels, start, secs)
  beginning = read_audio(recording.path, rate, channels, 0.0, code_secs)
  if len(audio) < LEAST_SECS * rate:
    secs = apart(len(audio) / rate, LEAST_SECS, 2)
    raise AudioError('too_short', f'{secs} s are shorter than {LEAST_SECS:g} s.')
  if not (np.isfinite(audio).all() and np.isfinite(beginning).all()):
    raise AudioError('not_finite', 'it holds NaN or infinite samples.')
  if np.abs(audio).max() < _SILENCE:
    raise AudioError('silent', f'the excerpt from {start:.1f} s on is silent.')
  return Excerpt(recording, start, audio, beginning)
