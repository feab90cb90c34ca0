"""The picture of a catalog keeps neighbours together."""

import numpy as np

from evaluation import style_map


def test_clusters_stay_apart():
  rng = np.random.default_rng(0)
  centres = rng.standard_normal([4, 30])
  labels = np.repeat(np.arange(4), 15)
  x = centres[labels] + 0.2 * rng.standard_normal([60, 30])
  y = style_map.two_dimensions(x, perplexity=10)
  assert y.shape == (60, 2) and np.isfinite(y).all() and np.linalg.norm(y, axis=1).max() <= 1.001
  distances = np.linalg.norm(y[:, None] - y[None], axis=-1) + 1e9 * np.eye(60)
  assert (labels[distances.argmin(1)] == labels).all()


def test_a_row_sees_as_many_neighbours_as_asked():
  rng = np.random.default_rng(1)
  x = rng.standard_normal([40, 5])
  squared = np.square(x[:, None] - x[None]).sum(-1)
  joint = style_map._neighbours(squared, 8.0)
  assert abs(joint.sum() - 1) < 1e-9
  np.testing.assert_allclose(joint, joint.T)


def test_few_and_equal_rows():
  assert style_map.two_dimensions(np.ones([1, 8])).tolist() == [[0, 0]]
  assert np.isfinite(style_map.two_dimensions(np.eye(3))).all()
  assert np.isfinite(style_map.two_dimensions(np.ones([12, 8]), steps=20)).all()
