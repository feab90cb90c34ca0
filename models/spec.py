"""Every number of the live music system, once.

The defaults are those of Magenta RealTime v1 (Live Music Models, arXiv 2508.04651). Every other
module takes a `LiveMusicSpec` and writes none of these numbers itself; tests and toy models pass a
smaller one.
"""

import dataclasses
import json

from models.config import Config


@dataclasses.dataclass(frozen=True)
class LiveMusicSpec(Config):
  """Sizes and the vocabulary layout of one live music system.

  Attributes:
    sample_rate: audio sample rate in Hz.
    num_channels: audio channels.
    frame_rate: codec frames per second.
    codec_levels: RVQ levels that the codec writes.
    codebook_size: codes per RVQ level, of the codec and of the style model alike.
    context_frames: codec frames of context that the encoder sees.
    context_levels: coarse levels of the context that the encoder sees.
    chunk_frames: codec frames that one call generates.
    target_levels: levels that the decoder generates.
    style_sample_rate: sample rate in Hz of the mono audio that the style model hears.
    style_window_secs: seconds of audio behind one style embedding.
    style_dim: width of the style embedding.
    style_rvq_levels: RVQ levels that the style model writes.
    style_levels: first levels of these that the encoder sees.
    pad_id: padding, and the decoder's first input.
    mask_id: "no context here" or "no style".
    codec_offset: id of code 0 of codec level 0.
    style_offset: id of code 0 of style level 0.
    vocab_size: rows of the embedding table and of the output layer, rounded up to 128.
  """

  sample_rate: int = 48_000
  num_channels: int = 2
  frame_rate: int = 25
  codec_levels: int = 64
  codebook_size: int = 1024
  context_frames: int = 250
  context_levels: int = 4
  chunk_frames: int = 50
  target_levels: int = 16
  style_sample_rate: int = 16_000
  style_window_secs: int = 10
  style_dim: int = 768
  style_rvq_levels: int = 12
  style_levels: int = 6
  pad_id: int = 0
  mask_id: int = 1
  codec_offset: int = 2
  style_offset: int = 17_410
  vocab_size: int = 29_824

  def __post_init__(self):
    _check_range('style_levels', self.style_levels, 0, self.style_rvq_levels)
    _check_range('target_levels', self.target_levels, 1, self.codec_levels)
    _check_range('context_levels', self.context_levels, 1, self.target_levels)
    if self.sample_rate % self.frame_rate:
      raise ValueError(
        f'frame_rate={self.frame_rate} does not divide sample_rate={self.sample_rate}.'
      )
    if self.style_offset < self.codec_offset + self.target_levels * self.codebook_size:
      raise ValueError(
        f'style_offset={self.style_offset} lies inside the codec ids, which end at '
        f'{self.codec_offset + self.target_levels * self.codebook_size - 1}.'
      )
    if self.vocab_size < self.style_offset + self.style_levels * self.codebook_size:
      raise ValueError(
        f'vocab_size={self.vocab_size} is too small for {self.style_levels} style levels '
        f'from id {self.style_offset} on.'
      )

  @property
  def samples_per_frame(self) -> int:
    """Audio samples behind one codec frame (1920)."""
    return self.sample_rate // self.frame_rate

  @property
  def context_secs(self) -> float:
    return self.context_frames / self.frame_rate

  @property
  def chunk_secs(self) -> float:
    return self.chunk_frames / self.frame_rate

  @property
  def chunk_samples(self) -> int:
    return self.chunk_frames * self.samples_per_frame

  @property
  def context_length(self) -> int:
    """Encoder tokens that hold the context (1000)."""
    return self.context_frames * self.context_levels

  @property
  def inputs_length(self) -> int:
    """Encoder tokens: the context, then the style (1006)."""
    return self.context_length + self.style_levels

  @property
  def targets_length(self) -> int:
    """Decoder tokens of one chunk, time-major and level-minor (800)."""
    return self.chunk_frames * self.target_levels

  def to_json(self) -> str:
    return json.dumps(self.to_dict(), indent=2)


def _check_range(name: str, value: int, low: int, high: int):
  if not low <= value <= high:
    raise ValueError(f'{name}={value} is not in {low}..{high}.')


MAGENTA_RT_V1 = LiveMusicSpec()
