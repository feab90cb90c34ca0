"""Features that a style report compares: a language model's encoder states, log-mel statistics."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from models import tokens
from models.bundle import Bundle, load_bundle
from models.musiccoca import MusicCoCaConfig, frontend
from models.spec import LiveMusicSpec
from models.spectrostream import SpectroStream
from pipelines.style_feed import StyleTrack
from preprocessing.audio import read_audio

_BLOCK = 8


def log_mel_statistics(
  clips: np.ndarray,
  spec: LiveMusicSpec,
  config: MusicCoCaConfig | None = None,
  mel_matrix: np.ndarray | None = None,
) -> np.ndarray:
  """Mean and standard deviation over time of each mel band that a style model's tower sees.

  Args:
    clips: [N, samples] mono.
    spec: the rate.
    config: of the front end; None for that of our own models.
    mel_matrix: where the model has its own.

  Returns:
    float32 [N, 2 bands].
  """
  config = config or MusicCoCaConfig.tiny()

  @jax.jit
  def measure(block: jax.Array) -> jax.Array:
    values = frontend.log_mel(block, config, spec.style_sample_rate, mel_matrix)
    return jax.numpy.concatenate([values.mean(1), values.std(1)], axis=1)

  return _in_blocks(measure, clips)


@dataclasses.dataclass(frozen=True)
class ContextEncoder:
  """A language model whose encoder reads audio through the codec that it was trained on.

  Attributes:
    name: as it was given, for the report.
    bundle: the language model.
    codec: makes the tokens.
  """

  name: str
  bundle: Bundle
  codec: Any

  @classmethod
  def load(cls, name_or_path: str) -> 'ContextEncoder':
    """Loads a bundle and its codec.

    Raises:
      FileNotFoundError: there is no such bundle or codec.
      ValueError: it is damaged.
    """
    bundle = load_bundle(name_or_path)
    return cls(name_or_path, bundle, SpectroStream.load(bundle.codec_name))


def encoder_states(
  encoder: ContextEncoder, tracks: Sequence[StyleTrack], on_clip: Callable[[], Any] = lambda: None
) -> np.ndarray:
  """Mean over the context of a language model's encoder states, for two clips of each track.

  The style is masked: what is found was read from the codec's tokens.

  Args:
    encoder: the model and its codec.
    tracks: N tracks; the first and the last window of each, in this order: all first ones, then all
      last ones.
    on_clip: called after each clip.

  Returns:
    float32 [2 N, embed_dim].
  """
  bundle, codec = encoder.bundle, encoder.codec
  spec, model = bundle.spec, bundle.model

  @jax.jit
  def encode(params: Any, ids: jax.Array) -> jax.Array:
    return model.encode(params, ids)[:, : spec.context_length].mean(1)

  rows = []
  for place in (0.0, 1.0):
    for track in tracks:
      start = place * max(track.duration_secs - spec.context_secs, 0.0)
      audio = read_audio(track.path, start=start, duration=spec.context_secs)
      whole = np.zeros([round(spec.context_secs * spec.sample_rate), spec.num_channels], np.float32)
      whole[: min(len(audio), len(whole))] = audio[: len(whole)]
      codes = codec.encode(whole[None], spec.context_levels)[0]
      rows.append(tokens.encoder_inputs(codes, None, spec))
      on_clip()
  return _in_blocks(lambda ids: encode(bundle.params, ids), np.stack(rows))


def _in_blocks(function: Callable[[Any], jax.Array], rows: np.ndarray) -> np.ndarray:
  """`function` over rows in blocks of one size."""
  parts = []
  for start in range(0, len(rows), _BLOCK):
    block = rows[start : start + _BLOCK]
    missing = _BLOCK - len(block)
    padded = np.pad(block, [(0, missing)] + [(0, 0)] * (block.ndim - 1))
    parts.append(np.asarray(function(padded))[: len(block)])
  return np.concatenate(parts)


def speed(model: Any, repeats: int = 5) -> list[list[str]]:
  """[[name, value]]: the fastest of some runs after warm-up, of one text and of one window."""
  clip = np.random.default_rng(0).uniform(-0.1, 0.1, [1, model.window_samples]).astype(np.float32)
  rows = []
  for name, run in (
    ('10 s of audio', lambda: model.embed_clips(clip)),
    ('One text', lambda: model.embed_text(['slow jazz with piano'])),
  ):
    run()
    seconds = []
    for _ in range(repeats):
      start = time.perf_counter()
      run()
      seconds.append(time.perf_counter() - start)
    rows.append([name, f'{1000 * min(seconds):.1f} ms'])
  return rows
