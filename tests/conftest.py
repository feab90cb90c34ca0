"""What every test runs under."""

import os
import signal
import sys
import threading

import pytest

# The models of the tests are tiny: compiling them takes the time, not running them. Without most of
# XLA's passes, and with its older emitter of fused loops, the suite costs half as much. Both are
# read when jax is first imported, and processes that tests start inherit them.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
os.environ.setdefault('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=false')

# Ctrl-C is ignored in what a shell starts in the background, and so in all that is started there:
# tests that send it to a process would wait in vain.
_IN_MAIN_THREAD = threading.current_thread() is threading.main_thread()
if _IN_MAIN_THREAD and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)


# Modules of few tests that take long: begun last, one worker would wait for the other's.
_FIRST = (
  'test_kills', 'test_prepare_kills', 'test_evaluate', 'test_style_meshes', 'test_adapter_runs',
  'test_style_training', 'test_style_start', 'test_partitioning', 'test_finetune',
  'test_spectrostream_adversarial', 'test_scan', 'test_bad_input',
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]):
  """Puts the modules of `_FIRST` first, in this order."""
  places = {name: place for place, name in enumerate(_FIRST)}
  items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(autouse=True, scope='module')
def _forget_what_was_compiled():
  """Keeps a worker's memory from growing with every module: few share what they compile."""
  yield
  if 'jax' in sys.modules:
    sys.modules['jax'].clear_caches()


@pytest.fixture
def stop_requested(monkeypatch):
  """An event that is set once a run in this process has handled a signal that stops it."""
  from training import stopping

  received, request = threading.Event(), stopping.StopRequest.request

  def requested(self, reason):
    request(self, reason)
    received.set()

  monkeypatch.setattr(stopping.StopRequest, 'request', requested)
  return received
