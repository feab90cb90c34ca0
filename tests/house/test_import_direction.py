"""The rooms import each other in one direction, and heavy libraries stay at the edge."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Which rooms each room may import, besides itself.
MIDDLE = ('tasks', 'preprocessing', 'inference', 'training')
MAY_IMPORT = {
  'models': set(),
  **{room: {'models'} for room in MIDDLE},
  'evaluation': {'models', *MIDDLE},
  'pipelines': {'models', 'evaluation', *MIDDLE},
  'recipes': {'models', 'evaluation', 'pipelines', *MIDDLE},
}
# The data feed is where training meets the task registry; modules that are commands themselves take
# their start from the one place that has it.
EXCEPTIONS = {
  ('training/feed.py', 'tasks'),
  ('preprocessing/demo_corpus.py', 'pipelines'),
  ('preprocessing/timbres.py', 'pipelines'),
}

# Heavy libraries, and the only places that may import them. Paths ending in / are folders.
HEAVY = {
  'tensorflow': ('tasks/', 'preprocessing/records.py', 'training/feed.py'),
  'seqio': ('tasks/', 'training/feed.py'),
  'apache_beam': ('preprocessing/pipeline.py',),
  'gin': ('pipelines/gin_config.py', 'pipelines/gin_files.py'),
  't5x': ('training/t5x_bridge.py',),
}
# Inside functions these may also be imported here.
HEAVY_LAZILY = {
  'tensorflow': (
    'pipelines/', 'models/musiccoca/official.py', 'models/spectrostream/savedmodel.py'
  ),
  'seqio': ('pipelines/',),
}


def _modules():
  for room in MAY_IMPORT:
    for path in sorted((ROOT / room).rglob('*.py')):
      yield path.relative_to(ROOT).as_posix()


def _imports(name: str, *, top_level_only: bool):
  tree = ast.parse((ROOT / name).read_text())
  nodes = tree.body if top_level_only else ast.walk(tree)
  for node in nodes:
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
      yield node.module


@pytest.mark.parametrize('name', list(_modules()))
def test_module_imports_only_what_its_room_may(name):
  room = name.split('/')[0]
  used = {module.split('.')[0] for module in _imports(name, top_level_only=False)}
  rooms = {other for other in used & set(MAY_IMPORT) if other != room}
  allowed = MAY_IMPORT[room] | {other for path, other in EXCEPTIONS if path == name}
  assert rooms <= allowed, f'{name} imports {sorted(rooms - allowed)}'
  root_scripts = {'prepare', 'train', 'finetune', 'eval', 'generate', 'jam', 'plan'}
  assert not used & root_scripts, f'{name} imports a root script'


@pytest.mark.parametrize('name', list(_modules()))
def test_heavy_libraries_stay_at_the_edge(name):
  top = {module.split('.')[0] for module in _imports(name, top_level_only=True)}
  anywhere = {module.split('.')[0] for module in _imports(name, top_level_only=False)}
  for library, places in HEAVY.items():
    here = any(name == place or (place[-1] == '/' and name.startswith(place)) for place in places)
    assert here or library not in top, f'{name} imports {library} at the top'
    lazily = HEAVY_LAZILY.get(library, ())
    here = here or any(name == p or (p[-1] == '/' and name.startswith(p)) for p in lazily)
    assert here or library not in anywhere, f'{name} imports {library}'


def test_numbers_of_the_system_live_in_the_spec():
  """17410 and 29824 are written in models/spec.py and nowhere else."""
  for name in _modules():
    if name == 'models/spec.py':
      continue
    tree = ast.parse((ROOT / name).read_text())
    numbers = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    assert not {17410, 29824, 16386} & {n for n in numbers if isinstance(n, int)}, name
