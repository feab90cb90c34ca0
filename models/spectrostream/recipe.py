"""How a codec is trained, in numbers."""

import dataclasses

import numpy as np

from models.spectrostream.linear_components import LinearStart

ALL, DECODER = 'all', 'decoder'


@dataclasses.dataclass(frozen=True)
class CodecRecipe:
  """What the loss is made of, when what begins, and how codebooks are kept.

  Attributes:
    mel_weight: of the multi-scale mel distance in nats.
    stft_weight: of the multi-scale STFT distance.
    waveform_weight: of the relative waveform error.
    loudness_weight: of the difference in level, of the whole and of what differs between the
      channels. Losses on logarithms alone are content with an output that is too soft.
    commitment_weight: of the latent's squared distance from its codes, relative to its variance.
    decorrelation_weight: of the mean squared correlation of latents that are not carried, which
      keeps them from saying the same; 0 leaves it out.
    free_level: standard deviation at which latents that are not carried are held in training.
      Nothing else says how large they are: without it they drift, and the decoder's first layer
      with them, until float16 is too coarse for both. None lets them be.
    free_level_weight: of `losses.level_loss`, which holds them.
    generator_weight: of the hinge loss that the discriminators give the codec.
    feature_matching_weight: of the distance between the discriminators' features.
    adversarial_start: steps before the discriminators begin, and with them these two losses.
    balance: weights are shares of the gradient that reaches the decoder's output, whatever the
      losses' own scales; see `objective`. The commitment is not among them.
    balance_decay: of the moving averages of gradient norms that `balance` divides by.
    windows: of the spectral losses, in samples.
    train_only: 'all', or 'decoder' to leave encoder and codebooks, and with them all tokens, as
      they are. Such a run starts from a codec.
    bypass_rate: share of examples whose latents are not quantized.
    depths: numbers of levels that the others draw from, as often as each stands here; None for
      those of `depth_choices`.
    calibration_steps: steps before which k-means fits all codebooks anew.
    calibration_batches: batches whose latents k-means sees.
    kmeans_iterations: per level.
    ema_decay: of the codebooks' averages.
    dead_threshold: codes chosen less often than this share of an equal use count as dead.
    revive_until: no codes are moved from this step on, so that the last steps leave them in peace.
    linear_start: carried channels, fitted before step 0; None starts at random. In a run that
      starts from a codec they say which of its channels were carried, and stay.
    linear_start_batches: batches that it is fitted to.
    refit_from: the linear start of the codec that a run starts from, where its carried channels
      are to be fitted to the run's own audio (see `linear_start.linear_refit`). That codec may be
      smaller (see `growing`). Its codebooks are not used; calibration or the end make others.
    latent_level: standard deviation that `finish` gives to latents which are not carried.
    final_folds: of the last k-means; see `rvq.fit_residual_kmeans`.
    evenness: how much soft frames count as much as loud ones where k-means fits codebooks: squared
      errors weigh as a latent's energy to the power of minus `evenness`, so that with 1 relative
      errors count.
    ranks: of the levels' codebooks that k-means fits; see there. None for all directions.
  """

  mel_weight: float = 1.0
  stft_weight: float = 0.3
  waveform_weight: float = 2.0
  loudness_weight: float = 0.0
  commitment_weight: float = 0.1
  decorrelation_weight: float = 0.0
  free_level: float | None = None
  free_level_weight: float = 0.1
  generator_weight: float = 1.0
  feature_matching_weight: float = 2.0
  adversarial_start: int = 0
  balance: bool = False
  balance_decay: float = 0.999
  windows: tuple[int, ...] = (128, 512, 2048)
  train_only: str = ALL
  bypass_rate: float = 0.5
  depths: tuple[int, ...] | None = None
  calibration_steps: tuple[int, ...] = (450, 1000)
  calibration_batches: int = 160
  kmeans_iterations: int = 8
  ema_decay: float = 0.99
  dead_threshold: float = 0.02
  revive_until: int = 1000
  linear_start: LinearStart | None = None
  linear_start_batches: int = 40
  refit_from: LinearStart | None = None
  latent_level: float = 0.2
  final_folds: int = 4
  evenness: float = 0.0
  ranks: tuple[int, ...] | None = None

  def __post_init__(self):
    if self.train_only not in (ALL, DECODER):
      raise ValueError(f'train_only={self.train_only!r} is neither {ALL!r} nor {DECODER!r}.')
    if self.refit_from is not None and self.linear_start is None:
      raise ValueError('refit_from needs the linear_start that is fitted in its place.')
    if self.refit_from is not None and self.train_only == DECODER:
      raise ValueError(f'refit_from changes tokens, which train_only={DECODER!r} keeps.')
    if self.free_level is not None and not self.free_level > 0:
      raise ValueError(f'free_level={self.free_level} must be above 0.')
    if self.depths is not None and min(self.depths, default=0) < 1:
      raise ValueError(f'depths={self.depths} must name numbers of levels from 1 on.')
    for name, weight in self.output_weights.items():
      if weight < 0:
        raise ValueError(f'{name}_weight={weight} is negative.')
    if not any(self.output_weights.values()):
      raise ValueError('All weights of losses on the output are 0: nothing would be learnt.')

  @property
  def num_carried(self) -> int:
    """Latents that carry the waveform; those behind them are free."""
    return self.linear_start.features if self.linear_start else 0

  @property
  def output_weights(self) -> dict[str, float]:
    """Weights of the losses on the decoder's output, by the losses' names."""
    names = ('mel', 'stft', 'waveform', 'loudness', 'generator', 'feature_matching')
    return {name: getattr(self, f'{name}_weight') for name in names}


def depth_choices(num_levels: int, depths: tuple[int, ...] | None = None) -> np.ndarray:
  """Numbers of levels that training draws from, each `num_levels` at most.

  Args:
    num_levels: of the codec.
    depths: None for 1..16, then 18..32 by 2, then 36..64 by 4, which favours few levels.
  """
  if depths is not None:
    return np.minimum(np.array(depths, np.int32), num_levels)
  depths = [*range(1, 17), *range(18, 33, 2), *range(36, 65, 4)]
  return np.array(sorted({min(depth, num_levels) for depth in depths}), np.int32)
