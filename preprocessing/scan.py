"""Reading all files of a corpus once: content hash, header, tags, quality and fingerprint.

Whatever was found of a file goes into a journal at once, keyed by its path, size and time, so a
scan that was stopped or killed goes on where it was, and a second one reads only what is new. A
file is read once for its hash and decoded once for quality and fingerprint together; a file that
was moved or copied is not decoded again. Many files are read by several processes: a decoder that
crashes on foreign bytes then sets one file aside, not the run.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pathlib
import re
import signal
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from models import notices
from preprocessing import audio, files, fingerprint, measurement, quality, tags
from preprocessing.fingerprint import Fingerprint, Fingerprinter

JOURNAL_FILE = 'scan.jsonl'
_FORMAT = 4
# From so many files on, processes are worth their start.
_MIN_FILES_FOR_PROCESSES = 64
# What may be over at the next run: such files are looked at again.
_MAY_PASS = ('unreadable', 'changed', 'unsupported_format', 'failed')
# Content hashes that a file is compared with: of files of its size, these many at most.
_MAX_COMPARED = 256
# Files on their way at one time, for each process.
_AHEAD = 4


@dataclasses.dataclass(frozen=True)
class ScanSettings:
  """What a scan does, and what its measurements depend on.

  Attributes:
    decode: whether samples are looked at; else only hash, header and tags.
    silence_dbfs, mono_side_db: of `quality.QualityLimits`.
  """

  decode: bool = True
  silence_dbfs: float = quality.DEFAULT_LIMITS.silence_dbfs
  mono_side_db: float = quality.DEFAULT_LIMITS.mono_side_db


@dataclasses.dataclass(frozen=True)
class Scanned:
  """What was found of one file.

  Attributes:
    path: of the file.
    state: its size and time.
    sha256: of its bytes; '' where they cannot be read.
    reason, detail: '' or why it cannot be used whatever the limits are.
    header: what it says of itself, None with a reason.
    facts: its tags.
    measured: of its samples; None with a reason, or where nothing was decoded.
    fingerprint: as text; '' where nothing was decoded.
  """

  path: str
  state: files.FileState
  sha256: str = ''
  reason: str = ''
  detail: str = ''
  header: audio.AudioHeader | None = None
  facts: tags.Tags = tags.Tags()
  measured: measurement.Measurement | None = None
  fingerprint: str = ''


def journal_path(output_dir: str) -> str:
  """Where a journal is kept: in the output folder, or in the user's cache for one in a bucket."""
  if not files.is_remote(output_dir):
    return os.path.join(files.absolute(output_dir), JOURNAL_FILE)
  name = hashlib.sha256(output_dir.encode()).hexdigest()[:16]
  return os.path.expanduser(f'~/.cache/woodshed/scans/{name}/{JOURNAL_FILE}')


def scan(
  paths: Sequence[str],
  settings: ScanSettings,
  *,
  journal: str | None = None,
  num_workers: int = 0,
  progress: Callable[[int], None] = lambda count: None,
) -> dict[str, Scanned]:
  """Scans files.

  Args:
    paths: of the files; whatever is wrong with one is in its result.
    settings: what is done.
    journal: local file to which results are appended; None keeps none.
    num_workers: processes; 0 takes one for each core where there are enough files.
    progress: is called with 1 for each file.

  Returns:
    What was found, by path, in the order of the paths.
  """
  known = _read_journal(journal, settings) if journal else {}
  done: dict[str, Scanned] = {}
  pending: list[str] = []
  for path in dict.fromkeys(paths):
    earlier = known.get(path)
    if earlier is not None and earlier.reason not in _MAY_PASS and earlier.state == _state(path):
      done[path] = earlier
      progress(1)
    else:
      pending.append(path)
  contents = _Contents(known.values())
  with _appending(journal, settings) as append:
    for found in _scan_all(pending, settings, contents, num_workers):
      done[found.path] = found
      append(found)
      progress(1)
  return {path: done[path] for path in dict.fromkeys(paths)}


class _Contents:
  """What is known of each content, and which contents a file of some size may have."""

  def __init__(self, known: Iterable[Scanned]):
    self._found: dict[str, Scanned] = {}
    self._by_size: dict[int, list[str]] = {}
    for found in known:
      self.add(found)

  def candidates(self, path: str) -> frozenset[str]:
    return frozenset(self._by_size.get(_state(path).size, ())[-_MAX_COMPARED:])

  def add(self, found: Scanned):
    if found.sha256 and found.reason not in _MAY_PASS and found.sha256 not in self._found:
      self._found[found.sha256] = found
      self._by_size.setdefault(found.state.size, []).append(found.sha256)

  def completed(self, found: Scanned, settings: ScanSettings) -> Scanned:
    """A result that lacks its samples' measurements because its content is known."""
    known = self._found.get(found.sha256)
    if known is not None and settings.decode and not found.reason and found.measured is None:
      return dataclasses.replace(known, path=found.path, state=found.state, facts=found.facts)
    self.add(found)
    return found


def scan_file(path: str, settings: ScanSettings, known: Collection[str] = frozenset()) -> Scanned:
  """Scans one file; what cannot be used has a reason, nothing raises.

  Args:
    path: of the file.
    settings: what is done.
    known: content hashes; a file with one of them is not decoded.
  """
  found, local = Scanned(path, _state(path)), path
  try:
    with audio_errors(path), files.local_file(path) as local, quality.unchanged(local):
      # The header first: what is no regular file must not be opened.
      header = audio.read_header(local)
      with open(local, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
      found = dataclasses.replace(found, sha256=digest, header=header, facts=tags.read_tags(local))
      if settings.decode and digest not in known:
        found = _decode(found, local, settings)
  except audio.AudioError as error:
    # A local copy has a name of its own, which says nothing to the reader.
    detail = str(error).replace(local, path)
    return dataclasses.replace(found, reason=error.reason, detail=detail, header=None)
  if _state(path) != found.state:
    return dataclasses.replace(
      found, reason='changed', detail=f'{path} changed while it was read', header=None
    )
  return found


def _decode(found: Scanned, local: str, settings: ScanSettings) -> Scanned:
  """Quality and fingerprint by one decoding."""
  maker = Fingerprinter(found.header.sample_rate)
  with audio.decodable(local) as decoded:
    measured = measurement.measure(
      decoded,
      found.header.sample_rate,
      silence_dbfs=settings.silence_dbfs,
      mono_side_db=settings.mono_side_db,
      listener=maker.add,
    )
  text = maker.fingerprint().encode() if measured.finite else ''
  return dataclasses.replace(found, measured=measured, fingerprint=text)


@contextlib.contextmanager
def audio_errors(path: str) -> Iterator[None]:
  """Whatever goes wrong with one file becomes an AudioError, but for a lack of memory."""
  try:
    yield
  except (audio.AudioError, MemoryError):
    raise
  except OSError as error:
    raise audio.AudioError('unreadable', f'{path}: {error.strerror or error}.') from error
  except Exception as error:
    message = f'{path}: {type(error).__name__}: {error}'
    raise audio.AudioError('failed', message) from error


def measurements(journal: str) -> dict[str, measurement.Measurement]:
  """What a journal says of the samples of each file, under whatever settings; the last counts."""
  found: dict[str, measurement.Measurement] = {}
  with open(journal, 'rb') as file:
    for line in file:
      scanned = _parse(line, None)
      if scanned is not None and scanned.measured is not None:
        found[scanned.path] = scanned.measured
  return found


def fingerprint_of(found: Scanned) -> Fingerprint | None:
  """The fingerprint, or None where there is none."""
  return Fingerprint.decode(found.fingerprint) if found.fingerprint else None


def _state(path: str) -> files.FileState:
  try:
    return files.state(path)
  except OSError:
    return files.FileState(-1, -1)


def _scan_all(
  pending: Sequence[str],
  settings: ScanSettings,
  contents: _Contents,
  num_workers: int,
) -> Iterator[Scanned]:
  """Results as they come."""
  if not num_workers:
    num_workers = (os.cpu_count() or 1) if len(pending) >= _MIN_FILES_FOR_PROCESSES else 1
  if num_workers == 1:
    for path in pending:
      found = scan_file(path, settings, contents.candidates(path))
      yield contents.completed(found, settings)
    return
  queue = collections.deque(pending)
  while queue:
    lost = yield from _scan_in_processes(queue, settings, contents, num_workers)
    # A process died: what was on its way is read one by one, and who kills a process is known.
    for path in lost:
      yield _scan_alone(path, settings)


def _scan_in_processes(
  queue: collections.deque, settings: ScanSettings, contents: _Contents, num_workers: int
):
  """Gives results until the queue is empty or a process dies; returns what was on its way."""
  context = multiprocessing.get_context('spawn')
  pool = concurrent.futures.ProcessPoolExecutor(num_workers, context, _begin_worker)
  running: dict[concurrent.futures.Future, str] = {}
  try:
    while queue or running:
      while queue and len(running) < _AHEAD * num_workers:
        path = queue.popleft()
        known = contents.candidates(path)
        running[pool.submit(scan_file, path, settings, known)] = path
      finished, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
      for future in finished:
        found = future.result()
        del running[future]
        yield contents.completed(found, settings)
    return []
  except BrokenProcessPool:
    return list(running.values())
  finally:
    pool.shutdown(wait=True, cancel_futures=True)


def _scan_alone(path: str, settings: ScanSettings) -> Scanned:
  context = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, context, _begin_worker) as pool:
    try:
      return pool.submit(scan_file, path, settings).result()
    except BrokenProcessPool:
      return Scanned(path, _state(path), '', 'decode_error', f'{path} crashes the decoder')


def _begin_worker():
  # Ctrl-C goes to the whole group; only the parent answers it.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  # A parent that is killed tells nobody.
  threading.Thread(target=_leave_with_parent, daemon=True).start()
  # MP3's decoder writes notes on foreign bytes past Python, into the progress bar.
  with open(os.devnull, 'wb') as nowhere:
    os.dup2(nowhere.fileno(), 2)


def _leave_with_parent():
  multiprocessing.parent_process().join()
  os._exit(1)


@contextlib.contextmanager
def _appending(journal: str | None, settings: ScanSettings) -> Iterator[Callable[[Scanned], None]]:
  """A function that adds a line to the journal."""
  if journal is None:
    yield lambda found: None
    return
  pathlib.Path(journal).parent.mkdir(parents=True, exist_ok=True)
  head = _head(settings)
  with open(journal, 'ab') as file:
    if file.tell():
      file.write(b'\n')  # Ends a line that a kill may have left half written.

    def append(found: Scanned):
      values = {'settings': head, **dataclasses.asdict(found)}
      with files.writing(journal):
        file.write(_with_checksum(json.dumps(values).encode()) + b'\n')
        file.flush()

    yield append


def _with_checksum(line: bytes) -> bytes:
  """Adds a field 'crc' to a JSON object: the CRC-32 of the object without it."""
  return line[:-1] + b', "crc": %d}' % zlib.crc32(line)


def _checked(line: bytes) -> bytes:
  """What `_with_checksum` was given; raises ValueError where a byte of it is another."""
  found = re.fullmatch(rb'(.*), "crc": (\d{1,10})\}', line.strip(), re.DOTALL)
  if not found or zlib.crc32(found[1] + b'}') != int(found[2]):
    raise ValueError('The line is damaged.')
  return found[1] + b'}'


def _is_damaged(line: bytes) -> bool:
  try:
    _checked(line)
  except ValueError:
    return bool(line.strip())
  return False


def _head(settings: ScanSettings) -> dict[str, Any]:
  """What a line depends on: lines with another head are not used."""
  versions = {'format': _FORMAT}
  if settings.decode:
    versions['fingerprint'] = fingerprint.VERSION
  return versions | dataclasses.asdict(settings)


def _read_journal(journal: str, settings: ScanSettings) -> dict[str, Scanned]:
  """What was found before under the same settings, by path; later lines count.

  Says how many lines are damaged, and how many files were read by another version of the program,
  whose measurements or fingerprints cannot be compared with the ones of now.
  """
  known: dict[str, Scanned] = {}
  others: dict[str, str] = {}
  num_damaged = 0
  try:
    with open(journal, 'rb') as file:
      for line in file:
        found = _parse(line, settings)
        if found is not None:
          known[found.path] = found
        elif other := _other_version(line, settings):
          others.update(other)
        else:
          num_damaged += _is_damaged(line)
  except FileNotFoundError:
    pass
  if num_damaged:
    notices.say(
      f'{journal}: {num_damaged} lines are damaged or cut short; their files are read again.'
    )
  others = {path: what for path, what in others.items() if path not in known}
  if others:
    notices.say(
      f'{journal}: {len(others)} files were scanned by another version of the program '
      f'({", ".join(sorted(set(others.values())))}); they are read again.'
    )
  return known


def _other_version(line: bytes, settings: ScanSettings) -> dict[str, str]:
  """The path of a line of another version, and what differs; nothing for other lines."""
  head = _head(settings)
  try:
    values = json.loads(line)
    path, before = values['path'], values['settings']
    if not before['decode'] and settings.decode:
      return {}
    named = (('format', 'journal format'), ('fingerprint', 'fingerprint version'))
    differ = [
      f'{text} {before.get(name, 1)}, now {head[name]}'
      for name, text in named
      if name in head and before.get(name, 1) != head[name]
    ]
    return {path: '; '.join(differ)} if differ else {}
  except (ValueError, KeyError, TypeError, AttributeError):
    return {}


def _parse(line: bytes, settings: ScanSettings | None) -> Scanned | None:
  try:
    values = json.loads(_checked(line))
    head = values.pop('settings')
    if head['format'] != _FORMAT or (settings is not None and head != _head(settings)):
      return None
    if values['fingerprint']:
      Fingerprint.decode(values['fingerprint'])  # Raises ValueError if damaged.
    header, measured = values['header'], values['measured']
    facts = {**values['facts'], 'tags': tuple(values['facts']['tags'])}
    values |= {
      'state': files.FileState(**values['state']),
      'header': audio.AudioHeader(**header) if header else None,
      'facts': tags.Tags(**facts),
      'measured': measurement.Measurement(**measured) if measured else None,
    }
    return Scanned(**values)
  except (ValueError, KeyError, TypeError):
    return None  # A line of another version, or one that a kill cut short.
