"""Stand-ins for the released MusicCoCa files: our own towers at small size, exported like them.

The towers are written here a second time, with the module names and the order of operations of the
release, so that what they compute is a reference for both the runtime and the import of weights.
"""


import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from models.musiccoca import MusicCoCaConfig, TowerConfig, towers
from models.musiccoca.vocabulary import train_vocabulary
from models.spec import LiveMusicSpec

# As in the release several sizes coincide, so that shapes alone tell little.
TOWER = TowerConfig(
  num_layers=2, model_dim=16, num_heads=2, head_dim=8, mlp_dim=48, pooler_heads=2,
  pooler_head_dim=24,
)  # fmt: skip
SPEC = LiveMusicSpec(
  style_sample_rate=4_000, style_window_secs=1, style_dim=16, style_rvq_levels=12, codebook_size=32
)
TEXTS = [
  'slow jazz with piano and upright bass', 'heavy metal with distorted guitar',
  'calm ambient pads', 'fast drum and bass in F minor', 'church organ, solemn',
]  # fmt: skip
# Mel bands of the released front end, which need not be those of our own.
MEL_EDGES = (60.0, 1_900.0)
_scope = jax.named_scope


def vocabulary():
  return train_vocabulary(TEXTS * 4, 120, 128)


def config() -> MusicCoCaConfig:
  return MusicCoCaConfig(
    audio=TOWER, text=TOWER, vocab_size=len(vocabulary()), mel_upper_hz=2_000.0, mel_bins=32,
    fft_length=512,
  )  # fmt: skip


def params() -> dict:
  """Both towers, with no parameter at zero or one."""
  sizes = config()
  samples = SPEC.style_window_secs * SPEC.style_sample_rate
  trees = {
    'audio': towers.init_audio_tower(jax.random.key(0), sizes, samples, SPEC.style_dim),
    'text': towers.init_text_tower(jax.random.key(1), sizes, SPEC.style_dim),
  }
  rng = np.random.default_rng(7)
  moved = lambda x: np.asarray(x + 0.1 * rng.standard_normal(x.shape), np.float32)  # noqa: E731
  return jax.tree.map(moved, trees)


def codebooks() -> np.ndarray:
  rng = np.random.default_rng(3)
  shape = [SPEC.style_rvq_levels, SPEC.codebook_size, SPEC.style_dim]
  scales = 0.7 ** np.arange(shape[0])
  return (rng.standard_normal(shape) * scales[:, None, None]).astype(np.float32)


# ---- The towers in the release's words. ----


def praxis_layers(layers: dict) -> dict[str, np.ndarray]:
  """Stacked layers in the release's shapes, in the alphabetical order of its modules."""
  split = (TOWER.num_layers, TOWER.model_dim, TOWER.num_heads, TOWER.head_dim)
  values = {
    'ff_layer.ffn_layer1.b': layers['mlp_in']['bias'],
    'ff_layer.ffn_layer1.w': layers['mlp_in']['kernel'],
    'ff_layer.ffn_layer2.b': layers['mlp_out']['bias'],
    'ff_layer.ffn_layer2.w': layers['mlp_out']['kernel'],
    'ff_layer.layer_norm.bias': layers['mlp_norm']['bias'],
    'ff_layer.layer_norm.scale': layers['mlp_norm']['scale'] - 1,
    'layer_norm.bias': layers['attention_norm']['bias'],
    'layer_norm.scale': layers['attention_norm']['scale'] - 1,
  }
  for name, ours in (('key', 'key'), ('post', 'out'), ('query', 'query'), ('value', 'value')):
    kernel, bias = layers[ours]['kernel'], layers[ours]['bias']
    if name == 'post':
      kernel = kernel.transpose(0, 2, 1)
    else:
      bias = bias.reshape(split[0], *split[2:])
    values |= {f'self_attention.{name}.b': bias, f'self_attention.{name}.w': kernel.reshape(split)}
  assert list(values) == sorted(values)
  return values


def _norm(x, scale, bias):
  mean = jnp.mean(x, axis=[-1], keepdims=True)
  variance = jnp.mean(jnp.square(x - mean), axis=[-1], keepdims=True)
  return (x - mean) * jax.lax.rsqrt(variance + 1e-6) * scale + bias


def _project(x, kernel, bias):
  """[B, T, D] -> [B, T, heads, head_dim]."""
  with _scope('einsum'):
    x = jnp.einsum('ABD,DNH->ABNH', x, kernel)
  with _scope('add'):
    return x + bias


def _post(x, kernel, bias):
  with _scope('einsum'):
    x = jnp.einsum('ABNH,DNH->ABD', x, kernel)
  with _scope('add'):
    return x + bias


def _layer(x, w, seen):
  """One layer; `w` is a layer of `praxis_layers`."""
  norm = lambda x, name: _norm(x, 1 + w[f'{name}.scale'], w[f'{name}.bias'])  # noqa: E731
  with _scope('layer_norm'):
    h = norm(x, 'layer_norm')
  with _scope('self_attention'):
    part = lambda name: (w[f'self_attention.{name}.w'], w[f'self_attention.{name}.b'])  # noqa: E731
    with _scope('query'):
      query = _project(h, *part('query'))
    with _scope('_scale_query'):
      query = query * TOWER.head_dim**-0.5
    with _scope('key'):
      key = _project(h, *part('key'))
    with _scope('value'):
      value = _project(h, *part('value'))
    logits = 50.0 * jnp.tanh(jnp.einsum('BTNH,BSNH->BNTS', query, key) / 50.0)
    if seen is not None:
      logits = jnp.where(seen[:, None, None, :] > 0.5, logits, -1e9)
    mixed = jnp.einsum('BNTS,BSNH->BTNH', jax.nn.softmax(logits), value)
    with _scope('post'):
      x = x + _post(mixed, *part('post'))
  with _scope('ff_layer'):
    with _scope('layer_norm'):
      h = norm(x, 'ff_layer.layer_norm')
    for name in ('ffn_layer1', 'ffn_layer2'):
      with _scope(name):
        with _scope('linear'):
          h = jnp.einsum('...y,yz->...z', h, w[f'ff_layer.{name}.w'])
        with _scope('bias'):
          h = h + w[f'ff_layer.{name}.b']
        if name == 'ffn_layer1':
          h = jax.nn.gelu(h, approximate=False)
        if seen is not None:
          h = h * seen[..., None]
  return x + h


def _pooler(x, params, scope, seen):
  heads = (TOWER.pooler_heads, TOWER.pooler_head_dim)

  def project(x, name):
    kernel = params[name]['kernel'].reshape(-1, *heads)
    return _project(x, kernel, params[name]['bias'].reshape(heads))

  with _scope(scope):
    with _scope('pool_attn'):
      with _scope('key'):
        key = project(x, 'key')
      with _scope('value'):
        value = project(x, 'value')
      with _scope('qk_einsum'):
        query = params['query'].reshape(1, 1, *heads)
        logits = jnp.einsum('BTNH,BSNH->BNTS', query, key)
      if seen is not None:
        logits = jnp.where(seen[:, None, None, :] > 0.5, logits, -1e9)
      mixed = jnp.einsum('BNTS,BSNH->BTNH', jax.nn.softmax(logits), value)
      with _scope('post'):
        kernel = params['out']['kernel'].T.reshape(-1, *heads)
        x = _post(mixed, kernel, params['out']['bias'])
    with _scope('pool_attn_ln'):
      return _norm(x, params['norm']['scale'], params['norm']['bias'])[:, 0]


def text_tower(params: dict, ids, paddings):
  """Ids and paddings [1, T] -> [1, style_dim]; layers unrolled."""
  seen = 1.0 - paddings
  layers = praxis_layers(params['layers'])
  x = jnp.asarray(params['tokens'])[ids] + params['positions'][None]
  for i in range(TOWER.num_layers):
    with _scope(f'x_layers_{i}'):
      x = _layer(x, {name: value[i] for name, value in layers.items()}, seen)
  with _scope('exit_stack'), _scope('ln'):
    x = _norm(x, params['norm']['scale'], params['norm']['bias'])
  return _pooler(x, params['pooler'], 'contrastive_txt_pooler', seen)


def audio_tower(params: dict, log_mels):
  """Log-mel [1, frames, bands] -> [1, style_dim]; layers in a loop."""
  _, frames, bands = log_mels.shape
  size = config().patch_size
  x = jnp.reshape(log_mels, [1, frames // size, size, bands // size, size])
  x = jnp.reshape(jnp.transpose(x, [0, 1, 3, 2, 4]), [1, -1, size * size])
  with _scope('patch_projection'), _scope('linear'):
    x = jnp.einsum('...y,yz->...z', x, params['patch']['kernel'])
  with _scope('entry_stack'), _scope('add'):
    x = x + params['positions'][None]
  layers = {name: jnp.asarray(value) for name, value in praxis_layers(params['layers']).items()}
  x = jax.lax.scan(lambda x, layer: (_layer(x, layer, None), None), x, layers)[0]
  with _scope('exit_stack'), _scope('ln'):
    x = _norm(x, params['norm']['scale'], params['norm']['bias'])
  return _pooler(x, params['pooler'], 'contrastive_music_pooler', None)


# ---- Files. ----


def _convert(function, *specs) -> bytes:
  """A TensorFlow function with `specs` -> TFLite."""
  import tensorflow as tf

  function = tf.function(function, input_signature=specs, autograph=False)
  converter = tf.lite.TFLiteConverter.from_concrete_functions(
    [function.get_concrete_function()], function
  )
  return converter.convert()


def _rename(content: bytes, wanted: dict[str, np.ndarray]) -> bytes:
  """Gives the constants that equal `wanted` its names, as the release's exporter named them."""
  from tensorflow.lite.tools import flatbuffer_utils

  model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
  left = dict(wanted)
  for graph in model.subgraphs:
    for tensor in graph.tensors:
      data = model.buffers[tensor.buffer].data
      for name, value in wanted.items():
        same = data is not None and list(tensor.shape) == list(value.shape)
        if same and bytes(data) == value.astype(np.float32).tobytes():
          tensor.name = name.encode()
          left.pop(name, None)
  assert not left, f'not in the export: {sorted(left)}'
  return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def text_encoder(params: dict) -> bytes:
  """text_encoder.tflite: (float32 paddings, int32 ids) [1, 128] -> [1, style_dim]."""
  import tensorflow as tf
  from jax.experimental import jax2tf

  tower = jax2tf.convert(lambda paddings, ids: text_tower(params, ids, paddings))
  length = config().max_text_length
  content = _convert(
    tower, tf.TensorSpec([1, length], tf.float32), tf.TensorSpec([1, length], tf.int32)
  )
  tables = {
    'txt/softmax/emb_var': params['tokens'],
    'txt/position_emb/emb_var': params['positions'][None],
  }
  return _rename(content, tables)


def music_encoder(params: dict) -> bytes:
  """music_encoder.tflite: log-mel [1, frames, bands] -> [1, style_dim]."""
  import tensorflow as tf
  from jax.experimental import jax2tf

  sizes = config()
  frames = sizes.num_frames(SPEC.style_sample_rate * SPEC.style_window_secs)
  content = _convert(
    jax2tf.convert(lambda x: audio_tower(params, x)),
    tf.TensorSpec([1, frames, sizes.mel_bins], tf.float32),
  )
  layers = praxis_layers(params['layers'])
  # Today's exporter leaves these without a name.
  names = {f'jax2tf_arg_{46 + i}/x': value for i, value in enumerate(layers.values())}
  return _rename(content, {**names, 'entry_stack/add': params['positions'][None]})


def audio_preprocessor() -> bytes:
  """audio_preprocessor.tflite: audio [samples] -> log-mel [frames, bands]."""
  import tensorflow as tf

  sizes, samples = config(), SPEC.style_sample_rate * SPEC.style_window_secs

  def log_mel(audio):
    audio = audio - sizes.pre_emphasis * tf.concat([[0.0], audio[:-1]], 0)
    spectrum = tf.signal.stft(
      audio[None], sizes.frame_length, sizes.hop_length, sizes.fft_length, tf.signal.hann_window
    )
    matrix = tf.signal.linear_to_mel_weight_matrix(
      sizes.mel_bins, sizes.fft_length // 2 + 1, SPEC.style_sample_rate, *MEL_EDGES
    )
    power = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
    return tf.math.log(power[0] @ matrix + sizes.log_floor)[: sizes.num_frames(samples)]

  return _convert(log_mel, tf.TensorSpec([samples], tf.float32))


def mel_matrix() -> np.ndarray:
  """The matrix inside the preprocessor, float64 -> float32 (its slopes are linear in mel)."""
  sizes = config()
  mel = lambda hertz: 1127.0 * np.log1p(np.asarray(hertz, np.float64) / 700.0)  # noqa: E731
  corners = np.linspace(mel(MEL_EDGES[0]), mel(MEL_EDGES[1]), sizes.mel_bins + 2)
  bins = mel(np.linspace(0, SPEC.style_sample_rate / 2, sizes.fft_length // 2 + 1))[:, None]
  rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
  falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
  matrix = np.maximum(0, np.minimum(rising, falling))
  matrix[0] = 0
  return matrix.astype(np.float32)


def vector_quantizer() -> bytes:
  """pretrained_vector_quantizer.tflite: [1, style_dim] -> more numbers than tokens."""
  import tensorflow as tf

  books = codebooks()

  def quantize(x):
    tokens = []
    for book in books:
      distances = x @ tf.constant(-2 * book.T) + tf.constant(np.square(book).sum(1))
      tokens.append(tf.argmin(distances, 1, tf.int32))
      x = x - tf.gather(tf.constant(book), tokens[-1])
    return tf.concat([*tokens, tokens[0]], 0)

  return _convert(quantize, tf.TensorSpec([1, SPEC.style_dim], tf.float32))


def mapped(embedding, noise):
  """What the stand-in of the mapper computes, before its length is divided out."""
  return 3.0 * embedding + 0.5 * noise


def mapper() -> bytes:
  """mapper.tflite: embedding and noise [1, style_dim] -> [1, style_dim]."""
  import tensorflow as tf

  size = tf.TensorSpec([1, SPEC.style_dim], tf.float32)
  return _convert(mapped, size, size)


def write_v2(folder: pathlib.Path):
  """All files of v2's folder."""
  folder.mkdir(parents=True, exist_ok=True)
  trees = params()
  (folder / 'spm.model').write_bytes(vocabulary().model)
  (folder / 'text_encoder.tflite').write_bytes(text_encoder(trees['text']))
  (folder / 'audio_preprocessor.tflite').write_bytes(audio_preprocessor())
  (folder / 'music_encoder.tflite').write_bytes(music_encoder(trees['audio']))
  (folder / 'pretrained_vector_quantizer.tflite').write_bytes(vector_quantizer())
  (folder / 'mapper.tflite').write_bytes(mapper())


def v1_embedding(kind: str, x: np.ndarray) -> np.ndarray:
  """What v1's stand-ins compute: sums over `style_dim` parts of ids (or samples)."""
  weights = np.cos(np.arange(x.size)[:, None] * (1 + np.arange(SPEC.style_dim)))
  return (x.reshape(-1) @ weights * (0.01 if kind == 'text' else 1.0)).astype(np.float32)


def write_v1(root: pathlib.Path):
  """v1's SavedModels and vocabulary below an asset directory."""
  import tensorflow as tf

  samples = SPEC.style_sample_rate * SPEC.style_window_secs
  module = tf.Module()

  def embed(x, size, scale):
    weights = np.cos(np.arange(size)[:, None] * (1 + np.arange(SPEC.style_dim)))
    return tf.cast(x, tf.float32) @ tf.constant(weights * scale, tf.float32)

  length = 128
  module.embed_text = tf.function(
    lambda inputs_0, inputs_0_1: {
      'contrastive_txt_embed': embed(inputs_0, length, 0.01) + 0 * tf.reduce_sum(inputs_0_1),
      'contrastive_txt_embed_l2_normalized': tf.zeros([1, SPEC.style_dim]),
    },
    input_signature=[
      tf.TensorSpec([1, length], tf.int32, 'inputs_0'),
      tf.TensorSpec([1, length], tf.float32, 'inputs_0_1'),
    ],
    autograph=False,
  )
  module.embed_music = tf.function(
    lambda inputs_0: {'contrastive_music_embed': embed(inputs_0, samples, 1.0)},
    input_signature=[tf.TensorSpec([1, samples], tf.float32, 'inputs_0')],
    autograph=False,
  )
  signatures = {
    name: getattr(module, name).get_concrete_function() for name in ('embed_text', 'embed_music')
  }
  path = root / 'savedmodels' / 'musiccoca_mv212f_cpu_novocab'
  tf.saved_model.save(module, str(path), signatures)
  # Levels as text: '0', '1', '10', '11', '2', ..., which is how the release numbered its variables.
  order = sorted(range(12), key=str)
  variables = [tf.Variable(codebooks()[level].T) for level in order]
  folder = root / 'savedmodels' / 'musiccoca_mv212_quant' / 'variables'
  folder.mkdir(parents=True)
  tf.train.Checkpoint(variables=variables).write(str(folder / 'variables'))
  (root / 'vocabularies').mkdir()
  (root / 'vocabularies' / 'musiccoca_mv212f_vocab.model').write_bytes(vocabulary().model)
