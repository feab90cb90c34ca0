"""The gin files for T5X's own programs parse, and name what T5X has."""

import pathlib
import sys
import types

import pytest

import gin

pytest.importorskip('t5x.trainer', reason='docs/t5x.md says how T5X is installed')

ROOT = pathlib.Path(__file__).parents[2]
FILES = sorted((ROOT / 'gin' / 't5x').glob('*.gin'))
EMBED_DIMS = {'tiny': 128, 'base': 768, 'large': 1024}


def train(**options):
  """In place of t5x.train's: it is only named."""


def evaluate(**options):
  """In place of t5x.eval's."""


MAIN = types.ModuleType('__main__')
MAIN.train, MAIN.evaluate = train, evaluate


@pytest.fixture
def parse(monkeypatch):
  """Parses a model and a file under what `python -m t5x.train` has as __main__."""
  monkeypatch.setitem(sys.modules, '__main__', MAIN)

  def parse(model, path, *bindings):
    required = [
      line.split('=')[0].strip()
      for file in FILES
      for line in file.read_text().splitlines()
      if line.endswith('%gin.REQUIRED')
    ]
    gin.clear_config()
    gin.add_config_file_search_path(str(ROOT))
    gin.parse_config_files_and_bindings(
      [str(ROOT / 'gin' / 'models' / f'{model}.gin'), str(path)],
      [*(f'{name} = "here"' for name in required), *bindings], print_includes_and_imports=False,
    )  # fmt: skip

  yield parse
  gin.clear_config()


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize('model', EMBED_DIMS)
def test_file_parses_with_each_model(parse, path, model):
  parse(model, path)
  embed_dim = gin.query_parameter('depthformer.DepthformerConfig.embed_dim')
  assert embed_dim == EMBED_DIMS[model]
  assert gin.query_parameter('partitioning.PjitPartitioner.num_partitions') == 1
  with pytest.raises(ValueError, match='num_partition'):
    parse(model, path, 'partitioning.PjitPartitioner.num_partition = 2')
