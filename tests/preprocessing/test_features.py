"""Clips and tokens: where clips begin, at which level, with which style window."""

import numpy as np
import pytest

from models.spec import MAGENTA_RT_V1
from preprocessing import audio, features

OPTIONS = features.ClipOptions()


@pytest.mark.parametrize(
  'secs, clips',
  [
    (90.0, [(0, 30), (30, 30), (60, 30)]),
    (72.5, [(0, 30), (30, 30), (60, 12.5)]),
    (63.9, [(0, 30), (30, 30)]),
    (12.0, [(0, 12)]),
    (3.9, []),
  ],
)
def test_clips_follow_each_other_and_a_long_enough_tail_is_kept(secs, clips):
  assert features.plan_clips(secs, OPTIONS) == clips


@pytest.mark.parametrize('secs', [34.0, 61.5, 90.0, 301.7])
def test_the_first_cut_is_hashed_and_nothing_is_lost(secs):
  """Every hash: the clips cover the track up to a rest below min_clip_secs, none is longer."""
  firsts = set()
  for content in range(200):
    clips = features.plan_clips(secs, OPTIONS, f'{content:064x}')
    assert clips == features.plan_clips(secs, OPTIONS, f'{content:064x}')
    starts = [start for start, _ in clips]
    assert starts == [0.0, *np.cumsum([length for _, length in clips])[:-1]]
    assert secs - sum(length for _, length in clips) < OPTIONS.min_clip_secs
    assert all(OPTIONS.min_clip_secs <= length <= 30 for _, length in clips)
    assert all(length == 30 for _, length in clips[1:-1])
    firsts.add(clips[0][1])
  # 26 offsets from 4 to 29 s, and none: a first clip of 30 s.
  assert firsts == {float(first) for first in range(4, 31)}


def test_short_tracks_are_not_cut_in_two():
  for content in range(50):
    assert features.plan_clips(33.9, OPTIONS, f'{content:064x}') == [(0, 30)]
    assert features.plan_clips(12.0, OPTIONS, f'{content:064x}') == [(0, 12)]
  plain = features.ClipOptions(hashed_offset=False)
  assert features.plan_clips(90.0, plain, 'abc') == [(0, 30), (30, 30), (60, 30)]


def test_level_by_loudness_stays_below_the_peak():
  by_loudness = features.ClipOptions(loudness_lufs=-20.0)
  assert features.level_gain(0.25, -26.0, by_loudness) == pytest.approx(10 ** (6 / 20))
  # 20 dB more would put the peak above -1 dBFS.
  assert features.level_gain(0.25, -40.0, by_loudness) * 0.25 == pytest.approx(10 ** (-1 / 20))
  free = features.ClipOptions(loudness_lufs=-20.0, peak_dbfs=None)
  assert features.level_gain(0.25, -40.0, free) == pytest.approx(10.0)
  assert features.level_gain(0.5, -20.0, OPTIONS) == features.peak_gain(0.5, -1.0)
  assert features.level_gain(0.5, -np.inf, by_loudness) == features.peak_gain(0.5, -1.0)
  with pytest.raises(ValueError, match='loudness_lufs=3.0 is not in -70..0'):
    features.ClipOptions(loudness_lufs=3.0).check()


def test_gain_brings_the_peak_to_the_target():
  assert features.peak_gain(0.5, -1.0) * 0.5 == pytest.approx(10 ** (-1 / 20))
  assert features.peak_gain(0.0, -1.0) == 1.0
  assert features.peak_gain(0.5, None) == 1.0


def test_impossible_options_are_refused():
  with pytest.raises(ValueError, match='min_clip_secs=1.0 is not in 2..30'):
    features.ClipOptions(min_clip_secs=1.0).check()


@pytest.mark.parametrize('rate', [48_000, 44_100])
def test_tokens_of_a_track(tmp_path, fake_models, rate):
  """Ten-second steps in level, so that every clip and window has its own known tokens."""
  path = tmp_path / 'steps.wav'
  levels = np.linspace(0.05, 0.4, 8)
  x = np.repeat(levels, 10 * rate)[: 75 * rate, None] * np.ones([1, 2])
  audio.write_audio(path, x, rate)
  codec, style = fake_models('', '')
  clips = list(features.tokenize_track(str(path), 75.0, 2.0, codec, style, OPTIONS, MAGENTA_RT_V1))
  assert [clip.start_secs for clip in clips] == [0, 30, 60]
  assert [clip.acoustic_tokens.shape for clip in clips] == [(750, 64), (750, 64), (375, 64)]
  assert [clip.style_tokens.shape for clip in clips] == [(3, 12), (3, 12), (2, 12)]
  expected = 2.0 * levels
  for number, clip in enumerate(clips):
    middles = clip.acoustic_tokens[125::250, 0] / 1000
    np.testing.assert_allclose(middles, expected[3 * number :][: len(middles)], atol=1e-3)
    windows = clip.style_embeddings[:, 0]
    window_levels = expected[3 * number :][: len(windows)].copy()
    if number == 2:
      window_levels[1] /= 2  # the last window is half zeros
    np.testing.assert_allclose(windows, window_levels, rtol=0.02)
    np.testing.assert_array_equal(clip.style_tokens[:, 0], np.round(windows * 1000))


def test_batching_does_not_change_tokens(tmp_path, fake_models):
  path = tmp_path / 'noise.wav'
  noise = np.random.default_rng(0).normal(size=[95 * 8000, 2]).cumsum(axis=0)
  audio.write_audio(path, noise / np.abs(noise).max(), 8000)
  codec, style = fake_models('', '')
  alone, together = (
    list(
      features.tokenize_track(
        str(path), 95.0, 1.0, codec, style, features.ClipOptions(clips_per_batch=size)
      )
    )
    for size in (1, 8)
  )
  assert len(alone) == len(together) == 4
  for a, b in zip(alone, together, strict=True):
    # Neighbouring clips are resampled in one go, which moves samples by rounding only.
    difference = np.abs(a.acoustic_tokens - b.acoustic_tokens)
    assert (difference[1:-1, 0] <= 1).all()
    np.testing.assert_allclose(a.style_embeddings, b.style_embeddings, atol=1e-4)
