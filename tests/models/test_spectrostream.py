"""SpectroStream's layers and file-level behaviour against the official module's goldens."""

import json
import pathlib
import re
import tracemalloc

import jax
import numpy as np
import pytest
import soxr

from models import rvq, weights
from models.low_rank import LowRankCodebooks
from models.spec import LiveMusicSpec
from models.spectrostream import SpectroStream, SpectroStreamConfig, layers, losses, network
from models.spectrostream import blocks as blocks_module
from models.spectrostream import codec as codec_module
from models.spectrostream.stft import inverse_stft, stft
from preprocessing.composer import compose
from preprocessing.synthesizer import render

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
HOP = 480


@pytest.fixture(name='golden', scope='module')
def _golden():
  with np.load(GOLDEN / 'spectrostream_tiny.npz') as file:
    return dict(file)


@pytest.fixture(name='params', scope='module')
def _params(golden):
  prefix = 'w:params/'
  flat = {name[len(prefix) :]: golden[name] for name in golden if name.startswith(prefix)}
  return weights.unflatten(flat)


@pytest.fixture(name='codec', scope='module')
def _codec(params):
  config = SpectroStreamConfig(
    num_features=32,
    encoder_widths=(4, 8, 8, 16, 16, 16, 32, 32),
    decoder_widths=(64, 128, 32, 32, 32, 16, 16, 8),
  )
  networks = {name: params[name] for name in ('encoder', 'decoder')}
  spec = LiveMusicSpec(codec_levels=16)
  return SpectroStream(config, networks, params['quantizer']['embedding'], spec)


def _close(value, expected, atol):
  assert value.shape == expected.shape
  np.testing.assert_allclose(value, expected, rtol=0, atol=atol)


def test_spectrum_and_its_inverse(golden):
  spectrum = stft(golden['audio'], HOP)
  _close(spectrum, golden['stft'], 2e-5)
  audio = inverse_stft(spectrum, HOP)
  _close(audio, golden['istft_of_stft'], 5e-6)


def test_round_trip_is_exact_from_the_second_hop_on():
  rng = np.random.default_rng(0)
  audio = np.cumsum(rng.standard_normal([1, 4800, 2]), axis=1).astype(np.float32) * 0.01
  spectrum = np.fft.rfft(audio[0, 480:1440, 0] * (0.5 - 0.5 * np.cos(np.pi * np.arange(960) / 480)))
  ours = np.asarray(stft(audio, HOP))
  _close(ours[0, 1, :, 0], spectrum.real[:HOP], 1e-4)
  _close(ours[0, 1, :, 1], spectrum.imag[:HOP], 1e-4)


def test_codes_and_their_sums(golden, params):
  codebooks = params['quantizer']['embedding']
  np.testing.assert_array_equal(rvq.quantize(golden['latent'], codebooks), golden['codes'])
  _close(rvq.dequantize(golden['codes'], codebooks), golden['dequant'], 1e-6)
  _close(rvq.dequantize(golden['codes'][..., :4], codebooks), golden['dequant_first4'], 1e-6)


def test_decoder_features(golden, params):
  spectrum = jax.jit(network.decode)(params['decoder'], golden['dequant'])
  _close(spectrum, golden['decoder_features'], 5e-5)
  _close(inverse_stft(spectrum, HOP), golden['decoded'], 5e-6)


def test_encoder_stages(golden, params):
  strides = ((1, 2), (1, 2), (1, 3), (1, 2), (1, 2), (2, 2))

  @jax.jit
  def stages(encoder, audio):
    first = x = layers.conv(encoder['base_conv_first'], network.split_channels(stft(audio, HOP)))
    found = [x := layers.encode_unit(encoder[f'encoder_{i}'], x, s) for i, s in enumerate(strides)]
    return first, found

  first, found = stages(params['encoder'], golden['short_audio'])
  _close(first[1:], golden['mid:enc:base_conv_first:ch1'], 5e-5)
  for index, x in enumerate(found):
    for channel in range(2):
      _close(x[channel : channel + 1], golden[f'mid:enc:encoder_{index}:ch{channel}'], 5e-5)


def test_decoder_stages(golden, params):
  strides = ((2, 2), (1, 2), (1, 2), (1, 3), (1, 2), (1, 2))

  @jax.jit
  def stages(decoder, x):
    x = network.split_channels(x)
    return [
      x := layers.decode_unit(decoder[f'decoder_{i}'], x, s) for i, s in enumerate(strides, 1)
    ]

  for index, x in enumerate(stages(params['decoder'], golden['mid:dec:decoder_0']), start=1):
    for channel in range(2):
      _close(x[channel : channel + 1], golden[f'mid:dec:decoder_{index}:ch{channel}'], 5e-5)


def test_real_size_has_the_released_names_and_shapes():
  spec = LiveMusicSpec()
  config = SpectroStreamConfig.real()
  params = jax.eval_shape(lambda: network.init_params(jax.random.key(0), config, spec))
  shapes = {f'params/{name}': list(x.shape) for name, x in weights.flatten(params).items()}
  released = json.loads((GOLDEN / 'spectrostream_weights.json').read_text())
  codebooks = [spec.codec_levels, spec.codebook_size, config.num_features]
  assert shapes | {'params/quantizer/embedding': codebooks} == released['tensors']
  count = sum(np.prod(shape) for shape in shapes.values()) + np.prod(codebooks)
  assert count == released['params_total'] == 61_713_666


def _plain_conv(x, kernel, stride, padding):
  return jax.lax.conv_general_dilated(
    x, kernel, stride, padding, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


@pytest.mark.parametrize(
  'kernel, stride, frames',
  [((3, 3), (1, 1), 7), ((7, 7), (1, 1), 9), ((3, 4), (1, 2), 5), ((3, 6), (1, 3), 5),
   ((4, 4), (2, 2), 6), ((4, 4), (2, 2), 7), ((4, 3), (2, 1), 7)],
)  # fmt: skip
@pytest.mark.parametrize('widths', [(2, 3), (20, 5)])
def test_fast_convolution_equals_the_plain_one(kernel, stride, frames, widths):
  rng = np.random.default_rng(0)
  x = rng.standard_normal([2, frames, 24, widths[0]]).astype(np.float32)
  layer = {
    'kernel': rng.standard_normal([*kernel, *widths]).astype(np.float32),
    'bias': rng.standard_normal(widths[1]).astype(np.float32),
  }
  left = max(kernel[0] - stride[0], 0)
  total = max(kernel[1] - stride[1], 0)
  padding = [(left, kernel[0] - 1 - left), (total // 2, total - total // 2)]
  expected = _plain_conv(x, layer['kernel'], stride, padding) + layer['bias']
  _close(np.asarray(layers.conv({'conv': layer}, x, stride)), expected, 1e-4)


def test_blocks_equal_one_pass(codec, monkeypatch):
  # 30 frames and a ragged end in windows of 20 that advance by 5, in one of 32, and in pieces.
  rng = np.random.default_rng(3)
  audio = (0.2 * rng.standard_normal([1920 * 29 + 700, 2])).astype(np.float32)
  codes = rng.integers(1024, size=[30, 16])
  whole = codec.latents(audio), codec.decode(codes)
  monkeypatch.setattr(blocks_module, 'BLOCK_SIZES', (20,))
  assert len(list(blocks_module.windows([audio[None]], 1920, 480, 0.0))) == 3
  _close(codec.latents(audio), whole[0], 5e-5)
  blocks = codec.decode(codes)
  _close(blocks, whole[1], 2e-5)
  pieces = codec.decode_stream(codes[i : i + 3] for i in range(0, 30, 3))
  np.testing.assert_array_equal(np.concatenate(list(pieces)), blocks)
  pieces = codec.encode_stream((audio[i : i + 7000] for i in range(0, len(audio), 7000)), 4)
  np.testing.assert_array_equal(np.concatenate(list(pieces)), codec.encode(audio, 4))


@pytest.mark.parametrize('unit, extra, past', [(8, 2, 15 * 8), (1, 1, 15)])
@pytest.mark.parametrize('length', [1, 8, 207, 208, 209, 210, 1664, 1666, 1667, 5000])
@pytest.mark.parametrize('size', [1, 30, 400, 10_000])
def test_windows_hold_all_that_a_frame_depends_on(unit, extra, past, length, size):
  """A fake codec whose frames are sums over the reach of the real one, in whole numbers."""
  x = np.random.default_rng(0).integers(-9, 9, size=[2, length, 1]).astype(float)
  frames = -(-length // unit)

  def sums(data, count):
    data = np.pad(data[:, :count], [(0, 0), (past, (count + 1) * unit + extra), (0, 0)])
    sums = np.cumsum(np.pad(data, [(0, 0), (1, 0), (0, 0)]), axis=1)
    ends = past + extra + unit * np.arange(1, -(-count // unit) + 1)
    return sums[:, ends] - sums[:, ends - past - extra - unit]

  found = []
  pieces = (x[:, i : i + size] for i in range(0, length, size))
  for window in blocks_module.windows(pieces, unit, extra, np.nan):
    assert (window.data.shape[1] - extra) / unit in blocks_module.BLOCK_SIZES
    assert np.isnan(window.data[:, window.count :]).all()
    found.append(sums(window.data, window.count)[:, window.kept])
  np.testing.assert_array_equal(np.concatenate(found, axis=1), sums(x, length))
  assert sum(part.shape[1] for part in found) == frames


def test_a_long_clip_in_pieces_takes_constant_memory():
  """20 minutes (461 MB) a second at a time hold less than 4 windows of 3.2 MB."""
  tracemalloc.start()
  second = np.zeros([1, 48_000, 2], np.float32)
  frames = 0
  for window in blocks_module.windows((second for _ in range(1200)), 1920, HOP, 0.0):
    frames += window.kept.stop - window.kept.start
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert frames == 1200 * 25 and peak < 13_000_000, peak


@pytest.mark.parametrize('kind', ['', 'ragged_', 'mono_'])
def test_codec_encodes_as_the_golden(golden, codec, kind):
  audio = golden[f'{kind}audio']
  audio = audio[..., None] if kind == 'mono_' else audio
  _close(codec.latents(audio), golden[f'{kind}latent'], 2e-5)
  if f'{kind}codes' in golden:
    np.testing.assert_array_equal(codec.encode(audio), golden[f'{kind}codes'])


def test_codec_decodes_as_the_golden(golden, codec):
  decoded = codec.decode(golden['codes'])
  _close(decoded, golden['decoded_zero_tail'], 5e-6)
  _close(codec.decode(golden['codes'][..., :4])[:, :28_800], golden['decoded_first4'], 5e-6)


def test_batches_and_empty_clips(golden, codec):
  audio = np.stack([golden['short_audio'][0], golden['short_audio'][0, :, ::-1]])
  codes = codec.encode(audio[None], 16)[..., :3]
  assert codes.shape == (1, 2, 4, 3)
  np.testing.assert_array_equal(codes[0, 0], codec.encode(audio[0])[:, :3])
  np.testing.assert_array_equal(codes[0, 1], codec.encode(audio[1])[:, :3])
  assert codec.encode(np.zeros([0, 2])).shape == (0, 16)
  assert codec.encode(np.zeros([1, 2])).shape == (1, 16)
  assert codec.decode(np.zeros([0, 16], int)).shape == (0, 2)


def _spoiled(value):
  audio = np.zeros([2, 480, 2], np.float32)
  audio[1, 12, 0] = value
  return audio


@pytest.mark.parametrize(
  'audio, message',
  [
    (_spoiled(np.nan), r'NaN or infinite samples, 1 of 1920; the first is nan at \[1, 12, 0\]'),
    (_spoiled(np.inf), r'the first is inf at \[1, 12, 0\]. Cut them out, or .*nan_to_num'),
    (_spoiled(-np.inf), 'the first is -inf'),
    (np.full([4, 2], 1e300), 'the first is inf'),
    (np.zeros([480, 6]), r'shape \(480, 6\) must be .* Mix other numbers of channels down first'),
    (np.zeros([2, 480]), r'shape \(2, 480\) must be .* swap the axes if channels come first'),
    (np.zeros([480, 2], np.int16), r'dtype int16 must be floats in -1\.\.1: divide .* by 32768'),
    (np.zeros([480, 2], bool), 'dtype bool must be floats'),
    (np.zeros([480, 2], complex), 'dtype complex128 must be floats'),
    ('noise.wav', r'dtype <U9 must be floats'),
    (0.5, r'shape \(\) must be'),
  ],
)
def test_audio_that_is_refused(codec, audio, message):
  for call in (codec.encode, codec.latents, lambda x: list(codec.encode_stream([x]))):
    with pytest.raises(ValueError, match=message):
      call(audio)


@pytest.mark.parametrize(
  'codes, message',
  [
    (np.full([1, 4, 2], 1024), r'Code 1024 at \[0, 0, 0\] is not in 0\.\.1023'),
    (np.array([[0, 1], [2, -1]]), r'Code -1 at \[1, 1\] is not in 0\.\.1023'),
    (np.zeros([4, 2]), 'dtype float64 must be integers'),
    (np.zeros([4, 2], bool), 'dtype bool must be integers'),
    (np.zeros([4, 0], int), r'0 levels, which is not in 1\.\.16'),
    (np.zeros([4, 17], int), r'17 levels, which is not in 1\.\.16; keep .*codes\[\.\.\., :16\]'),
    (np.zeros([4], int), r'shape \(4,\) must be .*codes\[\.\.\., None\]'),
  ],
)
def test_codes_that_are_refused(codec, codes, message):
  for call in (codec.decode, lambda x: list(codec.decode_stream([x]))):
    with pytest.raises(ValueError, match=message):
      call(codes)


@pytest.mark.parametrize('levels', [0, 17, -1])
def test_numbers_of_levels_that_are_refused(codec, levels):
  for call in (codec.encode, lambda x, n: codec.encode_stream([x], n)):
    with pytest.raises(ValueError, match=rf'num_levels={levels} is not in 1\.\.16'):
      call(np.zeros([480, 2]), levels)


@pytest.mark.parametrize('rate', [0, -48_000, np.nan, np.inf])
def test_rates_that_are_refused(codec, rate):
  with pytest.raises(ValueError, match=f'sample_rate={rate} must be a positive'):
    codec.encode(np.zeros([480, 2]), sample_rate=rate)


@pytest.mark.parametrize(
  'shape, frames',
  [((0, 2), 0), ((1, 2), 1), ((1, 1), 1), ((1920,), 1), ((1921, 1), 2), ((0, 9600, 2), 5),
   ((3, 0, 2), 0), ((2, 1, 7, 1), 1)],
)  # fmt: skip
def test_short_mono_and_empty_audio_has_a_documented_result(golden, codec, shape, frames):
  """No samples are no frames, one is one; mono equals both channels alike."""
  audio = golden['audio'].ravel()[: np.prod(shape)].reshape(shape)
  codes = codec.encode(audio)
  lead = shape[:-2]
  assert codes.shape == (*lead, frames, 16) and codes.dtype == np.int32
  decoded = codec.decode(codes)
  assert decoded.shape == (*lead, frames * 1920, 2) and decoded.dtype == np.float32
  if len(shape) == 1 or shape[-1] == 1:
    one = audio[:, None] if audio.ndim == 1 else audio
    np.testing.assert_array_equal(codes, codec.encode(np.repeat(one, 2, axis=-1)))


def test_another_sample_rate_is_resampled(golden, codec):
  audio = golden['audio'][0]
  high = soxr.resample(audio, 48_000, 192_000)
  codes = codec.encode(high, sample_rate=192_000)
  expected = codec.encode(soxr.resample(high, 192_000, 48_000))
  np.testing.assert_array_equal(codes, expected)
  assert codes.shape == (16, 16)
  np.testing.assert_array_equal(codec.encode(audio, sample_rate=48_000), codec.encode(audio))
  assert codec.encode(np.zeros([2, 0, 2]), sample_rate=44_100).shape == (2, 0, 16)


def test_blocks_of_a_stream_must_be_alike(codec):
  with pytest.raises(ValueError, match=r'axes \(3, 2\) besides its length, the first .* \(2,\)'):
    list(codec.encode_stream([np.zeros([480, 2]), np.zeros([3, 480, 2])]))
  with pytest.raises(ValueError, match=r'axes \(3,\) besides its length, the first .* \(4,\)'):
    list(codec.decode_stream([np.zeros([1, 4], int), np.zeros([1, 3], int)]))
  assert list(codec.encode_stream([])) == [] and list(codec.decode_stream([])) == []


def test_saved_and_loaded_codecs_are_the_same(codec, tmp_path):
  path = codec.save(tmp_path / 'codec.safetensors', recipe='none')
  again = SpectroStream.load(path)
  assert again.config == codec.config and again.spec == codec.spec
  assert again.content_hash == codec.content_hash
  flat = weights.flatten(jax.tree.map(np.asarray, again.params))
  for name, value in weights.flatten(jax.tree.map(np.asarray, codec.params)).items():
    # What float16 rounds off the decoder's strided units would be heard.
    if not re.match(r'decoder/decoder_\d/.*kernel', name):
      value = value.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(flat[name], value)
  with pytest.raises(FileNotFoundError, match='neither a bundled codec'):
    SpectroStream.load(tmp_path / 'other')


def test_codebooks_of_low_rank_are_stored_as_such_and_name_the_same_tokens(codec, tmp_path):
  low_rank = LowRankCodebooks.of(np.asarray(codec.codebooks), (2,) * codec.spec.codec_levels)
  small = SpectroStream(codec.config, codec.params, low_rank, codec.spec)
  path = small.save(tmp_path / 'small.safetensors')
  assert path.stat().st_size < 0.9 * codec.save(tmp_path / 'full.safetensors').stat().st_size
  loaded = SpectroStream.load(path)
  np.testing.assert_array_equal(loaded.codebooks, low_rank.full)
  decoder = jax.tree.map(lambda x: x + 1, codec.params['decoder'])
  for other in (loaded, small.with_decoder(decoder), loaded.with_decoder(decoder)):
    assert other.content_hash == small.content_hash
  assert small.content_hash != codec.content_hash
  changed = small.with_decoder(decoder).params
  jax.tree.map(np.testing.assert_array_equal, changed['decoder'], decoder)
  jax.tree.map(np.testing.assert_array_equal, changed['encoder'], codec.params['encoder'])


def test_config_names_what_is_wrong():
  with pytest.raises(ValueError, match='8 positive numbers'):
    SpectroStreamConfig(encoder_widths=(8, 8))
  with pytest.raises(ValueError, match='make it even'):
    SpectroStreamConfig(decoder_widths=(8, 7, 8, 8, 8, 8, 8, 8))
  with pytest.raises(ValueError, match='Unknown SpectroStreamConfig fields'):
    SpectroStreamConfig.from_dict({'width': 3})


def test_bundled_codec_reconstructs_a_work_it_has_not_heard():
  """A work of another seed than the training's: 4, 16 and 64 levels come nearer and nearer."""
  codec = SpectroStream.load('tiny')
  assert codec.config == SpectroStreamConfig.tiny()
  assert (codec_module.BUNDLED / 'tiny.safetensors').stat().st_size <= 10_000_000
  audio = render(compose('ambient', 77, 12.0), codec.spec.sample_rate)
  audio = audio[48_000 * 8 :][: 80 * codec.spec.samples_per_frame]  # One block of the codec.
  codes = codec.encode(audio)
  decoded = {levels: codec.decode(codes[:, :levels]) for levels in (4, 16, 64)}
  spectral_losses = jax.jit(losses.spectral_losses, static_argnums=(2, 3))
  sdr, mel = {}, {}
  for levels, estimate in decoded.items():
    mel[levels] = float(spectral_losses(audio[None], estimate[None], (128, 512, 2048), 48_000)[0])
    scaled = audio * (np.vdot(audio, estimate) / np.vdot(audio, audio))
    sdr[levels] = 10 * np.log10(np.square(scaled).sum() / np.square(scaled - estimate).sum())
  assert mel[4] > mel[16] > mel[64], mel
  assert sdr[4] < sdr[16] < sdr[64] and sdr[64] > 0, sdr
