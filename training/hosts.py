"""Several processes that train as one: how they find each other, and agree on when to stop."""

import contextlib
import glob
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from models import folder_lock
from training.stopping import StopRequest

_NO, _BUDGET, _SIGNAL = 0, 1, 2
_LONGEST_TEXT = 1000  # Bytes of what processes tell each other.
# Folders that the processes of this run have agreed to work in.
_locked: set[str] = set()


def initialize(
  coordinator_address: str | None = None,
  process_count: int | None = None,
  process_index: int | None = None,
  *,
  multiprocess: bool = False,
) -> None:
  """Joins the other processes of the run; must come before JAX touches a device.

  On TPU hosts the other workers, and other slices, are found by JAX itself. Elsewhere the three
  values are needed, or `multiprocess` under a scheduler that JAX knows, such as SLURM or Open MPI.
  Without any of them, away from a TPU, this process trains alone.

  Args:
    coordinator_address: 'host:port' of process 0, where any free port will do.
    process_count: processes of the run.
    process_index: of this one, 0..process_count - 1.
    multiprocess: have JAX find what is not given.

  Raises:
    ValueError: some of the three values are missing, or the index is out of range.
  """
  given = {
    '--coordinator_address': coordinator_address,
    '--process_count': process_count,
    '--process_index': process_index,
  }
  missing = [name for name, value in given.items() if value is None]
  if len(missing) == len(given):
    if multiprocess:
      jax.distributed.initialize()
    elif _on_tpu():
      try:
        jax.distributed.initialize()
      except ValueError as error:  # Chips without a cluster around them, as in a notebook.
        print(f'No other TPU hosts were found ({error}); this process trains alone.', flush=True)
    return
  if missing and not multiprocess:
    raise ValueError(f'{", ".join(missing)} must be given, too: the three flags belong together.')
  if process_count is not None and not 0 <= (process_index or 0) < process_count:
    raise ValueError(f'--process_index={process_index} is not in 0..{process_count - 1}.')
  jax.distributed.initialize(coordinator_address, process_count, process_index)


def _on_tpu() -> bool:
  """Whether JAX will find TPU chips here; asks without starting them."""
  platforms = os.environ.get('JAX_PLATFORMS', '')
  if platforms and 'tpu' not in platforms.split(','):
    return False
  chips = glob.glob('/dev/accel[0-9]*') + glob.glob('/dev/vfio/[0-9]*')
  return bool(chips) and importlib.util.find_spec('libtpu') is not None


def is_first() -> bool:
  """Whether this process is the one that writes what is written once."""
  return jax.process_index() == 0


@contextlib.contextmanager
def only_run_in(folder: str | os.PathLike, kind: str = 'run') -> Iterator[None]:
  """Holds the lock of a folder, in the first process; all processes fail if it cannot.

  Raises:
    FolderInUseError: another run works there.
    OSError: the folder cannot be made or written.
  """
  name = os.path.abspath(folder)
  if jax.process_count() == 1 or name in _locked:
    with folder_lock.locked(folder, kind) if is_first() else contextlib.nullcontext():
      yield
    return
  with contextlib.ExitStack() as held:
    refusal: Exception | None = None
    if is_first():
      try:
        held.enter_context(folder_lock.locked(folder, kind))
      except (ValueError, OSError) as error:
        refusal = error
    why = first_of_all(lambda index, count: refusal and str(refusal))
    if why:
      raise refusal or folder_lock.FolderInUseError(why)
    _locked.add(name)
    held.callback(_locked.discard, name)
    yield


def to_host(tree: Any) -> Any:
  """Arrays of all processes -> NumPy arrays, whole, in every process; all have to call it."""
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(tree, tiled=True)


def first_of_all(look: Callable[[int, int], str | None]) -> str | None:
  """Returns the result of the first process whose `look` gives one, else None; all must call it.

  Args:
    look: called with the index of a process and their number, returns what it finds, in words.
  """
  own = look(jax.process_index(), jax.process_count())
  if jax.process_count() == 1:
    return own
  from jax.experimental import multihost_utils

  text = (own or '').encode()[:_LONGEST_TEXT].ljust(_LONGEST_TEXT, b'\0')
  everyone = multihost_utils.process_allgather(np.frombuffer(text, np.uint8))
  found = (row.tobytes().rstrip(b'\0').decode(errors='replace') for row in everyone)
  return next((text for text in found if text), None)


def meet(name: str) -> None:
  """Returns when all processes have called it."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


class AgreedStop:
  """A `StopRequest` that every process answers alike, and at the same step.

  Whoever is asked to stop votes for it, and the votes are counted on the devices behind the step
  that is under way; `vote` returns the outcome of the call before, so that nobody waits for it.
  """

  def __init__(self, stop: StopRequest):
    """Keeps asking `stop`; a process that is alone just passes its answers on."""
    self._stop, self._outcome, self._counted = stop, _NO, None
    self.alone = jax.process_count() == 1
    if not self.alone:
      mesh = jax.sharding.Mesh(np.array(jax.devices()), ('devices',))
      self._votes = NamedSharding(mesh, PartitionSpec('devices'))
      self._count = jax.jit(lambda x: x.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))

  def vote(self) -> bool:
    """Whether to stop now; to be called once a step."""
    if self.alone:
      return bool(self._stop.reason)
    if self._counted is not None:
      self._outcome = int(self._counted)
    own = _SIGNAL if self._stop.signalled else _BUDGET if self._stop.reason else _NO
    votes = jax.make_array_from_callback(
      (jax.device_count(),), self._votes, lambda index: np.full([1], own, np.int32)
    )
    self._counted = self._count(votes)
    return self._outcome != _NO

  @property
  def reason(self) -> str | None:
    """Why the run stops, in words, or None."""
    if self.alone:
      return self._stop.reason
    if self._outcome == _NO:
      return None
    return self._stop.reason or 'another process was asked to stop'

  @property
  def signalled(self) -> bool:
    """Whether a signal is what stops the run."""
    return self._stop.signalled if self.alone else self._outcome == _SIGNAL
