"""Makes the stand-in models importable by tests and by the processes that they start."""

import os
import pathlib
import sys

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import fake_token_models
import pytest


@pytest.fixture
def fake_models():
  """A model loader for `prepare_corpus`."""
  return fake_token_models.load
