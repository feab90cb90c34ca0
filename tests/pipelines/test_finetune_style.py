"""Outputs beside a catalog, both as the codec plays them."""

import types

import numpy as np
import pytest

from models.spec import LiveMusicSpec
from pipelines import finetune_style

SPEC = LiveMusicSpec()


class _Codec:
  """Its audio is the codes themselves."""

  def decode(self, codes):
    return np.asarray(codes, np.float32)


class _Style:
  """An embedding of two numbers: the mean code, and how many levels came."""

  def embed_audio(self, audio, sample_rate):
    assert sample_rate == SPEC.sample_rate
    return np.array([audio.mean(), audio.shape[1]])


def _records(codes):
  return [(types.SimpleNamespace(acoustic_tokens=clip), None) for clip in codes]


def test_excerpts_are_the_middles_of_evenly_spread_records(monkeypatch):
  frames = round(SPEC.style_window_secs * SPEC.frame_rate)
  clips = [np.full([3 * frames, SPEC.codec_levels], 7 * number) for number in range(10)]
  for clip in clips:
    clip[:frames] = 999
    clip[2 * frames :] = 999
  clips.append(np.full([5, SPEC.codec_levels], 3))  # Shorter than a window.
  monkeypatch.setattr('preprocessing.records.read_split', lambda folder, split: _records(clips))
  monkeypatch.setattr('tasks.source.find_token_folder', lambda data_dir: data_dir)
  found = finetune_style.decoded_embeddings('here', 'train', SPEC, _Codec(), _Style(), number=6)
  assert found[:, 0].tolist() == [0, 14, 28, 42, 56, 3]
  assert set(found[:, 1]) == {SPEC.target_levels}
  everything = finetune_style.decoded_embeddings('here', 'train', SPEC, _Codec(), _Style())
  assert len(everything) == 11


def test_figures_are_cosines_to_the_mean_with_an_interval_of_the_paired_change():
  east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
  training = np.stack([east, east])
  before, after = np.stack([north] * 6), np.stack([east] * 6)
  figures = finetune_style.style_figures(before, after, training, np.stack([east, north]), seed=0)
  assert figures == {
    'before': 0.0, 'after': 1.0, 'low': 1.0, 'high': 1.0, 'num_clips': 6, 'catalog': 0.5
  }  # fmt: skip
  mixed = np.stack([east, north] * 3)
  figures = finetune_style.style_figures(before, mixed, training, training, seed=0)
  assert figures['after'] == 0.5 and figures['low'] < 0.5 < figures['high']


def test_spread_is_the_mean_distance_of_pairs():
  assert finetune_style.spread(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])) == pytest.approx(
    2 / 3
  )
  assert finetune_style.spread(np.array([[1.0, 0.0]])) == 0
