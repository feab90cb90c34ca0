"""A full disk names the file that was being written, wherever the error has no name of its own."""

import errno
import os
import pathlib

import apache_beam as beam
import pytest

from preprocessing import files, manifest, parts, pipeline, work


@pytest.fixture
def full(monkeypatch):
  """A disk that takes no byte: files are opened and cannot be synced."""

  def no_room(unused):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  monkeypatch.setattr(os, 'fsync', no_room)


@pytest.mark.parametrize(
  'write',
  [
    lambda folder: parts.write_marker(folder, 'ab12', parts.PartMarker()),
    lambda folder: parts.write_part(folder, 'ab12', []),
    lambda folder: work.write_plan(folder / 'plan.jsonl', []),
    lambda folder: manifest.write_manifest(folder / 'manifest.jsonl', []),
    lambda folder: files.write_whole(folder / 'stats.json', b'{}'),
  ],
)
def test_the_file_is_named_and_nothing_of_it_stays(write, full, tmp_path):
  with pytest.raises(OSError, match='No space left on device') as raised:
    write(tmp_path)
  name = pathlib.Path(raised.value.filename)
  assert raised.value.errno == errno.ENOSPC and tmp_path in name.parents
  assert name.name[0] != '.' and not name.exists()
  assert not [path for path in tmp_path.rglob('*') if path.is_file()]


class _Fails(beam.DoFn):
  """Writes nothing, as on a full disk."""

  def process(self, part):
    with files.writing('/data/parts/ab/ab12.json'):
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    yield


def test_a_worker_on_a_full_disk_names_its_file(tmp_path):
  ranges = work.write_plan(tmp_path / 'plans' / 'tracks.jsonl', [('', [{}])])
  with pytest.raises(OSError) as raised:
    pipeline.run_ranges(ranges, _Fails(), beam_args=('--direct_running_mode=in_memory',))
  assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, '/data/parts/ab/ab12.json')


def test_names_that_are_known_stay():
  with pytest.raises(OSError) as raised, files.writing('/other'):
    raise OSError(errno.EROFS, 'Read-only file system', '/own')
  assert raised.value.filename == '/own'
  with pytest.raises(OSError, match='^damaged$'), files.writing('/other'):
    raise OSError('damaged')
