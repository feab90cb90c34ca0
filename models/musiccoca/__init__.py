"""MusicCoCa: text and 10 s of audio in one embedding space, and its tokens."""

from models.musiccoca.config import MusicCoCaConfig, TowerConfig
from models.musiccoca.embedder import StyleEmbedder
from models.musiccoca.model import MusicCoCa

__all__ = ['MusicCoCa', 'MusicCoCaConfig', 'StyleEmbedder', 'TowerConfig']
