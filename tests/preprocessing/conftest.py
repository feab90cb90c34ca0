"""Makes the stand-in models importable by tests and by the processes that they start.

And a bucket: gs://bucket is a local folder, through the same calls of etils.epath.
"""

import os
import pathlib
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import fake_token_models
import pytest
from etils.epath import backend, gpath


@pytest.fixture
def fake_models():
  """A model loader for `prepare_corpus`."""
  return fake_token_models.load


class FolderBackend:
  """A backend of epath that keeps what gs:// names in a local folder."""

  def __init__(self, folder: pathlib.Path):
    self._folder, self._local = folder, backend.os_backend

  def _path(self, path):
    path = os.fspath(path)
    return path.replace('gs://', f'{self._folder}/', 1) if path.startswith('gs://') else path

  def walk(self, top, **unused):
    for directory, folders, names in os.walk(self._path(top)):
      yield directory.replace(f'{self._folder}/', 'gs://', 1), folders, names

  def __getattr__(self, name):
    call = getattr(self._local, name)
    return lambda path, *args, **kwargs: call(self._path(path), *args, **kwargs)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
  """The folder that stands in for gs://bucket."""
  folder = tmp_path / 'buckets'
  (folder / 'bucket' / 'music').mkdir(parents=True)
  stand_in, own = FolderBackend(folder), gpath._GPath._backend.fget
  chosen = property(lambda path: stand_in if path._uri_scheme == 'gs' else own(path))
  monkeypatch.setattr(gpath._GPath, '_backend', chosen)
  return folder / 'bucket'
