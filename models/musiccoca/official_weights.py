"""Weights of v2's TFLite files in this project's own towers, found by the names of their tensors.

The files are exports of Praxis modules by jax2tf, so a tensor's name tells its module. The text
tower is unrolled: `.../x_layers_3/self_attention/key/einsum...`, kernels stored [out, in], layer
norms with their full scale. The audio tower's layers are the body of a loop: constants
`jax2tf_arg_<n>`, stacked over layers, in the alphabetical order of their modules, layer norms with
the offset of the scale from 1. Fused operators join names by semicolons; the first one is the
tensor's own.
"""

import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from models import tflite
from models.musiccoca import official
from models.musiccoca.config import MusicCoCaConfig, TowerConfig
from models.musiccoca.model import MusicCoCa
from models.musiccoca.quantizer import FullQuantizer
from models.spec import LiveMusicSpec

Params = dict[str, Any]

# How jax2tf names what goes into a loop: flattened dictionaries, hence alphabetical.
_LOOP_ARGUMENT = re.compile(r'jax2tf_arg_(\d+)(?!\d)')


def import_model(
  folder: str | pathlib.Path,
  config: MusicCoCaConfig | None = None,
  spec: LiveMusicSpec | None = None,
) -> MusicCoCa:
  """Reads towers, mel matrix, codebooks and vocabulary of a folder of v2's files.

  The model keeps float32 and the released files' `content_hash`: its tokens are theirs.

  Raises:
    ValueError: a file is truncated, or a tensor is not where it is expected; names it.
  """
  folder = pathlib.Path(folder)
  config, spec = config or MusicCoCaConfig.real(), spec or LiveMusicSpec()
  params = {
    'audio': read_audio_tower(folder / 'music_encoder.tflite', config, spec),
    'text': read_text_tower(folder / 'text_encoder.tflite', config, spec),
  }
  return MusicCoCa(
    config,
    params,
    official.read_vocabulary(folder / 'spm.model'),
    FullQuantizer(read_codebooks(folder / 'pretrained_vector_quantizer.tflite', spec)),
    spec,
    {'source': 'MusicCoCa as released with Magenta RealTime v2, read from its TFLite files'},
    mel_matrix=read_mel_matrix(folder / 'audio_preprocessor.tflite', config),
    dtype=np.float32,
    identity=official.files_hash([folder / file for file in official.V2_FILES]),
  )


def read_text_tower(path: pathlib.Path, config: MusicCoCaConfig, spec: LiveMusicSpec) -> Params:
  """Parameters of the text tower from text_encoder.tflite."""
  file, tower = _Tensors(path), config.text
  width, length = tower.model_dim, config.max_text_length
  layers = [_unrolled_layer(file, f'x_layers_{i}/', tower) for i in range(tower.num_layers)]
  return {
    'tokens': file.find('emb', (config.vocab_size, width)),
    'positions': file.find('position_emb', (1, length, width))[0],
    'layers': _stack(layers),
    'norm': file.norm('exit_stack/ln/', width),
    'pooler': _pooler(file, 'contrastive_txt_pooler', tower, spec.style_dim),
  }


def read_audio_tower(path: pathlib.Path, config: MusicCoCaConfig, spec: LiveMusicSpec) -> Params:
  """Parameters of the audio tower from music_encoder.tflite."""
  file, tower = _Tensors(path), config.audio
  width = tower.model_dim
  patches = config.num_patches(spec.style_window_secs * spec.style_sample_rate)
  kernel = file.find('patch_projection/linear', (width, config.patch_size**2))
  return {
    'patch': {'kernel': kernel.T},
    'positions': file.find('entry_stack/add', (1, patches, width))[0],
    'layers': _looped_layers(file, tower),
    'norm': file.norm('exit_stack/ln/', width),
    'pooler': _pooler(file, 'contrastive_music_pooler', tower, spec.style_dim),
  }


def read_mel_matrix(path: pathlib.Path, config: MusicCoCaConfig) -> np.ndarray:
  """Power spectrum -> mel bands, float32 [fft_length / 2 + 1, mel_bins], from the preprocessor.

  The file may keep the matrix without its first row, that of the DC bin, which is zero.
  """
  file, bins = _Tensors(path), config.fft_length // 2 + 1
  pattern = 'linear_to_mel_weight_matrix/Maximum'
  if file.search(pattern, (bins, config.mel_bins)):
    return file.find(pattern, (bins, config.mel_bins))
  matrix = file.find(pattern, (bins - 1, config.mel_bins))
  return np.concatenate([np.zeros([1, config.mel_bins], np.float32), matrix])


def read_codebooks(path: pathlib.Path, spec: LiveMusicSpec) -> np.ndarray:
  """Codebooks, float32 [levels, codes, style_dim], from pretrained_vector_quantizer.tflite.

  A level's distances up to |x|^2 are one product: weights -2 c and biases |c|^2. The biases are
  checked against the weights.
  """
  file = _Tensors(path)
  shape = (spec.codebook_size, spec.style_dim)
  levels = []
  for operator, constants in file.operators(tflite.FULLY_CONNECTED):
    weights, bias = constants.get(operator.inputs[1]), constants.get(operator.inputs[-1])
    if weights is None or weights.shape != shape:
      continue
    codes = np.float32(-0.5) * weights
    if bias is None or not np.allclose(bias, np.square(codes).sum(1), rtol=1e-3, atol=1e-4):
      raise ValueError(f'{path}: the biases of level {len(levels)} are not the squared norms.')
    levels.append(codes)
  if len(levels) != spec.style_rvq_levels:
    raise ValueError(
      f'{path} has {len(levels)} levels of {shape} codes; {spec.style_rvq_levels} are expected.'
    )
  return np.stack(levels)


def _unrolled_layer(file: '_Tensors', scope: str, tower: TowerConfig) -> Params:
  """One layer of an unrolled tower."""
  width, inner = tower.model_dim, tower.num_heads * tower.head_dim
  attention = f'{scope}self_attention/'
  params = {
    'attention_norm': file.norm(f'{scope}layer_norm/', width),
    'mlp_norm': file.norm(f'{scope}ff_layer/layer_norm/', width),
    'query': _scaled_query(file, attention, tower),
    'out': file.dense(f'{attention}post/einsum', f'{attention}post/add', inner, width),
  }
  for name in ('key', 'value'):
    params[name] = file.dense(
      f'{attention}{name}/einsum', f'{attention}{name}/add', width, inner
    )
  for name, layer, sizes in (
    ('mlp_in', 'ffn_layer1', (width, tower.mlp_dim)),
    ('mlp_out', 'ffn_layer2', (tower.mlp_dim, width)),
  ):
    layer = f'{scope}ff_layer/.*{layer}'
    params[name] = file.dense(f'{layer}/linear', f'{layer}/bias', *sizes)
  return params


def _scaled_query(file: '_Tensors', attention: str, tower: TowerConfig) -> Params:
  """The query projection; the exporter has multiplied it by the scale of the logits."""
  name = f'{attention}.*_scale_query/mul'
  folded = file.dense(name, name, tower.model_dim, tower.num_heads * tower.head_dim)
  scale = np.float32(tower.head_dim**0.5)
  return {part: value * scale for part, value in folded.items()}


def _looped_layers(file: '_Tensors', tower: TowerConfig) -> Params:
  """All layers of a tower whose layers are a loop, from its stacked constants."""
  count, width, heads = tower.num_layers, tower.model_dim, (tower.num_heads, tower.head_dim)
  inner = tower.num_heads * tower.head_dim
  # (module, its place in our tree, stored shape of one layer, -> our shape), alphabetical.
  split = (width, *heads)
  modules: list[tuple[str, tuple[str, str], tuple[int, ...], Callable]] = [
    ('ffn_layer1/bias', ('mlp_in', 'bias'), (tower.mlp_dim,), _same),
    ('ffn_layer1/linear', ('mlp_in', 'kernel'), (width, tower.mlp_dim), _same),
    ('ffn_layer2/bias', ('mlp_out', 'bias'), (width,), _same),
    ('ffn_layer2/linear', ('mlp_out', 'kernel'), (tower.mlp_dim, width), _same),
    ('ff_layer/layer_norm/bias', ('mlp_norm', 'bias'), (width,), _same),
    ('ff_layer/layer_norm/scale', ('mlp_norm', 'scale'), (width,), _plus_one),
    ('layer_norm/bias', ('attention_norm', 'bias'), (width,), _same),
    ('layer_norm/scale', ('attention_norm', 'scale'), (width,), _plus_one),
    ('key/b', ('key', 'bias'), heads, lambda x: x.reshape(count, inner)),
    ('key/w', ('key', 'kernel'), split, lambda x: x.reshape(count, width, inner)),
    ('post/b', ('out', 'bias'), (width,), _same),
    # The output projection is stored [width, heads, head_dim], too.
    ('post/w', ('out', 'kernel'), split,
     lambda x: x.reshape(count, width, inner).transpose(0, 2, 1)),
    ('query/b', ('query', 'bias'), heads, lambda x: x.reshape(count, inner)),
    ('query/w', ('query', 'kernel'), split, lambda x: x.reshape(count, width, inner)),
    ('value/b', ('value', 'bias'), heads, lambda x: x.reshape(count, inner)),
    ('value/w', ('value', 'kernel'), split, lambda x: x.reshape(count, width, inner)),
  ]  # fmt: skip
  stacked = file.loop_arguments(count)
  shapes = [x.shape for x in stacked]
  expected = [(count, *shape) for _, _, shape, _ in modules]
  if shapes != expected:
    raise ValueError(
      f'{file.path}: the constants of the loop over layers are {shapes}; expected {expected}.'
    )
  params: Params = {}
  for (_, (name, part), _, convert), value in zip(modules, stacked):
    params.setdefault(name, {})[part] = convert(value)
  return params


def _pooler(file: '_Tensors', scope: str, tower: TowerConfig, output_dim: int) -> Params:
  """The attention pooler, in the main graph of either tower."""
  heads, head_dim = tower.pooler_heads, tower.pooler_head_dim
  inner, attention = heads * head_dim, f'{scope}/pool_attn/'
  query = file.find(f'{attention}.*qk_einsum', (1, heads, 1, head_dim))
  params = {
    'query': query.reshape(1, inner),
    'out': file.dense(f'{attention}post/einsum', f'{attention}post/add', inner, output_dim),
    'norm': file.norm(f'{scope}/pool_attn_ln/', output_dim),
  }
  for name in ('key', 'value'):
    params[name] = file.dense(
      f'{attention}{name}/einsum', f'{attention}{name}/add', tower.model_dim, inner
    )
  return params


class _Tensors:
  """The constants of a TFLite file, by name and shape."""

  def __init__(self, path: pathlib.Path):
    self.path = pathlib.Path(path)
    self._graphs = tflite.read(path)

  def search(self, pattern: str, shape: tuple[int, ...]) -> list[tuple[tflite.Subgraph, int]]:
    """(graph, index) of constants of `shape` whose name matches.

    Those whose own name matches, if there are any; else those with the pattern in a fused name.
    """
    own, fused = [], []
    for graph in self._graphs:
      for index, value in graph.constants.items():
        if value.shape == shape and value.dtype == np.float32:
          name = graph.names[index]
          if re.search(pattern, name.split(';')[0]):
            own.append((graph, index))
          elif re.search(pattern, name):
            fused.append((graph, index))
    return own or fused

  def find(self, pattern: str, shape: tuple[int, ...]) -> np.ndarray:
    """The one constant of that name and shape (of equal ones, any).

    Raises:
      ValueError: there is none, or there are several that differ.
    """
    values = [graph.constants[index] for graph, index in self.search(pattern, shape)]
    if not values or any(not np.array_equal(values[0], value) for value in values[1:]):
      raise ValueError(
        f'{self.path}: {len(values)} constants of shape {list(shape)} are named like {pattern!r}, '
        'and one is needed: this is another export than the released one.'
      )
    return np.array(values[0])

  def dense(self, kernel: str, bias: str, inputs: int, outputs: int) -> Params:
    """A projection {'kernel': [inputs, outputs], 'bias': [outputs]}; stored [outputs, inputs]."""
    return {
      'kernel': self.find(kernel, (outputs, inputs)).T.copy(),
      'bias': self.find(bias, (outputs,)),
    }

  def norm(self, scope: str, width: int) -> Params:
    """A layer norm: of the two constants in `scope`, the scale is multiplied and the bias added."""
    found = {'scale': [], 'bias': []}
    for graph, index in self.search(rf'{scope}broadcast_in_dim\d*$', (1, 1, width)):
      consumers = graph.consumers(index)
      for part, code in (('scale', tflite.MUL), ('bias', tflite.ADD)):
        if code in consumers:
          found[part].append(graph.constants[index].reshape(width).copy())
    if [len(values) for values in found.values()] != [1, 1]:
      raise ValueError(
        f'{self.path}: {scope} has {len(found["scale"])} scales and {len(found["bias"])} biases, '
        'and one of each is needed: this is another export than the released one.'
      )
    return {part: values[0] for part, values in found.items()}

  def loop_arguments(self, count: int) -> list[np.ndarray]:
    """Constants `jax2tf_arg_<n>` with `count` rows of the loops, in the order of n."""
    arguments = {}
    for graph in self._graphs[1:]:
      for index, value in graph.constants.items():
        match = _LOOP_ARGUMENT.match(graph.names[index])
        if match and value.ndim and len(value) == count:
          arguments[int(match.group(1))] = value
    return [np.array(arguments[number]) for number in sorted(arguments)]

  def operators(self, code: int) -> Iterator[tuple[tflite.Operator, dict[int, np.ndarray]]]:
    """The main graph's operators of one kind in order, with its constants."""
    graph = self._graphs[0]
    for operator in graph.operators:
      if operator.code == code:
        yield operator, graph.constants


def _same(x: np.ndarray) -> np.ndarray:
  return x


def _plus_one(x: np.ndarray) -> np.ndarray:
  return x + np.float32(1)


def _stack(trees: list[Params]) -> Params:
  """Equal trees -> one tree with a first axis over them."""
  return {
    key: _stack([tree[key] for tree in trees])
    if isinstance(value, dict)
    else np.stack([tree[key] for tree in trees])
    for key, value in trees[0].items()
  }
