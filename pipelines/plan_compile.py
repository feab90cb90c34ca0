"""The real training step under the real TPU compiler, for a slice that is not there.

libtpu compiles for any slice on any x86-64 host; the extra `tpu` installs it. What a program turned
out to need is kept on disk by a hash of the program: a second plan of it takes seconds.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from models import logical_axes
from pipelines.plan_chips import Slice
from pipelines.plan_memory import Setting
from preprocessing import outputs
from training.partitioning import Partitioning
from training.step import make_train_step

# What libtpu asks the environment of a TPU host for; without them it searches and complains.
ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # Two plans at a time; no chip is touched.
  'TPU_ACCELERATOR_TYPE': 'v6e-4',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_MIN_LOG_LEVEL': '3',
  'TPU_STDERR_LOG_LEVEL': '3',
}
INSTALL = "pip install -e '.[tpu]'"
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler said.

  Attributes:
    peak_bytes: needed on one chip, whether or not there is so much.
    resident_bytes: of these the arguments: state and batch.
    fits: whether the program can be loaded.
    message: the compiler's own words where it does not.
    compile_secs: it took.
    versions: 'jax 0.10.2, libtpu 0.0.42.1'.
    date: of the compilation, 'YYYY-MM-DD'.
    from_cache: nothing was compiled this time.
    cpu_secs: of all threads; on an idle machine of two cores nearly `compile_secs`.
  """

  peak_bytes: float
  resident_bytes: float
  fits: bool
  message: str
  compile_secs: float
  versions: str
  date: str
  from_cache: bool = False
  cpu_secs: float = 0.0


def require_compiler():
  """Raises a ValueError with the way out where there is no TPU compiler."""
  if importlib.util.find_spec('libtpu') is None:
    raise ValueError(
      f'Compiling for TPUs needs libtpu: {INSTALL} (x86-64 Linux, no TPU needed). '
      '--analytic gives the figures that need no compiler.'
    )


def default_cache_dir() -> pathlib.Path:
  """$XDG_CACHE_HOME/woodshed/plans, or the same under ~/.cache."""
  base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
  return pathlib.Path(base) / 'woodshed' / 'plans'


def compile_step(
  setting: Setting, place: Slice, optimizer: Any, cache_dir: str | os.PathLike | None = None
) -> Compiled:
  """Compiles the step that `train.py` runs, or looks up what came of it.

  Args:
    setting: what is trained, and how.
    place: TPUs.
    optimizer: an optax transformation for the model.
    cache_dir: None for `default_cache_dir()`.

  Raises:
    ValueError: libtpu is not installed, or the setting does not fit the slice's shape.
  """
  require_compiler()
  setting.data_size(place)
  folder = pathlib.Path(cache_dir) if cache_dir else default_cache_dir()
  outputs.check_folder(folder)
  lowered, resident = lower_step(setting, place, optimizer)
  path = folder / f'{_program_hash(lowered, place)}.json'
  with contextlib.suppress(FileNotFoundError, ValueError, TypeError):
    kept = Compiled(**json.loads(path.read_text(encoding='utf-8')))
    return dataclasses.replace(kept, from_cache=True)
  result = _compile(lowered, resident)
  with outputs.whole_file(path) as partial:
    partial.write_text(json.dumps(dataclasses.asdict(result), indent=2), encoding='utf-8')
  return result


def lower_step(
  setting: Setting, place: Slice, optimizer: Any
) -> tuple[jax.stages.Lowered, float]:
  """The training step, traced and laid out for the slice's devices; bytes of its arguments."""
  partitioning = setting.partitioner.fit(setting.batch_size, slice_devices(place))
  state, key = _laid_out_state(setting, partitioning, optimizer)
  spec = setting.model.spec
  lengths = {
    'encoder_input_tokens': spec.inputs_length, 'decoder_target_tokens': spec.targets_length,
  }  # fmt: skip
  batch = {
    name: jax.ShapeDtypeStruct(
      (setting.batch_size, length), jnp.int32, sharding=partitioning.rows
    )
    for name, length in lengths.items()
  }
  step = make_train_step(
    setting.model,
    optimizer,
    partitioning.step_compiler(state, shared=True),
    num_microbatches=setting.num_microbatches,
    skip_nonfinite=setting.skip_nonfinite,
  )
  # Once more around, because what the run uses cannot be lowered without being called.
  with logical_axes.layout(None if partitioning.trivial else partitioning.layout):
    lowered = jax.jit(step, donate_argnums=0).lower(state, batch, key)
  return lowered, float(sum(map(_bytes_per_chip, jax.tree.leaves((state, batch)))))


def _bytes_per_chip(x: jax.ShapeDtypeStruct) -> int:
  return math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize


def slice_devices(place: Slice) -> list[Any]:
  """The devices of slices that are not there."""
  from jax.experimental import topologies

  options: dict[str, Any] = {}
  if place.chip.cores == 2:
    options['chip_config_name'] = 'megacore'
  if place.chips == 1:
    options['chips_per_host_bounds'] = (1, 1, 1)
  if place.num_slices > 1:
    options['num_slices'] = place.num_slices
  with _environment():
    description = topologies.get_topology_desc(
      platform='tpu', topology_name=place.topology_name, **options
    )
  return list(description.devices)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
  before = {name: os.environ.get(name) for name in ENVIRONMENT}
  os.environ.update(ENVIRONMENT)
  try:
    yield
  finally:
    for name, value in before.items():
      if value is None:
        del os.environ[name]
      else:
        os.environ[name] = value


def _laid_out_state(
  setting: Setting, partitioning: Partitioning, optimizer: Any
) -> tuple[Any, jax.ShapeDtypeStruct]:
  """Shapes of the state and of a random key, with their places on the slice's devices."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  like = partitioning.state_like(setting.model, optimizer, key)
  shardings = partitioning.state_shardings(setting.model, like)

  def place(x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

  return jax.tree.map(place, like, shardings), place(key, partitioning.replicated)


def _program_hash(lowered: jax.stages.Lowered, place: Slice) -> str:
  parts = (lowered.as_text(), place.topology_name, str(place.num_slices), _versions())
  return hashlib.sha256('\n'.join(parts).encode()).hexdigest()[:32]


def _versions() -> str:
  return ', '.join(f'{name} {importlib.metadata.version(name)}' for name in ('jax', 'libtpu'))


def _compile(lowered: jax.stages.Lowered, resident: float) -> Compiled:
  start, cpu_start, message = time.monotonic(), time.process_time(), ''
  try:
    with _environment():
      memory = lowered.compile().memory_analysis()
    peak, resident = float(memory.peak_memory_in_bytes), float(memory.argument_size_in_bytes)
  except jax.errors.JaxRuntimeError as error:
    message = str(error)
    peak = needed_bytes(message, resident)
    if peak is None:
      raise
  return Compiled(
    peak_bytes=peak,
    resident_bytes=resident,
    fits=not message,
    message=message.split('\n\n')[0].strip(),
    compile_secs=round(time.monotonic() - start, 1),
    versions=_versions(),
    date=time.strftime('%Y-%m-%d', time.gmtime()),
    cpu_secs=round(time.process_time() - cpu_start, 1),
  )


def needed_bytes(message: str, resident: float) -> float | None:
  """Bytes that a program needs, read off the compiler's error; None where it says something else.

  >>> needed_bytes('RESOURCE_EXHAUSTED: ... Used 20.00G of 15.75G hbm. Exceeded ...', 0) / 2**30
  20.0

  Args:
    message: of the error.
    resident: bytes of the arguments, which some messages leave out.
  """
  if 'RESOURCE_EXHAUSTED' not in message:
    return None
  number = r'([\d.]+)([KMGT]?)'
  for pattern, besides in (
    (rf'Used {number}i?B? of', 0.0),
    (rf'HLO temporaries \({number}i?B?\) exceeds available', resident),
  ):
    if match := re.search(pattern, message):
      return float(match[1]) * _UNITS[match[2]] + besides
  return None
