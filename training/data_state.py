"""The state of the data in a checkpoint: the next batch, and the fingerprint of the data."""

from collections.abc import Sequence
from typing import Any, Protocol

ALLOW = 'ALLOW_OTHER_DATA'
Content = Sequence[dict[str, Any]]


class KnownContent(Protocol):
  """A feed that identifies its data.

  Attributes:
    content: of each data set, 'fingerprint', which differs where the content does, and 'about' in
      words.
  """

  content: Content


def position(next_batch: int, feed: Any) -> dict[str, Any]:
  """Returns the state for a checkpoint: the next batch, and the content of the feed."""
  content = content_of(feed)
  known = {'data': [dict(part) for part in content]} if content else {}
  return {'next_batch': next_batch, 'batch_size': getattr(feed, 'batch_size', None), **known}


def content_of(feed: Any) -> Content:
  """Returns the content of a feed; () if it does not identify its data."""
  return getattr(feed, 'content', ())


def next_batch(data: dict[str, Any], feed: Any) -> int:
  """Returns the batch to continue with, so that no example is repeated or left out.

  Raises:
    ValueError: the batch size has changed and the next example does not begin a batch.
  """
  saved, now = data.get('batch_size'), getattr(feed, 'batch_size', None)
  if saved is None or now is None or saved == now:
    return data['next_batch']
  next_example = data['next_batch'] * saved
  if next_example % now:
    raise ValueError(
      f'The run stopped before example {next_example} with batches of {saved}; batches of {now} do '
      f'not begin there. Choose a batch size that divides {next_example}.'
    )
  return next_example // now


def check_same_data(
  run: str, saved: Content | None, given: Content, *, allow_other: bool = False
) -> str:
  """Compares the data of a run with what it is given now.

  Args:
    run: its checkpoint or folder, for messages.
    saved: what was written down; None where nothing was.
    given: what the run would go on with; empty where that is not known.
    allow_other: go on with other data.

  Returns:
    A line to print, or ''.

  Raises:
    ValueError: the data is not the same, and that is not allowed.
  """
  if not given:
    return ''
  if saved is None:
    return f'{run} does not say which data it was trained on; it goes on with {_told(given)}.'
  if [part['fingerprint'] for part in saved] == [part['fingerprint'] for part in given]:
    return ''
  change = f'{run} was trained on {_told(saved)}; now it is given {_told(given)}.'
  if allow_other:
    return f'{change} {ALLOW} is set: it goes on.'
  raise ValueError(
    f'{change} Give the data of before, or another MODEL_DIR; --gin.{ALLOW}=True goes on with the '
    'other data.'
  )


def _told(content: Content) -> str:
  return ' and '.join(f'{part["about"]} [{part["fingerprint"][:12]}]' for part in content)
