"""Distances of sound from a catalog, by figures that no network has a part in."""

import numpy as np
import pytest

from evaluation import likeness

RATE = 48_000


def _clicks(per_second: float) -> np.ndarray:
  t = np.arange(6 * RATE) / RATE
  noise = np.random.default_rng(0).standard_normal([len(t), 2])
  return 0.2 * noise * np.exp(-60 * (t % (1 / per_second)))[:, None]


@pytest.mark.parametrize('rate', [1, 2, 4])
def test_onsets_are_counted(rate):
  assert likeness.onsets_per_second(_clicks(rate), RATE) == pytest.approx(rate, abs=0.35)


def test_silence_has_figures_that_lie_far_from_music():
  music = np.stack([likeness.sound_figures(_clicks(rate), RATE) for rate in (1.5, 2, 2.5, 3)])
  silence = likeness.sound_figures(np.zeros([6 * RATE, 2]), RATE)
  assert silence[-1] == likeness.SILENCE_LUFS
  near, far = likeness.sound_distances([music[1], silence], music)
  assert near < 1.2 and far > 3


def test_distances_are_means_over_groups_of_root_mean_squares():
  rng = np.random.default_rng(0)
  reference = 10 * rng.standard_normal([50, 31])
  mean, spread = reference.mean(0), reference.std(0, ddof=1)
  row = mean + 2 * spread
  row[24:26] = (mean + 3 * spread)[24:26]
  row[-1] = mean[-1] - 50 * spread[-1]  # Counts as 5.
  expected = np.mean([2, 3, 2, np.sqrt((4 + 25) / 2)])
  assert likeness.sound_distances([row], reference)[0] == pytest.approx(expected)


def test_a_figure_that_hardly_varies_in_the_catalog_is_not_infinitely_strict():
  reference = np.zeros([5, 31])
  row = np.zeros(31)
  row[-1] = 1.0  # One LU off a catalog of one loudness.
  assert likeness.sound_distances([row], reference)[0] == pytest.approx(np.sqrt(0.5) / 4)


def test_what_is_not_defined_counts_as_far_where_the_catalog_has_it():
  reference = np.random.default_rng(0).standard_normal([9, 31])
  row = reference.mean(0)
  row[25] = np.nan  # No pulse.
  assert likeness.sound_distances([row], reference)[0] == pytest.approx(5 / np.sqrt(2) / 4)
  reference[:, 25] = np.nan
  reference[0, 25] = 0.3
  assert likeness.sound_distances([row], reference)[0] == pytest.approx(0, abs=1e-9)


def test_a_catalog_of_one_clip_has_no_spread():
  with pytest.raises(ValueError, match='1 clips of the catalog: their spread needs at least 2'):
    likeness.sound_distances(np.zeros([1, 31]), np.zeros([1, 31]))
