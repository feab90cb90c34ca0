"""Looking into shards: what a record says, and its codes decoded back to audio."""

import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from etils import epath

from models import folder_marker
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
  # No patterns: a folder's name may hold what is one.
  folders = [path, *(inner for child in _folders(path) for inner in _folders(child))]
  found = [folder for folder in folders if (folder / records.COMPLETION_MARKER).exists()]
  if len(found) != 1:
    raise ValueError(f'{path} holds {len(found)} finished data sets, name one: {found}.')
  for name in [split] if split else _SPLITS:
    try:
      return records.split_shards(found[0], name)
    except ValueError:
      if split:
        raise
  raise ValueError(f'{found[0]} has no shards.')


def _folders(path: epath.Path) -> list[epath.Path]:
  """The folders in a folder, sorted; hidden ones are data sets in the making."""
  shown = (child for child in path.iterdir() if not child.name.startswith('.'))
  return sorted(child for child in shown if child.is_dir())


def statistics(shard: epath.Path) -> dict[str, Any]:
  """stats.json beside a shard; {} where there is none."""
  from preprocessing import records

  try:
    return json.loads((shard.parent / records.STATS_FILE).read_text())
  except FileNotFoundError:
    return {}


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

  stats = statistics(shards[0])
  if codec is not None and stats and stats['codec_hash'] != codec.content_hash:
    raise ValueError(
      f'{shards[0].parent} holds tokens of the codec {stats["codec"]!r} ({stats["codec_hash"]}), '
      f'the one given is {codec.content_hash}. Give that codec with --codec.'
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
  stats = statistics(shards[0])
  yield f'{shards[0].parent}: {stats.get("about", "no statistics")}'
  stored = stats.get("format", "(unknown)")
  yield f"{len(shards)} shards, stored as {stored}; records of {shards[0].name} first"
  from models.spectrostream import SpectroStream

  codec = SpectroStream.load(codec_name or stats.get('codec', 'tiny'))
  yield from inspect(shards, number, output_dir, codec, num_levels)
