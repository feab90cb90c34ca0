"""Reasons to end a run early and cleanly: a signal, its time is up, or an evaluation says so."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator


class StopRequest:
  """Says whether the run should stop after the step it is in.

  Attributes:
    reason: None, or why to stop, in words.
  """

  def __init__(self, time_budget_secs: float | None = None):
    """Starts the clock; None for no limit."""
    self._deadline = None if time_budget_secs is None else time.monotonic() + time_budget_secs
    self._budget_secs = time_budget_secs
    self._signal: str | None = None
    self._wish: str | None = None

  @property
  def reason(self) -> str | None:
    if self._signal is not None:
      return self._signal
    if self._wish is not None:
      return self._wish
    if self._deadline is not None and time.monotonic() >= self._deadline:
      return f'the time budget of {self._budget_secs:g} s is used up'
    return None

  @property
  def signalled(self) -> bool:
    return self._signal is not None

  def request(self, reason: str):
    """Whoever sent a signal wants the process gone: nothing more than saving is done."""
    self._signal = reason

  def wish(self, reason: str | None):
    """Asks to stop for the reason of an evaluation; None asks for nothing."""
    self._wish = self._wish or reason


@contextlib.contextmanager
def stop_on_signals(request: StopRequest) -> Iterator[None]:
  """SIGTERM and Ctrl-C ask `request` to stop; a second Ctrl-C interrupts at once.

  Outside of the main thread, where Python sets no handlers, this does nothing.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def handle(number: int, frame: object):
    del frame
    if number == signal.SIGINT:
      signal.signal(signal.SIGINT, signal.default_int_handler)
    request.request(f'{signal.Signals(number).name} was received')

  previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
