"""The table of recorded music: sound as committed, and every kind of fault is told."""

import collections
import csv
import itertools
import pathlib
import re

import pytest

from preprocessing.licences import licence_name
from preprocessing.manifest import ManifestError
from recipes.recorded_music import credits, table

ROOT = pathlib.Path(__file__).parents[2]


def _rows():
  with open(table.TABLE_FILE, encoding='utf-8', newline='') as file:
    return list(csv.DictReader(file))


def test_committed_table_has_no_fault_and_names_every_licence_as_the_manifest_does():
  pieces = table.read_table()
  assert len(pieces) == len(_rows())
  assert {piece.licence for piece in pieces} == {licence_name(piece.licence) for piece in pieces}
  assert {piece.set for piece in pieces} == {'train', 'share_alike', 'visible_test'}


def test_no_content_stands_twice_and_nothing_asks_for_share_alike_in_the_bundled_weights_set():
  rows = _rows()
  sums = list(itertools.chain.from_iterable(row['md5'].split(' + ') for row in rows))
  assert len(set(sums)) == len(sums)
  permissive = {row['licence'] for row in rows if row['set'] == 'train'}
  assert not [name for name in permissive if re.search('SA|NC|ND|GPL', name)]


def test_test_packages_are_in_no_other_set():
  packages = collections.defaultdict(set)
  for row in _rows():
    packages[row['set']].add(row['package'])
  visible = {'marsshooter-data', 'unknown-horizons', 'flare-game', 'singularity-music'}
  assert packages['visible_test'] == visible
  everything = set.union(*packages.values())
  assert not visible & (packages['train'] | packages['share_alike'])
  hidden = ('wesnoth', 'hedgewars', 'drascula', 'hyperrogue')
  assert not [name for name in everything if name.startswith(hidden)]


@pytest.mark.parametrize('name', ['train', 'share_alike'])
def test_validation_is_5_to_8_percent_of_whole_packages_and_of_several_kinds(name):
  pieces = table.tracks(name)
  splits = collections.defaultdict(set)
  secs = collections.Counter()
  for piece in pieces:
    splits[piece.package].add(piece.split)
    secs[piece.split] += piece.secs
  assert {len(found) for found in splits.values()} == {1}
  assert 0.05 <= secs['validation'] / secs.total() <= 0.08
  kinds = {piece.genre for piece in pieces if piece.split == 'validation'}
  assert len(kinds) >= 5


def test_attribution_names_title_author_holder_licence_source_and_change():
  mixed = next(piece for piece in table.tracks('train') if len(piece.files) == 2)
  assert mixed.attribution == (
    '"Escape from chaosland" by Sectoid (Carlos Viola Iborra) (rights: 2006-2007 Carlos Viola '
    'Iborra), MIT, http://www.nivel21.net/personal/sectoid/fretsonfire/, Debian package '
    'fretsonfire-songs-sectoid 1.dfsg-3.1, stems mixed'
  )
  alone = next(piece for piece in table.tracks('train') if piece.title == 'Galactic Temple')
  assert alone.attribution.startswith('"Galactic Temple" by yd, CC0-1.0, http://opengameart.org')


def test_page_of_credits_is_up_to_date_and_has_a_line_for_each_track():
  pieces = table.tracks('train', 'visible_test')
  text = credits.page(pieces)
  path = ROOT / 'docs/music_credits.md'
  assert path.read_text(encoding='utf-8') == text, (
    'docs/music_credits.md is old: python -m recipes.recorded_music.credits --output=' + str(path)
  )
  lines = [line for line in text.splitlines() if line.startswith('| ')]
  headings = 2
  assert len(lines) - headings == len(pieces)
  # Nine bars in a row of six cells would be a cell too many.
  assert {len(re.findall(r'(?<!\\)\|', line)) for line in lines} == {7}


GOOD = {
  'set': 'train', 'split': 'train', 'package': 'a', 'version': '1-1', 'path': 'usr/a.ogg',
  'md5': '0' * 32, 'secs': '61.50', 'name': 'a.ogg', 'title': 'A', 'artist': 'B', 'album': '',
  'genre': '', 'licence': 'MIT', 'rights_holder': 'B', 'source': '',
  'stated_in': 'debian/copyright',
}  # fmt: skip


def _write(path, *rows):
  with open(path, 'w', encoding='utf-8', newline='') as file:
    writer = csv.DictWriter(file, list(GOOD))
    writer.writeheader()
    writer.writerows(rows)
  return path


def test_good_row_is_read(tmp_path):
  (piece,) = table.read_table(_write(tmp_path / 't.csv', GOOD))
  assert piece.files == (table.PackagedFile('usr/a.ogg', '0' * 32),)
  assert (piece.secs, piece.path, piece.attribution) == (
    61.5, 'a/a.ogg', '"A" by B, MIT, Debian package a 1-1',
  )  # fmt: skip


@pytest.mark.parametrize(
  'change, message',
  [
    ({'set': 'all'}, "column set: 'all' is not one of"),
    ({'split': 'dev'}, "column split: 'dev' is not one of"),
    ({'licence': 'CC-BY-SA-3.0'}, "column licence: 'CC-BY-SA-3.0' is not one of"),
    ({'licence': ''}, 'column licence: is empty'),
    ({'md5': 'f' * 31}, 'is not 32 hexadecimal digits'),
    ({'md5': 'F' * 32}, 'is not 32 hexadecimal digits'),
    ({'path': 'usr/a.ogg + usr/b.ogg'}, 'is not 2 sums, one for each path'),
    ({'path': '/usr/a.ogg'}, 'is not a path without /'),
    ({'secs': 'long'}, "'long' is not a length in seconds"),
    ({'name': '../a.ogg'}, "'../a.ogg' is not a file name"),
    ({'name': '.a.ogg'}, "'.a.ogg' is not a file name, not hidden"),
    ({'title': ' A'}, "' A' begins or ends with a blank"),
    ({'package': 'hedgewars-data'}, "'hedgewars-data' is not a package not kept for tests"),
    ({'package': 'flare-game'}, 'only for, the packages of the visible test'),
    ({'split': 'test'}, 'is not test for, and only for, the visible test'),
  ],
)
def test_faults_are_told_by_line_and_column(tmp_path, change, message):
  path = _write(tmp_path / 't.csv', GOOD | {'md5': '1' * 32, 'name': 'b.ogg'}, GOOD | change)
  with pytest.raises(ManifestError) as error:
    table.read_table(path)
  assert message in str(error.value) and 'line 3' in str(error.value)


def test_content_or_file_that_stands_twice_is_a_fault(tmp_path):
  other = GOOD | {'name': 'b.ogg'}
  with pytest.raises(ManifestError, match='line 3, column md5: .* stands there twice: line 2'):
    table.read_table(_write(tmp_path / 't.csv', GOOD, other))
  with pytest.raises(ManifestError, match="line 3, column name: 'a/a.ogg' stands there twice"):
    table.read_table(_write(tmp_path / 't.csv', GOOD, GOOD | {'md5': '1' * 32}))


@pytest.mark.parametrize('content', [b'set,split\ntrain,train\n', b'\xff\xfe', b''])
def test_file_that_is_no_such_table_is_refused(tmp_path, content):
  (tmp_path / 't.csv').write_bytes(content)
  with pytest.raises(ManifestError, match='the columns must be set, split|not CSV in UTF-8'):
    table.read_table(tmp_path / 't.csv')


def test_unknown_set_is_refused():
  with pytest.raises(ValueError, match="set='all' is not one of"):
    table.tracks('all')
