"""Depthformer: the language model over codec and style tokens, of Magenta RealTime v1's design."""

from models.depthformer.config import DepthformerConfig
from models.depthformer.model import DepthformerModel
from models.depthformer.parameters import from_v1, to_v1, v1_axes

__all__ = ['DepthformerConfig', 'DepthformerModel', 'from_v1', 'to_v1', 'v1_axes']
