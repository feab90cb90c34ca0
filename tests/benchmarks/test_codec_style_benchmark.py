"""What a codec does to a clip, as the style model and the spectrum tell it."""

import numpy as np
import pytest

from benchmarks import codec_style


def test_closeness_of_equal_opposite_and_noisy_clips():
  time = np.arange(48_000)[:, None] / 48_000
  tone = np.repeat(np.sin(2 * np.pi * 440 * time), 2, axis=1)
  noise = np.random.default_rng(0).normal(size=tone.shape)

  def embed(clip):
    return np.array([clip[10, 0], clip[20, 0]])

  same = codec_style.closeness([tone, tone], [tone, tone], embed)
  assert same == {'cosine': 1.0, 'flatness': pytest.approx(0.0, abs=1e-3)}
  assert codec_style.closeness([tone], [-tone], embed)['cosine'] == -1.0
  assert codec_style.closeness([noise], [noise], embed)['flatness'] == pytest.approx(0.56, abs=0.01)
