"""T5X checkpoints: values of one that T5X wrote, round trips, what is said of broken ones."""

import dataclasses
import json
import pathlib
import shutil
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore as ts
from flax import serialization

from models import weights
from models.depthformer import DepthformerConfig, to_v1
from models.depthformer.parameters import leaves
from models.depthformer.sizes import sizes_from_v1
from models.spec import LiveMusicSpec
from training import t5x_checkpoints, t5x_layouts
from training.optimizers import adafactor
from training.state import flat_names

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
SPEC = LiveMusicSpec(
  codebook_size=64, codec_levels=4, context_frames=10, context_levels=2, chunk_frames=8,
  target_levels=4, style_levels=3, style_offset=322, vocab_size=640,
)  # fmt: skip
CONFIG = DepthformerConfig(
  embed_dim=32, num_heads=4, head_dim=8, mlp_dim=64, num_encoder_layers=2, num_temporal_layers=2,
  num_depth_layers=2,
)  # fmt: skip
# Wide enough that Adafactor keeps rows and columns.
WIDE = dataclasses.replace(CONFIG, embed_dim=128, num_heads=4, head_dim=32, mlp_dim=160)
WI_0 = 'encoder/layers_1/mlp/wi_0/kernel'


@pytest.fixture
def folder(tmp_path):
  """The checkpoint that T5X wrote, to be damaged at will."""
  with tarfile.open(GOLDEN / 't5x_ckpt_tiny.tar') as tar:
    tar.extractall(tmp_path / 'ckpt', filter='data')
  return tmp_path / 'ckpt'


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN / 'llm_tiny.npz') as arrays:
    return {
      name.removeprefix('params/'): arrays[name]
      for name in arrays.files
      if name.startswith('params/')
    }


@pytest.fixture(scope='module')
def wide():
  """Random parameters and Adafactor statistics of `WIDE`."""
  rng = np.random.default_rng(0)
  tree = leaves(WIDE, SPEC)
  params = weights.unflatten(
    {n: rng.normal(size=leaf.stacked_shape).astype(np.float32) for n, leaf in tree.items()}
  )
  stacked = weights.unflatten({n: leaf.num_layers is not None for n, leaf in tree.items()})
  shapes = jax.eval_shape(adafactor(1.0, stacked=stacked).init, params)
  slots = jax.tree.map(lambda x: rng.uniform(size=x.shape).astype(np.float32), shapes)
  return params, slots._replace(count=np.int32(7))


def _edit_msgpack(folder, change):
  """Rewrites the msgpack after `change(optimizer)`."""
  path = folder / 'checkpoint'
  contents = serialization.msgpack_restore(path.read_bytes())
  change(contents['optimizer'])
  path.write_bytes(serialization.msgpack_serialize(contents))


def _specs(tree):
  """All TensorStore specs in a nested dict."""
  if 'kvstore' in tree:
    yield tree
  else:
    for value in tree.values():
      if isinstance(value, dict):
        yield from _specs(value)


def _assert_golden(params, golden):
  flat = to_v1(params, CONFIG, SPEC)
  assert flat.keys() == golden.keys()
  for name, value in flat.items():
    np.testing.assert_array_equal(value, golden[name], err_msg=name)


def test_what_t5x_wrote_is_read_exactly(folder, golden):
  loaded = t5x_checkpoints.read(folder, spec=SPEC, with_optimizer=True)
  assert (loaded.config, loaded.step, loaded.layout) == (CONFIG, 1234, 't5x')
  _assert_golden(loaded.params, golden)
  assert int(loaded.opt_state.count) == 1234
  assert loaded.opt_state.v['encoder']['layers']['mlp']['gate'].shape == (2, 32, 64)
  assert loaded.opt_state.v_row['embedding'].shape == (1,)
  # The file itself and a folder of steps mean the same.
  assert t5x_checkpoints.read(folder / 'checkpoint', spec=SPEC).step == 1234
  shutil.move(folder, folder.parent / 'run' / 'checkpoint_1234')
  assert t5x_checkpoints.read(folder.parent / 'run', spec=SPEC).step == 1234


def test_optimizer_statistics_go_to_their_layers(folder):
  """One statistic is overwritten in the file; it must come out in its own place alone."""
  name = 'state.param_states.' + WI_0.replace('/', '.') + '.v'
  value = np.random.default_rng(1).uniform(size=(32, 64)).astype(np.float32)
  ts.open({'driver': 'zarr', 'kvstore': {'driver': 'file', 'path': f'{folder}/{name}/'}}).result()[
    ...
  ] = value
  state = t5x_checkpoints.read(folder, spec=SPEC, with_optimizer=True).opt_state
  np.testing.assert_array_equal(state.v['encoder']['layers']['mlp']['gate'][1], value)
  assert not state.v['encoder']['layers']['mlp']['gate'][0].any()
  assert not state.v['encoder']['layers']['mlp']['up'].any()


@pytest.mark.parametrize('spelling', ['beside', 'gfile', 'gcs', 'url', 'absolute'])
def test_older_spellings_of_where_an_array_lies(folder, golden, spelling):
  def respell(optimizer):
    for spec in _specs(optimizer):
      path = spec['kvstore'].pop('path')
      match spelling:
        case 'beside':  # TensorStore before 0.1.14.
          spec['path'] = path.rstrip('/')
        case 'gfile':
          spec['kvstore'] = {'driver': 'gfile', 'path': path}
        case 'gcs':
          spec['kvstore'] = {'driver': 'gcs', 'bucket': 't5x-dummy-bucket'}
          spec['path'] = path
        case 'url':
          spec['kvstore'] = f'gs://bucket/run/checkpoint_1234/{path}'
        case 'absolute':
          spec['kvstore']['path'] = f'/elsewhere/checkpoint_1234/{path}'

  _edit_msgpack(folder, respell)
  loaded = t5x_checkpoints.read(folder, spec=SPEC, with_optimizer=True)
  _assert_golden(loaded.params, golden)


def test_chunked_and_inline_arrays(folder, golden):
  """Arrays of several chunks, uneven ones too, another separator, and arrays in the msgpack."""

  def change(optimizer):
    spec = optimizer['target']['token_embedder']['embedding']
    place = folder / 'target.token_embedder.embedding'
    shutil.rmtree(place)
    spec['metadata']['chunks'] = [100, 32]
    ts.open(
      {
        'driver': 'zarr', 'dtype': 'float32',
        'kvstore': {'driver': 'file', 'path': f'{place}/'},
        'metadata': {**spec['metadata'], 'dimension_separator': '/'},
      },
      create=True,
    ).result().write(golden['token_embedder/embedding']).result()  # fmt: skip
    assert (place / '6' / '0').is_file()
    layer = optimizer['target']['encoder']['layers_1']
    layer['mlp']['wi_0']['kernel'] = golden[WI_0]
    shutil.rmtree(folder / ('target.' + WI_0.replace('/', '.')))

  _edit_msgpack(folder, change)
  _assert_golden(t5x_checkpoints.read(folder, spec=SPEC).params, golden)


@pytest.mark.parametrize('layout', t5x_checkpoints.LAYOUTS)
def test_export_and_import_are_bit_equal(wide, tmp_path, layout, monkeypatch):
  monkeypatch.setattr(t5x_layouts, '_CHUNK_BYTES', 100_000)
  params, opt_state = wide
  folder = t5x_checkpoints.write(
    tmp_path, params, WIDE, SPEC, step=7, opt_state=opt_state, layout=layout
  )
  assert folder == tmp_path / 'checkpoint_7' and t5x_checkpoints.is_t5x(folder)
  if layout == 't5x':
    chunks = sorted(p.name for p in (folder / 'target.token_embedder.embedding').iterdir())
    assert chunks == ['.zarray', '0.0', '1.0', '2.0', '3.0']
  loaded = t5x_checkpoints.read(tmp_path, spec=SPEC, with_optimizer=True)
  assert (loaded.config, loaded.step, loaded.layout) == (WIDE, 7, layout)
  for found, expected in ((loaded.params, params), (loaded.opt_state, opt_state)):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
  with pytest.raises(FileExistsError, match='checkpoint_7'):
    t5x_checkpoints.write(tmp_path, params, WIDE, SPEC, step=7, layout=layout)


@pytest.mark.parametrize('layout', t5x_checkpoints.LAYOUTS)
def test_parameters_alone(wide, tmp_path, layout):
  folder = t5x_checkpoints.write(tmp_path, wide[0], WIDE, SPEC, step=3, layout=layout)
  loaded = t5x_checkpoints.read(folder, config=WIDE, spec=SPEC, with_optimizer=True)
  jax.tree.map(np.testing.assert_array_equal, loaded.params, wide[0])
  assert loaded.opt_state is None


def test_stored_dtype_is_kept_if_wanted(folder, golden):
  def change(optimizer):
    scale = optimizer['target']['encoder']['encoder_norm']
    scale['scale'] = golden['encoder/encoder_norm/scale'].astype(jnp.bfloat16)

  _edit_msgpack(folder, change)
  stored = t5x_checkpoints.read(folder, spec=SPEC, dtype=None).params
  assert stored['encoder']['norm'].dtype == jnp.bfloat16
  assert stored['embedding'].dtype == np.float32
  widened = t5x_checkpoints.read(folder, spec=SPEC).params['encoder']['norm']
  assert widened.dtype == np.float32
  np.testing.assert_array_equal(widened, stored['encoder']['norm'].astype(np.float32))


@pytest.mark.parametrize('damage', ['missing chunk', 'cut chunk', 'no .zarray', 'other shape'])
def test_a_truncated_array_is_named(folder, damage):
  place = folder / ('target.' + WI_0.replace('/', '.'))
  match damage:
    case 'missing chunk':  # TensorStore reads zeros there and says nothing.
      (place / '0.0').unlink()
      message = r'float32\[32, 64\] was expected: its chunk 0.0 is missing'
    case 'cut chunk':
      (place / '0.0').write_bytes((place / '0.0').read_bytes()[:100])
      message = r'float32\[32, 64\] was expected: .*0\.0'
    case 'no .zarray':
      (place / '.zarray').unlink()
      message = r'shape \(32, 64\) was expected'
    case 'other shape':
      metadata = json.loads((place / '.zarray').read_text())
      metadata |= {'shape': [32, 65], 'chunks': [32, 65]}
      (place / '.zarray').write_text(json.dumps(metadata))
      message = r'has shape \(32, 65\) .* \(32, 64\) was expected'
  with pytest.raises(ValueError, match=f'target/{WI_0}.*{message}'):
    t5x_checkpoints.read(folder, spec=SPEC)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # Of Orbax.
def test_a_truncated_orbax_checkpoint_is_named(wide, tmp_path):
  folder = t5x_checkpoints.write(tmp_path, wide[0], WIDE, SPEC, step=1, layout='t5x-orbax')
  files = [path for path in folder.rglob('d/*') if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])
  with pytest.raises(ValueError, match=r'_1 is damaged: state/.* bytes; [\d,]+ were saved'):
    t5x_checkpoints.read(folder, spec=SPEC)
  (folder / 'checksums.json').unlink()  # T5X itself writes none.
  with pytest.raises(ValueError, match=r'target/[\w/]+ cannot be read, float32\[\d+.*expected'):
    t5x_checkpoints.read(folder, spec=SPEC)


@pytest.mark.parametrize('layout', t5x_layouts.LAYOUTS)
def test_exports_below_a_folder_of_any_name_and_flipped_bytes(wide, tmp_path, layout):
  place = tmp_path / 'album [2024]' / 'back\\slash'
  folder = t5x_checkpoints.write(place, wide[0], WIDE, SPEC, step=1, layout=layout)
  got = t5x_checkpoints.read(folder, spec=SPEC).params
  jax.tree.map(np.testing.assert_array_equal, got, wide[0])
  files = [path for path in folder.rglob('*') if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 1
  largest.write_bytes(content)
  with pytest.raises(ValueError, match=f'{largest.name} has its .* not those that were saved'):
    t5x_checkpoints.read(folder, spec=SPEC)


def test_a_mismatched_checkpoint_names_the_first_wrong_array(folder):
  larger = dataclasses.replace(CONFIG, mlp_dim=96)
  message = r'target/decoder/.*depth_layers_0/mlp/wi_0/kernel has shape \(32, 64\), \(32, 96\) was'
  with pytest.raises(ValueError, match=message):
    t5x_checkpoints.read(folder, config=larger, spec=SPEC)
  deeper = dataclasses.replace(CONFIG, num_encoder_layers=3)
  message = r'target/encoder/layers_2/attention/key/kernel is missing, \(32, 32\) was expected'
  with pytest.raises(ValueError, match=message):
    t5x_checkpoints.read(folder, config=deeper, spec=SPEC)
  with pytest.raises(ValueError, match='640 ids and 4 levels.* 29824 and 16'):
    t5x_checkpoints.read(folder)
  _edit_msgpack(folder, lambda optimizer: optimizer['target']['encoder'].pop('encoder_norm'))
  with pytest.raises(ValueError, match=r'target/encoder/encoder_norm/scale is missing, \(32,\)'):
    t5x_checkpoints.read(folder, spec=SPEC)


def test_a_cut_msgpack_and_a_wrong_folder(folder, tmp_path):
  path = folder / 'checkpoint'
  path.write_bytes(path.read_bytes()[:5000])
  with pytest.raises(ValueError, match='checkpoint is truncated'):
    t5x_checkpoints.read(folder, spec=SPEC)
  with pytest.raises(FileNotFoundError, match='neither a file .checkpoint. .*_METADATA'):
    t5x_checkpoints.read(tmp_path / 'nowhere', spec=SPEC)
  assert not t5x_checkpoints.is_t5x(tmp_path / 'nowhere')


def test_a_run_of_our_own_is_no_t5x_checkpoint(wide, tmp_path):
  with ocp.CheckpointManager(tmp_path, item_names=('state',)) as manager:
    manager.save(1, args=ocp.args.Composite(state=ocp.args.StandardSave({'target': wide[0]})))
  assert not t5x_checkpoints.is_t5x(tmp_path / '1')
  with pytest.raises(ValueError, match='token_embedder/embedding is missing'):
    t5x_checkpoints.read(tmp_path / '1', spec=SPEC)


@pytest.mark.parametrize('size', ['base', 'large'])
def test_sizes_of_base_and_large_are_known_by_their_shapes(size):
  shapes = json.loads((GOLDEN / f'llm_params_{size}.json').read_text())
  config, spec = sizes_from_v1({name: tuple(leaf['shape']) for name, leaf in shapes.items()})
  assert config == getattr(DepthformerConfig, size)() and spec == LiveMusicSpec()


def test_adafactor_state_is_found_in_a_run(wide):
  state = wide[1]
  for nested in (state, (state._replace(count=1).count, {'inner': state})):
    found = t5x_checkpoints.adafactor_state(flat_names(nested))
    jax.tree.map(np.testing.assert_array_equal, found, state)
  assert t5x_checkpoints.adafactor_state({'mu/embedding': 1, 'nu/embedding': 1}) is None
