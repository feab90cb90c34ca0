"""Checkpoints of a run: MODEL_DIR/checkpoint_<step>/, written by Orbax, atomically.

Each holds `state/` (T5X's tree: 'target' = parameters, 'state' = step and optimizer), `dataset/`
(the position in the data, JSON) and `checksums.json`. A folder gets its final name, and an older
one is removed, only after it was read back.
"""

import contextlib
import dataclasses
import errno
import json
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint.checkpoint_managers import preservation_policy

from training import checksums, disk, hosts, orbax_paths, read_back
from training.best import KeepBest
from training.checkpoint_folders import (
  DATA_FILE,
  PREFIX,
  STATE,
  broken,
  fault,
  find_checkpoint,
  in_words,
  read_checkpoint,
  saved_steps,
  set_aside,
  shows_damage,
  step_of,
)
from training.partial import with_part
from training.state import TrainState, check_same_shapes, flat_names

__all__ = [
  'PREFIX', 'Checkpoints', 'find_checkpoint', 'restore_averaged_params', 'restore_params',
  'restore_part', 'saved_steps',
]  # fmt: skip

PINNED = 'PINNED'
# Where `training.wrappers.AveragedState` keeps its average, in the names of the optimizer's arrays.
_AVERAGE = 'average/'
# In the name that Orbax gives to a folder that is being written.
_TEMPORARY = '.orbax-checkpoint-tmp'
# Orbax writes these when the checksums are there, as the last thing before the final name.
_WRITTEN_LAST = ('_CHECKPOINT_METADATA', 'commit_success.txt')


class _OtherModelError(ValueError):
  """A checkpoint of another model: not damaged."""


@dataclasses.dataclass
class _NewestBestAndPinned(preservation_policy.PreservationPolicy):
  """Keeps the newest `keep` checkpoints, the best, and those with a file named PINNED."""

  directory: pathlib.Path
  keep: int
  best: KeepBest | None

  def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
    oldest_kept = len(checkpoints) - self.keep
    steps = [info.step for info in checkpoints]
    best = self.best.best_steps(self.directory, steps) if self.best else {}
    return [
      index >= oldest_kept
      or step in best
      or (self.directory / f'{PREFIX}_{step}' / PINNED).exists()
      for index, step in enumerate(steps)
    ]


class Checkpoints:
  """The checkpoints of one MODEL_DIR.

  Writing goes on in the background; `wait` or the next `save` ends it. A file named PINNED inside
  a checkpoint keeps it for good. Where a write fails, on a full disk say, this or any later call
  raises `disk.DiskError`; the checkpoints before it stay whole.
  """

  def __init__(
    self, model_dir: str | pathlib.Path, keep: int = 5, keep_best: KeepBest | None = None
  ):
    """Opens the folder and removes what an interrupted save left.

    Args:
      model_dir: made if it does not exist.
      keep: how many of the newest to keep.
      keep_best: which ones to keep besides.
    """
    if keep < 1:
      raise ValueError(f'keep={keep} must be at least 1: the last checkpoint is always kept.')
    self.directory = pathlib.Path(model_dir).expanduser().absolute()
    orbax_paths.check_length(self.directory)
    self.directory.mkdir(parents=True, exist_ok=True)
    disk.say_once()
    self._unfinished: int | None = None
    self._saving: tuple[int, Any] = (0, None)
    self._orbax = orbax_paths.literal(self.directory)
    self._manager = ocp.CheckpointManager(
      self._orbax,
      item_names=('state', 'dataset'),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=_NewestBestAndPinned(self.directory, keep, keep_best),
        step_prefix=PREFIX,
        cleanup_tmp_directories=True,
        enable_async_checkpointing=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=self._read_back),
      ),
    )

  @property
  def latest_step(self) -> int | None:
    """Returns the newest checkpoint's step, or None; `restore` finds out whether it is whole."""
    return self._manager.latest_step()

  def save(self, state: TrainState, data_position: dict[str, Any]):
    """Begins to write `checkpoint_<state.step>`; does nothing where it exists.

    The arrays are copied before this returns, so the state may be donated to the next step.

    Args:
      state: what to save.
      data_position: JSON values that say which batch comes next.
    """
    step = int(state.step)
    self.wait()
    if step in self._manager.all_steps():
      return
    tree = _own_copy(_to_tree(state))
    self._unfinished = step
    # Of several processes none has all the numbers.
    alone = jax.process_count() == 1
    self._saving = step, tree if alone else jax.tree.map(_abstract, tree)
    with self._told(step):
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(tree), dataset=ocp.args.JsonSave(data_position)
        ),
        force=True,
      )

  def check(self):
    """Ends a save that has come to its end, so that a failure shows before the next one."""
    if self._unfinished is not None and not self._manager.is_saving_in_progress():
      self.wait()

  def restore(
    self, like: TrainState, step: int | None = None
  ) -> tuple[TrainState, dict[str, Any]]:
    """Reads a checkpoint back: the newest whole one, or the one asked for.

    With `step` None, damaged checkpoints that are newer are renamed to checkpoint_<step>.broken,
    with a warning, so that the run may save these steps again. All processes of a run look at a
    share of the files and agree.

    Args:
      like: a state (or shapes) of the run that goes on; says the structure and the shardings.
      step: None for the newest.

    Returns:
      The state and the data position.

    Raises:
      FileNotFoundError: there is no checkpoint, or not this one.
      BrokenCheckpointError: it is damaged, or all are.
      ValueError: it belongs to another model or optimizer; names the first array that differs.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if not steps or (step is not None and step not in steps):
      raise FileNotFoundError(
        f'{self.directory} holds no {PREFIX}_{step}; it has steps {steps[::-1]}.'
      )
    faults: dict[pathlib.Path, str] = {}
    for candidate in steps if step is None else [step]:
      checkpoint = self.directory / f'{PREFIX}_{candidate}'
      found = hosts.first_of_all(lambda i, n, folder=checkpoint: fault(folder, i, n))
      if found is None:
        try:
          restored = self._restore(like, candidate)
        except _OtherModelError:
          raise
        except Exception as error:
          if jax.process_count() > 1 or not shows_damage(checkpoint, error):
            raise
          found = in_words(error)
        else:
          self._set_aside(faults, checkpoint)
          return restored
      faults[checkpoint] = found
    raise broken(self.directory if step is None else checkpoint, faults)

  def _restore(self, like: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
    checkpoint = self._orbax / f'{PREFIX}_{step}'
    abstract = jax.tree.map(_abstract, _to_tree(like))
    stored = _stored_tree(checkpoint)
    try:
      check_same_shapes(abstract, stored)
    except ValueError as error:
      raise _OtherModelError(
        f'{self.directory / checkpoint.name} was written by another model or optimizer: {error} '
        'Use another MODEL_DIR, or the settings in its config.gin.'
      ) from error
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
      tree = checkpointer.restore(checkpoint / STATE, args=ocp.args.StandardRestore(abstract))
    # Copies, as in `create_state`: what was read as NumPy is not the device's to reuse.
    state = jax.tree.map(lambda x: jnp.array(x, copy=True), _from_tree(tree, like))
    return state, json.loads((checkpoint / DATA_FILE).read_text(encoding='utf-8'))

  def _set_aside(self, faults: dict[pathlib.Path, str], instead: pathlib.Path):
    """Renames damaged checkpoints and says so, in the first process; the others wait."""
    if not faults:
      return
    if hosts.is_first():
      for checkpoint, reason in faults.items():
        target = set_aside(checkpoint)
        print(
          f'Warning: {checkpoint} is damaged ({reason}). It is kept as {target.name}, and the run '
          f'goes on from {instead.name}.', file=sys.stderr, flush=True,
        )  # fmt: skip
    hosts.meet('damaged checkpoints are set aside')
    self._manager.reload()

  def wait(self):
    """Returns when everything is on disk."""
    step, self._unfinished = self._unfinished, None
    with self._told(step):
      self._manager.wait_until_finished()

  def close(self):
    """Waits and lets go of the folder."""
    try:
      self.wait()
    finally:
      self._manager.close()

  def __enter__(self) -> 'Checkpoints':
    return self

  def __exit__(self, unused_type: Any, error: BaseException | None, unused_traceback: Any):
    try:
      self.close()
    except disk.DiskError as own:
      if error is None:
        raise
      if error is not own:
        error.add_note(str(own))

  def _read_back(self):
    """Writes checksums and compares what the files hold with what was to be saved.

    Orbax calls it in the first process, in the background, when the files of all processes are
    written and the folder has not got its name.
    """
    step, tree = self._saving
    start = f'{PREFIX}_{step}{_TEMPORARY}'
    folders = [path for path in self._orbax.iterdir() if path.name.startswith(start)]
    if not folders:
      raise read_back.ReadBackError(errno.EIO, 'its folder is gone')
    folder = max(folders, key=lambda path: path.stat().st_mtime_ns)
    checksums.write(folder, leave_out=_WRITTEN_LAST)
    read_back.check(folder / STATE, tree)
    self._saving = step, None

  @contextlib.contextmanager
  def _told(self, step: int | None) -> Iterator[None]:
    """Turns errors of the disk, in whatever thread they happened, into one clear one."""
    try:
      yield
    except Exception as error:
      number = disk.error_number(error)
      if step is None or number is None:
        raise
      try:
        whole = find_checkpoint(self.directory).name
        kept = f'{whole} is whole, and the run goes on from it when started again.'
      except (FileNotFoundError, ValueError):
        kept = 'No checkpoint was written before it.'
      if isinstance(error, read_back.ReadBackError):
        raise disk.DiskError(
          errno.EIO,
          f'{PREFIX}_{step} was written to {self.directory}, but read back it is not what was '
          f'saved: {error}. The disk may be failing: take another one. {kept}',
        ) from error
      raise disk.disk_error(f'{PREFIX}_{step}', self.directory, number, kept) from error


def restore_params(path: str | pathlib.Path) -> tuple[Any, int]:
  """The parameters alone, as NumPy arrays, and the step they belong to.

  Args:
    path: a `checkpoint_<step>` folder, or a MODEL_DIR (its newest checkpoint is read).
  """
  return restore_part(path, 'target')


def restore_averaged_params(path: str | pathlib.Path) -> tuple[Any, int]:
  """The parameters, the moving average in place of those that the run keeps one of.

  See `restore_params`; the average is that of `training.wrappers.averaging`.
  """
  return read_checkpoint(path, _averaged_params)


def restore_part(path: str | pathlib.Path, part: str) -> tuple[Any, int]:
  """One part of a checkpoint as NumPy arrays: 'target' (parameters) or 'state', and its step."""
  return read_checkpoint(path, lambda checkpoint: _part(checkpoint, part))


def _part(checkpoint: pathlib.Path, part: str) -> tuple[Any, int]:
  restored, step = _restore(checkpoint, {part: _stored_tree(checkpoint)[part]})
  return restored[part], step


def _averaged_params(checkpoint: pathlib.Path) -> tuple[Any, int]:
  stored = _stored_tree(checkpoint)['state'].get('param_states') or {}
  averages = {name: leaf for name, leaf in stored.items() if name.startswith(_AVERAGE)}
  if not averages:
    return _part(checkpoint, 'target')
  restored, step = _restore(checkpoint, {'state': {'param_states': averages}})
  tree: dict[str, Any] = {}
  for name, leaf in restored['state']['param_states'].items():
    *parents, last = name[len(_AVERAGE) :].split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = leaf
  whole = _stored_tree(checkpoint)['target']
  if len(averages) < len(flat_names(whole)):
    tree = with_part(_part(checkpoint, 'target')[0], tree)
  return tree, step


def _restore(checkpoint: pathlib.Path, stored: Any) -> tuple[Any, int]:
  """Reads a part of the stored tree as NumPy arrays."""
  item = jax.tree.map(lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype), stored)
  with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
    restored = checkpointer.restore(
      orbax_paths.literal(checkpoint / STATE),
      args=ocp.args.PyTreeRestore(item=item, restore_args=restore_args, partial_restore=True),
    )
  return restored, step_of(checkpoint)


def _to_tree(state: TrainState) -> dict[str, Any]:
  """The state as nested dicts, whose names do not depend on classes of the optimizer library."""
  return {
    'target': state.params,
    'state': {
      'step': state.step,
      'param_states': flat_names(state.opt_state),
      'aux': flat_names(state.aux),
    },
  }


def _from_tree(tree: dict[str, Any], like: TrainState) -> TrainState:
  def fill(example: Any, flat: dict[str, Any]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(example), [flat[n] for n in flat_names(example)])

  return TrainState(
    step=tree['state']['step'],
    params=tree['target'],
    opt_state=fill(like.opt_state, tree['state'].get('param_states') or {}),
    aux=fill(like.aux, tree['state'].get('aux') or {}),
  )


def _stored_tree(checkpoint: pathlib.Path) -> dict[str, Any]:
  """Shapes and dtypes of everything in a checkpoint."""
  folder = epath.Path(orbax_paths.literal(checkpoint / STATE))
  return ocp.PyTreeCheckpointHandler().metadata(folder).tree


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
  """What to restore: on one device where `x` does not say otherwise, wherever it was written."""
  sharding = getattr(x, 'sharding', None) or SingleDeviceSharding(jax.devices()[0])
  return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _own_copy(tree: Any) -> Any:
  """Copies of the arrays, in host memory where one process holds them all.

  On the CPU a 'host copy' of an array is the array itself, which the next step overwrites while it
  is still being written to disk.
  """
  if jax.process_count() > 1:
    on_cpu = jax.default_backend() == 'cpu'
    return jax.tree.map(lambda x: jnp.array(x, copy=True), tree) if on_cpu else tree
  return jax.tree.map(lambda x: np.array(x, copy=True), tree)
