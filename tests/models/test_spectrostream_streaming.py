"""SpectroStream frame by frame: equal to one pass, and to the official module's own steps."""

import pathlib

import jax
import numpy as np
import pytest

from models import weights
from models.spec import LiveMusicSpec
from models.spectrostream import SpectroStream, SpectroStreamConfig, steps
from models.spectrostream.streaming import StreamingDecoder, StreamingEncoder

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
FRAME = 1920


@pytest.fixture(name='golden', scope='module')
def _golden():
  with np.load(GOLDEN / 'spectrostream_tiny.npz') as file:
    return dict(file)


@pytest.fixture(name='codec', scope='module')
def _codec(golden):
  prefix = 'w:params/'
  flat = {name[len(prefix) :]: golden[name] for name in golden if name.startswith(prefix)}
  tree = weights.unflatten(flat)
  config = SpectroStreamConfig(
    num_features=32,
    encoder_widths=(4, 8, 8, 16, 16, 16, 32, 32),
    decoder_widths=(64, 128, 32, 32, 32, 16, 16, 8),
  )
  codebooks = tree.pop('quantizer')['embedding']
  return SpectroStream(config, tree, codebooks, LiveMusicSpec(codec_levels=16))


def _blocks(audio, frames):
  size = frames * FRAME
  return [audio[..., i : i + size, :] for i in range(0, audio.shape[-2], size)]


def test_steps_give_the_latents_and_samples_of_the_official_steps(golden, codec):
  step = jax.jit(steps.encode_step)
  blocks = _blocks(golden['audio'], 1)
  state, latents = steps.encoder_state(codec.params['encoder'], blocks[0]), []
  for block in blocks[1:]:
    state, latent = step(codec.params['encoder'], state, block)
    latents.append(latent)
  valid = golden['stream_latent_mask'][0]
  assert valid.tolist() == [False] + [True] * len(latents)
  expected = golden['stream_latent'][:, valid]
  np.testing.assert_allclose(np.concatenate(latents, axis=1), expected, rtol=0, atol=2e-5)

  step, samples = jax.jit(steps.decode_step), []
  state = steps.decoder_state(codec.params['decoder'], codec.codebooks)
  for frame in range(golden['dequant'].shape[1]):
    latent = golden['dequant'][:, frame : frame + 1]
    state, audio = step(codec.params['decoder'], state, latent)
    samples.append(audio)
  samples = np.concatenate(samples, axis=1)
  valid = golden['stream_decoded_mask'][0]
  assert np.flatnonzero(~valid).tolist() == list(range(FRAME))
  np.testing.assert_array_equal(samples[:, :FRAME], 0.0)
  np.testing.assert_allclose(
    samples[:, valid], golden['stream_decoded'][:, valid], rtol=0, atol=5e-6
  )


@pytest.mark.parametrize(
  'num_samples, frames',
  [(6 * FRAME, 1), (7 * FRAME - 1, 1), (7 * FRAME + 700, 3), (FRAME, 1), (1, 1)],
)
def test_blocks_and_the_end_give_the_codes_of_one_pass(golden, codec, num_samples, frames):
  audio = golden['audio'][0, :num_samples]
  whole = num_samples // (frames * FRAME) * frames * FRAME
  encoder = StreamingEncoder(codec)
  codes = [encoder.step(block) for block in _blocks(audio[:whole], frames)]
  left = num_samples - whole
  if left >= FRAME:  # Whole frames, but not a whole block.
    codes.append(encoder.step(audio[whole : whole + left // FRAME * FRAME]))
  codes.append(encoder.flush(audio[num_samples - num_samples % FRAME :]))
  np.testing.assert_array_equal(np.concatenate(codes), codec.encode(audio))


@pytest.mark.parametrize('levels', [1, 16])
def test_any_number_of_levels_there_and_back(golden, codec, levels):
  audio = golden['audio'][0, : 6 * FRAME]
  encoder, decoder = StreamingEncoder(codec, levels), StreamingDecoder(codec)
  codes = np.concatenate([*(encoder.step(b) for b in _blocks(audio, 1)), encoder.flush()])
  np.testing.assert_array_equal(codes, codec.encode(audio, levels))
  out = [decoder.step(codes[i : i + 1]) for i in range(len(codes))] + [decoder.flush()]
  assert [len(part) for part in out] == [0] + [FRAME] * 6
  np.testing.assert_allclose(np.concatenate(out), codec.decode(codes), rtol=0, atol=5e-6)


def test_end_to_end_is_two_frames_late(golden, codec):
  """Sample 1920 j is out when frame j + 2 has come in."""
  audio = golden['audio'][0]
  encoder, decoder = StreamingEncoder(codec), StreamingDecoder(codec)
  lengths = [len(decoder.step(encoder.step(block))) for block in _blocks(audio, 1)]
  assert lengths == [0, 0] + [FRAME] * 14


def test_clips_side_by_side(golden, codec):
  audio = np.stack([golden['audio'][0], -golden['audio'][0, ::-1]])[None, :, : 4 * FRAME]
  encoder, decoder = StreamingEncoder(codec, 4, (1, 2)), StreamingDecoder(codec, (1, 2))
  codes = [encoder.step(block) for block in _blocks(audio, 1)] + [encoder.flush()]
  out = [decoder.step(part) for part in codes if part.size] + [decoder.flush()]
  codes, out = np.concatenate(codes, axis=-2), np.concatenate(out, axis=-2)
  assert codes.shape == (1, 2, 4, 4)
  for index in range(2):
    np.testing.assert_array_equal(codes[0, index], codec.encode(audio[0, index], 4))
  np.testing.assert_allclose(out, codec.decode(codes), rtol=0, atol=5e-6)


def test_a_saved_state_continues(golden, codec, tmp_path):
  blocks = _blocks(golden['audio'][0], 1)
  encoder, decoder = StreamingEncoder(codec), StreamingDecoder(codec)
  for block in blocks[:5]:
    decoder.step(encoder.step(block))
  saved = {'encoder': encoder.state, 'decoder': decoder.state}
  leaves, structure = jax.tree.flatten(saved)
  np.savez(tmp_path / 'state.npz', *leaves)
  with np.load(tmp_path / 'state.npz') as file:
    saved = jax.tree.unflatten(structure, [file[name] for name in file])
  assert sum(leaf.nbytes for leaf in leaves) < 2_000_000
  again = StreamingEncoder(codec), StreamingDecoder(codec)
  again[0].state, again[1].state = saved['encoder'], saved['decoder']
  for block in blocks[5:8]:
    codes = encoder.step(block)
    np.testing.assert_array_equal(again[0].step(block), codes)
    np.testing.assert_array_equal(again[1].step(codes), decoder.step(codes))


def test_a_flushed_stream_starts_anew(golden, codec):
  audio = golden['audio'][0, : 3 * FRAME]
  encoder, decoder = StreamingEncoder(codec), StreamingDecoder(codec)
  assert encoder.flush().shape == (0, 16) and decoder.flush().shape == (0, 2)
  first = [np.concatenate([encoder.step(audio), encoder.flush()]) for _ in range(2)]
  np.testing.assert_array_equal(first[0], first[1])
  out = [np.concatenate([decoder.step(first[0]), decoder.flush()]) for _ in range(2)]
  np.testing.assert_array_equal(out[0], out[1])


@pytest.mark.parametrize(
  'call, message',
  [
    (lambda codec: StreamingEncoder(codec, 17), r'num_levels=17 is not in 1\.\.16'),
    (lambda codec: StreamingEncoder(codec).step(np.zeros([960, 2])), '960 samples is no whole'),
    (lambda codec: StreamingEncoder(codec).step(np.zeros([0, 2])), '0 samples is no whole'),
    (lambda codec: StreamingEncoder(codec).step(np.full([FRAME, 2], np.nan)), 'NaN or infinite'),
    (lambda codec: StreamingEncoder(codec).flush(np.zeros([FRAME, 2])), 'rest holds 1920 samples'),
    (lambda codec: StreamingEncoder(codec).step(np.zeros([3, FRAME, 2])), r'axes \(3,\) are not'),
    (lambda codec: StreamingDecoder(codec).step(np.zeros([1, 0], int)), r'0 levels'),
    (lambda codec: StreamingDecoder(codec).step(np.zeros([1, 1, 4], int)), r'axes \(1,\) are not'),
  ],
)
def test_bad_blocks_are_named(codec, call, message):
  with pytest.raises(ValueError, match=message):
    call(codec)
