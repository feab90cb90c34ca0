"""musicnn: a tagger of recorded music by others, and its features (ISC licence, see bundled/)."""

from models.musicnn.model import NAMES, Heard, Musicnn

__all__ = ['NAMES', 'Heard', 'Musicnn']
