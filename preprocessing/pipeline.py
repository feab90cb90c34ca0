"""The Beam graph: ranges of a plan file, spread over workers, each unit done whole or not at all.

The graph is linear (some runners lose branches) and carries descriptions of work only: a path and
a range of bytes. Results are files; what was done is seen from the files, not from what the graph
returns or counts.
"""

import errno
import importlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions

from preprocessing import units, work

# Beam's own DirectRunner first tries to download the Prism binary. This is the runner that it falls
# back to; it knows the same modes and touches no network.
_LOCAL_RUNNER = 'apache_beam.runners.portability.fn_api_runner.FnApiRunner'
_DASK_RUNNER = 'apache_beam.runners.dask.dask_runner.DaskRunner'
_POLL_SECS = 0.5
# Runners pass on what a worker raised as words.
_FULL_DISK = {os.strerror(code): code for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)}
# Threads of a run that has ended, as by Ctrl-C, begin nothing new.
_ended = threading.Event()
# A look at what is done may take at most this share of the time.
_LOOKING_SHARE = 0.02


class TokenizeTracks(beam.DoFn):
  """Ranges of track units -> parts and markers. Gives the number of units done, for each range."""

  def __init__(self, how: units.TrackWork):
    self._how = how

  def process(self, part: work.WorkRange):
    yield sum(self._how.do(units.TrackUnit(**line)) for line in _until_ended(work.read_range(part)))


class WriteShards(beam.DoFn):
  """Ranges of a shard's clips -> TFRecord files, each under its name only when whole."""

  def __init__(self, how: units.ShardWork):
    self._how = how

  def process(self, part: work.WorkRange):
    yield sum(int(self._how.do(one)) for one in _until_ended([part]))


def _until_ended(lines: Iterable[Any]) -> Iterator[Any]:
  """The lines, as long as the run goes on; what is left then is for the next run."""
  for line in lines:
    if _ended.is_set():
      return
    yield line


def pipeline_options(beam_args: Sequence[str]) -> PipelineOptions:
  """Beam's options; a DirectRunner becomes the local runner that downloads nothing.

  Without a mode of its own, the local runner gets a thread for each core: they share the models.

  Raises:
    ValueError: an option that Beam does not know (Beam itself drops it), or a runner whose
      packages are not installed.
  """
  options = PipelineOptions(list(beam_args))
  standard = options.view_as(StandardOptions)
  runner = (standard.runner or 'DirectRunner').lower()
  if runner in ('daskrunner', 'dask'):
    standard.runner = _DASK_RUNNER
    try:
      importlib.import_module(_DASK_RUNNER.rpartition('.')[0])  # Brings its options with it.
    except ImportError as error:
      raise ValueError(
        f"DaskRunner needs packages: pip install 'woodshed[dask]' ({error})."
      ) from error
  elif runner in ('directrunner', 'direct'):
    standard.runner = _LOCAL_RUNNER
    direct = options.view_as(DirectOptions)
    if not any('direct_running_mode' in argument for argument in beam_args):
      direct.direct_running_mode = 'multi_threading'
      if not any('direct_num_workers' in argument for argument in beam_args):
        direct.direct_num_workers = os.cpu_count() or 1
  known = options.get_all_options(retain_unknown_options=False)
  unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
  if unknown:
    raise ValueError(
      f'Beam has no option --{sorted(unknown)[0]} for {standard.runner}. Those of DirectRunner are '
      '--direct_running_mode and --direct_num_workers; docs/prepare.md has examples of others.'
    )
  return options


def build(ranges: Sequence[work.WorkRange], do: beam.DoFn, pipeline: beam.Pipeline):
  """The graph: ranges, spread over workers, worked on. No branch, no second output."""
  return (
    pipeline
    | 'Ranges' >> beam.Create(list(ranges))
    | 'Spread' >> beam.Reshuffle()
    | 'Work' >> beam.ParDo(do)
  )


def run_ranges(
  ranges: Sequence[work.WorkRange],
  do: beam.DoFn,
  *,
  beam_args: Sequence[str] = (),
  look: Callable[[], None] = lambda: None,
):
  """Works through ranges on any Beam runner; returns when it says that it is done.

  Whether it did everything is for the caller to see from the files.

  Args:
    ranges: of plan files that workers can read.
    do: does one range; leaves files behind.
    beam_args: options of the runner.
    look: is called in this process now and then, and once at the end: to show progress.

  Raises:
    OSError: a worker has no room left to write.
    RuntimeError: any other error of a worker.
  """
  if not ranges:
    return
  finished = threading.Event()
  _ended.clear()
  watcher = threading.Thread(target=_watch, args=(look, finished), daemon=True)
  watcher.start()
  try:
    with beam.Pipeline(options=pipeline_options(beam_args)) as pipeline:
      build(ranges, do, pipeline)
  except (RuntimeError, OSError) as error:
    code = next((code for words, code in _FULL_DISK.items() if words in str(error)), None)
    if code is None:
      raise
    named = re.search(rf"{re.escape(os.strerror(code))}: '([^']+)'", str(error))
    place = named[1] if named else os.path.dirname(ranges[0].plan)
    raise OSError(code, os.strerror(code), place) from error
  finally:
    _ended.set()
    finished.set()
    watcher.join()


def _watch(look: Callable[[], None], finished: threading.Event):
  wait = _POLL_SECS
  while not finished.wait(wait):
    began = time.monotonic()
    look()
    wait = max(_POLL_SECS, (time.monotonic() - began) / _LOOKING_SHARE)
  look()
