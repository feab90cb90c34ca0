"""SpectroStream: a neural codec, 48 kHz stereo <-> 25 frames/s of 64 RVQ codes."""

from models.spectrostream.codec import SpectroStream
from models.spectrostream.config import SpectroStreamConfig

__all__ = ['SpectroStream', 'SpectroStreamConfig']
