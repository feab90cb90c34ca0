"""Named embeddings of audio that need no weights but those that come with the project.

`logmel` and `chroma` are fixed statistics of windows; `musiccoca` is the style model's space, on
which the language model was trained; `musicnn` is what a tagger of others has learnt of recorded
music; `codec_latents` are the codec's vectors, at the depth that the language model writes, from
codes rather than audio. Those of others (CLAP, VGGish, OpenL3, PaSST) are in `embedding_plugins`.
"""

from typing import Any

import numpy as np

from evaluation import spectra, tonality
from models.musicnn import Musicnn

WINDOW_SECS, HOP_SECS = 2.0, 1.0
NUM_BANDS = 12
# Softer than this is not heard beside the music; a lower floor would compare digital silences.
_FLOOR_DB = -60.0
_PERCENT = 100.0
# Of both networks the one that tells recorded music better from the same music in noise.
MUSICNN = 'mtt'
_FRAME_SECS = 0.04


def windows(audio: np.ndarray, sample_rate: int) -> list[np.ndarray]:
  """Windows of 2 s every second; one, zero-padded, of shorter audio."""
  size, hop = round(WINDOW_SECS * sample_rate), round(HOP_SECS * sample_rate)
  if len(audio) < size:
    return [np.pad(audio, ((0, size - len(audio)), (0, 0)))]
  return [audio[start : start + size] for start in range(0, len(audio) - size + 1, hop)]


def logmel(audio: np.ndarray, sample_rate: int) -> np.ndarray:
  """Audio [samples, channels] -> [windows, 24]: mean and deviation of 12 mel bands in dB.

  The means describe the timbre, the deviations how lively each band is.
  """
  window, hop = 2048, round(_FRAME_SECS * sample_rate)
  filters = spectra.mel_filters(sample_rate, window, NUM_BANDS)
  levels = [
    spectra.decibels(spectra.magnitudes(part.mean(1), window, hop) @ filters, _FLOOR_DB)
    for part in windows(audio, sample_rate)
  ]
  return np.stack([np.concatenate([x.mean(0), x.std(0)]) for x in levels]).astype(np.float64)


def chroma(audio: np.ndarray, sample_rate: int) -> np.ndarray:
  """Audio [samples, channels] -> [windows, 24]: mean and deviation of 12 pitch classes in percent.

  The mean is turned so that its strongest class comes first: what counts is the chord, not the key.
  """
  rows = []
  for part in windows(audio, sample_rate):
    frames = tonality.chroma(part, sample_rate)
    profile, spread = frames.mean(0), frames.std(0)
    turn = -int(np.argmax(profile))
    rows.append(_PERCENT * np.concatenate([np.roll(profile, turn), np.roll(spread, turn)]))
  return np.stack(rows)


def musiccoca(audio: np.ndarray, sample_rate: int, style: Any) -> np.ndarray:
  """Audio -> [1, style_dim], the mean over its windows of 10 s, of unit length."""
  vector = np.asarray(style.embed_audio(audio, sample_rate), np.float64)
  return (vector / max(np.linalg.norm(vector), 1e-12))[None]


def musicnn(audio: np.ndarray, sample_rate: int, network: Musicnn) -> np.ndarray:
  """Audio [samples, channels] -> [patches of 3 s, features]: `Heard.pooled`."""
  return network.hear(audio, sample_rate).pooled.astype(np.float64)


def codec_latents(codes: np.ndarray, codebooks: np.ndarray, frame_rate: int) -> np.ndarray:
  """Codes [frames, levels] -> [windows, D]: the sums of their vectors, a mean for each 2 s.

  Args:
    codes: int.
    codebooks: [>= levels, codebook_size, D].
    frame_rate: frames per second; windows begin every second.
  """
  levels = np.arange(codes.shape[1])
  latents = np.asarray(codebooks, np.float64)[levels, codes].sum(1)
  size, hop = round(WINDOW_SECS * frame_rate), round(HOP_SECS * frame_rate)
  starts = range(0, max(1, len(latents) - size + 1), hop)
  return np.stack([latents[start : start + size].mean(0) for start in starts])
