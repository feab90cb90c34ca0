"""Batches made in the background, in an order that a checkpoint can name."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Batch = dict[str, np.ndarray]
_END = object()
_LOOK_SECS = 0.2  # Between looks at whether to give up waiting.
_JOIN_SECS = 5.0


def feed_batches(feed: Any, start: int) -> Iterator[Batch]:
  """Batches `start`, `start + 1`, ... of a feed.

  Args:
    feed: has `batch(index)`, a pure function, or `batches(start)`, an iterator from there on.
    start: index of the first batch.
  """
  if hasattr(feed, 'batches'):
    yield from feed.batches(start)
  else:
    while True:
      yield feed.batch(start)
      start += 1


class Prefetcher:
  """Makes the next few batches in a thread.

  Every batch comes with its index, and `position` moves only when a batch is handed out: what lies
  ready in the queue is not counted, so a checkpoint never skips it.

  Attributes:
    position: index of the batch that `next` will return.
  """

  def __init__(
    self,
    feed: Any,
    start: int,
    *,
    depth: int = 2,
    place: Callable[[Batch], Any] = lambda batch: batch,
  ):
    """Starts the thread.

    Args:
      feed: see `feed_batches`.
      start: index of the first batch.
      depth: batches that may lie ready.
      place: applied to each batch in the thread, such as a copy to the device.
    """
    self.position = start
    self._queue: queue.Queue[Any] = queue.Queue(maxsize=depth)
    self._stop = threading.Event()
    self._thread = threading.Thread(
      target=self._run, args=(feed, start, place), name='prefetch', daemon=True
    )
    self._thread.start()

  def _run(self, feed: Any, start: int, place: Callable[[Batch], Any]):
    try:
      for index, batch in enumerate(feed_batches(feed, start), start):
        if not self._put((index, place(batch))):
          return
      self._put(_END)
    except BaseException as error:  # Raised again where the batch is asked for.
      self._put(error)

  def _put(self, item: Any) -> bool:
    while not self._stop.is_set():
      try:
        self._queue.put(item, timeout=0.1)
        return True
      except queue.Full:
        continue
    return False

  def next(self, give_up: Callable[[], bool] = lambda: False) -> Any:
    """Returns the next batch, as `place` left it; None if `give_up` is true before it comes.

    Raises:
      StopIteration: the feed has ended.
      Exception: whatever the feed raised.
    """
    while True:
      try:
        item = self._queue.get(timeout=_LOOK_SECS)
        break
      except queue.Empty:
        if give_up():
          return None
    if item is _END or isinstance(item, BaseException):
      self._queue.put(item)
      raise StopIteration('The feed has ended.') if item is _END else item
    index, batch = item
    assert index == self.position, (index, self.position)
    self.position = index + 1
    return batch

  def close(self):
    """Stops the thread; batches that lie ready are dropped."""
    self._stop.set()
    while not self._queue.empty():
      try:
        self._queue.get_nowait()
      except queue.Empty:
        break
    self._thread.join(timeout=_JOIN_SECS)

  def __enter__(self) -> 'Prefetcher':
    return self

  def __exit__(self, *unused: Any):
    self.close()
