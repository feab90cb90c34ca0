"""Audio and codes as a codec takes them: brought to one form, or refused with the way out."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from models.spec import LiveMusicSpec


def as_audio(audio: Any, spec: LiveMusicSpec, sample_rate: float | None = None) -> np.ndarray:
  """Audio in whatever form it came -> float32 [..., n, num_channels] at the spec's rate.

  Args:
    audio: floats, nominally in -1..1: [..., n, channels], [..., n, 1] or [n]. Mono is copied to
      every channel.
    spec: rate and channels wanted.
    sample_rate: of `audio` in Hz; another rate than the spec's is resampled (soxr, HQ). None says
      that it has the spec's.

  Raises:
    ValueError: the samples are no floats or not finite, or the shape or rate does not fit.
  """
  audio = np.asarray(audio)
  if not jnp.issubdtype(audio.dtype, jnp.floating):
    raise ValueError(
      f'Audio of dtype {audio.dtype} must be floats in -1..1: divide 16-bit samples by 32768.'
    )
  if audio.ndim == 1:
    audio = audio[:, None]
  if audio.ndim == 0 or audio.shape[-1] not in (1, spec.num_channels):
    raise ValueError(
      f'Audio of shape {audio.shape} must be [..., samples, {spec.num_channels}], or [..., samples,'
      ' 1] if it is mono. Mix other numbers of channels down first; swap the axes if channels come '
      'first.'
    )
  with np.errstate(over='ignore'):  # What float32 cannot hold becomes infinite, hence refused.
    audio = np.asarray(audio, np.float32)
  _check_finite(audio)
  if sample_rate is not None and sample_rate != spec.sample_rate:
    audio = _resample(audio, sample_rate, spec.sample_rate)
  return np.broadcast_to(audio, [*audio.shape[:-1], spec.num_channels])


def as_codes(codes: Any, spec: LiveMusicSpec) -> np.ndarray:
  """Codes in whatever integer type -> int32 [..., frames, k] with 1 <= k <= codec_levels.

  Raises:
    ValueError: they are no integers, a code or the number of levels is out of range, or the shape
      is not [..., frames, levels].
  """
  codes = np.asarray(codes)
  if codes.dtype.kind not in 'iu':
    raise ValueError(f'Codes of dtype {codes.dtype} must be integers, such as int32.')
  if codes.ndim < 2:
    raise ValueError(
      f'Codes of shape {codes.shape} must be [..., frames, levels]; one level is codes[..., None].'
    )
  if not 1 <= codes.shape[-1] <= spec.codec_levels:
    raise ValueError(
      f'Codes of shape {codes.shape} have {codes.shape[-1]} levels, which is not in '
      f'1..{spec.codec_levels}; keep the first ones by codes[..., :{spec.codec_levels}].'
    )
  if codes.size and not (codes.min() >= 0 and codes.max() < spec.codebook_size):
    index = np.unravel_index(np.argmax((codes < 0) | (codes >= spec.codebook_size)), codes.shape)
    raise ValueError(
      f'Code {codes[index]} at {_place(index)} is not in 0..{spec.codebook_size - 1}. The ids of a '
      'language model need their offsets taken off first (models.tokens).'
    )
  return codes.astype(np.int32)


def check_levels(num_levels: int | None, spec: LiveMusicSpec) -> int:
  """The number of levels to code; None is all of them.

  Raises:
    ValueError: it is out of range.
  """
  levels = spec.codec_levels if num_levels is None else num_levels
  if not 1 <= levels <= spec.codec_levels:
    raise ValueError(f'num_levels={levels} is not in 1..{spec.codec_levels}.')
  return levels


def _check_finite(audio: np.ndarray):
  finite = np.isfinite(audio)
  if not finite.all():
    index = np.unravel_index(np.argmin(finite), audio.shape)
    raise ValueError(
      f'The audio holds NaN or infinite samples, {audio.size - finite.sum()} of {audio.size}; the '
      f'first is {audio[index]} at {_place(index)}. Cut them out, or set them to 0 with '
      'numpy.nan_to_num(audio, posinf=0, neginf=0).'
    )


def _resample(audio: np.ndarray, sample_rate: float, wanted: int) -> np.ndarray:
  if not 0 < sample_rate < np.inf:
    raise ValueError(f'sample_rate={sample_rate} must be a positive number of Hz.')
  import soxr

  clips = audio.reshape([-1, *audio.shape[-2:]]) if audio.size else []
  resampled = [soxr.resample(clip, sample_rate, wanted) for clip in clips]
  length = len(resampled[0]) if resampled else round(audio.shape[-2] * wanted / sample_rate)
  shape = [*audio.shape[:-2], length, audio.shape[-1]]
  return np.reshape(resampled, shape).astype(np.float32)


def _place(index: tuple[np.intp, ...]) -> str:
  return f'[{", ".join(str(int(i)) for i in index)}]'
