"""Looking into shards: what a record says, and its codes decoded back to audio."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from etils import epath

from models import folder_marker
from models.record_shards import NoSplitError, TokenFolder, find_token_folder
from models.spec import MAGENTA_RT_V1, LiveMusicSpec
from preprocessing import audio

_SPLITS = ('train', 'validation', 'test')


class Decoder(Protocol):
  """What is needed of `models.spectrostream.SpectroStream`."""

  content_hash: str

  def decode(self, codes: np.ndarray) -> np.ndarray:
    """int32 [frames, k] -> float32 [n, 2]."""


def find_shards(data: epath.PathLike, split: str | None = None) -> list[epath.Path]:
  """The shards that `data` names: one shard, or a folder of them, or prepare.py's output.

  Args:
    data: path.
    split: of a folder; None takes the first of train, validation and test that is there.

  Raises:
    FileNotFoundError: there is nothing there.
    ValueError: it holds no shards, or none of that split, or several data sets.
  """
  from preprocessing import records

  path = epath.Path(data).expanduser()
  if not path.exists():
    raise FileNotFoundError(f'{path} is neither a shard nor a folder.')
  if not path.is_dir():
    return [path]
  folder = find_token_folder(path, listed=False)
  for name in [split] if split else _SPLITS:
    try:
      return records.split_shards(folder, name)
    except NoSplitError:
      if split:
        raise
  raise ValueError(f'{folder} has no shards.')


def inspect(
  shards: Sequence[epath.Path],
  number: int,
  output_dir: str = '',
  codec: Decoder | None = None,
  num_levels: int | None = None,
  spec: LiveMusicSpec = MAGENTA_RT_V1,
) -> Iterator[str]:
  """Yields a paragraph for each of the first `number` records, and writes their audio.

  Args:
    shards: of one folder.
    number: of records.
    output_dir: for `<split index>_<track id>.wav`; '' writes none.
    codec: the one that the tokens were made with; None decodes nothing.
    num_levels: levels to decode; None for all that are there.
    spec: token layout.

  Raises:
    ValueError: the tokens are another codec's.
  """
  from preprocessing import records

  folder = TokenFolder(shards[0].parent)
  if codec is not None and folder.stats:
    name, known_hash = folder.made_by('codec')
    if known_hash != codec.content_hash:
      raise ValueError(
        f'{folder.path} holds tokens of the codec {name!r} ({known_hash}), the one given is '
        f'{codec.content_hash}. Give that codec with --codec.'
      )
  for tokens, info in itertools.islice(records.read_shards(shards), number):
    codes, styles = tokens.acoustic_tokens, tokens.style_tokens
    secs = len(codes) / spec.frame_rate
    lines = [
      f'record {info.index}: track {info.track_id}, {info.start_secs:.2f} s + {secs:.2f} s, '
      f'licence {info.licence or "(unknown)"}',
      f'  caption: {info.caption or "(none)"}',
      f'  codes {list(codes.shape)}, first frame {codes[0, :8].tolist()} ..., '
      f'{len(np.unique(codes[:, 0]))} different codes on level 0',
      f'  style tokens of the first {spec.style_window_secs:g} s {styles[0].tolist()}',
    ]
    if codec is not None:
      sound = codec.decode(codes[:, :num_levels])
      lines.append(f'  decoded peak {np.abs(sound).max():.3f}, rms {np.std(sound):.4f}')
      if output_dir:
        name = f'{info.index:06d}_{info.track_id}.wav'.replace('/', '_')
        folder_marker.mark(output_dir, 'tokens inspect')
        audio.write_audio(f'{output_dir}/{name}', sound, spec.sample_rate)
        lines.append(f'  {output_dir}/{name}')
    yield '\n'.join(lines)


def report(
  data: str, split: str | None, number: int, output_dir: str, codec_name: str | None,
  num_levels: int | None = None,
) -> Iterator[str]:
  """What `prepare.py tokens inspect` prints; the codec is the one that stats.json names.

  Raises:
    FileNotFoundError, ValueError: see `find_shards` and `inspect`.
  """
  if number < 1:
    raise ValueError(f'number={number} must be at least 1.')
  shards = find_shards(data, split)
  folder = TokenFolder(shards[0].parent)
  stats = folder.stats
  yield f'{folder.path}: {stats.get("about", "no statistics")}'
  yield from folder.notes()
  stored = stats.get("format", "(unknown)")
  yield f"{len(shards)} shards, stored as {stored}; records of {shards[0].name} first"
  from models.spectrostream import SpectroStream

  codec = SpectroStream.load(codec_name or (folder.made_by('codec')[0] if stats else 'tiny'))
  yield from inspect(shards, number, output_dir, codec, num_levels)
