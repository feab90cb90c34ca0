"""Released codecs by name: version 2's files, version 1's SavedModels (made here), and their lack.

The SavedModels compute the codec by TensorFlow's own operations, with the variables and names that
version 1's are known to have: a rescaled kernel beside the trained one, transposed kernels as
gradients of convolutions have them, transposed codebooks.
"""

import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from models import assets, weights
from models.spec import LiveMusicSpec
from models.spectrostream import SpectroStream, SpectroStreamConfig, savedmodel

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
CONFIG = SpectroStreamConfig(
  num_features=32,
  encoder_widths=(4, 8, 8, 16, 16, 16, 32, 32),
  decoder_widths=(64, 128, 32, 32, 32, 16, 16, 8),
)
# (time, frequency) strides, as the description of the codec has them.
STRIDES = ((1, 2), (1, 2), (1, 3), (1, 2), (1, 2), (2, 2), (2, 1))


@pytest.fixture(name='golden', scope='module')
def _golden():
  with np.load(GOLDEN / 'spectrostream_tiny.npz') as file:
    return dict(file)


@pytest.fixture(name='flat', scope='module')
def _flat(golden):
  return {name[9:]: golden[name] for name in golden if name.startswith('w:params/')}


@pytest.fixture(name='directory')
def _directory(tmp_path, monkeypatch):
  monkeypatch.setenv(assets.VARIABLE, str(tmp_path))
  return tmp_path


def _write_v2(folder, flat, prefixes=('params/', 'params/', 'params/soundstream/')):
  folder.mkdir(parents=True, exist_ok=True)
  parts = {'encoder': {}, 'decoder': {}, 'quantizer': {}}
  for name, value in flat.items():
    part = name.split('/')[0]
    if part == 'quantizer':
      parts['decoder'][f'{prefixes[1]}{name}'] = value
      parts['quantizer'][f'{prefixes[2]}{name}'] = value
    else:
      parts[part][f'{prefixes[0 if part == "encoder" else 1]}{name}'] = value
  for part, arrays in parts.items():
    save_file(arrays, folder / f'{part}.safetensors')
  return parts


def _same(codec, flat):
  tree = {**codec.params, 'quantizer': {'embedding': codec.codebooks}}
  ours = weights.flatten(jax.tree.map(np.asarray, tree))
  assert sorted(ours) == sorted(flat)
  for name, value in flat.items():
    np.testing.assert_allclose(ours[name], value, rtol=1e-6, err_msg=name)


def test_version_2_loads_by_name(flat, directory, tmp_path):
  _write_v2(directory / 'resources' / 'spectrostream', flat)
  codec = SpectroStream.load('magenta-realtime-2')
  _same(codec, flat)
  assert codec.config == CONFIG and codec.spec == LiveMusicSpec(codec_levels=16)
  assert codec.content_hash == 'magenta-realtime-2'
  path = codec.save(tmp_path / 'copy.safetensors', np.float32)
  again = SpectroStream.load(path)
  _same(again, flat)
  assert again.content_hash == 'magenta-realtime-2'
  folder = SpectroStream.load(directory / 'resources' / 'spectrostream')
  _same(folder, flat)
  assert len(folder.content_hash) == 16


def test_version_2s_decoder_may_come_from_a_checkpoint(flat, directory):
  parts = _write_v2(
    directory / 'resources' / 'spectrostream', flat,
    ('params/', 'params/soundstream/', 'params/soundstream/'),
  )  # fmt: skip
  (directory / 'resources' / 'spectrostream' / 'decoder.safetensors').unlink()
  language_model = {'params/decoder/layer/kernel': np.ones([2, 2], np.float32)}
  (directory / 'checkpoints').mkdir()
  save_file(
    parts['decoder'] | language_model, directory / 'checkpoints' / 'mrt2_base.safetensors'
  )
  _same(SpectroStream.load('magenta-realtime-2'), flat)


def test_missing_files_are_all_named_with_their_place(directory):
  with pytest.raises(FileNotFoundError) as error:
    SpectroStream.load('magenta-realtime-2')
  for part in (
    f'{directory}/resources/spectrostream/encoder.safetensors',
    f'{directory}/resources/spectrostream/decoder.safetensors',
    'https://huggingface.co/google/magenta-realtime-2', '$WOODSHED_ASSETS',
  ):  # fmt: skip
    assert part in str(error.value)
  with pytest.raises(FileNotFoundError) as error:
    SpectroStream.load('ssv2_48k_stereo')
  for part in ('encoder', 'decoder', 'quantizer'):
    assert f'{directory}/savedmodels/ssv2_48k_stereo/{part}' in str(error.value)
  with pytest.raises(FileNotFoundError, match="'tiny'.*'ssv2_48k_stereo', 'magenta-realtime-2'"):
    SpectroStream.load('ssv3')
  with pytest.raises(FileNotFoundError, match='is no released codec: it holds neither encoder.saf'):
    SpectroStream.load(directory)


@pytest.mark.parametrize(
  'name, change, message',
  [
    ('encoder/encoder_3/conv2d_3x3/conv/kernel', lambda x: None, 'encoder_3/.* is missing in'),
    ('encoder/encoder_3/conv2d_3x3/conv/kernel', lambda x: x[:2], r'encoder_3/.* is \(2, 3, 16'),
    ('decoder/decoder_2/conv2d_3x3/conv/bias', lambda x: x * np.nan, 'decoder_2/.* NaN'),
    ('decoder/output_layer/base_conv_last/conv/bias', lambda x: None, 'base_conv_last/.* is miss'),
    ('encoder/base_conv_first/conv/bias', lambda x: None, 'holds no encoder/base_conv_first'),
    ('quantizer/embedding', lambda x: None, 'holds no quantizer/embedding'),
    ('quantizer/embedding', lambda x: x[0], r'shape \(1024, 32\), not \[levels'),
  ],
)
def test_what_does_not_fit_is_named(flat, tmp_path, name, change, message):
  value = change(flat[name])
  changed = {key: array for key, array in flat.items() if key != name}
  _write_v2(tmp_path, changed if value is None else changed | {name: value})
  with pytest.raises(ValueError, match=message):
    SpectroStream.load(tmp_path)


def test_files_that_are_cut_short_or_do_not_belong_together_are_refused(flat, directory):
  folder = directory / 'resources' / 'spectrostream'
  _write_v2(folder, flat)
  other = {'params/soundstream/quantizer/embedding': flat['quantizer/embedding'] + 1}
  save_file(other, folder / 'quantizer.safetensors')
  with pytest.raises(ValueError, match='quantizer/embedding in .*quantizer.safetensors is not'):
    SpectroStream.load('magenta-realtime-2')
  data = (folder / 'encoder.safetensors').read_bytes()
  (folder / 'encoder.safetensors').write_bytes(data[:5000])
  with pytest.raises(ValueError, match=r'encoder.safetensors \(5000 bytes\) is truncated'):
    SpectroStream.load('magenta-realtime-2')


# Version 1: the codec by TensorFlow.


def _make_savedmodels(folder, flat, spoil=None, names=True):
  """Writes encoder/, decoder/ and quantizer/; `spoil` (name, function) changes what is computed."""
  import tensorflow as tf

  def variables(part):
    found = {}
    for name, value in flat.items():
      if not name.startswith(part):
        continue
      layer, kind = name[len(part) + 1 :].rsplit('/conv/', 1)
      theirs = layer.replace('shortcut_layer', 'shortcut')
      theirs = savedmodel._RENAMED.get(f'{part}/{layer}', theirs)
      if kind == 'kernel' and 'transpose' in layer:
        value = value[::-1, ::-1].swapaxes(2, 3)
      found[layer, kind] = theirs, kind, value
    return found

  class Part(tf.Module):
    def __init__(self, part):
      super().__init__()
      self.made, self.kept = {}, []
      for (layer, kind), (theirs, _, value) in variables(part).items():
        plain = 'base_conv_last' in layer
        kept = f'{theirs}/conv/{kind}' if plain else f'{theirs}/weight_norm/{kind}'
        if kind == 'kernel' and not plain:
          if names:  # As trained: another scale for each output.
            self.kept.append(tf.Variable(3.0 * value, name=kept))
            self.kept.append(tf.Variable(True, name=f'{theirs}/weight_norm/initialized'))
          kept = f'{theirs}/weight_norm/rescaled/kernel'
        name = kept if names else f'Variable_{len(self.made)}'
        used = tf.Variable(value, name=name)
        self.made[f'{layer}/{kind}'.replace('/', '.')] = used

    def get(self, layer, kind):
      value = self.made[f'{layer}/{kind}'.replace('/', '.')]
      return spoil[1](value) if spoil and spoil[0] == f'{layer}/{kind}' else value

    def conv(self, layer, x, stride=(1, 1)):
      kernel = self.get(layer, 'kernel')
      kt, kf = kernel.shape[:2]
      total = max(kf - stride[1], 0)
      x = tf.pad(x, [[0, 0], [kt - stride[0], 0], [total // 2, total - total // 2], [0, 0]])
      return tf.nn.conv2d(x, kernel, [1, *stride, 1], 'VALID') + self.get(layer, 'bias')

    def transposed(self, layer, x, stride):
      kernel = self.get(layer, 'kernel')
      (kt, kf, out, _), (b, t, f) = kernel.shape, (tf.shape(x)[0], tf.shape(x)[1], x.shape[2])
      size = [b, (t - 1) * stride[0] + kt, (f - 1) * stride[1] + kf, out]
      y = tf.nn.conv2d_transpose(x, kernel, size, [1, *stride, 1], 'VALID')
      y = y[:, : t * stride[0], 1 : 1 + f * stride[1]] + self.get(layer, 'bias')
      return tf.ensure_shape(y, [None, None, f * stride[1], out])

  class Encoder(Part):
    @tf.function(input_signature=[tf.TensorSpec([None, None, 2], tf.float32)])
    def __call__(self, audio):
      window = tf.signal.hann_window(960, periodic=True)
      x = tf.signal.stft(
        tf.transpose(audio, [2, 0, 1]), 960, 480, 960, lambda *_, **__: window, pad_end=True
      )[..., :-1]
      x = tf.stack([tf.math.real(x), tf.math.imag(x)], axis=-1)  # [2, B, T, F, 2]
      count = tf.shape(x)[1]
      x = self.conv('base_conv_first', tf.reshape(x, [2 * count, -1, 480, 2]))
      for index, stride in enumerate(STRIDES):
        if index == 6:
          x = tf.concat([x[:count], x[count:]], axis=-1)
        name, (kt, kf) = f'encoder_{index}', (max(3, 2 * stride[0]), max(3, 2 * stride[1]))
        h = tf.nn.elu(self.conv(f'{name}/conv2d_3x3', tf.nn.elu(x)))
        h = self.conv(f'{name}/conv2d_{kt}x{kf}_a', h, stride)
        x = tf.nn.avg_pool2d(x, stride, stride, 'VALID')
        shortcut = f'{name}/shortcut_layer/conv1x1'
        has_shortcut = f'{shortcut}/kernel'.replace('/', '.') in self.made
        x = h + (self.conv(shortcut, x) if has_shortcut else x)
      h = self.conv('bottleneck/conv2d_3x3', tf.nn.elu(x))
      x += self.conv('bottleneck/conv2d_3x3_a', tf.nn.elu(h))
      x = tf.reshape(x, [count, -1, 1, 5 * x.shape[3]])
      h = self.conv('output_convs/shortcut_layer/conv1x1_b1', tf.nn.elu(x))
      h = self.conv('output_convs/shortcut_layer/conv1x1_b2', tf.nn.elu(h))
      return (h + self.conv('output_convs/conv1x1_last', x))[:, :, 0]

  class Decoder(Part):
    @tf.function(input_signature=[tf.TensorSpec([None, None, 32], tf.float32)])
    def __call__(self, latents):
      count = tf.shape(latents)[0]
      x = tf.pad(latents, [[0, 0], [0, 1], [0, 0]])[:, :, None]
      h = tf.nn.elu(self.conv('input_layer/shortcut_layer/conv1x1_b1', x))
      h = self.conv('input_layer/shortcut_layer/conv1x1_b2', h)
      x = h + self.conv('input_layer/conv1x1_first', x)
      x = tf.reshape(x, [count, -1, 5, 64])
      h = self.conv('input_layers_residual_unit/conv2d_3x3_a', tf.nn.elu(x))
      x += self.conv('input_layers_residual_unit/conv2d_3x3', tf.nn.elu(h))
      for index, stride in enumerate(STRIDES[::-1]):
        if index == 1:
          x = tf.concat(tf.split(x, 2, axis=-1), axis=0)
        name, (kt, kf) = f'decoder_{index}', (max(3, 2 * stride[0]), max(3, 2 * stride[1]))
        h = self.transposed(f'{name}/conv2dtranspose_{kt}x{kf}', tf.nn.elu(x), stride)
        h = self.conv(f'{name}/conv2d_3x3', tf.nn.elu(h))
        shortcut = f'{name}/shortcut_layer/conv1x1'
        if f'{shortcut}/kernel'.replace('/', '.') in self.made:
          x = self.conv(shortcut, x)
        x = h + tf.repeat(tf.repeat(x, stride[0], axis=1), stride[1], axis=2)
      x = self.conv('output_layer/base_conv_last', tf.nn.elu(x))[:, 4:]
      x = tf.complex(x[..., 0], x[..., 1])  # [2 B, T, F]
      x = tf.signal.inverse_stft(
        tf.pad(x, [[0, 0], [0, 0], [0, 1]]), 960, 480, 960,
        tf.signal.inverse_stft_window_fn(480, tf.signal.hann_window),
      )[:, :-480]  # fmt: skip
      return tf.stack([x[:count], x[count:]], axis=-1)

  class Level(tf.Module):
    def __init__(self, table, index):
      super().__init__()
      self.embeddings = tf.Variable(table.T, name=f'quantizer_{index}/embeddings')

  class Quantizer(tf.Module):
    def __init__(self):
      super().__init__()
      tables = enumerate(flat['quantizer/embedding'])
      self._quantizers = [Level(table, index) for index, table in tables]

    @tf.function(
      input_signature=[
        tf.TensorSpec([None, None, 32], tf.float32), tf.TensorSpec([], tf.int32, 'num_quantizers')
      ]
    )  # fmt: skip
    def inference_encoding_with_tf_function(self, latents, num_quantizers):
      codes = []
      for level in self._quantizers:
        table = tf.transpose(level.embeddings)
        distance = tf.norm(latents[..., None, :] - table, axis=-1)
        codes.append(tf.argmin(distance, axis=-1, output_type=tf.int32))
        latents -= tf.gather(table, codes[-1])
      return tf.stack(codes)[:num_quantizers], latents

  for module, name in ((Encoder('encoder'), 'encoder'), (Decoder('decoder'), 'decoder')):
    tf.saved_model.save(module, str(folder / name))
  tf.saved_model.save(Quantizer(), str(folder / 'quantizer'))


def test_version_1_loads_by_name_and_computes_the_same(golden, flat, directory):
  import tensorflow as tf

  folder = directory / 'savedmodels' / 'ssv2_48k_stereo'
  _make_savedmodels(folder, flat)
  codec = SpectroStream.load('ssv2_48k_stereo')
  _same(codec, flat)
  assert codec.config == CONFIG and codec.content_hash == 'ssv2_48k_stereo'
  encoder, decoder = (tf.saved_model.load(str(folder / part)) for part in ('encoder', 'decoder'))
  theirs = encoder(golden['audio']).numpy()
  np.testing.assert_allclose(theirs, golden['latent'], rtol=0, atol=5e-5)
  np.testing.assert_allclose(codec.latents(golden['audio']), theirs, rtol=0, atol=5e-5)
  np.testing.assert_array_equal(codec.encode(golden['audio']), golden['codes'])
  theirs = decoder(golden['dequant']).numpy()
  np.testing.assert_allclose(codec.decode(golden['codes']), theirs, rtol=0, atol=5e-6)


@pytest.mark.slow
def test_version_1_variables_without_telling_names_are_found_by_shape_and_place(flat, tmp_path):
  _make_savedmodels(tmp_path, flat, names=False)
  found = savedmodel.read(tmp_path, CONFIG)
  assert sorted(found) == sorted(flat)
  for name, value in flat.items():
    np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
def test_a_savedmodel_that_computes_something_else_is_refused_with_the_layer(flat, tmp_path):
  _make_savedmodels(tmp_path, flat, spoil=('encoder_4/conv2d_3x3/kernel', lambda x: 1.1 * x))
  with pytest.raises(ValueError) as error:
    savedmodel.read(tmp_path)
  assert 'disagrees is encoder/encoder_4/conv2d_3x3;' in str(error.value)
  assert 'up to encoder/encoder_3/conv2d_3x4_a both are the same' in str(error.value)
