"""The streaming session against a direct loop over small stand-ins of the three models."""

import dataclasses

import jax
import numpy as np
import pytest

from inference import LiveSession, SamplingOptions, SessionState
from inference.session import crossfade, crossfade_ramp, push_context
from models.spec import LiveMusicSpec

SPEC = LiveMusicSpec(
  sample_rate=80,
  frame_rate=5,
  codec_levels=4,
  codebook_size=8,
  context_frames=6,
  context_levels=2,
  chunk_frames=4,
  target_levels=3,
  style_dim=5,
  style_rvq_levels=3,
  style_levels=2,
  style_offset=40,
  vocab_size=64,
)
FRAME = SPEC.samples_per_frame


class Model:
  """Tokens that depend on every input id, the key and the step; records what it was asked."""

  def __init__(self):
    self.calls = []

  def generate(self, params, inputs, *, rng, temperature, top_k, guidance_weight):
    inputs = np.asarray(inputs)
    self.calls.append((inputs.copy(), temperature, top_k, guidance_weight))
    noise = np.asarray(jax.random.randint(rng, [4, 3], 0, 8))
    weights = 1 + np.arange(inputs.shape[1])
    codes = (noise + int(inputs[0] @ weights) + params['shift']) % 8
    return (codes + SPEC.codec_offset + np.arange(3) * 8)[None]


class Codec:
  """A decoder with memory: a frame's audio depends on it and on the frame before."""

  content_hash = 'codec-a'
  name = 'codec'

  def decode(self, codes):
    values = codes.astype(np.float32) @ np.float32([1, 0.5, 0.25]) / 16
    before = np.concatenate([[0], values[:-1]])
    frames = values + 0.1 * before
    wave = np.linspace(0.2, 1, FRAME, dtype=np.float32)
    left = (frames[:, None] * wave).reshape(-1)
    return np.stack([left, -0.5 * left], -1).astype(np.float32)

  def encode(self, audio):
    frames = audio[: len(audio) // FRAME * FRAME].reshape(-1, FRAME, 2)
    level = np.abs(frames).mean((1, 2))
    return np.stack([np.int32(level * k) % 8 for k in (10, 100, 1000, 7)], -1).astype(np.int32)


class Style:
  content_hash = 'style-a'
  name = 'style'

  def embed_text(self, texts):
    return np.stack([np.full(5, len(text), np.float32) for text in texts])

  def embed_audio(self, audio, sample_rate):
    return np.full(5, sample_rate, np.float32)

  def tokenize(self, embeddings):
    return (np.int32(embeddings[..., :3]) + np.arange(3, dtype=np.int32)) % 8


@dataclasses.dataclass
class Bundle:
  model: Model = dataclasses.field(default_factory=Model)
  params: dict = dataclasses.field(default_factory=lambda: {'shift': 3})
  spec: LiveMusicSpec = SPEC
  codec_name: str = 'codec'
  codec_hash: str = 'codec-a'
  style_name: str = 'style'
  style_hash: str = 'style-a'
  presets: dict = dataclasses.field(default_factory=lambda: {'mean': np.full(5, 2, np.float32)})
  card: dict = dataclasses.field(default_factory=dict)


def make_session(seed=11, **options):
  return LiveSession(Bundle(), Codec(), Style(), seed=seed, **options)


def direct_loop(num_chunks, seed, style):
  """Section by section what a session is: ids, generate, 51 frames, crossfade, context."""
  model, codec = Model(), Codec()
  context = np.full([6, 3], -1)
  tail = np.zeros([FRAME, 2])
  style_codes = (np.int32(style[:2]) + np.arange(2)) % 8
  chunks = []
  for index in range(num_chunks):
    ids = []
    for frame in context:
      for level in range(2):
        ids.append(1 if frame[level] < 0 else 2 + 8 * level + frame[level])
    ids += [40 + 8 * level + style_codes[level] for level in range(2)]
    key = jax.random.fold_in(jax.random.key(seed), index)
    out = model.generate(
      {'shift': 3}, np.array([ids]), rng=key, temperature=1.1, top_k=40, guidance_weight=5.0
    )[0]
    new = out - 2 - 8 * np.arange(3)
    audio = codec.decode(np.concatenate([np.maximum(context[-1:], 0), new]))
    assert len(audio) == 5 * FRAME
    chunk = audio[: 4 * FRAME].astype(np.float64)
    for k in range(FRAME):
      up, down = np.sin(np.pi / 2 * k / FRAME), np.sin(np.pi / 2 * (FRAME - 1 - k) / FRAME)
      chunk[k] = chunk[k] * up + tail[k] * down
    tail = audio[4 * FRAME :]
    context = np.concatenate([context, new])[-6:]
    chunks.append(chunk)
  return np.concatenate(chunks), context


def test_streaming_equals_a_direct_loop():
  session = make_session()
  session.set_style(np.float32([3, 1, 2, 0, 0]))
  streamed = np.concatenate([session.next_chunk() for _ in range(5)])
  expected, context = direct_loop(5, 11, np.float32([3, 1, 2, 0, 0]))
  assert streamed.dtype == np.float32
  assert streamed.shape == (5 * SPEC.chunk_samples, 2)
  np.testing.assert_allclose(streamed, expected, atol=1e-6)
  np.testing.assert_array_equal(session.state.context, context)
  assert session.state.chunk_index == 5


def test_the_first_request_is_all_masked_and_passes_the_options_on():
  session = make_session(temperature=0.7, top_k=3, guidance_weight=2.5)
  session.next_chunk()
  (inputs, *options) = session.bundle.model.calls[0]
  np.testing.assert_array_equal(inputs, np.ones([1, SPEC.inputs_length]))
  assert options == [0.7, 3, 2.5]


def test_defaults_are_those_of_sampling_options():
  session = make_session()
  session.next_chunk()
  assert session.bundle.model.calls[0][1:] == (1.1, 40, 5.0)
  assert session.sampling == SamplingOptions()


def test_saved_state_continues_bit_for_bit(tmp_path):
  one = make_session()
  one.set_style(['organ'])
  one.next_chunk()
  one.state.save(tmp_path / 'state.npz')
  other = make_session(seed=99)
  other.state = SessionState.load(tmp_path / 'state.npz')
  for _ in range(2):
    np.testing.assert_array_equal(one.next_chunk(), other.next_chunk())
  assert other.state.seed == 11


def test_seeds_differ_and_neighbouring_seeds_share_no_chunk():
  chunks = {}
  for seed in (0, 1, 2):
    session = make_session(seed=seed)
    chunks[seed] = [session.next_tokens()]
    session.state = dataclasses.replace(session.state, chunk_index=1)
    chunks[seed].append(session.next_tokens())
  assert not np.array_equal(chunks[0][1], chunks[1][0])
  assert not np.array_equal(chunks[0][0], chunks[1][0])


def test_style_changes_from_the_next_chunk_on_and_reset_starts_over():
  session = make_session()
  session.set_style(['organ'])
  first = session.next_chunk()
  session.set_style('a much longer prompt')
  changed = session.next_chunk()
  session.reset()
  assert session.state.chunk_index == 0
  assert (session.state.context == -1).all()
  session.set_style(['organ'])
  np.testing.assert_array_equal(session.next_chunk(), first)
  assert not np.array_equal(session.next_chunk(), changed)


def test_mixed_prompts_and_presets_reach_the_model():
  session = make_session()
  session.set_style(['3:preset:mean', '1:ab cd e'])  # (3 * 2 + 1 * 7) / 4 = 3.25
  np.testing.assert_allclose(session.state.style, np.full(5, 3.25))
  session.next_chunk()
  style_ids = session.bundle.model.calls[0][0][0, -2:]
  np.testing.assert_array_equal(style_ids, [40 + 3, 40 + 8 + 4])


def test_continuing_primes_the_context_and_fades_out_of_the_original():
  rng = np.random.default_rng(0)
  audio = rng.uniform(-0.9, 0.9, [9 * FRAME + 5, 2]).astype(np.float32)
  session = make_session()
  played = session.continue_audio(audio)
  np.testing.assert_array_equal(played, audio[: 8 * FRAME])
  codes = Codec().encode(audio)[:9]
  np.testing.assert_array_equal(session.state.context, codes[-6:, :3])
  chunk = session.next_chunk()
  # At the seam the ramp is 0 for the new chunk and nearly 1 for the original's next sample.
  down = np.sin(np.pi / 2 * (FRAME - 1) / FRAME)
  np.testing.assert_allclose(chunk[0], audio[8 * FRAME] * down, atol=1e-6)


def test_continuing_less_than_the_context_leaves_the_rest_unknown():
  session = make_session()
  session.continue_audio(np.full([2 * FRAME, 2], 0.5, np.float32))
  assert (session.state.context[:4] == -1).all()
  assert (session.state.context[4:] >= 0).all()


@pytest.mark.parametrize('shape', [(FRAME - 1, 2), (100,), (100, 1)])
def test_audio_that_cannot_be_continued_is_refused(shape):
  with pytest.raises(ValueError, match='cannot be continued'):
    make_session().continue_audio(np.zeros(shape, np.float32))


def test_a_style_of_the_wrong_shape_is_refused():
  with pytest.raises(ValueError, match=r'\(5,\), not \(7,\)'):
    make_session().set_style(np.zeros(7, np.float32))


def test_a_bundle_of_another_codec_is_refused():
  bundle = Bundle(codec_hash='codec-b')
  with pytest.raises(ValueError, match='codec-b'):
    LiveSession(bundle, Codec(), Style())


def test_crossfade_is_equal_power():
  ramp = crossfade_ramp(1920)[:, 0].astype(np.float64)
  k = np.arange(1920)
  np.testing.assert_allclose(ramp, np.sin(np.pi / 2 * k / 1920), atol=1e-7)
  # sin^2 + cos^2 = 1; the reversed ramp is one sample ahead of the cosine.
  np.testing.assert_allclose(ramp[1:] ** 2 + ramp[::-1][:-1] ** 2, 1, atol=1e-6)


def test_crossfade_of_equal_power_noises_keeps_the_power():
  rng = np.random.default_rng(1)
  tail, audio = rng.normal(size=(2, 200_000, 1)).astype(np.float32)
  mixed = crossfade(tail, audio)
  assert abs(np.mean(np.square(mixed, dtype=np.float64)) - 1) < 0.02
  np.testing.assert_array_equal(crossfade(tail[:3], audio)[3:], audio[3:])


def test_push_context_makes_a_new_array():
  context = np.arange(6).reshape(3, 2)
  pushed = push_context(context, np.array([[9, 8, 7]]))
  np.testing.assert_array_equal(pushed, [[2, 3], [4, 5], [9, 8]])
  np.testing.assert_array_equal(context, np.arange(6).reshape(3, 2))


@pytest.mark.parametrize(
  'options', [{'temperature': -1}, {'top_k': -1}, {'guidance_weight': float('nan')}, {'top_k': 1.5}]
)
def test_sampling_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match=next(iter(options))):
    SamplingOptions(**options)
