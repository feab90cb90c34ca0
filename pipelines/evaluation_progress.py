"""Stages of a report as they go by: number, name, a bar with the time that is left."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

NAMES = ('load', 'token losses', 'codec', 'music and anchors', 'playing', 'measuring', 'streams',
         'memorization', 'report')  # fmt: skip


class Bar:
  """A bar that appears once it is known how much there is to do."""

  def __init__(self, name: str):
    self._name = name
    self._bar: tqdm | None = None

  def begin(self, total: int, unit: str):
    """Shows the bar; tqdm gives its rate and the time left."""
    self._bar = tqdm(total=total, desc=self._name, unit=unit)

  def update(self, count: int = 1):
    """Moves it on."""
    if self._bar is not None:
      self._bar.update(count)

  def close(self):
    """Removes it."""
    if self._bar is not None:
      self._bar.close()


class Stages:
  """Prints each stage, keeps its seconds, says at the end what was found measured already."""

  names = NAMES

  def __init__(self, seconds: dict[str, float], store: Any):
    self._seconds, self._store = seconds, store
    if store.known:
      print(f'{store.known} measurements of an earlier run are there; those that fit are used.')

  @contextlib.contextmanager
  def __call__(self, name: str) -> Iterator[Bar]:
    print(f'[{NAMES.index(name) + 1}/{len(NAMES)}] {name}', flush=True)
    start, bar = time.perf_counter(), Bar(name)
    try:
      yield bar
    finally:
      bar.close()
    self._seconds[name] = round(time.perf_counter() - start, 1)

  @contextlib.contextmanager
  def interruptible(self) -> Iterator[None]:
    """Ends a run that was interrupted with one line and status 130."""
    try:
      yield
    except KeyboardInterrupt:
      said = f'eval.py: interrupted; {self._store.measured} new measurements are kept, the same'
      print(f'{said} command goes on from here.', file=sys.stderr)
      sys.exit(130)

  def close(self):
    """Says how much was new."""
    store = self._store
    total = sum(self._seconds.values())
    print(f'{store.measured} measurements made, {store.reused} reused; {total:.0f} s.')
