"""Checkpoints: what is kept, what is found, what comes back."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import checkpoint_folders, checksums, disk, optimizers, orbax_paths, read_back
from training.checkpoint_folders import BrokenCheckpointError
from training.checkpoints import Checkpoints, find_checkpoint, restore_params, restore_part
from training.state import TrainState


def _state(step):
  params = {'a': {'w': jnp.arange(6.0).reshape(2, 3) + step}, 'b': jnp.full([2], -1.0 * step)}
  optimizer = optimizers.adam(0.1)
  return TrainState(
    step=jnp.int32(step), params=params, opt_state=optimizer.init(params),
    aux={'codebooks': (jnp.full([3], 0.5 * step), {'used': jnp.arange(4) + step})},
  )  # fmt: skip


def test_everything_comes_back(tmp_path):
  with Checkpoints(tmp_path) as store:
    store.save(_state(7), {'next_batch': 9, 'note': 'x'})
    store.wait()
    got, data = store.restore(jax.eval_shape(lambda: _state(0)))
  jax.tree.map(np.testing.assert_array_equal, got, _state(7))
  assert jax.tree.structure(got) == jax.tree.structure(_state(7))
  assert data == {'next_batch': 9, 'note': 'x'}


def test_newest_and_pinned_are_kept(tmp_path):
  with Checkpoints(tmp_path, keep=2) as store:
    for step in (10, 20, 30, 40):
      store.save(_state(step), {})
      store.wait()
      if step == 10:
        (tmp_path / 'checkpoint_10' / 'PINNED').touch()
    assert store.latest_step == 40
  assert sorted(path.name for path in tmp_path.glob('checkpoint_*')) == [
    'checkpoint_10', 'checkpoint_30', 'checkpoint_40',
  ]  # fmt: skip


def test_saving_is_safe_from_what_follows(tmp_path):
  """The next step reuses the memory of the state; the checkpoint must hold the old values."""
  state = _state(1)
  overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 9, s), donate_argnums=0)
  with Checkpoints(tmp_path) as store:
    store.save(state, {})
    jax.block_until_ready(overwrite(state))
  np.testing.assert_array_equal(restore_params(tmp_path)[0]['a']['w'], _state(1).params['a']['w'])


def test_parameters_alone(tmp_path):
  with Checkpoints(tmp_path) as store:
    store.save(_state(3), {})
    store.save(_state(12), {})
  params, step = restore_params(tmp_path)
  assert step == 12 and set(params) == {'a', 'b'}
  assert isinstance(params['b'], np.ndarray)
  np.testing.assert_array_equal(params['b'], [-12.0, -12.0])
  params, step = restore_params(tmp_path / 'checkpoint_3')
  assert step == 3
  np.testing.assert_array_equal(params['b'], [-3.0, -3.0])
  rest, _ = restore_part(tmp_path, 'state')
  np.testing.assert_array_equal(rest['aux']['codebooks/1/used'], np.arange(4) + 12)


def test_missing_checkpoints_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match=str(tmp_path)):
    find_checkpoint(tmp_path)
  with Checkpoints(tmp_path) as store:
    assert store.latest_step is None
    store.save(_state(3), {})
    store.wait()
    with pytest.raises(FileNotFoundError, match=r'checkpoint_4; it has steps \[3\]'):
      store.restore(_state(0), step=4)


def test_keep_must_keep_one(tmp_path):
  with pytest.raises(ValueError, match='keep=0'):
    Checkpoints(tmp_path, keep=0)


ARRAYS = ('state/d/', 'state/ocdbt.process_0/d/')


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  """Checkpoints 10, 20 and 30, to be copied."""
  folder = tmp_path_factory.mktemp('saved')
  with Checkpoints(folder) as store:
    for step in (10, 20, 30):
      store.save(_state(step), {'next_batch': step + 1})
  return folder


@pytest.fixture
def run(saved, tmp_path):
  return shutil.copytree(saved, tmp_path / 'run')


def _some(checkpoint, start):
  """The largest file whose path in a checkpoint begins so."""
  files = [path for path in checkpoint.rglob('*') if path.is_file()]
  files = [path for path in files if path.relative_to(checkpoint).as_posix().startswith(start)]
  return max(files, key=lambda path: path.stat().st_size)


def _flip(path):
  content = bytearray(path.read_bytes())
  content[len(content) // 2] ^= 1
  path.write_bytes(content)


def _cut(path):
  path.write_bytes(path.read_bytes()[:-5])


def _delete(path):
  path.unlink()


def _delete_all(path):
  shutil.rmtree(path.parent)


DAMAGE = [
  ('state/_METADATA', _delete, 'state/_METADATA is missing'),
  ('state/_METADATA', _flip, 'not those that were saved'),
  ('state/manifest.ocdbt', _delete, 'state/manifest.ocdbt is missing'),
  ('dataset/metadata', _delete, 'dataset/metadata is missing'),
  ('dataset/metadata', _cut, 'dataset/metadata has 13 bytes; 18 were saved'),
  ('state/d/', _flip, 'not those that were saved (SHA-256 differs)'),
  ('state/ocdbt.process_0/d/', _delete, 'is missing'),
  ('state/ocdbt.process_0/d/', _flip, 'not those that were saved (SHA-256 differs)'),
  ('state/ocdbt.process_0/d/', _cut, 'were saved'),
  ('checksums.json', _flip, 'checksums.json is'),
]


@pytest.mark.parametrize('start, damage, reason', DAMAGE)
def test_of_a_run_the_newest_whole_checkpoint_is_read(run, capsys, start, damage, reason):
  damage(_some(run / 'checkpoint_30', start))
  params, step = restore_params(run)
  assert step == 20
  np.testing.assert_array_equal(params['b'], [-20.0, -20.0])
  warning = capsys.readouterr().err
  assert warning.startswith(f'Warning: {run}/checkpoint_30 is damaged (') and reason in warning
  assert warning.endswith('and passed over; checkpoint_20 is read.\n') and warning.count('\n') == 1
  assert (run / 'checkpoint_30').is_dir()
  assert find_checkpoint(run) == run / 'checkpoint_20'
  assert not capsys.readouterr().err  # It was said.


@pytest.mark.parametrize('start, damage, reason', DAMAGE)
def test_a_damaged_checkpoint_that_is_named(run, start, damage, reason):
  damage(_some(run / 'checkpoint_30', start))
  with pytest.raises(BrokenCheckpointError) as raised:
    restore_params(run / 'checkpoint_30')
  message = str(raised.value)
  assert message.startswith(f'{run}/checkpoint_30 is damaged: ') and reason in message
  assert message.endswith(
    f'Whole in the same folder: checkpoint_20, checkpoint_10. Name one of them, or {run} for the '
    'newest.'
  )


@pytest.mark.parametrize('start, damage, reason', DAMAGE)
def test_a_run_goes_on_from_the_newest_whole_checkpoint(run, capsys, start, damage, reason):
  damage(_some(run / 'checkpoint_30', start))
  before = {p.relative_to(run / 'checkpoint_30') for p in (run / 'checkpoint_30').rglob('*')}
  with Checkpoints(run) as store:
    state, data = store.restore(_state(0))
    warning = capsys.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, state, _state(20))
    assert data == {'next_batch': 21} and store.latest_step == 20
    store.save(_state(30), {'next_batch': 99})
  assert warning.startswith(f'Warning: {run}/checkpoint_30 is damaged (') and reason in warning
  assert 'kept as checkpoint_30.broken, and the run goes on from checkpoint_20.' in warning
  kept = run / 'checkpoint_30.broken'
  assert {p.relative_to(kept) for p in kept.rglob('*')} == before
  assert find_checkpoint(run) == run / 'checkpoint_30'
  assert json.loads((run / 'checkpoint_30/dataset/metadata').read_text()) == {'next_batch': 99}


def test_two_damaged_and_broken_before(run):
  (run / 'checkpoint_30.broken').mkdir()
  for step in (20, 30):
    _flip(_some(run / f'checkpoint_{step}', ARRAYS[0]))
  with Checkpoints(run) as store:
    assert int(store.restore(_state(0))[0].step) == 10
  assert sorted(path.name for path in run.iterdir()) == [
    'checkpoint_10', 'checkpoint_20.broken', 'checkpoint_30.2.broken', 'checkpoint_30.broken',
  ]  # fmt: skip


def test_no_whole_checkpoint(run):
  for step in (10, 20, 30):
    _delete(run / f'checkpoint_{step}' / 'dataset/metadata')
  expected = f'No checkpoint in {run} is whole: checkpoint_30: dataset/metadata is missing; check'
  with Checkpoints(run) as store, pytest.raises(BrokenCheckpointError, match=expected):
    store.restore(_state(0))
  with pytest.raises(BrokenCheckpointError, match=expected):
    restore_params(run)
  with pytest.raises(BrokenCheckpointError, match=f'No other checkpoint in {run} is whole'):
    restore_params(run / 'checkpoint_10')
  assert sorted(path.name for path in run.iterdir()) == [
    'checkpoint_10', 'checkpoint_20', 'checkpoint_30'
  ]


@pytest.mark.parametrize(
  'start, damage, whole_arrays',
  [('state/_METADATA', _cut, False), ('state/manifest.ocdbt', _cut, False),
   ('state/d/', _delete_all, False), ('dataset/metadata', _cut, False),
   ('PINNED', lambda path: None, True)],
)  # fmt: skip
def test_checkpoints_without_checksums(run, start, damage, whole_arrays):
  """Those of older versions are read, and damage that reading shows counts."""
  for step in (10, 20, 30):
    _delete(run / f'checkpoint_{step}' / checksums.FILE_NAME)
  (run / 'checkpoint_30' / 'PINNED').touch()
  damage(_some(run / 'checkpoint_30', start))
  expected = 30 if whole_arrays else 20
  params, step = restore_params(run)
  assert step == expected
  np.testing.assert_array_equal(params['b'], [-expected, -expected])
  with Checkpoints(run) as store:
    assert int(store.restore(_state(0))[0].step) == expected
  assert (run / 'checkpoint_30.broken').exists() != whole_arrays


def test_another_model_is_not_damage(run):
  other = _state(0).replace(params={'a': {'w': jnp.zeros([3, 3])}, 'b': jnp.zeros([2])})
  with Checkpoints(run) as store, pytest.raises(ValueError, match='another model or optimizer'):
    store.restore(other)
  assert (run / 'checkpoint_30').is_dir()


def test_orbaxs_own_note_is_not_needed(run):
  (run / 'checkpoint_30' / '_CHECKPOINT_METADATA').write_text('{"a')
  with Checkpoints(run) as store:
    assert int(store.restore(_state(0))[0].step) == 30


@pytest.mark.parametrize('change', ['number', 'name', 'file'])
def test_what_cannot_be_read_back_removes_no_older_checkpoint(tmp_path, monkeypatch, change):
  with Checkpoints(tmp_path, keep=1) as store:
    store.save(_state(1), {})
  write = checksums.write

  def damage(folder, leave_out):
    write(folder, leave_out)
    if change == 'file':
      _delete(_some(folder, 'state/manifest.ocdbt'))

  monkeypatch.setattr(checksums, 'write', damage)
  state = _state(2)
  store = Checkpoints(tmp_path, keep=1)
  check = read_back.check
  if change == 'number':
    monkeypatch.setattr(read_back, 'check', lambda folder, tree: check(
      folder, jax.tree.map(lambda x: x + 1, tree)
    ))  # fmt: skip
  elif change == 'name':
    monkeypatch.setattr(read_back, 'check', lambda folder, tree: check(
      folder, {'target': {'a': tree['target']['a']}, 'state': tree['state']}
    ))  # fmt: skip
  reason = {
    'number': 'holds other numbers there', 'name': 'target/b is one array too many',
    'file': 'its list of arrays cannot be read',
  }[change]  # fmt: skip
  store.save(state, {})
  expected = f'checkpoint_2 was written to {tmp_path}, but read back .*{reason}.*checkpoint_1 is'
  with pytest.raises(disk.DiskError, match=expected):
    store.wait()
  store.close()
  assert find_checkpoint(tmp_path) == tmp_path / 'checkpoint_1'
  assert restore_params(tmp_path)[1] == 1


ODD_NAMES = [
  'album [2024]', 'a[1]', '[!a]', 'a*b', 'a**b', 'a?b', '{x}', '50%', '%20', 'a#b', 'two  words ',
  'ümlaut 音', 'dots...', 'back\\slash', 'q"uote', "a'b", 'a\nb', '-rf', '\udcff', '~', 'x' * 255,
]


@pytest.mark.parametrize('name', ODD_NAMES)
def test_a_run_below_a_folder_of_any_name(tmp_path, name):
  """Orbax globs its folder's own name."""
  model_dir = tmp_path / name / 'run'
  with Checkpoints(model_dir) as store:
    store.save(_state(4), {'next_batch': 4})
  with Checkpoints(model_dir) as store:
    state, data = store.restore(_state(0), step=4)
  jax.tree.map(np.testing.assert_array_equal, state, _state(4))
  assert data == {'next_batch': 4}
  params, step = restore_params(model_dir / 'checkpoint_4')
  assert step == 4
  np.testing.assert_array_equal(params['b'], [-4.0, -4.0])


def test_a_path_that_is_too_long(tmp_path):
  folder = tmp_path
  while len(str(folder)) < 3900:
    folder = folder / ('y' * 200)
  with pytest.raises(ValueError, match='leaves no room for the names of checkpoints'):
    Checkpoints(folder)
  with pytest.raises(ValueError, match='the name zzz.* has 300 bytes; a name may have 255'):
    Checkpoints(tmp_path / ('z' * 300))
  assert not list(tmp_path.iterdir())


def test_a_link_needs_a_temporary_folder(tmp_path, monkeypatch):
  odd = tmp_path / 'tmp[1]'
  odd.mkdir()
  monkeypatch.setattr('tempfile.gettempdir', lambda: str(odd))
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  with pytest.raises(ValueError, match='Set TMPDIR'):
    orbax_paths.literal(tmp_path / 'a[2]')


def test_relative_paths(run, monkeypatch):
  monkeypatch.chdir(run.parent)
  monkeypatch.setenv('HOME', str(run.parent))
  assert restore_params('run')[1] == 30
  assert restore_params('run/../run/checkpoint_10')[1] == 10
  assert restore_params('~/run')[1] == 30
  with Checkpoints('run') as store:
    store.save(_state(40), {})
  assert find_checkpoint('~/run') == run / 'checkpoint_40'


def test_the_steps_beside_one_that_is_not_there(run):
  with pytest.raises(FileNotFoundError, match='Beside it lie the steps 10, 20, 30'):
    find_checkpoint(run / 'checkpoint_25')


def test_a_file_that_changed_since_is_looked_at_again(run):
  assert find_checkpoint(run).name == 'checkpoint_30'
  path = _some(run / 'checkpoint_30', ARRAYS[0])
  times = path.stat()
  _flip(path)
  os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
  assert checkpoint_folders.fault(run / 'checkpoint_30')
  assert find_checkpoint(run).name == 'checkpoint_20'


@pytest.mark.parametrize(
  'model_dir, reason',
  [('runs/t5x', "T5X saves to full paths only. Give --gin.MODEL_DIR='\"/.*/runs/t5x\"'"),
   ('/runs/../t5x', "full paths only. Give --gin.MODEL_DIR='\"/t5x\"'"),
   ('/runs/album [2024]', 'cannot be read again'), ('/runs/t5x', None), ('gs://b/../[1]', None)],
)  # fmt: skip
def test_places_that_t5x_cannot_save_to(model_dir, reason):
  if reason is None:
    return orbax_paths.check_for_t5x(model_dir)
  with pytest.raises(ValueError, match=reason):
    orbax_paths.check_for_t5x(model_dir)
  return None
