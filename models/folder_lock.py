"""A lock on a folder: one run at a time writes there, also on other machines that share the disk.

A lock is a file that names its holder. It is stale if the process has ended (another process may
have its number by now) or, on another machine, if the file has not been touched for a while; a
holder touches it regularly. Folders in a bucket have no locks: the library for paths cannot create
a file there only if it does not exist.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import shlex
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator

from models import folder_marker

LOCK_FILE = '.woodshed.lock'
HEARTBEAT_SECS = 20.0
# A holder on another machine that has not touched its lock for so long is taken for gone.
STALE_SECS = 600.0
# A lock that is being written or taken over is left alone for so long.
_WRITING_SECS = 10.0


class FolderInUseError(ValueError):
  """Another run uses the folder; the message names it and the way out."""


@dataclasses.dataclass(frozen=True)
class Holder:
  """The process that holds a lock.

  Attributes:
    host: name of the machine.
    machine: identifies the machine, its start and the container (each numbers its processes).
    pid: of the process.
    process_start: when it began, as the system reports it; '' if unknown.
    since: local time at which the lock was taken.
    command: that the process was started with.
    token: of this lock alone.
  """

  host: str
  machine: str
  pid: int
  process_start: str
  since: str
  command: str
  token: str

  def __str__(self) -> str:
    return f'process {self.pid} on {self.host} since {self.since} ({self.command})'


# Folders that this process holds -> (thread, how many times).
_held: dict[str, tuple[int, int]] = {}
_guard = threading.Lock()


@contextlib.contextmanager
def locked(folder: str | os.PathLike, kind: str, part: str = '') -> Iterator[None]:
  """Makes a folder, marks it and holds its lock while the block runs; blocks may be nested.

  A folder that was made here and in which nothing was written is removed again.

  Args:
    folder: where a run writes.
    kind: see `folder_marker.mark`.
    part: the part of the folder that it writes, if runs share the folder; '' for all.

  Raises:
    FolderInUseError: another run holds it.
    OSError: the folder cannot be made or written.
  """
  if '://' in os.fspath(folder):
    folder_marker.mark(folder, kind)
    yield
    return
  is_new = not os.path.isdir(folder)
  folder_marker.mark(folder, kind)
  path = pathlib.Path(folder).absolute() / (f'{LOCK_FILE}.{part}' if part else LOCK_FILE)
  name = os.path.realpath(path)
  if _enter_again(name):
    try:
      yield
    finally:
      _leave(name)
    return
  try:
    own = _take(path)
  except BaseException:
    _leave(name)
    raise
  stop = threading.Event()
  beat = threading.Thread(target=_beat, args=(path, own, stop), daemon=True, name='folder lock')
  beat.start()
  try:
    yield
  finally:
    stop.set()
    _leave(name)
    with contextlib.suppress(OSError):  # A disk that is away must not hide why the run ends.
      if os.getpid() == own.pid and read(path) == own:
        path.unlink()
        if is_new:
          folder_marker.remove_empty(path.parent)


def read(path: str | os.PathLike) -> Holder | None:
  """Reads the holder from a lock file; None if there is no file, or not a whole one."""
  try:
    return Holder(**json.loads(pathlib.Path(path).read_text(encoding='utf-8')))
  except (FileNotFoundError, ValueError, TypeError):
    return None


def _enter_again(name: str) -> bool:
  """Counts one more holding of this thread; False for its first.

  Raises:
    FolderInUseError: another thread of this process holds the folder.
  """
  thread = threading.get_ident()
  with _guard:
    owner, count = _held.get(name, (thread, 0))
    if owner != thread:
      raise FolderInUseError(
        f'{os.path.dirname(name)} is in use by another thread of this process. Give each run a '
        'folder of its own.'
      )
    _held[name] = (thread, count + 1)
    return count > 0


def _leave(name: str):
  with _guard:
    thread, count = _held.pop(name)
    if count > 1:
      _held[name] = (thread, count - 1)


def _take(path: pathlib.Path) -> Holder:
  own = _this_process()
  candidate = path.with_name(f'{path.name}.{own.token}')
  try:
    with _writing(path.parent):
      candidate.write_text(json.dumps(dataclasses.asdict(own), indent=2) + '\n', encoding='utf-8')
      while not _put(candidate, path):
        stale = _why_stale(path, candidate)
        if stale and _take_over(path, candidate):
          print(f'{path.parent}: {stale}. Its lock is removed.', file=sys.stderr, flush=True)
          break
        time.sleep(0.05)
  finally:
    candidate.unlink(missing_ok=True)
  return own


@contextlib.contextmanager
def _writing(folder: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    if error.errno is None:
      raise
    reason = f'{error.strerror}; the lock of a run ({LOCK_FILE}) could not be written'
    raise type(error)(error.errno, reason, str(folder)) from error


def _put(candidate: pathlib.Path, path: pathlib.Path) -> bool:
  """Gives a whole lock file its name; False where there is one."""
  try:
    os.link(candidate, path)
    return True
  except FileExistsError:
    return False
  except OSError:  # A file system without hard links.
    try:
      with open(path, 'x', encoding='utf-8') as file:
        file.write(candidate.read_text(encoding='utf-8'))
      return True
    except FileExistsError:
      return False


def _why_stale(path: pathlib.Path, candidate: pathlib.Path) -> str:
  """Why a lock does not count any more; '' where it is gone or being written, and another try fits.

  Raises:
    FolderInUseError: it counts.
  """
  holder = read(path)
  try:
    # Both times are the file server's: clocks of machines differ.
    os.utime(candidate)
    idle = candidate.stat().st_mtime - path.stat().st_mtime
  except FileNotFoundError:
    return ''
  if holder is None:
    return 'the lock of an earlier run is damaged' if idle > _WRITING_SECS else ''
  if holder.machine == _machine():
    if _runs(holder):
      raise FolderInUseError(
        f'{path.parent} is in use by another run: {holder}. Wait for it, or stop it with '
        f'`kill {holder.pid}`, or give another folder.'
      )
    return f'an earlier run has ended without a word: {holder}'
  if idle < STALE_SECS:
    raise FolderInUseError(
      f'{path.parent} is in use by a run on another machine: {holder}; last sign of life '
      f'{max(idle, 0):.0f} s ago. Wait for it, stop it there, or give another folder. If it has '
      f'ended, remove {path}; after {STALE_SECS:.0f} s without a sign of life it no longer counts.'
    )
  return f'an earlier run has given no sign of life for {idle:.0f} s: {holder}'


def _take_over(path: pathlib.Path, candidate: pathlib.Path) -> bool:
  """Puts a lock in the place of a stale one; False where another process is about to."""
  turn = path.with_name(f'{path.name}.turn')
  try:
    os.close(os.open(turn, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
  except FileExistsError:
    with contextlib.suppress(FileNotFoundError):
      if time.time() - turn.stat().st_mtime > _WRITING_SECS:
        turn.unlink()
    return False
  try:
    # Whoever had the turn before may have put a good one there.
    if not _why_stale(path, candidate):
      return False
    os.replace(candidate, path)
    return True
  finally:
    turn.unlink(missing_ok=True)


def _beat(path: pathlib.Path, own: Holder, stop: threading.Event):
  """Touches the lock until told to stop, or the lock is another's."""
  while not stop.wait(HEARTBEAT_SECS):
    found = None
    with contextlib.suppress(OSError):
      found = read(path)
    if found is not None and found != own:
      print(
        f'{path.parent}: {found} has taken the lock of this run, which gave no sign of life for '
        'long. Both write there: stop one of them.', file=sys.stderr, flush=True,
      )  # fmt: skip
      return
    with contextlib.suppress(OSError):  # A disk that is away comes back, or fails the run itself.
      os.utime(path)


def _this_process() -> Holder:
  return Holder(
    host=socket.gethostname(),
    machine=_machine(),
    pid=os.getpid(),
    process_start=_process_start(os.getpid()) or '',
    since=datetime.datetime.now().astimezone().isoformat(sep=' ', timespec='seconds'),
    command=' '.join(shlex.join(sys.orig_argv[1:] or sys.argv).split())[:200],
    token=uuid.uuid4().hex,
  )


def _machine() -> str:
  """The same for processes whose numbers mean the same."""
  parts = [socket.gethostname()]
  with contextlib.suppress(OSError):
    parts.append(pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip())
    parts.append(os.readlink('/proc/self/ns/pid'))
  return ' '.join(parts)


def _runs(holder: Holder) -> bool:
  """Whether a process of this machine is still there, and no other one under its number."""
  if holder.process_start:
    return _process_start(holder.pid) == holder.process_start
  try:
    os.kill(holder.pid, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass  # Another user's.
  return True


def _process_start(pid: int) -> str | None:
  """When a process of this machine began; None where there is none, or one that has ended."""
  try:
    # The name, in parentheses, may hold anything. Then the state is field 3, the start field 22.
    fields = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return None if fields[0] in 'ZX' else fields[19]
  except (FileNotFoundError, ProcessLookupError):
    if os.path.exists('/proc/self/stat'):
      return None
  shown = subprocess.run(
    ['ps', '-o', 'lstart=', '-p', str(pid)], capture_output=True, text=True, check=False
  )
  return shown.stdout.strip() or None
