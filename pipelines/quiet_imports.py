"""Imports a library without what its native code writes to stderr meanwhile.

TensorFlow's C++ logs a few lines on import, before any setting of a log level can reach it. They
look like warnings and mean nothing to whoever tunes a model.
"""

import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def stderr_held_back() -> Iterator[None]:
  """Keeps what is written to file descriptor 2, and shows it only if the block raises."""
  sys.stderr.flush()
  saved = os.dup(2)
  with tempfile.TemporaryFile() as kept:
    os.dup2(kept.fileno(), 2)
    try:
      yield
    except BaseException:
      sys.stderr.flush()
      os.dup2(saved, 2)
      kept.seek(0)
      os.write(2, kept.read())
      raise
    finally:
      sys.stderr.flush()
      os.dup2(saved, 2)
      os.close(saved)


class QuietImport(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """On sys.meta_path until one library has been imported, holding back stderr meanwhile."""

  def __init__(self, name: str):
    self._name = name
    self._searching = False
    self._loader: importlib.abc.Loader | None = None

  def find_spec(self, name: str, path: object = None, target: object = None):
    """What the other finders find, with this object as the loader. Looking is not importing."""
    if name != self._name or self._searching:
      return None
    self._searching = True
    try:
      spec = importlib.util.find_spec(name)
    finally:
      self._searching = False
    if spec is not None:
      self._loader, spec.loader = spec.loader, self
    return spec

  def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
    return self._loader.create_module(spec)

  def exec_module(self, module: ModuleType):
    """Runs the library's own loader; from here on the module knows that one only."""
    sys.meta_path.remove(self)
    module.__spec__.loader = module.__loader__ = self._loader
    with stderr_held_back():
      self._loader.exec_module(module)


def quiet(name: str):
  """The first import of library `name`, if it is still to come, will write nothing to stderr."""
  if name not in sys.modules:
    sys.meta_path.insert(0, QuietImport(name))
