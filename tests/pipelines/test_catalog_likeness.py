"""Outputs beside a catalog, all as the codec plays it."""

import types

import numpy as np
import pytest

from models.spec import LiveMusicSpec
from pipelines import catalog_likeness
from pipelines.catalog_likeness import COSINE, LOUDNESS, SOUND, CatalogLikeness, Measured

SPEC = LiveMusicSpec()
RATE = SPEC.sample_rate


class _Codec:
  """Its audio is the codes themselves."""

  def decode(self, codes):
    return np.asarray(codes, np.float32)


class _Style:
  """Loudness in the two channels."""

  def embed_audio(self, audio, sample_rate):
    assert sample_rate == RATE
    return np.sqrt(np.square(audio).mean(0))


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
  found = catalog_likeness.decoded_excerpts('here', 'train', SPEC, _Codec(), number=6)
  assert [clip.mean() for clip in found] == [0, 14, 28, 42, 56, 3]
  assert {clip.shape[1] for clip in found} == {SPEC.target_levels}
  everything = catalog_likeness.decoded_excerpts('here', 'train', SPEC, _Codec())
  assert len(everything) == 11


def _tone(hertz: float, left: float, right: float, seed: int = 0) -> np.ndarray:
  """4 s that are struck twice a second, in the middle of a little noise."""
  t = np.arange(4 * RATE) / RATE
  tone = np.sin(2 * np.pi * hertz * t) * np.exp(-4 * (t % 0.5))
  noise = np.random.default_rng(seed).normal(0, 0.003, [len(t), 2])
  return (tone[:, None] * [left, right] + noise).astype(np.float32)


@pytest.fixture(scope='module')
def likeness():
  """A catalog of tones around 300 Hz on the left; other music lies higher and on the right."""
  catalog = [_tone(280 + 10 * i, 0.4, 0.1 + 0.02 * i, i) for i in range(5)]
  other = [_tone(2000, 0.1, 0.4, 9)]
  return CatalogLikeness(catalog[:4], catalog[4:], other, _Style(), RATE)


def test_what_is_like_the_catalog_is_near_to_it(likeness):
  like = _tone(305, 0.4, 0.12, 7)
  found = likeness.measure([like, _tone(2000, 0.1, 0.4, 8)])
  near, far = found.figures[COSINE]
  assert near > 0.99 and far < 0.75
  near, far = found.figures[SOUND]
  assert near < 0.75 * far
  loud, soft = likeness.measure([like, like / 4]).figures[LOUDNESS]
  assert loud - soft == pytest.approx(20 * np.log10(4), abs=0.01)


def test_anchors_stand_beside_in_their_order(likeness):
  assert list(likeness.anchors) == ['held-out catalog', 'other music', 'white noise']
  held_out, other, noise = (found.means() for found in likeness.anchors.values())
  assert held_out[COSINE] > other[COSINE] and held_out[SOUND] < other[SOUND] < noise[SOUND]
  assert held_out[LOUDNESS] == pytest.approx(noise[LOUDNESS], abs=6)
  assert likeness.wrong[SOUND] == []
  # Noise is as loud in each channel as the held-out clip: such a style model cannot tell it.
  assert likeness.wrong[COSINE] == [('other music', 'white noise')]


def _measured(rows: list[float]) -> Measured:
  values = np.array(rows)
  return Measured(np.stack([values, values], 1), {COSINE: values, SOUND: 2 - values,
                                                  LOUDNESS: -20 + values})  # fmt: skip


def test_figures_have_an_interval_of_the_paired_change():
  anchors = {'held-out catalog': _measured([0.5, 0.7]), 'white noise': _measured([0.1])}
  likeness = types.SimpleNamespace(anchors=anchors, wrong={COSINE: [], SOUND: [('a', 'b')]})
  figures = catalog_likeness.style_figures(
    likeness, _measured([0.0] * 6), _measured([1.0] * 6), seed=0
  )
  expected = {'before': 0.0, 'after': 1.0, 'low': 1.0, 'high': 1.0, 'catalog': pytest.approx(0.6)}
  assert {name: figures[name] for name in expected} == expected
  assert figures['num_clips'] == 6
  sound = figures['figures'][SOUND]
  assert (sound['before'], sound['after'], sound['wrong']) == (2.0, 1.0, [['a', 'b']])
  assert sound['anchors'] == {'held-out catalog': pytest.approx(1.4), 'white noise': 1.9}
  loudness = figures['figures'][LOUDNESS]
  assert (loudness['after'], loudness['wrong']) == (-19, [])
  mixed = catalog_likeness.style_figures(
    likeness, _measured([0.0] * 6), _measured([0.0, 1.0] * 3), seed=0
  )
  assert mixed['after'] == 0.5 and mixed['low'] < 0.5 < mixed['high']


def test_other_music_has_gone_through_the_codec():
  class Codec(_Codec):
    def encode(self, clips, levels):
      assert clips.shape == (4, 10 * RATE, 2) and levels == SPEC.target_levels
      assert np.abs(clips).max(axis=(1, 2)).min() > 0.05
      return np.arange(4)[:, None, None].repeat(levels, 2)

  assert [clip.mean() for clip in catalog_likeness.other_music(SPEC, Codec())] == [0, 1, 2, 3]


def test_spread_is_the_mean_distance_of_pairs():
  spread = catalog_likeness.spread
  assert spread(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])) == pytest.approx(2 / 3)
  assert spread(np.array([[1.0, 0.0]])) == 0
