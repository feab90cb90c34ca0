"""Mixes, paths between styles, and presets on disk."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import weights
from models.musiccoca import mixing, presets
from models.musiccoca.mixing import StyleError, interpolate, path, weighted_mean

_RNG = np.random.default_rng(0)


def test_mix_is_the_weighted_arithmetic_mean_without_renormalisation():
  embeddings = _RNG.standard_normal([3, 768])
  got = weighted_mean(embeddings, [1, 0, 3])
  np.testing.assert_allclose(got, 0.25 * embeddings[0] + 0.75 * embeddings[2], rtol=1e-6)
  assert got.dtype == np.float32
  np.testing.assert_allclose(weighted_mean(embeddings), embeddings.mean(0), rtol=1e-6)
  doubled = weighted_mean(embeddings, [2, 4, 6])
  np.testing.assert_allclose(doubled, weighted_mean(embeddings, [1, 2, 3]), rtol=1e-6)
  assert np.linalg.norm(weighted_mean(np.eye(2))) == pytest.approx(0.5**0.5)


@pytest.mark.parametrize(
  'weights_, reason',
  [
    ([1, -0.5], 'weight -0.5 is below 0. A style cannot be subtracted, because the mean'),
    ([0, 0], 'at least one must be above 0'),
    ([1, np.nan], 'not all finite'),
    ([1, np.inf], 'not all finite'),
    ([1, 1, 1], '3 weights are given for 2'),
  ],
)
def test_weights_that_cannot_be_mixed(weights_, reason):
  with pytest.raises(StyleError, match=reason):
    weighted_mean(np.eye(2), weights_)


def test_nothing_cannot_be_mixed():
  with pytest.raises(StyleError, match=r'shape \(0, 4\)'):
    weighted_mean(np.zeros([0, 4]))


def test_linear_path_is_a_straight_line_with_even_steps():
  ends = _RNG.standard_normal([2, 5])
  got = path(ends, 5)
  np.testing.assert_allclose(got[0], ends[0], rtol=1e-6)
  np.testing.assert_allclose(got[-1], ends[1], rtol=1e-6)
  np.testing.assert_allclose(np.diff(got, axis=0), np.tile((ends[1] - ends[0]) / 4, [4, 1]),
                             atol=1e-6)  # fmt: skip
  np.testing.assert_allclose(got[1], weighted_mean(ends, [0.75, 0.25]), rtol=1e-5, atol=1e-6)


def test_spherical_path_turns_at_a_constant_rate_and_its_norm_is_linear():
  start, end = np.array([3.0, 0, 0]), np.array([0, 5.0, 0])
  for i, style in enumerate(path(np.stack([start, end]), 7, 'spherical')):
    angle = np.pi / 2 * i / 6
    expected = (3 + 2 * i / 6) * np.array([np.cos(angle), np.sin(angle), 0])
    np.testing.assert_allclose(style, expected, atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_spherical_points_are_slerp_and_symmetric(seed, fraction):
  start, end = np.random.default_rng(seed).standard_normal([2, 6])
  got = interpolate(start, end, fraction, 'spherical')
  unit = start / np.linalg.norm(start), end / np.linalg.norm(end)
  angle = np.arccos(np.clip(unit[0] @ unit[1], -1, 1))
  turned = np.arccos(np.clip(unit[0] @ got / np.linalg.norm(got), -1, 1))
  assert turned == pytest.approx(fraction * angle, abs=1e-3)
  back = interpolate(end, start, 1 - fraction, 'spherical')
  np.testing.assert_allclose(got, back, atol=1e-5)


def test_spherical_path_between_nearly_equal_styles_is_exact():
  start = _RNG.standard_normal(768)
  end = start * (1 + 1e-9)
  np.testing.assert_allclose(interpolate(start, end, 0.5, 'spherical'), start, rtol=1e-6)


def test_a_path_passes_its_waypoints():
  waypoints = _RNG.standard_normal([4, 8])
  for kind in mixing.KINDS:
    got = path(waypoints, 10, kind)
    np.testing.assert_allclose(got[::3], waypoints, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
  'call, reason',
  [
    (lambda: path(np.eye(2), 1), 'num_steps=1 must be at least 2'),
    (lambda: path(np.eye(2)[:1], 5), r'waypoints; got shape \(1, 2\)'),
    (lambda: interpolate(np.ones(2), np.ones(2), 1.5), '1.5 is not in 0..1'),
    (lambda: interpolate(np.ones(2), np.ones(2), 0.5, 'cubic'), "'cubic' is not one of"),
    (lambda: interpolate(np.zeros(2), np.ones(2), 0.5, 'spherical'), 'use a linear one'),
    (lambda: interpolate(np.ones(2), -np.ones(2), 0.5, 'spherical'), 'give a waypoint'),
  ],
)
def test_paths_that_cannot_be_walked(call, reason):
  with pytest.raises(StyleError, match=reason):
    call()


def test_catalog_presets_are_its_mean_and_its_clusters_biggest_first():
  centers = np.array([[10.0, 0], [0, 10], [-10, -10]])
  sizes = [20, 50, 30]
  embeddings = np.concatenate([
    center + 0.1 * _RNG.standard_normal([size, 2]) for center, size in zip(centers, sizes)
  ])
  got = presets.catalog_presets(embeddings, 3)
  assert list(got) == ['catalog', 'catalog-1', 'catalog-2', 'catalog-3']
  np.testing.assert_allclose(got['catalog'], embeddings.mean(0), rtol=1e-5)
  for name, center in (('catalog-1', 1), ('catalog-2', 2), ('catalog-3', 0)):
    np.testing.assert_allclose(got[name], centers[center], atol=0.2)
  assert list(presets.catalog_presets(embeddings[:2], 5, name='mine')) == [
    'mine', 'mine-1', 'mine-2',
  ]  # fmt: skip
  assert list(presets.catalog_presets(embeddings, 0)) == ['catalog']


def test_presets_on_disk_keep_float32_and_their_model(tmp_path):
  saved = {'mean': _RNG.standard_normal(768).astype(np.float32), 'leise 🎹': np.ones(768)}
  file = presets.save_presets(tmp_path / 'styles.safetensors', saved, 'abcd')
  loaded = presets.load_presets(file, 'abcd')
  assert set(loaded) == set(saved)
  np.testing.assert_array_equal(loaded['mean'], saved['mean'])
  with pytest.raises(ValueError, match='hash abcd; this one has hash ef01'):
    presets.load_presets(file, 'ef01')
  assert set(presets.load_presets(file)) == set(saved)


def test_what_is_no_preset_is_refused(tmp_path):
  for bad, reason in (
    ({}, 'no presets'), ({'a/b': np.ones(2)}, "'a/b' is empty or has a slash"),
    ({'a': np.ones([1, 2])}, r'not one finite vector \(shape \(1, 2\)\)'),
    ({'a': np.array([np.nan])}, 'not one finite'),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=reason):
      presets.save_presets(tmp_path / 'x.safetensors', bad, 'abcd')
  weights.save(tmp_path / 'y.safetensors', {'a': np.ones(2)}, {'kind': 'musiccoca'})
  with pytest.raises(ValueError, match='holds musiccoca, not presets'):
    presets.load_presets(tmp_path / 'y.safetensors')
