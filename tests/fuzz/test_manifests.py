"""Damaged manifests, tables, rejects and journals: the right rows, or a refusal by name.

What is damaged may still be valid, with another value in a field. So rows that are read are
compared with what Python's own parsers see in the bytes, field by field.
"""

import csv
import dataclasses
import hashlib
import io
import json
import math

import hypothesis
import pytest

from preprocessing import audio, files, fingerprint, manifest, measurement, scan, tables, tags
from tests.fuzz import mutations

TRACKS = [
  manifest.Track(
    f'id-{i}', f'/music/a {i}é.wav', hashlib.sha256(bytes([i])).hexdigest(), 7.25 + i, 44_100, 2,
    title=f'Title {i}', artist='Band', work=f'work {i}', tags=('calm', 'dark'), vocal='vocal',
    caption='slow, warm', licence='CC0-1.0', split='train',
  )
  for i in range(3)
]  # fmt: skip
REJECTS = [manifest.Reject('/music/a.wav', 'silent', 'why'), manifest.Reject('/music/b', 'clipped')]
TABLE = (
  'path,title,tags,Prompt,vocal,split,drop\n'
  'a.wav,"One, two",calm;dark,slow,no,train,\n/abs/b.wav,"x ""y""",,,yes,,yes\n'
)
SETTINGS = scan.ScanSettings()
FINGERPRINT = fingerprint.Fingerprinter(44_100).fingerprint().encode()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('damaged')


def _lines(rows):
  return b''.join(map(manifest.json_line, rows))


def _write(path, content):
  path.write_bytes(content)
  return str(path)


def _objects(content):
  """The JSON objects of the lines, as Python's own parser sees them."""
  return [json.loads(line.decode('utf-8-sig')) for line in content.split(b'\n') if line.strip()]


@hypothesis.given(mutation=mutations.mutations(_lines(TRACKS)))
@mutations.settings(150)
def test_manifests(folder, mutation):
  path = _write(folder / 'manifest.jsonl', mutation.data)
  try:
    tracks = manifest.read_manifest(path)
  except manifest.ManifestError as error:
    assert path in str(error) and error.faults, mutation.story
    return
  expected = _objects(mutation.data)
  assert len(tracks) == len(expected), mutation.story
  for track, row in zip(tracks, expected, strict=True):
    for name, value in dataclasses.asdict(track).items():
      told = row.get(name)
      if name == 'path':
        assert value == files.absolute(told, folder)
      elif name == 'tags':
        assert list(value) == list(told or ())
      else:
        assert value == (told if told is not None else ''), (name, mutation.story)
    assert math.isfinite(track.duration_secs) and track.duration_secs >= 0
    assert track.sample_rate >= 1 and track.channels >= 1
    # It goes through a writer and back, and every name of a file is one.
    assert files.is_name(track.path)
  manifest.write_manifest(folder / 'again.jsonl', tracks)
  assert manifest.read_manifest(folder / 'again.jsonl') == tracks


@hypothesis.given(mutation=mutations.mutations(_lines(REJECTS)))
@mutations.settings(60)
def test_rejects(folder, mutation):
  path = _write(folder / 'rejects.jsonl', mutation.data)
  try:
    rejects = manifest.read_rejects(path)
  except manifest.ManifestError as error:
    assert path in str(error), mutation.story
    return
  expected = _objects(mutation.data)
  assert [dataclasses.asdict(reject) for reject in rejects] == [
    {'detail': '', **row} for row in expected
  ], mutation.story


@hypothesis.given(mutation=mutations.mutations(TABLE.encode()))
@mutations.settings(150)
def test_tables(folder, mutation):
  path, said = _write(folder / 't.csv', mutation.data), []
  try:
    rows = tables.read_table(path, say=said.append)
  except manifest.ManifestError as error:
    assert path in str(error) and error.faults, mutation.story
    return
  text = mutation.data.decode('utf-8-sig')
  records = [cells for cells in csv.reader(io.StringIO(text, newline=''), strict=True)]
  records = [cells for cells in records if any(cell.strip() for cell in cells)]
  assert len(rows) == len(records) - 1, mutation.story
  header = [name.strip() for name in records[0]]
  for row, cells in zip(rows, records[1:], strict=True):
    told = [cell.strip() for cell in cells if cell.strip()]
    # Each value that a row has stands in its line.
    for name, value in row.facts.items():
      if name not in ('tags', 'vocal'):
        assert value in told, mutation.story
    if row.path:
      assert any(files.absolute(cell, folder) == row.path for cell in told), mutation.story
  # Each column is a field's, or it is named.
  plain = set(tables.FIELDS)
  for name in header:
    if name and tables._plain(name) not in plain and len(header) < 12:
      assert repr(name) in ''.join(said), mutation.story


@hypothesis.given(mutation=mutations.mutations(b'\n'.join(
  json.dumps({'path': f'{name}.wav', 'caption': 'é', 'tags': ['a', 'b'], 'drop': False}).encode()
  for name in 'xy'
)))  # fmt: skip
@mutations.settings(80)
def test_tables_of_json_lines(folder, mutation):
  path = _write(folder / 't.jsonl', mutation.data)
  try:
    rows = tables.read_table(path)
  except manifest.ManifestError as error:
    assert path in str(error) and error.faults, mutation.story
    return
  expected = _objects(mutation.data)
  assert len(rows) == len(expected), mutation.story
  for row, values in zip(rows, expected, strict=True):
    told = {tables._plain(name): value for name, value in values.items()}
    if 'caption' in told and told['caption'] is not None:
      assert row.facts.get('caption', '') == str(told['caption']).strip(), mutation.story


def _scanned(name):
  return scan.Scanned(
    f'/music/{name}.wav', files.FileState(12, 34), 'ab' * 32, '', '',
    audio.AudioHeader(44_100 * 7, 44_100, 2, 'WAV', 'PCM_16', 7.0), tags.Tags(title=name),
    measurement.Measurement(7.0, 0.5, -12.0, 0.0, 0.0, 0.0, True, False, -14.0), FINGERPRINT,
  )  # fmt: skip


def _journal(folder, scanned):
  """The bytes of a journal that the scanner itself wrote."""
  path = folder / 'whole.jsonl'
  path.unlink(missing_ok=True)
  with scan._appending(str(path), SETTINGS) as append:
    for found in scanned:
      append(found)
  return path.read_bytes()


@hypothesis.given(data=hypothesis.strategies.data())
@mutations.settings(150)
def test_journals(folder, data):
  """A damaged line counts as not there, so that its file is read again; others count."""
  whole = [_scanned(name) for name in 'abc']
  mutation = data.draw(mutations.mutations(_journal(folder, whole)))
  path = _write(folder / 'scan.jsonl', mutation.data)
  known = scan._read_journal(path, SETTINGS)
  expected = {found.path: found for found in whole}
  assert known.items() <= expected.items(), mutation.story
  lines = set(_journal(folder, whole).splitlines())
  kept = [line.strip() for line in mutation.data.split(b'\n') if line.strip() in lines]
  assert len(known) == len(set(kept)), mutation.story
  assert set(scan.measurements(path)) == set(known)
