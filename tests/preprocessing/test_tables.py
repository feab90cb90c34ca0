"""Tables: mappings of columns, and every fault with its line and column."""

import os

import pytest

from preprocessing import files, manifest, tables


def _faults(tmp_path, content, name='t.csv', **columns):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  with pytest.raises(manifest.ManifestError) as raised:
    tables.read_table(str(path), columns)
  return [(fault.line, fault.column, fault.message) for fault in raised.value.faults]


def _rows(tmp_path, content, name='t.csv', root='', **columns):
  path = tmp_path / name
  path.write_bytes(content if isinstance(content, bytes) else content.encode())
  return tables.read_table(str(path), columns, root)


def test_columns_by_name_alias_and_mapping(tmp_path):
  rows = _rows(
    tmp_path,
    '\ufefffilename,Title,License,Mood words,notes,vocal\r\n'
    'a/b.wav,"One, two",CC0,"calm; dark|slow",x,no\r\n\r\n'
    '/abs/c.wav,"Line\nbreak",,,,\r\ngs://bucket/d.wav,,,,,true\r\n',
    tags='Mood words',
  )
  assert [row.path for row in rows] == [
    str(tmp_path / 'a' / 'b.wav'), '/abs/c.wav', 'gs://bucket/d.wav',
  ]  # fmt: skip
  assert [row.line for row in rows] == [2, 4, 6]  # A cell may go over two lines.
  assert rows[0].facts == {
    'title': 'One, two', 'licence': 'CC0', 'tags': ('calm', 'dark', 'slow'),
    'vocal': 'instrumental',
  }  # fmt: skip
  assert rows[1].facts == {'title': 'Line\nbreak'}
  assert rows[2].facts == {'vocal': 'vocal'}


def test_json_lines_and_tabs(tmp_path):
  rows = _rows(
    tmp_path, '{"path": "a.wav", "tags": ["x", "y"], "bpm": 90}\n\n{"path": "b.wav", "drop": 1}\n',
    't.jsonl', root='/music',
  )  # fmt: skip
  assert [(row.line, row.path, row.drop) for row in rows] == [
    (1, '/music/a.wav', False), (3, '/music/b.wav', True),
  ]  # fmt: skip
  assert rows[0].facts == {'tags': ('x', 'y')}
  (row,) = _rows(tmp_path, 'path\tgenre\na.wav\tJazz, cool\n', 't.tsv')
  assert row.facts == {'genre': 'Jazz, cool'}


def test_all_faults_of_the_cells_are_told(tmp_path):
  faults = _faults(
    tmp_path,
    'path,split,sung,drop\na.wav,dev,perhaps,\n,train,yes,\nb.wav,test,no,never\n'
    'a.wav,,,\nc.wav,train\nd.wav,,,,,\n',
    vocal='sung',
  )
  assert [(line, column) for line, column, _ in faults] == [
    (2, 'split'), (2, 'sung'), (3, 'path'), (4, 'drop'), (5, 'path'), (6, '3'), (7, '5'),
  ]  # fmt: skip
  told = [message for _, _, message in faults]
  assert told[0] == "'dev' is not one of ('train', 'validation', 'test')"
  assert told[1] == "'perhaps' is not vocal, instrumental, yes, no or unknown"
  assert told[2] == 'is empty' and told[3] == "'never' is not yes or no"
  assert told[4].endswith("a.wav' stands there twice: line 2")
  assert told[5] == '2 cells, the first line has 4' and told[6] == '6 cells, the first line has 4'


@pytest.mark.parametrize(
  'content, columns, faults',
  [
    ('title\nx\n', {}, [(1, '')]),
    ('path,Genre\na,b\n', {'genre': 'Gnre'}, [(1, 'Gnre')]),
    ('path,lisence\na,b\n', {}, [(1, 'lisence')]),
    ('path,path\na,b\n', {}, [(1, "2 ('path')")]),
    ('', {}, [(0, '')]),
    ('path\n', {}, [(0, '')]),
    (b'path\ngood\nb\xe4d.wav\n', {}, [(3, 'byte 2')]),
    ('path\n"open\n', {}, [(2, '')]),
  ],
)
def test_faults_of_the_table(tmp_path, content, columns, faults):
  found = _faults(tmp_path, content, **columns)
  assert [(line, column) for line, column, _ in found][: len(faults)] == faults


def test_faults_of_json_lines(tmp_path):
  found = _faults(tmp_path, '{"path": "a"}\n{"path": \n[]\n{"path": ["a"]}\n', 't.jsonl')
  odd = b'{"path": "a\\ud83d", "caption": "\\udce9 x"}\n{"path": "\\udce9 \\u0000"}'
  found += _faults(tmp_path, odd, 't.jsonl')
  assert [message for _, _, message in found[3:]] == [
    "'a\\ud83d' is not a text", "'\\udce9 x' is not a text", "'\\udce9 \\x00' is not a text",
  ]  # fmt: skip
  (row,) = _rows(tmp_path, b'{"path": "\\udce9.wav"}', 't.jsonl')
  assert os.fsencode(row.path) == os.fsencode(tmp_path) + b'/\xe9.wav'
  assert [(line, column) for line, column, _ in found[:3]] == [
    (2, 'character 10'), (3, ''), (4, 'path'),
  ]  # fmt: skip


def test_a_near_name_is_asked_about_and_may_be_ignored(tmp_path):
  ((_, _, told),) = _faults(tmp_path, 'path,artists\na.wav,X\n')
  assert (
    told == 'is not a field, artist is; map it: --column=FIELD=artists, or --column=ignore=artists'
  )
  path = str(tmp_path / 't.csv')
  (row,) = tables.read_table(path, tables.parse_columns(['ignore=artists']))
  assert row.facts == {}
  (row,) = tables.read_table(path, tables.parse_columns(['artist=artists']))
  assert row.facts == {'artist': 'X'}


def test_mappings_are_checked():
  assert tables.parse_columns(['path=File name', 'title=a=b']) == {
    'path': 'File name', 'title': 'a=b',
  }  # fmt: skip
  for words, message in (
    (['colour=x'], "'colour=x' is not of the form FIELD=COLUMN; fields are path"),
    (['path'], "'path' is not of the form"),
    (['path=a', 'path=b'], "path is mapped twice: to 'a' and 'b'"),
  ):
    with pytest.raises(ValueError, match=message):
      tables.parse_columns(words)
  with pytest.raises(ValueError, match='x.xlsx is not a table'):
    tables.read_table('x.xlsx')


@pytest.mark.parametrize('name', ['Prompt', 'description', 'text', 'Captions', 'text prompt'])
def test_a_caption_under_a_usual_name_is_taken_and_said(tmp_path, name):
  path = tmp_path / 't.csv'
  path.write_text(f'File name,{name},bpm,caption ids\na.wav,"slow, warm",90,7\n')
  said = []
  (row,) = tables.read_table(str(path), say=said.append)
  assert row.path == str(tmp_path / 'a.wav') and row.facts == {'caption': 'slow, warm'}
  assert said == [
    f"{path}: column 'File name' is taken as path; column {name!r} is taken as caption; "
    "not used: 'bpm', 'caption ids' (--column=FIELD=COLUMN maps one)."
  ]
  # A field's own name and a mapping go before other names, which are then named as not used.
  path.write_text(f'path,{name},caption\na.wav,other,own\n')
  (row,) = tables.read_table(str(path), say=said.append)
  assert row.facts == {'caption': 'own'} and f'not used: {name!r}' in said[-1]
  (row,) = tables.read_table(str(path), {'caption': name, 'ignore caption': 'caption'}, say=print)
  assert row.facts == {'caption': 'other'}


def test_nothing_is_said_of_columns_that_bear_the_names_of_fields(tmp_path):
  said = []
  path = tmp_path / 't.tsv'
  path.write_text('Path\tTITLE\tnotes\na.wav\tx\ty\n')
  tables.read_table(str(path), {'ignore notes': 'notes'}, say=said.append)
  assert said == []


def test_file_uris_are_local_and_web_addresses_are_refused(tmp_path):
  (row,) = _rows(tmp_path, 'path\nfile:///music/a%20%231%E9.wav\n')
  assert row.path == '/music/a #1\udce9.wav'
  (row,) = _rows(tmp_path, 'path\na.wav\n', root='file:///music')
  assert row.path == '/music/a.wav'
  (row,) = _rows(tmp_path, 'path\nodd name://a.wav\n')
  assert row.path == str(tmp_path / 'odd name:' / 'a.wav')
  faults = _faults(
    tmp_path, 'path\nhttps://x.org/a.wav\ns3://b/a.wav\nfile://music/b.wav\nHDFS://c\n'
  )
  assert [(line, column) for line, column, _ in faults] == [(2, 'path'), (4, 'path'), (5, 'path')]
  assert faults[0][2] == (
    'https://x.org/a.wav: https:// cannot be read; local paths, file:///, gs:// and s3:// can. '
    'Download the file first and give its local path'
  )
  assert "is followed by 'music'" in faults[1][2]


def test_a_table_and_a_folder_may_be_uris_of_this_machine(tmp_path):
  content = 'path\na.wav\n'
  assert _rows(tmp_path, content) == tables.read_table(f'file://{tmp_path}/t.csv')
  with pytest.raises(files.PathError, match='^https://x.org/t.csv: https:// cannot be read'):
    tables.read_table('https://x.org/t.csv')
  (tmp_path / 'a b.wav').write_bytes(b'x')
  found, _ = manifest.find_audio_files(f'file://{tmp_path}')
  assert found == [str(tmp_path / 'a b.wav')]
  with pytest.raises(files.PathError, match='^http://x: http:// cannot be read'):
    manifest.find_audio_files('http://x')
