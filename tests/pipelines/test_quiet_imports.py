"""A library that writes to stderr while it is imported is heard only if the import fails."""

import importlib
import importlib.util
import os
import sys

import pytest

from pipelines import quiet_imports

NOISY = 'import os\nos.write(2, b"native noise\\n")\nVALUE = 7\n'


@pytest.fixture
def library(tmp_path, monkeypatch):
  """Writes a module `noisy_library` that the next import finds."""
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setattr(sys, 'meta_path', list(sys.meta_path))

  def write(text):
    (tmp_path / 'noisy_library.py').write_text(text)
    importlib.invalidate_caches()

  yield write
  sys.modules.pop('noisy_library', None)


def test_the_first_import_is_quiet_and_whole(library, capfd):
  library(NOISY)
  finders = len(sys.meta_path)
  quiet_imports.quiet('noisy_library')
  assert importlib.util.find_spec('noisy_library')  # A look is no import.
  module = importlib.import_module('noisy_library')
  assert module.VALUE == 7 and len(sys.meta_path) == finders
  assert not isinstance(module.__loader__, quiet_imports.QuietImport)
  assert capfd.readouterr().err == ''
  os.write(2, b'after\n')
  assert capfd.readouterr().err == 'after\n'
  importlib.reload(module)  # As without us.
  assert capfd.readouterr().err == 'native noise\n'


def test_a_failing_import_tells_all(library, capfd):
  library(NOISY + 'raise RuntimeError("broken install")')
  quiet_imports.quiet('noisy_library')
  with pytest.raises(RuntimeError, match='broken install'):
    importlib.import_module('noisy_library')
  assert capfd.readouterr().err == 'native noise\n'


def test_a_missing_library_is_missing_as_ever(monkeypatch):
  monkeypatch.setattr(sys, 'meta_path', list(sys.meta_path))
  quiet_imports.quiet('no_such_library_here')
  with pytest.raises(ModuleNotFoundError, match='no_such_library_here'):
    importlib.import_module('no_such_library_here')
