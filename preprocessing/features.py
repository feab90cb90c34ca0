"""From an audio file to tokens: clips, level, codec codes, style embeddings and style tokens."""

import dataclasses
import hashlib
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
    min_clip_secs: head and tail of a track are kept down to this length; so are short tracks.
    peak_dbfs: every track is scaled to this peak; with `loudness_lufs` it is the ceiling. None
      leaves levels alone, or loudness without a ceiling.
    loudness_lufs: every track is scaled to this integrated loudness (ITU-R BS.1770-4) instead.
    hashed_offset: the cut between the first clips lies where a hash of the content says, not at
      whole clips from the start, so that clips of the corpus do not all begin with a beginning.
    clips_per_batch: clips that the codec gets at once.
  """

  clip_secs: int = 30
  min_clip_secs: float = 4.0
  peak_dbfs: float | None = -1.0
  loudness_lufs: float | None = None
  hashed_offset: bool = True
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
    for name in ('peak_dbfs', 'loudness_lufs'):
      level = getattr(self, name)
      if level is not None and not -70 < level <= 0:
        raise ValueError(f'{name}={level} is not in -70..0 (full scale is 0).')


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


def plan_clips(
  duration_secs: float, options: ClipOptions, content_sha256: str = ''
) -> list[tuple[float, float]]:
  """(start, length) in seconds of the clips of a track, one after the other.

  The first whole clip begins at `clip_offset`; what lies before it and what is left after the last
  one are shorter clips, unless they are shorter than `min_clip_secs`.
  """
  offset = clip_offset(duration_secs, options, content_sha256)
  clips = [(0.0, offset)] if offset else []
  whole = int((duration_secs - offset) // options.clip_secs)
  clips += [(offset + i * options.clip_secs, float(options.clip_secs)) for i in range(whole)]
  end = offset + whole * options.clip_secs
  rest = duration_secs - end
  if rest >= options.min_clip_secs:
    clips.append((end, rest))
  return clips


def clip_offset(duration_secs: float, options: ClipOptions, content_sha256: str) -> float:
  """Where the first whole clip of a track begins: whole seconds, by a hash of the content.

  0, or from `min_clip_secs` to below `clip_secs`, so that the head is a clip too and nothing is
  lost. 0 for tracks without a second clip, without a hash, or with `hashed_offset` off.
  """
  if not (options.hashed_offset and content_sha256):
    return 0.0
  if duration_secs < options.clip_secs + options.min_clip_secs:
    return 0.0
  offsets = [0, *range(math.ceil(options.min_clip_secs), options.clip_secs)]
  digest = hashlib.sha256(f'offset/{content_sha256}'.encode()).digest()
  return float(offsets[int.from_bytes(digest[:8], 'big') % len(offsets)])


def peak_gain(peak: float, peak_dbfs: float | None) -> float:
  """Factor that brings `peak` to `peak_dbfs`; 1 for silence or no target."""
  if peak_dbfs is None or not peak > 0:
    return 1.0
  return 10 ** (peak_dbfs / 20) / peak


def level_gain(peak: float, loudness_lufs: float, options: ClipOptions) -> float:
  """Factor that brings a track to the level that the options ask for.

  By loudness where `options.loudness_lufs` is set, but no further than the peak allows (nothing is
  limited or clipped), else by peak. A track without loudness (silence) goes by its peak.
  """
  by_peak = peak_gain(peak, options.peak_dbfs)
  if options.loudness_lufs is None or not math.isfinite(loudness_lufs):
    return by_peak
  by_loudness = 10 ** ((options.loudness_lufs - loudness_lufs) / 20)
  return by_loudness if options.peak_dbfs is None else min(by_loudness, by_peak)


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
  content_sha256: str = '',
) -> Iterator[ClipTokens]:
  """Yields the tokens of a track's clips in order; memory is bounded by a batch of clips.

  Clips of full length go through the codec together, a shorter one on its own.

  Raises:
    audio.AudioError: the file breaks on the way.
  """
  batches: list[list[tuple[float, float]]] = []
  for clip in plan_clips(duration_secs, options, content_sha256):
    together = batches and clip[1] == batches[-1][-1][1] == options.clip_secs
    if together and len(batches[-1]) < options.clips_per_batch:
      batches[-1].append(clip)
    else:
      batches.append([clip])
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
