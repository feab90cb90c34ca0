"""A language model whose parameters are frozen and which is trained through an adapter."""

import dataclasses
import functools
from typing import Any

import jax

from models import adapters, weights
from models.adapters import AdaptedKernel, AdapterConfig
from models.depthformer import DepthformerModel
from models.depthformer.config import DepthformerConfig
from models.spec import LiveMusicSpec

BASE, ADAPTER = 'base', 'adapter'
# What an optimizer should see of the parameters; see `training.wrappers.wrapped`.
TRAINED = (f'^{ADAPTER}/',)
# The decoder over the levels of a frame and all that follows it.
DEPTH = ('^depth/', '^decoder_norm$', '^logits$')
METHODS = ('full', 'depth_only', *adapters.METHODS)


@dataclasses.dataclass(frozen=True)
class AdaptedModel:
  """A trainable with parameters {'base': the model's, 'adapter': see `models.adapters`}.

  Attributes:
    model: the language model.
    adapter: which of its arrays are adapted, and how.
  """

  model: DepthformerModel
  adapter: AdapterConfig

  @property
  def config(self) -> DepthformerConfig:
    return self.model.config

  @property
  def spec(self) -> LiveMusicSpec:
    return self.model.spec

  def init(self, rng: jax.Array) -> dict[str, Any]:
    """Initial values of the model and an adapter that changes nothing."""
    base_rng, adapter_rng = jax.random.split(rng)
    return self.start_from(self.model.init(base_rng), adapter_rng)

  def start_from(self, base: dict[str, Any], rng: jax.Array) -> dict[str, Any]:
    """The parameters of a run that starts from those of a model."""
    return {BASE: base, ADAPTER: adapters.init_adapter(rng, base, self.adapter)}

  def loss_fn(
    self, params: dict[str, Any], batch: dict[str, jax.Array], dropout_rng: jax.Array | None
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """That of the model; see `DepthformerModel.loss_fn`."""
    tree = adapters.attach(params[BASE], params[ADAPTER], self.adapter)
    # Layers and the embedding apply an adapter beside its matrix; all else takes a matrix.
    flat = {
      name: leaf if '/layers/' in name or name == 'embedding' else _matrix(leaf)
      for name, leaf in weights.flatten(tree).items()
    }
    return self.model.loss_fn(weights.unflatten(flat), batch, dropout_rng)

  def merged(self, params: dict[str, Any], strength: float = 1.0) -> dict[str, Any]:
    """Parameters of the model itself, the adapter worked in."""
    return adapters.merge(params[BASE], params[ADAPTER], self.adapter, strength)

  def layer_axes(self) -> dict[str, Any]:
    """Tree like the parameters with True where axis 0 counts layers."""
    layers = self.model.layer_axes()
    return {BASE: layers, ADAPTER: adapters.adapter_layers(layers, self._shapes, self.adapter)}

  def logical_axes(self) -> dict[str, Any]:
    """Tree like the parameters with the logical axis names of each array."""
    axes = self.model.logical_axes()
    return {BASE: axes, ADAPTER: adapters.adapter_axes(axes, self._shapes, self.adapter)}

  @property
  def _shapes(self) -> dict[str, Any]:
    return _shapes_of(self.model)


@functools.lru_cache(maxsize=8)  # A run asks for them many times, and tracing takes half a second.
def _shapes_of(model: DepthformerModel) -> dict[str, Any]:
  return jax.eval_shape(model.init, jax.random.key(0))


def tuned(
  model: DepthformerModel,
  method: str = 'full',
  *,
  rank: int = 8,
  alpha: float | None = None,
  patterns: tuple[str, ...] = AdapterConfig.patterns,
) -> DepthformerModel | AdaptedModel:
  """What is trained by a method: the model itself ('full', 'depth_only'), or with an adapter.

  Args:
    model: the language model.
    method: of `METHODS`.
    rank: of an adapter, as the rest; see `AdapterConfig`.
    alpha: see there.
    patterns: see there.

  Raises:
    ValueError: the method is unknown, the adapter's options are out of range, or its rank is above
      that of the matrices.
  """
  _check(method)
  if method not in adapters.METHODS:
    return model
  adapted = AdaptedModel(model, AdapterConfig(method, rank, alpha, patterns))
  adapters.check_rank(weights.flatten(adapted._shapes), adapted.adapter)
  return adapted


def trained_parameters(method: str = 'full') -> tuple[str, ...]:
  """Patterns of the parameters that a method trains; () for all."""
  _check(method)
  if method == 'full':
    return ()
  return DEPTH if method == 'depth_only' else TRAINED


def model_params(trainable: Any, params: dict[str, Any]) -> dict[str, Any]:
  """Parameters of the language model itself, whatever way they were trained."""
  return trainable.merged(params) if isinstance(trainable, AdaptedModel) else params


def language_model(trainable: DepthformerModel | AdaptedModel) -> DepthformerModel:
  """The language model itself, however it is trained."""
  return trainable.model if isinstance(trainable, AdaptedModel) else trainable


def _matrix(leaf: Any) -> Any:
  return leaf.merged() if isinstance(leaf, AdaptedKernel) else leaf


def _check(method: str):
  if method not in METHODS:
    raise ValueError(f'method={method!r} is not one of {", ".join(METHODS)}.')
