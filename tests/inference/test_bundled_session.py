"""The bundled `tiny` models play: sound, seeded, obedient to the level's ids, seamless."""

import numpy as np
import pytest

from evaluation.signal_health import seam_jump
from inference import LiveSession
from models.bundle import load_bundle


@pytest.fixture(scope='module')
def session():
  return LiveSession(load_bundle('tiny'), seed=3)


def test_bundled_models_play(session):
  spec = session.spec
  session.set_style(['0.7:slow church organ', '0.3:ambient pad'])
  chunks = [session.next_chunk() for _ in range(2)]
  audio = np.concatenate(chunks)
  assert audio.shape == (2 * spec.chunk_samples, spec.num_channels)
  assert np.isfinite(audio).all()
  level_db = 10 * np.log10(np.mean(np.square(audio[spec.sample_rate :], dtype=np.float64)))
  assert -45 < level_db < 0  # Neither silent nor noise at full scale.
  assert np.mean(np.abs(audio) > 0.999) < 0.01
  # No click where the chunks meet: the largest step there is one of the music around it.
  assert seam_jump(audio, spec.sample_rate, spec.chunk_samples) < 1
  codes = session.state.context[-2 * spec.chunk_frames :]
  assert codes.min() >= 0 and codes.max() < spec.codebook_size
  # The second chunk begins with the tail of the first: its first sample is the tail's.
  session.reset()
  np.testing.assert_array_equal(session.next_chunk(), chunks[0])
  tail = session.state.tail
  second = session.next_chunk()
  np.testing.assert_array_equal(second, chunks[1])
  np.testing.assert_allclose(second[0], tail[0], atol=1e-4)


def test_greedy_chunks_do_not_depend_on_the_seed(session):
  greedy = LiveSession(session.bundle, session.codec, session.style_model, temperature=0.0, seed=1)
  greedy.set_style(session.state.style)
  first = greedy.next_tokens()
  greedy.reset(seed=2)
  np.testing.assert_array_equal(greedy.next_tokens(), first)
