"""The shards of a folder of token records: which it should hold, and whether they are whole.

prepare.py writes the size, the number of records and a hash of both ends of each shard to
`shards.json`. These show a shard that was cut, emptied, exchanged or added without reading records;
changes inside a shard are found by the records' own checksums when they are read.
"""

import concurrent.futures
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from etils import epath

from models import shard_bytes
from models.shard_bytes import ShardFacts, TokenDataError, count_records
from models.spec import MAGENTA_RT_V1, LiveMusicSpec

INFO_FILE = 'dataset_info.json'
STATS_FILE = 'stats.json'
SHARDS_FILE = 'shards.json'
COMPLETION_MARKER = 'COMPLETED'
_SHARD_NAME = re.compile(
  r'(?P<name>[^.].*)-(?P<split>[^-]+)\.tfrecord-(?P<shard>\d{5,})-of-(?P<num>\d{5,})'
)
_READERS = 16
_Value = TypeVar('_Value')


class NoSplitError(TokenDataError):
  """The data set has no such split."""


class ForeignShardError(TokenDataError):
  """A shard lies in a folder to whose data set it does not belong."""


def find_token_folder(data_dir: epath.PathLike, *, listed: bool = True) -> epath.Path:
  """Finds the one folder at or below `data_dir` (two levels at most) with finished token records.

  Args:
    data_dir: where to look.
    listed: whether its dataset_info.json must be there.

  Raises:
    TokenDataError: no such folder, several, or one whose preparation has not finished; or
      `data_dir` names several.
  """
  if isinstance(data_dir, list | tuple):
    raise TokenDataError(
      f'{", ".join(map(str, data_dir))}: token records are read from one folder.',
      'Prepare the music together: prepare.py takes --audio_dir several times.',
    )
  root = epath.Path(data_dir).expanduser()
  found = _data_sets(root, depth=2)
  finished = [folder for folder in found if (folder / COMPLETION_MARKER).exists()]
  if len(finished) == 1:
    if listed and not (finished[0] / INFO_FILE).exists():
      raise TokenDataError(
        f'{finished[0] / INFO_FILE} is missing: it says how many records there should be. Copy it '
        'there, or delete the folder and run prepare.py again with the same options as before.'
      )
    return finished[0]
  if finished:
    raise TokenDataError(
      f'{root} holds several token data sets: {", ".join(map(str, finished))}. Name one of them.'
    )
  if found:
    raise TokenDataError(
      f'{found[0]} has no {COMPLETION_MARKER} marker: its preparation has not finished. '
      'Run prepare.py again; it resumes.'
    )
  raise TokenDataError(f'No token records at or below {root}. Make them with prepare.py.')


def _data_sets(folder: epath.Path, depth: int) -> list[epath.Path]:
  """Data sets, finished or not, at or below a folder; hidden ones are still in the making."""
  if not folder.is_dir():
    return []
  if any((folder / name).exists() for name in (INFO_FILE, COMPLETION_MARKER)):
    return [folder]
  if not depth:
    return []
  children = sorted(child for child in folder.iterdir() if not child.name.startswith('.'))
  return [found for child in children for found in _data_sets(child, depth - 1)]


def check_record(
  codes: np.ndarray, style_tokens: np.ndarray, spec: LiveMusicSpec = MAGENTA_RT_V1
) -> str:
  """Returns what is wrong with a record's tokens, in words; '' if nothing.

  Args:
    codes: int [frames, levels] of the codec.
    style_tokens: int [windows, levels].
    spec: token layout.
  """
  least = {
    'acoustic_tokens': (codes, spec.chunk_frames, spec.target_levels),
    'style_tokens': (style_tokens, 1, spec.style_levels),
  }
  for name, (values, rows, levels) in least.items():
    if values.ndim != 2 or len(values) < rows or values.shape[1] < levels:
      return f'{name} have the shape {list(values.shape)}, at least [{rows}, {levels}] is needed'
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if low < 0 or high >= spec.codebook_size:
      return f'{name} reach from {low} to {high}, codes are 0..{spec.codebook_size - 1}'
  return ''


def whole_shards(folder: epath.PathLike) -> list[str]:
  """Returns names of the shards in a folder that agree with `shards.json`."""
  folder, names = epath.Path(folder), []
  try:
    rows = read_json(folder / SHARDS_FILE).items()
  except TokenDataError:
    return []
  for name, facts in rows:
    with contextlib.suppress(OSError, TypeError, LookupError):
      if _SHARD_NAME.fullmatch(name) and shard_bytes.outside(folder / name) == (facts[0], facts[2]):
        names.append(name)
  return names


def error_text(error: Exception) -> str:
  """Returns the message of an error; of TensorFlow's without the names of operations."""
  text = re.sub(r'\{\{[^}]*\}\} ?|\[Op:\w+\]|name: *$', '', str(error).split('\n')[0])
  return text.strip().rstrip('.') or type(error).__name__


class TokenFolder:
  """A data set of token records on disk.

  Attributes:
    path: the folder.
    stats: content of stats.json; {} where there is none.
    compression: of the shards, '' or 'GZIP'.
    splits: names of the splits, in order.
  """

  def __init__(self, path: epath.PathLike):
    """Reads what stands beside the shards.

    Raises:
      TokenDataError: the folder holds no shards, or a file beside them is damaged.
      OSError: something cannot be read.
    """
    self.path = epath.Path(path)
    self.stats = read_json(self.path / STATS_FILE)
    self.compression = self._compression()
    self._info = read_json(self.path / INFO_FILE)
    self._lengths = self._listed_lengths()
    self._recorded = self._recorded_facts()
    self._look()
    self.splits = list(self._lengths) if self._info else sorted(self._files)
    self._whole: dict[str, list[str]] = {}

  def _compression(self) -> str:
    stored = self.stats.get('format', {})
    compression = stored.get('compression', '') if isinstance(stored, dict) else None
    if compression not in ('', 'GZIP'):
      raise self._damaged(STATS_FILE, f"'format' is {stored!r}: no known compression of shards")
    return compression

  def _listed_lengths(self) -> dict[str, list[int]]:
    try:
      return {
        str(split['name']): [_number(length) for length in split['shardLengths']]
        for split in self._info.get('splits', ())
      }
    except (AttributeError, TypeError, KeyError, ValueError) as error:
      raise self._damaged(INFO_FILE, f"'splits' cannot be read ({error!r})") from error

  def _recorded_facts(self) -> dict[str, ShardFacts]:
    try:
      return {
        str(name): ShardFacts(_number(facts[0]), _number(facts[1]), str(facts[2]))
        for name, facts in read_json(self.path / SHARDS_FILE).items()
      }
    except (TypeError, LookupError, ValueError) as error:
      raise self._damaged(SHARDS_FILE, f'it cannot be read ({error!r})') from error

  def _damaged(self, name: str, why: str) -> TokenDataError:
    return TokenDataError(f'{self.path / name} is damaged: {why}.', self.remake())

  def remake(self, shard: epath.PathLike | None = None) -> str:
    """Returns sentences that say how to make the data set, or one shard of it, again."""
    root = self.path.parent.parent
    command = f'prepare.py --output_dir={root}'
    if shard is None:
      return f'Delete {self.path} and run {command} with the same options as before.'
    return (
      f'Delete that file and run {command} with the same options as before: it writes this shard '
      f'anew from {root / "parts"}.'
    )

  def made_by(self, kind: str) -> tuple[str, str]:
    """Returns name and hash of the model that made the tokens; `kind` is 'codec' or 'style'.

    Raises:
      TokenDataError: stats.json does not say.
    """
    return self.stat(kind, str), self.stat(f'{kind}_hash', str)

  def stat(self, name: str, kind: type[_Value]) -> _Value:
    """Returns a value of stats.json.

    Raises:
      TokenDataError: it is not there, or of another type.
    """
    value = self.stats.get(name)
    if not isinstance(value, kind):
      raise self._damaged(STATS_FILE, f'{name!r} is {value!r}, not a {kind.__name__}')
    return value

  def lengths(self, split: str) -> list[int]:
    """Returns the number of records of each shard, by dataset_info.json, else by counting.

    Raises:
      TokenDataError: there is no such split.
    """
    self._require(split)
    if not self._info:
      self._lengths[split] = [
        count_records(self.path / name, self.compression) for name in sorted(self._files[split])
      ]
    return self._lengths[split]

  def num_records(self, split: str) -> int:
    """Returns the number of records of a split."""
    return sum(self.lengths(split))

  @property
  def fingerprint(self) -> str:
    """Returns an identity of the content: prepare.py's own, or a hash of what is known."""
    known = self.stats.get('fingerprint')
    if isinstance(known, str) and known:
      return known
    facts = [[split, self.lengths(split), self._info and self._num_bytes(split)]
             for split in self.splits]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

  def _num_bytes(self, split: str) -> int | None:
    """Bytes of all shards of a split, as dataset_info.json says; None where it does not."""
    listed = next(s.get('numBytes') for s in self._info['splits'] if str(s['name']) == split)
    try:
      return _number(listed)
    except ValueError:
      return None

  def notes(self) -> list[str]:
    """Returns lines that a reader of the records should print."""
    lines = []
    if self._hidden:
      lines.append(
        f'{self.path}: {len(self._hidden)} hidden files beside the shards are passed over, such as '
        f'{self._hidden[0]}.'
      )
    if not self._info:
      lines.append(
        f'{self.path} has no {INFO_FILE}: the records are counted, whether all are there is not '
        'known.'
      )
    return lines

  def shards(self, split: str, *, anew: bool = False) -> list[str]:
    """Returns the shards of a split, in order, after comparing each with `shards.json`.

    Args:
      split: its name.
      anew: look at them once more.

    Raises:
      TokenDataError: no such split; a shard is missing, cut, empty or too long, or is one of
        another data set.
      OSError: something cannot be read.
    """
    if anew:
      self._look()
    if anew or split not in self._whole:
      self._whole[split] = self._check(split)
    return self._whole[split]

  def _look(self):
    """Lists the folder."""
    remote = shard_bytes.is_remote(self.path)
    names = [child.name for child in self.path.iterdir()] if remote else os.listdir(self.path)
    names.sort()
    self._hidden = [name for name in names if name.startswith('.') and '.tfrecord-' in name]
    self._files: dict[str, dict[str, re.Match]] = {}
    for name in names:
      if match := _SHARD_NAME.fullmatch(name):
        self._files.setdefault(match['split'], {})[name] = match

  def _require(self, split: str):
    if split not in self.splits:
      if split in self._files:
        raise ForeignShardError(
          f'{self.path / next(iter(self._files[split]))}: {INFO_FILE} lists no split {split!r}. '
          'Move that file elsewhere.'
        )
      raise NoSplitError(
        f'There is no split {split!r} in {self.path}; the data set has {self.splits}.'
      )

  def _check(self, split: str) -> list[str]:
    lengths = self.lengths(split)
    found = self._files.get(split, {})
    wanted = self._names(split, len(lengths))
    if extra := sorted(found.keys() - set(wanted)):
      raise ForeignShardError(
        f'{self.path / extra[0]} does not belong to this data set, whose split {split!r} has '
        f'{len(wanted)} shards: {wanted[0] if wanted else "none"} and so on ({len(extra)} such '
        'files). Move it elsewhere.'
      )
    for name in wanted:
      if name not in found:
        raise TokenDataError(
          f'{self.path / name} is missing, one of {len(wanted)} shards of split {split!r} '
          f'({len(found)} are there).',
          f'Copy it there, or run prepare.py --output_dir={self.path.parent.parent} with the same '
          'options as before: it writes the shards that are missing.',
        )
    paths = [f'{os.fspath(self.path)}/{name}' for name in wanted]
    if self._info:
      self._check_outside(split, paths, lengths)
    return paths

  def _names(self, split: str, count: int) -> list[str]:
    """File names of the shards of a split."""
    found = list(self._files.get(split, {}).values())
    names = sorted({match['name'] for match in found})
    known = self._info.get('name') or self.stats.get('name')
    name = known if isinstance(known, str) else (names[0] if names else self.path.parent.name)
    if not self._info and found:
      count = int(found[0]['num'])
    return [f'{name}-{split}.tfrecord-{shard:05d}-of-{count:05d}' for shard in range(count)]

  def _check_outside(self, split: str, paths: Sequence[str], lengths: Sequence[int]):
    """Compares sizes, counts and ends with what was written down when the shards were made."""
    recorded = [self._recorded.get(os.path.basename(path)) for path in paths]
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
      if all(recorded):
        looks = pool.map(shard_bytes.outside, paths)
        for path, length, facts, (size, ends) in zip(paths, lengths, recorded, looks, strict=True):
          if facts.num_records != length:
            raise self._damaged(
              INFO_FILE, f'it gives {os.path.basename(path)} {length} records, {SHARDS_FILE} gives '
              f'it {facts.num_records}',
            )  # fmt: skip
          if (size, ends) != (facts.num_bytes, facts.ends):
            raise self._broken(path, size, facts)
        return
      # Made before shards.json was. All sizes together tell whether something is cut.
      sizes = list(pool.map(shard_bytes.size_of, paths))
      if sum(sizes) == self._num_bytes(split):
        return
      for path, size, length in zip(paths, sizes, lengths, strict=True):
        facts = ShardFacts(size, length, '')
        if self._count_problem(path, length):
          raise self._broken(path, size, facts)

  def _count_problem(self, path: str, wanted: int) -> str:
    try:
      found = count_records(path, self.compression)
    except TokenDataError as error:
      return f'{str(error).removeprefix(f"{path} ").rstrip(".")} of {wanted}'
    return '' if found == wanted else f'holds {found} of {wanted} records'

  def _broken(self, path: str, size: int, facts: ShardFacts) -> TokenDataError:
    """Says what is wrong with a shard that is not what it was."""
    if not size:
      why = f'is empty, it should hold {facts.num_records} records'
    else:
      why = self._count_problem(path, facts.num_records)
    if not why and size != facts.num_bytes:
      why = f'has {size} bytes, it had {facts.num_bytes} when it was made'
    if not why:
      why = 'is damaged, or a shard of another data set: it begins or ends otherwise than when made'
    return TokenDataError(f'{path} {why}.', self.remake(path))


def _number(value: Any) -> int:
  """A count, which JSON of protocol buffers writes as a string."""
  if isinstance(value, bool) or not re.fullmatch('[0-9]+', str(value)):
    raise ValueError(f'{value!r} is not a count')
  return int(value)


def read_json(path: epath.PathLike) -> Mapping[str, Any]:
  """Reads a JSON object; {} if there is no such file.

  Raises:
    TokenDataError: the file holds anything else.
    OSError: it cannot be read.
  """
  path = epath.Path(path)
  way_out = f'Delete {path.parent} and run prepare.py again with the same options as before.'
  try:
    values = json.loads(path.read_bytes())
  except FileNotFoundError:
    return {}
  except (ValueError, RecursionError) as error:
    raise TokenDataError(f'{path} is damaged: it is not JSON ({error}).', way_out) from error
  if not isinstance(values, dict):
    raise TokenDataError(
      f'{path} is damaged: it holds a {type(values).__name__}, not an object.', way_out
    )
  return values
