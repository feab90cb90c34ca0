"""A damaged saved session is the same session, or refused by name."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import SessionState
from tests.fuzz.mutations import mutations, settings

RNG = np.random.default_rng(0)
STATE = SessionState(
  context=RNG.integers(0, 8, [4, 3]).astype(np.int32), tail=np.full([5, 2], 0.25, np.float32),
  chunk_index=7, seed=2**32 - 1, style=np.float32([1, 2, 3]),
)  # fmt: skip


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  path = tmp_path_factory.mktemp('session') / 'pause.npz'
  STATE.save(path)
  return path


def test_a_damaged_session_is_the_same_or_refused_by_name(path):
  valid = path.read_bytes()

  @given(st.one_of(mutations(valid), mutations(valid, head=len(valid))))
  @settings(60)
  def damaged(mutation):
    path.write_bytes(mutation.data)
    try:
      state = SessionState.load(path)
    except ValueError as error:
      assert 'pause.npz is not a complete session' in str(error)
      return
    for field in dataclasses.fields(SessionState):
      np.testing.assert_array_equal(getattr(state, field.name), getattr(STATE, field.name))

  damaged()


@pytest.mark.parametrize(
  ('change', 'reason'),
  [
    ({'style': np.float32([1, np.nan, 3])}, 'NaN or infinite coordinates'),
    ({'tail': np.full([5, 2], np.inf, np.float32)}, 'the first is inf'),
    ({'seed': 2**32}, 'seed=4294967296'),
  ],
)
def test_a_session_that_cannot_go_on_is_refused(tmp_path, change, reason):
  dataclasses.replace(STATE, **change).save(tmp_path / 'pause.npz')
  with pytest.raises(ValueError, match=f'pause.npz is not a complete session .*{reason}'):
    SessionState.load(tmp_path / 'pause.npz')
  with pytest.raises(FileNotFoundError):
    SessionState.load(tmp_path / 'nowhere.npz')
