"""Damaged, incomplete and mixed-up token records are refused by name by every reader of them."""

import os

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')

import itertools
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf

from models.record_shards import TokenFolder
from models.shard_bytes import TokenDataError, count_records
from preprocessing import records, token_inspection
from tasks import registry, source, stream
from tests.tasks import token_folders

NUM_RECORDS = 7


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  return token_folders.write(tmp_path_factory.mktemp('whole'), {'train': NUM_RECORDS})


@pytest.fixture
def folder(whole, tmp_path):
  """A copy of a whole data set: two shards of four and three records."""
  shutil.copytree(whole.parent, tmp_path / 'data' / 'toy')
  return tmp_path / 'data' / 'toy' / '1.0.0'


def train(folder, number=NUM_RECORDS):
  """Record numbers of the first examples that training sees."""
  task = registry.live_music_task(folder)
  batches = itertools.islice(stream.token_batches(task, 'train', 1, 0), number)
  return [int(batch['decoder_target_tokens'][0, 0]) - 2 for batch in batches]


def evaluate(folder):
  task = registry.live_music_eval_task(folder, crops_per_clip=1)
  batches = stream.token_batches(task, 'train', 2, 0, num_epochs=1)
  return [int(i) for batch in batches for i in batch['index'] if i >= 0]


def read(folder):
  return sorted(info.index for _, info in records.read_split(folder, 'train'))


def inspect(folder):
  shards = token_inspection.find_shards(folder)
  return [text.split(':')[0] for text in token_inspection.inspect(shards, 99)]


READERS = [train, evaluate, read, inspect]
# Where a record has to be read for it: the first two share a stream, and so do the others.
OF_CONTENT = [train, read]


def shard(folder, number, count=2):
  return token_folders.shard_path(folder, 'train', number, count)


def _flip(path, place):
  data = bytearray(path.read_bytes())
  data[place] ^= 4
  path.write_bytes(data)


def _record_size(path):
  return 16 + int.from_bytes(path.read_bytes()[:8], 'little')


def test_a_whole_folder_is_read_whole(folder):
  assert train(folder, 9) == [*range(NUM_RECORDS), 0, 1]
  assert evaluate(folder) == read(folder) == list(range(NUM_RECORDS))
  assert len(inspect(folder)) == NUM_RECORDS


def empty(folder):
  shard(folder, 1).write_bytes(b'')
  return '00001-of-00002 is empty, it should hold 3 records. Delete that file and run prepare.py'


def cut_at_an_edge(folder):
  path = shard(folder, 1)
  path.write_bytes(path.read_bytes()[: -_record_size(path)])
  return '00001-of-00002 holds 2 of 3 records. Delete that file and run prepare.py'


def cut_inside_a_record(folder):
  path = shard(folder, 0)
  path.write_bytes(path.read_bytes()[:-7])
  return '00000-of-00002 ends inside of record 3 of 4. Delete that file'


def cut_inside_a_header(folder):
  path = shard(folder, 0)
  path.write_bytes(path.read_bytes()[: -_record_size(path) + 5])
  return '00000-of-00002 ends inside of record 3 of 4.'


def length_flipped(folder):
  path = shard(folder, 0)
  _flip(path, 2 * _record_size(path) + 5)
  return '00000-of-00002: record 2 is damaged (corrupted'


def length_checksum_flipped(folder):
  path = shard(folder, 0)
  _flip(path, 2 * _record_size(path) + 9)
  return '00000-of-00002: record 2 is damaged (corrupted'


def payload_flipped(folder):
  path = shard(folder, 0)
  _flip(path, 2 * _record_size(path) + 2000)
  return '00000-of-00002: record 2 is damaged (corrupted'


def data_checksum_flipped(folder):
  path = shard(folder, 0)
  _flip(path, 2 * _record_size(path) - 1)
  return '00000-of-00002: record 1 is damaged (corrupted'


def missing(folder):
  shard(folder, 1).unlink()
  return '00001-of-00002 is missing, one of 2 shards of split \'train\' (1 are there). Copy it'


def all_missing(folder):
  for number in range(2):
    shard(folder, number).unlink()
  return "00000-of-00002 is missing, one of 2 shards of split 'train' (0 are there)"


def extra_shard_of_another_name(folder):
  shutil.copy(shard(folder, 0), folder / 'other-train.tfrecord-00000-of-00001')
  return 'other-train.tfrecord-00000-of-00001 does not belong to this data set'


def two_versions_side_by_side(folder):
  for number in range(4):
    shutil.copy(shard(folder, 0), shard(folder, number, 4))
  return 'toy-train.tfrecord-00000-of-00004 does not belong to this data set'


def shard_of_another_data_set(folder):
  others = [token_folders.encode(i, *token_folders.clip(i + 100)) for i in range(NUM_RECORDS)]
  other = token_folders.write(folder.parents[2] / 'other', {'train': 7}, records=others)
  assert shard(other, 1).stat().st_size == shard(folder, 1).stat().st_size
  shutil.copy(shard(other, 1), shard(folder, 1))
  return '00001-of-00002 is damaged, or a shard of another data set'


def two_data_sets(folder):
  shutil.copytree(folder, folder.parent / '1.0.1')
  return 'holds several token data sets: '


def no_list_of_lengths(folder):
  (folder / 'dataset_info.json').unlink()
  return 'dataset_info.json is missing: it says how many records there should be'


def lengths_changed(folder):
  path = folder / 'dataset_info.json'
  path.write_text(path.read_text().replace('"4"', '"3"'))
  return 'dataset_info.json is damaged: it gives toy-train.tfrecord-00000-of-00002 3 records'


def statistics_cut(folder):
  path = folder / 'stats.json'
  path.write_bytes(path.read_bytes()[:-9])
  return 'stats.json is damaged: it is not JSON'


def compression_is_wrong(folder):
  path = folder / 'stats.json'
  path.write_text(path.read_text().replace('"compression": ""', '"compression": "GZIP"'))
  return 'toy-train.tfrecord-00000-of-00002: record 0 is damaged (inflate() failed'


KINDS = [
  empty, cut_at_an_edge, cut_inside_a_record, cut_inside_a_header, length_flipped,
  length_checksum_flipped, payload_flipped, data_checksum_flipped, missing, all_missing,
  extra_shard_of_another_name, two_versions_side_by_side, shard_of_another_data_set, two_data_sets,
  no_list_of_lengths, lengths_changed, statistics_cut, compression_is_wrong,
]  # fmt: skip

# Training finds them as it finds a payload that has changed; it takes seconds to begin.
ONLY_READ = [length_flipped, length_checksum_flipped, data_checksum_flipped]


@pytest.mark.parametrize('kind', KINDS)
def test_damage_is_refused_by_name_by_every_reader(folder, kind):
  message = kind(folder)
  place = folder.parent if kind is two_data_sets else folder
  readers = READERS if ': record ' not in message else [read] if kind in ONLY_READ else OF_CONTENT
  for reader in readers:
    if kind is no_list_of_lengths and reader in (read, inspect):
      continue  # These count; see the next tests.
    if kind is two_data_sets and reader is read:
      continue  # It is given the one folder.
    with pytest.raises(TokenDataError, match=re.escape(message)):
      reader(place)


@pytest.mark.parametrize('kind', [empty, cut_at_an_edge, cut_inside_a_record, missing])
def test_data_sets_made_before_shards_json_are_checked_too(folder, kind):
  (folder / 'shards.json').unlink()
  assert TokenFolder(folder).shards('train') == [str(shard(folder, i)) for i in range(2)]
  message = kind(folder)
  for reader in READERS:
    with pytest.raises(TokenDataError, match=re.escape(message)):
      reader(folder)


def test_the_sizes_in_dataset_info_spare_the_walk(folder, monkeypatch):
  """Of a data set made before shards.json was, sizes are compared and no shard is opened."""
  (folder / 'shards.json').unlink()
  info = json.loads((folder / 'dataset_info.json').read_text())
  sizes = [shard(folder, number).stat().st_size for number in range(2)]
  info['splits'][0]['numBytes'] = str(sum(sizes))
  (folder / 'dataset_info.json').write_text(json.dumps(info))
  monkeypatch.setattr('models.record_shards.count_records', None)
  assert len(TokenFolder(folder).shards('train')) == 2


def test_apple_double_files_are_passed_over_and_said(folder):
  for name in [path.name for path in folder.iterdir()]:
    (folder / f'._{name}').write_bytes(b'\0\5\26\7')
  (folder.parent / '._1.0.0').write_bytes(b'\0\5\26\7')
  assert train(folder.parents[1]) == list(range(NUM_RECORDS)) == read(folder)
  assert len(inspect(folder.parents[1])) == NUM_RECORDS
  (note,) = TokenFolder(folder).notes()
  assert '2 hidden files beside the shards are passed over, such as ._toy-train' in note


def test_without_dataset_info_inspection_counts_and_says_so(folder):
  (folder / 'dataset_info.json').unlink()
  assert read(folder) == list(range(NUM_RECORDS)) and len(inspect(folder)) == NUM_RECORDS
  (note,) = TokenFolder(folder).notes()
  assert note.endswith('whether all are there is not known.')
  assert TokenFolder(folder).num_records('train') == NUM_RECORDS


def test_the_exchange_of_two_shards_is_noticed(folder):
  """Without what was written down about them: by the records' own index."""
  (folder / 'shards.json').unlink()
  data = [shard(folder, number).read_bytes() for number in range(2)]
  info = (folder / 'dataset_info.json').read_text()
  (folder / 'dataset_info.json').write_text(info.replace('["4", "3"]', '["3", "4"]'))
  for number in range(2):
    shard(folder, number).write_bytes(data[1 - number])
  message = '00000-of-00002: record 0 has the index 1, there should be record 0'
  with pytest.raises(TokenDataError, match=message):
    train(folder)


@pytest.mark.parametrize('change, message', [
  (lambda codes, style: codes.__setitem__((9, 3), 1024),
   'acoustic_tokens reach from 0 to 1024, codes are 0..1023'),
  (lambda codes, style: codes.__setitem__((9, 3), -1), 'acoustic_tokens reach from -1 to'),
  (lambda codes, style: style.__setitem__((0, 11), 5000), 'style_tokens reach from'),
])  # fmt: skip
def test_codes_out_of_range_are_refused_with_the_record(tmp_path, change, message):
  encoded = []
  for index in range(5):
    codes, style = token_folders.clip(index)
    codes[0, 1] = 0
    if index == 3:
      change(codes, style)
    encoded.append(token_folders.encode(index, codes, style))
  folder = token_folders.write(tmp_path, {'train': 5}, records=encoded)
  for reader in OF_CONTENT:
    with pytest.raises(TokenDataError, match=re.escape(message)) as caught:
      reader(folder)
    text = str(caught.value)
    assert '00001-of-00002: record 1 ' in text and 'index 3, track' in text and "track-3'" in text


@pytest.mark.parametrize('codes, style, message', [
  (np.zeros([49, 16], np.int32), None, r'acoustic_tokens have the shape \[49, 16\], at least'),
  (np.zeros([50, 8], np.int32), None, r'acoustic_tokens have the shape \[50, 8\]'),
  (np.zeros([50, 16], np.int32), np.zeros([0, 12], np.int32), r'style_tokens have the shape \[0'),
  (np.zeros([50, 16], np.float32), None, 'does not hold tokens|is damaged'),
  (np.zeros([50], np.int32), None, r'acoustic_tokens have the shape \[50\]'),
])  # fmt: skip
def test_records_of_another_shape_are_refused(tmp_path, codes, style, message):
  style = np.zeros([1, 12], np.int32) if style is None else style
  encoded = [token_folders.encode(0, codes, style)]
  folder = token_folders.write(tmp_path, {'train': 1}, num_shards=1, records=encoded)
  for reader in OF_CONTENT if codes.shape == (50, 8) else [read]:
    with pytest.raises(TokenDataError, match=message):
      reader(folder)


def test_what_is_no_example_is_refused(tmp_path):
  folder = token_folders.write(tmp_path, {'train': 1}, num_shards=1, records=[b'\xff' * 50])
  for reader in OF_CONTENT:
    with pytest.raises(TokenDataError, match='00000-of-00001: record 0 '):
      reader(folder)


@pytest.mark.parametrize('compression', ['', 'GZIP'])
def test_a_shard_that_loses_its_records_while_training_reads(tmp_path, compression):
  """The next epoch ends in an error, and never in an endless search for a record."""
  folder = token_folders.write(tmp_path, {'train': 3}, num_shards=1, compression=compression)
  task = registry.live_music_task(folder)
  batches = stream.token_batches(task, 'train', 1, 0)
  assert [int(next(batches)['index'][0]) for _ in range(1)] == [0]
  shard(folder, 0, 1).write_bytes(b'')
  with pytest.raises(TokenDataError, match='00000-of-00001 is empty, it should hold 3 records'):
    list(itertools.islice(batches, 20))


def test_an_empty_split_is_refused_and_not_searched(tmp_path):
  folder = token_folders.write(tmp_path, {'train': 0})
  for reader in (train, evaluate):
    with pytest.raises(TokenDataError, match="Split 'train' .*has no records"):
      reader(folder)
  data = source.TokenRecordSource({'train': [str(shard(folder, 0))]})
  with pytest.raises(TokenDataError, match="Split 'train' .*has no records"):
    data.stream('train')


def test_records_of_others_are_counted_and_said(whole, tmp_path, capsys):
  files = [str(shutil.copy(shard(whole, number), tmp_path)) for number in range(2)]
  task = registry.live_music_task(files={'train': files}, name='others')
  assert "are counted: 7 of split 'train'" in capsys.readouterr().out
  assert stream.num_examples(task, 'train') == 7
  with open(files[0], 'r+b') as file:
    file.truncate(50)
  with pytest.raises(TokenDataError, match='ends inside of record 0'):
    registry.live_music_task(files={'train': files}, name='others_cut')


def test_a_data_set_made_anew_in_the_same_folder_replaces_its_task(folder):
  first = registry.live_music_task(folder, name='remade')
  assert stream.num_examples(first, 'train') == 7
  shutil.rmtree(folder)
  token_folders.write(folder.parents[1], {'train': 3})
  stats = json.loads((folder / 'stats.json').read_text()) | {'fingerprint': 'f2'}
  (folder / 'stats.json').write_text(json.dumps(stats))
  assert registry.live_music_task(folder, name='remade') == first
  assert stream.num_examples(first, 'train') == 3


def test_lengths_that_no_file_has_end_the_count(tmp_path):
  path = tmp_path / 'shard'
  for length in (2**63, 2**64 - 17, 2**64 - 1, 100):
    path.write_bytes(length.to_bytes(8, 'little') + bytes(50))
    with pytest.raises(TokenDataError, match='ends inside of record 0'):
      count_records(path)
  with tf.io.TFRecordWriter(str(path), 'GZIP') as writer:
    writer.write(b'x' * 99)
  data = path.read_bytes()
  for cut in range(1, len(data)):
    path.write_bytes(data[:cut])
    with pytest.raises(TokenDataError, match='shard '):
      count_records(path, 'GZIP')
