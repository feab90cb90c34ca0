"""What root scripts do first: flags of gin, quiet libraries, a look at which `models` is found."""

import contextlib
import errno
import importlib.util
import os
import pathlib
import sys
from collections.abc import Iterator

from absl import app, flags, logging

from pipelines import quiet_imports

ROOT = pathlib.Path(__file__).parents[1]
_WRONG_PATHS = (
  FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError,
)  # fmt: skip
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
  # Beam logs Ctrl-C with a traceback before it raises; `plain_errors` says what is to be said.
  logging.get_absl_handler().addFilter(lambda entry: 'KeyboardInterrupt' not in entry.getMessage())
  check_rooms()
  if assets_dir:
    from models import assets

    assets.use(assets_dir)


@contextlib.contextmanager
def plain_errors(script: str, *, resumes: bool = True) -> Iterator[None]:
  """Turns what a user can mend, and Ctrl-C, into one message and an exit status.

  Status 1 is a wrong value or path or a full disk, 130 is Ctrl-C. Anything else is a defect of
  ours and keeps its traceback.

  Args:
    script: name in the message.
    resumes: whether the same command goes on after Ctrl-C, or starts anew.
  """
  try:
    yield
  except (ValueError, *_WRONG_PATHS) as error:
    sys.exit(f'{script}: {_without_call(error)}')
  except OSError as error:
    from training.disk import DiskError

    if not isinstance(error, DiskError) and error.errno not in _FULL_DISK:
      raise
    sys.exit(f'{script}: {_without_call(error)}')
  except (KeyboardInterrupt, RuntimeError) as error:
    # Beam reports Ctrl-C as an error of the step that it was in.
    if not isinstance(error, KeyboardInterrupt) and 'KeyboardInterrupt' not in str(error):
      raise
    again = 'goes on from here' if resumes else 'starts anew'
    print(f'{script}: interrupted; the same command {again}.', file=sys.stderr)
    sys.exit(130)


def _without_call(error: BaseException) -> str:
  """The message; gin adds the function that it was calling, with its address."""
  return str(error).split('\n  In call to configurable ')[0]


def parse_flags(argv: list[str]) -> list[str]:
  """absl's flags; T5X's --gin.NAME=VALUE are left over, as arguments."""
  gin_flags = [argument for argument in argv if argument.startswith('--gin.')]
  others = [argument for argument in argv if not argument.startswith('--gin.')]
  return app.parse_flags_with_usage(others) + gin_flags


def check_rooms() -> None:
  """Stops where the folder names of Woodshed mean something else on this path."""
  found = importlib.util.find_spec('models')
  place = pathlib.Path(found.origin).parent if found and found.origin else None
  if place != ROOT / 'models':
    sys.exit(
      f'`import models` finds {place}, not {ROOT / "models"}. Run from the checkout, or in the '
      'virtual environment that `make install` made, with no other `models` on PYTHONPATH.'
    )
