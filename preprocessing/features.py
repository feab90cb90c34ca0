"""From an audio file to tokens: clips, level, codec codes, style embeddings and style tokens."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from models.spec import MAGENTA_RT_V1, LiveMusicSpec
from preprocessing import audio


class Codec(Protocol):
  """What is needed of `models.spectrostream.SpectroStream`."""

  content_hash: str

  def encode(self, x: np.ndarray) -> np.ndarray:
    """float32 [..., n, 2] -> int32 [..., frames, codec_levels]."""


class StyleModel(Protocol):
  """What is needed of `models.musiccoca.MusicCoCa`."""

  content_hash: str

  def embed_windows(self, x: np.ndarray, sample_rate: int) -> np.ndarray:
    """float32 [n] -> float32 [ceil(secs / 10), style_dim]."""

  def tokenize(self, embeddings: np.ndarray) -> np.ndarray:
    """float32 [.., style_dim] -> int32 [.., style_rvq_levels]."""


@dataclasses.dataclass(frozen=True)
class ClipOptions:
  """How a track is cut and levelled.

  Attributes:
    clip_secs: length of a clip.
    min_clip_secs: the tail of a track is kept down to this length; so are short tracks.
    peak_dbfs: every track is scaled to this peak; None leaves levels alone.
    clips_per_batch: clips that the codec gets at once.
  """

  clip_secs: int = 30
  min_clip_secs: float = 4.0
  peak_dbfs: float | None = -1.0
  clips_per_batch: int = 4

  def check(self, spec: LiveMusicSpec = MAGENTA_RT_V1):
    """Raises ValueError for clips that cannot hold an example."""
    if not spec.chunk_secs <= self.min_clip_secs <= self.clip_secs:
      raise ValueError(
        f'min_clip_secs={self.min_clip_secs} is not in {spec.chunk_secs:g}..{self.clip_secs} '
        '(the chunk that a model generates, and clip_secs).'
      )
    if self.clips_per_batch < 1:
      raise ValueError(f'clips_per_batch={self.clips_per_batch} must be at least 1.')


@dataclasses.dataclass(frozen=True)
class ClipTokens:
  """Tokens of one clip.

  Attributes:
    start_secs: where the clip begins in its track.
    acoustic_tokens: int32 [frames, codec_levels].
    style_tokens: int32 [ceil(secs / 10), style_rvq_levels].
    style_embeddings: float32 [ceil(secs / 10), style_dim].
  """

  start_secs: float
  acoustic_tokens: np.ndarray
  style_tokens: np.ndarray
  style_embeddings: np.ndarray


def plan_clips(duration_secs: float, options: ClipOptions) -> list[tuple[float, float]]:
  """(start, length) in seconds of the clips of a track, one after the other from its start.

  The rest is a shorter clip, unless it is shorter than `min_clip_secs`.
  """
  whole = int(duration_secs // options.clip_secs)
  clips = [(float(i * options.clip_secs), float(options.clip_secs)) for i in range(whole)]
  rest = duration_secs - whole * options.clip_secs
  if rest >= options.min_clip_secs:
    clips.append((float(whole * options.clip_secs), rest))
  return clips


def peak_gain(peak: float, peak_dbfs: float | None) -> float:
  """Factor that brings `peak` to `peak_dbfs`; 1 for silence or no target."""
  if peak_dbfs is None or not peak > 0:
    return 1.0
  return 10 ** (peak_dbfs / 20) / peak


def read_clips(
  path: str, clips: list[tuple[float, float]], gain: float, spec: LiveMusicSpec
) -> np.ndarray:
  """Decodes neighbouring clips in one go: float32 [n, channels] at the codec's rate, scaled.

  Raises:
    audio.AudioError: the file breaks, or is shorter than the clips say.
  """
  start = clips[0][0]
  length = clips[-1][0] + clips[-1][1] - start
  x = audio.read_audio(path, spec.sample_rate, spec.num_channels, start, length)
  missing = round(length * spec.sample_rate) - len(x)
  if missing > spec.samples_per_frame:
    raise audio.AudioError(
      'truncated', f'{missing / spec.sample_rate:.2f} s missing at {start + length:.2f} s'
    )
  return x * np.float32(gain)


def tokenize_track(
  path: str,
  duration_secs: float,
  gain: float,
  codec: Codec,
  style: StyleModel,
  options: ClipOptions,
  spec: LiveMusicSpec = MAGENTA_RT_V1,
) -> Iterator[ClipTokens]:
  """Yields the tokens of a track's clips in order; memory is bounded by a batch of clips.

  Clips of full length go through the codec together, a shorter one on its own.

  Raises:
    audio.AudioError: the file breaks on the way.
  """
  clips = plan_clips(duration_secs, options)
  full = [clip for clip in clips if clip[1] == options.clip_secs]
  size = options.clips_per_batch
  batches = [full[i : i + size] for i in range(0, len(full), size)]
  batches += [[clip] for clip in clips[len(full) :]]
  for batch in batches:
    x = read_clips(path, batch, gain, spec)
    if len(batch) == 1:
      pieces = x[None]
    else:
      samples = options.clip_secs * spec.sample_rate
      x = np.pad(x, [(0, max(0, len(batch) * samples - len(x))), (0, 0)])
      pieces = x[: len(batch) * samples].reshape(len(batch), samples, spec.num_channels)
    codes = np.asarray(codec.encode(pieces), np.int32)
    for (start, _), piece, clip_codes in zip(batch, pieces, codes, strict=True):
      yield _with_style(start, piece, clip_codes, style, spec)


def _with_style(
  start: float, piece: np.ndarray, codes: np.ndarray, style: StyleModel, spec: LiveMusicSpec
) -> ClipTokens:
  mono = piece.mean(axis=1)
  mono = audio.resample(mono, spec.sample_rate, spec.style_sample_rate)
  rows = math.ceil(len(piece) / spec.sample_rate / spec.style_window_secs)
  # Resampling rounds; a few samples too many must not open another window.
  mono = mono[: rows * spec.style_window_secs * spec.style_sample_rate]
  embeddings = np.asarray(style.embed_windows(mono, spec.style_sample_rate), np.float32)
  tokens = np.asarray(style.tokenize(embeddings), np.int32)
  if embeddings.shape != (rows, spec.style_dim) or tokens.shape != (rows, spec.style_rvq_levels):
    raise ValueError(
      f'The style model gave {embeddings.shape} and {tokens.shape} for {rows} windows of '
      f'{spec.style_window_secs} s.'
    )
  if not (codes.min() >= 0 and codes.max() < spec.codebook_size):
    raise ValueError(f'The codec gave codes outside 0..{spec.codebook_size - 1}.')
  return ClipTokens(start, codes, tokens, embeddings)
