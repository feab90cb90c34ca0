"""User errors and the message for each; all other exceptions are defects of Woodshed."""

import builtins
import errno
import io
import os
import pathlib
import re
import socket
import traceback
from types import FrameType

REPORT = (
  'This is a defect of Woodshed. Please report it with the command, the lines above, and what '
  '`pip list` prints.'
)
_LONGEST_NAME = 200
_WAYS_OUT = {
  errno.EACCES: 'Get the right to it (chmod, chown), or give another path.',
  errno.EPERM: 'Get the right to it (chmod, chown), or give another path.',
  errno.EROFS: 'Its file system is read-only: give another path.',
  errno.ENOSPC: 'Make room there, or give a path on another disk.',
  errno.EDQUOT: 'Your quota there is used up: make room, or give a path on another disk.',
  errno.EFBIG: 'Files there may not be so large (see `ulimit -f`): give a path on another disk.',
  errno.ENAMETOOLONG: 'Give a shorter path; most file systems take names of up to 255 bytes.',
  errno.ELOOP: 'Its symbolic links lead in a circle.',
  errno.ENOTDIR: 'A file stands where the path needs a folder.',
  errno.EISDIR: 'It is a folder where a file is needed.',
  errno.EEXIST: 'Remove it, or give another path.',
  errno.EIO: 'The disk or network share fails; check it.',
  errno.EMFILE: 'Too many files are open: raise the limit (`ulimit -n 4096`).',
  errno.ENFILE: 'Too many files are open on this machine: end other programs.',
  errno.ENOMEM: 'Memory is used up: end other programs, or take a smaller batch.',
}
# Error numbers that count as user errors without a file name: of the machine or the network.
_OF_THE_MACHINE = {
  errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
  errno.EROFS, errno.EAGAIN, errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.ENETUNREACH,
  errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EACCES,
  errno.EPERM,
}  # fmt: skip
_OUT_OF_DEVICE_MEMORY = (
  'The memory of the device does not suffice. Take a smaller BATCH_SIZE (--batch_size), a higher '
  "NUM_MICROBATCHES, DepthformerConfig.remat = 'full' or a smaller model; `python plan.py` says "
  'what fits.'
)
# Errors of TensorFlow that come from files, not from our graphs.
_TENSORFLOW_FILE_ERRORS = {
  'NotFoundError', 'PermissionDeniedError', 'AlreadyExistsError', 'FailedPreconditionError',
  'DataLossError', 'ResourceExhaustedError', 'UnavailableError', 'UnauthenticatedError',
}  # fmt: skip
# Of libraries whose errors are of no common kind and say what is wrong with a file.
_FILE_ERRORS = {'LibsndfileError', 'SafetensorError', 'ArrowInvalid', 'HeaderNotFoundError'}
_RAISED_IN_TEXT = re.compile(r'^(?:[\w.]+\.)?(\w+(?:Error|Exception|Interrupt)): (.*)$', re.M)
_BEAM_STEP = re.compile(r" \[while running '[^']*'\]")


def message(error: BaseException) -> str | None:
  """Returns the message for a user error: problem, value, way out. None for a defect of Woodshed.

  A wrong value is a ValueError; a file or a machine that does not give what is asked is an OSError
  or the like of a library. The name of the file is added where the error has none and its
  traceback shows the file.
  """
  error = _original(error)
  text = _message(error)
  return _printable(text) if text else None


def is_interrupt(error: BaseException) -> bool:
  """Whether Ctrl-C ended the work; Beam reports it as an error of the step that it was in."""
  return isinstance(error, KeyboardInterrupt) or (
    isinstance(error, RuntimeError) and 'KeyboardInterrupt' in str(error)
  )


def _message(error: BaseException) -> str | None:
  names = {kind.__name__ for kind in type(error).__mro__}
  if isinstance(error, UnicodeError):
    return _of_text(error)
  if isinstance(error, OSError):
    return _of_file(error)
  if isinstance(error, ValueError):
    return _of_value(error)
  if isinstance(error, FloatingPointError):
    return str(error)
  if isinstance(error, MemoryError):
    said = f': {error}' if str(error) else ''
    return (
      f'The memory of this machine does not suffice{said}{_at_file(error)}. Take a smaller batch, '
      'fewer workers or shorter files, or a machine with more memory.'
    )
  if isinstance(error, ImportError):
    return _of_import(error)
  if 'JaxRuntimeError' in names or 'XlaRuntimeError' in names:
    return _of_device(str(error))
  if 'OpError' in names and type(error).__module__.startswith('tensorflow'):
    found = names & _TENSORFLOW_FILE_ERRORS
    return f'{_first_line(getattr(error, "message", error))}{_at_file(error)}' if found else None
  if names & _FILE_ERRORS:
    return f'{_first_line(error)}{_at_file(error)}'
  if 'BrokenProcessPool' in names:
    return (
      'A worker process was killed, as a rule because memory was used up. Take fewer workers '
      '(--workers), or a machine with more memory.'
    )
  return _of_runtime(str(error)) if isinstance(error, RuntimeError) else None


def _original(error: BaseException) -> BaseException:
  """The error as it was raised: gin and Beam raise another that hides errno and file name."""
  while isinstance(before := error.__context__, Exception):
    of_gin = type(error).__name__ == type(before).__name__ and type(before) in type(error).__bases__
    if not (of_gin and 'ExceptionProxy' in type(error).__init__.__qualname__) and not getattr(
      error, '_tagged_with_step', False
    ):
      break
    error = before
  return error


def _of_value(error: ValueError) -> str | None:
  text = str(error).split('\n  In call to configurable ')[0]
  text = _BEAM_STEP.sub('', text)
  if text.startswith('embedded null'):
    return f'A path holds a NUL character{_at_file(error)}.'
  return text or None


def _of_text(error: UnicodeError) -> str:
  """Message for text that is not valid; such errors hold the text, not the file."""
  if isinstance(error, UnicodeEncodeError):
    return (
      f'{_named(error.object)} is not valid text: character {error.start + 1} cannot be written as '
      f'{error.encoding}. Rename the file, or mend the text.'
    )
  if isinstance(error, UnicodeDecodeError):
    where = _at_file(error) or f': {_named(repr(error.object[:40]))}'
    return f'Not {error.encoding} text at byte {error.start}{where}. Save it as UTF-8.'
  return f'{error}{_at_file(error)}'


def _of_file(error: OSError) -> str | None:
  text = str(error)
  if error.errno is None or type(error).__str__ is not OSError.__str__:
    return text or None  # Said by whoever raised it.
  names = [error.filename, error.filename2]
  own_words = isinstance(error.errno, int) and error.strerror != os.strerror(error.errno)
  if own_words and not any(names) and isinstance(error.strerror, str):
    return error.strerror
  known = ' -> '.join(_named(os.fsdecode(n)) for n in names if isinstance(n, str | bytes))
  known = known or _file_at_hand(error)
  number = error.errno if isinstance(error.errno, int) else None
  if (
    not known
    and number not in _OF_THE_MACHINE
    and not isinstance(error, ConnectionError | TimeoutError | socket.gaierror)
  ):
    return None
  reason = os.strerror(number) if number and number > 0 else error.strerror or text
  way_out = f' {_WAYS_OUT[number]}' if number in _WAYS_OUT else ''
  return f'{reason}: {known}.{way_out}' if known else f'{reason}.{way_out}'


def _of_import(error: ImportError) -> str | None:
  from pipelines import startup

  room = (error.name or '').split('.')[0]
  if (startup.ROOT / room).is_dir() if room else error.name is not None:
    return None
  if isinstance(error, ModuleNotFoundError) and error.name:
    return f"{error}. Install it, or all of Woodshed's requirements again (see README.md)."
  return str(error) if error.name is None else None


def _of_device(text: str) -> str | None:
  line = _first_line(text)
  if 'RESOURCE_EXHAUSTED' in text or 'Out of memory' in text:
    return f'{_OUT_OF_DEVICE_MEMORY} ({line})'
  if line.startswith(('UNAVAILABLE', 'DEADLINE_EXCEEDED')):
    return f'Another process of the run, or its coordinator, does not answer: {line}'
  return None


def _of_runtime(text: str) -> str | None:
  """Of errors that came from another process or thread as text, and of JAX without its device."""
  if text.startswith('Unable to initialize backend'):
    return f'{_first_line(text)} Set JAX_PLATFORMS to a device that is there, such as cpu.'
  found = _RAISED_IN_TEXT.findall(text)
  if not found or ('Traceback' not in text and not _BEAM_STEP.search(text)):
    return None
  name, said = found[-1]
  kind = getattr(builtins, name, None)
  said = _BEAM_STEP.sub('', said).strip()
  if isinstance(kind, type) and issubclass(kind, ValueError | OSError | MemoryError) and said:
    return f'{said}.' if said[-1] not in '.!?' else said
  return None


def _at_file(error: BaseException) -> str:
  name = _file_at_hand(error)
  return f': {name}' if name and name.strip('\'"') not in str(error) else ''


def _file_at_hand(error: BaseException) -> str:
  """The file that was opened, read or written where `error` was raised; '' if none is seen."""
  frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
  for frame in reversed(frames):
    if name := _file_in(frame):
      return _named(name)
  return ''


def _file_in(frame: FrameType) -> str:
  own = frame.f_locals.get('self')
  if isinstance(own, pathlib.PurePath):
    return str(own)
  given = frame.f_locals.get('filename')  # As safetensors and others name it.
  if isinstance(given, str | os.PathLike) and os.fspath(given):
    return os.fsdecode(given)
  for value in frame.f_locals.values():
    if isinstance(value, io.IOBase) or type(value).__name__ == 'SoundFile':
      name = getattr(value, 'name', None)
      if isinstance(name, str | bytes):
        return os.fsdecode(name)
  return ''


def _named(name: str) -> str:
  """A name in quotes, its middle left out where it is endless."""
  if len(name) > _LONGEST_NAME:
    half = _LONGEST_NAME // 2
    return f'{name[:half]!r}...{name[-half // 2 :]!r} ({len(name)} characters)'
  return repr(name)


def _first_line(text: object) -> str:
  return str(text).strip().split('\n')[0]


def _printable(text: str) -> str:
  """The text without characters that a terminal acts on."""
  return ''.join(c if c in '\n\t' or c.isprintable() else repr(c)[1:-1] for c in text)
