"""Sizes of a SpectroStream: strides are fixed, widths are free."""

import dataclasses
import math

from models.config import Config

# Strides (time, frequency) of encoder_0..encoder_6; the decoder takes them in reverse.
ENCODER_STRIDES = ((1, 2), (1, 2), (1, 3), (1, 2), (1, 2), (2, 2), (2, 1))
DECODER_STRIDES = tuple(reversed(ENCODER_STRIDES))
# Encoder units that see one audio channel at a time; decoder units before the channels part.
SEPARATE_ENCODER_UNITS = 6
JOINT_DECODER_UNITS = 1
TIME_STRIDE = math.prod(time for time, _ in ENCODER_STRIDES)
FREQUENCY_STRIDE = math.prod(frequency for _, frequency in ENCODER_STRIDES)
# STFT frames that the decoder's output runs behind: one latent frame.
LOOKAHEAD = TIME_STRIDE


@dataclasses.dataclass(frozen=True)
class SpectroStreamConfig(Config):
  """Widths of one SpectroStream.

  Attributes:
    num_features: width of the latent that is quantized.
    encoder_widths: channels after base_conv_first and after encoder_0..encoder_6 (8 numbers).
    decoder_widths: channels per bin after the input layer, then after decoder_0..decoder_6. The
      second is split into the two audio channels, so it is even.
  """

  num_features: int = 256
  encoder_widths: tuple[int, ...] = (32, 64, 64, 128, 128, 128, 256, 256)
  decoder_widths: tuple[int, ...] = (512, 1024, 256, 256, 256, 128, 128, 64)

  def __post_init__(self):
    # Lists come from JSON and gin; a frozen config is hashable.
    for name in ('encoder_widths', 'decoder_widths'):
      widths = tuple(getattr(self, name))
      object.__setattr__(self, name, widths)
      if len(widths) != len(ENCODER_STRIDES) + 1 or min(widths) < 1:
        raise ValueError(f'{name}={widths} must be {len(ENCODER_STRIDES) + 1} positive numbers.')
    if self.num_features < 1:
      raise ValueError(f'num_features={self.num_features} must be at least 1.')
    if self.decoder_widths[1] % 2:
      raise ValueError(
        f'decoder_widths[1]={self.decoder_widths[1]} is split into two channels: make it even.'
      )

  @classmethod
  def real(cls) -> 'SpectroStreamConfig':
    """The released size: 61,713,666 parameters with its 64 codebooks."""
    return cls()

  @classmethod
  def tiny(cls) -> 'SpectroStreamConfig':
    """The bundled size: narrow where there are many bins, in multiples of a CPU's vectors."""
    return cls(
      num_features=152,
      encoder_widths=(8, 16, 16, 32, 48, 72, 104, 128),
      decoder_widths=(128, 208, 80, 56, 40, 32, 24, 16),
    )
