"""What root scripts do first: flags of gin, quiet libraries, a look at which `models` is found."""

import atexit
import contextlib
import importlib.util
import io
import multiprocessing
import os
import pathlib
import select
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from logging import LogRecord
from typing import Any, NoReturn

from absl import app, flags, logging

from pipelines import quiet_imports, user_errors

ROOT = pathlib.Path(__file__).parents[1]
_SECS_TO_END = 8


def begin(assets_dir: str | None = None) -> None:
  """Silences libraries unless --verbosity was given, and makes sure that the rooms are Woodshed's.

  Args:
    assets_dir: where released files lie; None for $WOODSHED_ASSETS.

  Raises:
    SystemExit: `models` resolves to another package than the one beside this file.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  if not flags.FLAGS.is_parsed() or not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.ERROR)  # Beam, Orbax and TensorFlow tell what nobody asked.
    quiet_imports.quiet('tensorflow')
  # Beam logs an error with its traceback, then raises it; `plain_errors` says what is to be said.
  logging.get_absl_handler().addFilter(_is_not_raised_too)
  for stream in (sys.stdout, sys.stderr):
    if isinstance(stream, io.TextIOWrapper):  # Names of files need not be text.
      stream.reconfigure(errors='backslashreplace')
  check_rooms()
  if assets_dir:
    from models import assets

    assets.use(assets_dir)


def _is_not_raised_too(entry: LogRecord) -> bool:
  said = entry.getMessage()
  raised = entry.exc_info or said.startswith('Error processing instruction')
  return not (raised and 'apache_beam' in entry.pathname) and 'KeyboardInterrupt' not in said


@contextlib.contextmanager
def plain_errors(script: str, *, resumes: bool = True) -> Iterator[None]:
  """Turns user errors and Ctrl-C into one message and an exit status.

  Status 1 is a user error (`user_errors.message`), 130 is Ctrl-C. Any other exception is a defect
  of Woodshed: it keeps its traceback, with a line that says so.

  Args:
    script: name in the message.
    resumes: whether the same command goes on after Ctrl-C, or starts anew.
  """
  try:
    yield
    sys.stdout.flush()  # A closed pipe is noticed here, not by the interpreter after its end.
  except app.UsageError:
    raise
  except (Exception, KeyboardInterrupt) as error:
    if isinstance(error, BrokenPipeError) and _output_is_closed():
      sys.exit(f'{script}: the output cannot be written: its pipe is closed.')
    if user_errors.is_interrupt(error):
      again = 'goes on from here' if resumes else 'starts anew'
      print(f'{script}: interrupted; the same command {again}.', file=sys.stderr)
      sys.exit(130)
    text = user_errors.message(error)
    if text is None:
      error.add_note(f'{script}: {user_errors.REPORT}')
      raise
    sys.exit(f'{script}: {text}')


def _output_is_closed() -> bool:
  """Whether standard output is a pipe without a reader; then it is sent nowhere from now on."""
  try:
    number = sys.stdout.fileno()
  except OSError:  # Not a file, as in a notebook.
    return False
  poll = select.poll()
  poll.register(number, select.POLLOUT)
  if not any(event & select.POLLERR for _, event in poll.poll(0)):
    return False
  nowhere = os.open(os.devnull, os.O_WRONLY)
  os.dup2(nowhere, number)
  return True


def run(main: Callable[[list[str]], Any]) -> NoReturn:
  """Runs a root script: absl's flags, T5X's --gin.NAME=VALUE, `main(argv)`, and the end.

  Args:
    main: raises SystemExit for user errors, as under `plain_errors`.
  """
  run_module(lambda: app.run(main, flags_parser=parse_flags))


def run_module(main: Callable[[], Any]) -> NoReturn:
  """Runs a command; after an error no thread delays the end of the process.

  Args:
    main: as `run`'s, with flags of its own.
  """
  try:
    main()
    status = 0
  except _UsageExit:  # Nothing has begun that must be ended.
    raise
  except SystemExit as stop:
    status = stop.code
    if isinstance(status, str):
      print(status, file=sys.stderr)
      status = 1
    if status:
      _end(status)
  except BaseException:
    sys.excepthook(*sys.exc_info())
    status = 1
    _end(status)
  sys.exit(status)


def _end(status: int) -> NoReturn:
  """Ends the process: waits a while for threads and exit handlers, then ends it by force.

  A thread may be one of a library that itself waits for a file that will never be. And the
  interpreter does not take its own last steps: a thread that is still in native code, such as one
  that writes records, would be stopped there, and the whole process aborts.
  """

  def end_by_force():
    time.sleep(_SECS_TO_END)
    for process in multiprocessing.active_children():
      process.kill()
    os._exit(status)

  threading.Thread(target=end_by_force, daemon=True, name='end').start()
  with contextlib.suppress(BaseException):
    threading._shutdown()
  with contextlib.suppress(BaseException):
    atexit._run_exitfuncs()
  for stream in (sys.stdout, sys.stderr):
    with contextlib.suppress(Exception):
      stream.flush()
  os._exit(status)


def parse_flags(argv: list[str]) -> list[str]:
  """absl's flags; T5X's --gin.NAME=VALUE are left over, as arguments.

  Raises:
    SystemExit: help was asked for, or a flag is wrong.
  """
  gin_flags = [argument for argument in argv if argument.startswith('--gin.')]
  others = [argument for argument in argv if not argument.startswith('--gin.')]
  try:
    return app.parse_flags_with_usage(others) + gin_flags
  except SystemExit as stop:
    raise _UsageExit(stop.code) from None


def check_flags(command: str, given: Iterable[flags.FlagHolder], used: Iterable[str]):
  """Refuses flags that a command would ignore.

  Args:
    command: in words, for the message.
    given: the flags of the script.
    used: names of those that the command reads.

  Raises:
    ValueError: others were given; names them.
  """
  unused = [f'--{flag.name}' for flag in given if flag.present and flag.name not in set(used)]
  if unused:
    raise ValueError(f'{", ".join(unused)} has no effect on {command}. Leave it out.')


class _UsageExit(SystemExit):
  """The end of a command that has only told its flags."""


def check_rooms() -> None:
  """Stops where the folder names of Woodshed mean something else on this path."""
  found = importlib.util.find_spec('models')
  place = pathlib.Path(found.origin).parent if found and found.origin else None
  if place != ROOT / 'models':
    sys.exit(
      f'`import models` finds {place}, not {ROOT / "models"}. Run from the checkout, or in the '
      'virtual environment that `make install` made, with no other `models` on PYTHONPATH.'
    )
