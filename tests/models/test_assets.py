"""Released files in a local directory: found, unpacked once, and what is said where they lack."""

import pathlib
import tarfile

import pytest

from models import assets

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
NAME = 'llm_large_x3047_c1860k'


@pytest.fixture
def directory(tmp_path, monkeypatch):
  (tmp_path / 'checkpoints').mkdir()
  monkeypatch.setenv(assets.VARIABLE, str(tmp_path))
  return tmp_path


def test_the_directory_is_the_flag_then_the_variable_then_v1s_cache(tmp_path, monkeypatch):
  monkeypatch.delenv(assets.VARIABLE, raising=False)
  monkeypatch.delenv('MAGENTA_RT_CACHE_DIR', raising=False)
  assert assets.asset_dir() == pathlib.Path.home() / '.cache/magenta_rt/assets'
  monkeypatch.setenv('MAGENTA_RT_CACHE_DIR', '/data/rt')
  assert assets.asset_dir() == pathlib.Path('/data/rt/assets')
  monkeypatch.setenv(assets.VARIABLE, '/data/woodshed')
  assert assets.asset_dir() == pathlib.Path('/data/woodshed')
  assets.use(tmp_path)
  assert assets.asset_dir() == tmp_path


def test_a_missing_asset_says_which_file_to_put_where(directory):
  with pytest.raises(FileNotFoundError) as error:
    assets.find_checkpoint(NAME)
  for part in (
    f'{directory}/checkpoints/{NAME}.tar is missing', f'Put checkpoints/{NAME}.tar',
    'https://huggingface.co/google/magenta-realtime', 'gs://magenta-rt-public', '--assets_dir',
    '$WOODSHED_ASSETS', f'unpacked folder {directory}/checkpoints/{NAME} will do',
  ):  # fmt: skip
    assert part in str(error.value)
  with pytest.raises(FileNotFoundError, match='Put savedmodels/ssv2_48k_stereo/decoder, as publ'):
    assets.find_asset('savedmodels/ssv2_48k_stereo/decoder')
  (directory / 'savedmodels').mkdir()
  assert assets.find_asset('savedmodels') == directory / 'savedmodels'


def test_names_of_checkpoints(directory):
  assert assets.names_checkpoint('llm_base_x4286_c1860k')
  assert not assets.names_checkpoint('mine')
  (directory / 'checkpoints' / 'mine.tar').touch()
  assert assets.names_checkpoint('mine')
  assert not assets.names_checkpoint(f'../{directory.name}/checkpoints/mine')


def test_an_archive_is_unpacked_once(directory):
  archive = directory / 'checkpoints' / f'{NAME}.tar'
  archive.write_bytes((GOLDEN / 't5x_ckpt_tiny.tar').read_bytes())
  folder = assets.find_checkpoint(NAME)
  assert folder == directory / 'checkpoints' / NAME
  with tarfile.open(archive) as tar:
    expected = tar.extractfile('checkpoint').read()
  assert (folder / 'checkpoint').read_bytes() == expected
  (folder / 'checkpoint').write_bytes(b'kept')
  archive.unlink()
  assert (assets.find_checkpoint(NAME) / 'checkpoint').read_bytes() == b'kept'
  assert sorted(path.name for path in (directory / 'checkpoints').iterdir()) == [NAME]


def test_a_folder_inside_the_archive_is_seen_through(directory, tmp_path):
  (tmp_path / 'inner').mkdir()
  (tmp_path / 'inner' / 'checkpoint').write_bytes(b'msgpack')
  archive = directory / 'checkpoints' / 'mine.tar'
  with tarfile.open(archive, 'w') as tar:
    tar.add(tmp_path / 'inner', 'inner')
  assert (assets.unpack_checkpoint(archive) / 'checkpoint').read_bytes() == b'msgpack'


def test_broken_archives_leave_nothing_behind(directory):
  archive = directory / 'checkpoints' / 'cut.tar'
  archive.write_bytes((GOLDEN / 't5x_ckpt_tiny.tar').read_bytes()[:300_000])
  with pytest.raises(ValueError, match=r'cut.tar \(300000 bytes\) is truncated'):
    assets.unpack_checkpoint(archive)
  archive = directory / 'checkpoints' / 'other.tar'
  with tarfile.open(archive, 'w') as tar:
    tar.add(GOLDEN / 'llm_tiny.json', 'llm_tiny.json')
  with pytest.raises(ValueError, match='no file named `checkpoint`'):
    assets.unpack_checkpoint(archive)
  assert sorted(p.name for p in (directory / 'checkpoints').iterdir()) == ['cut.tar', 'other.tar']
