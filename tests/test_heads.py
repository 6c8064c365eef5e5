"""Heads against slow, obvious versions and against scikit-learn and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import sklearn.covariance
from hypothesis import given, settings
from hypothesis import strategies as st

from imiad_jax.heads import coreset, gaussian, knn, maps, patches


def normal(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60))
def test_pool_is_the_mean_of_each_window(n, dim):
  x = normal(3, n)
  windows = [x[:, j * n // dim : -(-(j + 1) * n // dim)].mean(1) for j in range(dim)]
  np.testing.assert_allclose(patches.pool(jnp.asarray(x), dim), np.stack(windows, 1), atol=1e-6)


def test_neighbourhood_is_zero_padded_and_channel_major():
  x = normal(2, 4, 5, 3)
  got = np.asarray(patches.neighbourhood(jnp.asarray(x))).reshape(2, 4, 5, 3, 3, 3)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  for y in range(4):
    for z in range(5):
      patch = padded[:, y : y + 3, z : z + 3]  # [b,3,3,c]
      np.testing.assert_array_equal(got[:, y, z], patch.transpose(0, 3, 1, 2))


def test_embedding_of_a_wide_resnet_has_its_closed_form():
  # 512 and 1024 channels pooled to 1024 each and then together to 1024: the first half is a blur
  # of layer2 with weights 1/10 and 2/10 in the middle, the second the mean of two neighbouring
  # channels of the 3x3 mean of layer3.
  a, b = normal(1, 6, 6, 512), normal(1, 3, 3, 1024, seed=1)
  got = patches.embed([jnp.asarray(a), jnp.asarray(b)], 1024)
  kernel = np.full((3, 3), 0.1)
  kernel[1, 1] = 0.2
  first = scipy.ndimage.convolve(a, kernel[None, :, :, None], mode="constant")
  mean = scipy.ndimage.convolve(b, np.full((1, 3, 3, 1), 1 / 9), mode="constant")
  up = jax.image.resize(mean, (1, 6, 6, 1024), "bilinear", antialias=False)
  second = np.asarray(up).reshape(1, 6, 6, 512, 2).mean(-1)
  np.testing.assert_allclose(got, np.concatenate([first, second], -1), atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 23])
@pytest.mark.parametrize("used", [20, 13, 2, 0])
def test_nearest_equals_the_dense_computation(chunk, used, monkeypatch):
  monkeypatch.setattr(knn, "_CHUNK", chunk * 20)
  query, bank = normal(33, 5), normal(20, 5, seed=1)
  valid = (np.arange(20) % 3 > 0) & (np.arange(20) < used)
  dense = np.where(valid, ((query[:, None] - bank[None]) ** 2).sum(-1), np.inf)
  got = knn.nearest(jnp.asarray(query), jnp.asarray(bank), jnp.asarray(valid))
  np.testing.assert_allclose(got, dense.min(1), rtol=1e-5, atol=1e-5)
  order = np.random.default_rng(0).permutation(20)
  again = knn.nearest(jnp.asarray(query), jnp.asarray(bank[order]), jnp.asarray(valid[order]))
  np.testing.assert_allclose(got, again, rtol=1e-6)


def test_neighbours_are_sorted_and_valid():
  query, bank = normal(4, 5), normal(20, 5, seed=1)
  valid = np.arange(20) % 3 > 0
  squared, place = knn.neighbours(*map(jnp.asarray, (query, bank, valid)), 6)
  dense = np.where(valid, ((query[:, None] - bank[None]) ** 2).sum(-1), np.inf)
  np.testing.assert_array_equal(place, np.argsort(dense, 1)[:, :6])
  np.testing.assert_allclose(squared, np.sort(dense, 1)[:, :6], rtol=1e-5)


def slow_greedy(x, distance, valid, count):
  """Farthest point first, by the definition."""
  distance, picks = np.where(valid, distance, -1.0), []
  for _ in range(count):
    picks.append(int(np.argmax(distance)))
    distance = np.minimum(distance, ((x - x[picks[-1]]) ** 2).sum(1))
  return picks


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 25))
def test_greedy_equals_the_obvious_loop(seed, count):
  x, valid = normal(50, 4, seed=seed), np.random.default_rng(seed).random(50) < 0.7
  count = min(count, int(valid.sum()))
  far = jnp.full(50, jnp.inf)
  got = coreset.greedy(jnp.asarray(x), far, jnp.asarray(valid), jnp.int32(count), 25)
  picks = [int(p) for p in got[:count]]
  assert picks == slow_greedy(x, np.full(50, np.inf), valid, count)
  assert valid[picks].all() and len(set(picks)) == count
  assert not np.asarray(got[count:]).any()


def test_greedy_is_exact_where_float32_products_are_not():
  # Far from 0 and on a coarse grid, so that many rows are exactly or almost equally far.
  x = np.round(normal(3000, 8), 1) + np.float32(40)
  x[::2] += np.float32(1e-5)
  far = jnp.full(3000, jnp.inf)
  got = coreset.greedy(jnp.asarray(x), far, jnp.ones(3000, bool), jnp.int32(300), 300)
  expected = slow_greedy(x.astype(np.float64), np.full(3000, np.inf), np.ones(3000, bool), 300)
  assert [int(p) for p in got] == expected


def test_covering_radius_falls_and_is_at_most_twice_the_optimum():
  x = normal(9, 2)
  dist = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
  far, valid = jnp.full(9, jnp.inf), jnp.ones(9, bool)
  picks = np.asarray(coreset.greedy(jnp.asarray(x), far, valid, jnp.int32(5), 5))
  radii = [dist[:, picks[: k + 1]].min(1).max() for k in range(5)]
  assert radii == sorted(radii, reverse=True)
  triples = [(i, j, k) for i in range(9) for j in range(9) for k in range(9)]
  best = min(dist[:, list(t)].min(1).max() for t in triples)
  assert radii[2] <= 2 * best + 1e-6


def test_start_is_the_mean_distance_to_random_valid_rows():
  x, valid = normal(30, 4), np.arange(30) < 20
  key = jax.random.key(3)
  got = np.asarray(coreset.start(key, jnp.asarray(x), jnp.asarray(valid), 10))
  order = np.argsort(-np.where(valid, jax.random.gumbel(key, (30,)), -np.inf))[:10]
  assert valid[order].all()
  mean = np.sqrt(((x[:, None] - x[None, order]) ** 2).sum(-1)).mean(1)
  np.testing.assert_allclose(np.sqrt(got), mean, rtol=1e-4)


def test_start_with_fewer_rows_than_points():
  x, valid = normal(30, 4), np.arange(30) < 3
  got = coreset.start(jax.random.key(0), jnp.asarray(x), jnp.asarray(valid), 10)
  mean = np.sqrt(((x[:, None] - x[None, :3]) ** 2).sum(-1)).mean(1)
  np.testing.assert_allclose(np.sqrt(got), mean, rtol=1e-4)


def test_projection_keeps_small_vectors_and_shrinks_large_ones():
  x = jnp.asarray(normal(10, 8))
  assert coreset.project(jax.random.key(0), x, 8) is x
  assert coreset.project(jax.random.key(0), x, 4).shape == (10, 4)


@pytest.mark.parametrize("size", [(20, 31), (64, 64)])
def test_blur_equals_scipy(size):
  x = normal(2, *size)
  expected = [scipy.ndimage.gaussian_filter(v, 4.0) for v in x]
  np.testing.assert_allclose(maps.blur(jnp.asarray(x), 4.0), expected, atol=1e-5)


@pytest.mark.parametrize(("grid", "size"), [((3, 5), (7, 17)), ((4, 4), (4, 4)), ((1, 2), (6, 3))])
def test_aligned_keeps_the_corners_and_is_linear_between(grid, size):
  x = normal(2, *grid)
  got = maps.aligned(jnp.asarray(x), size)
  at = [np.linspace(0, n - 1, m) for n, m in zip(grid, size, strict=True)]
  places = np.stack(np.meshgrid(*at, indexing="ij"))
  expected = [scipy.ndimage.map_coordinates(v, places, order=1) for v in x]
  np.testing.assert_allclose(got, expected, atol=1e-5)
  corners = np.ix_(range(2), (0, -1), (0, -1))
  np.testing.assert_allclose(np.asarray(got)[corners], x[corners], atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 40), st.integers(1, 12))
def test_ledoit_wolf_equals_scikit_learn(seed, n, d):
  x = normal(n, d, seed=seed) * np.linspace(0.1, 3, d, dtype=np.float32) + 2
  padded = np.concatenate([x, np.full((5, d), 1e3, np.float32)])
  valid = np.arange(n + 5) < n
  mean, cov = gaussian.ledoit_wolf(jnp.asarray(padded), jnp.asarray(valid))
  expected, _ = sklearn.covariance.ledoit_wolf(x.astype(np.float64))
  np.testing.assert_allclose(mean, x.mean(0), rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(cov, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
  np.testing.assert_allclose(np.trace(cov), np.trace(expected), rtol=1e-3)


def test_mahalanobis_equals_the_quadratic_form():
  a = normal(6, 6)
  cov = a @ a.T + np.eye(6, dtype=np.float32)
  x, mean = normal(9, 6, seed=1), normal(6, seed=2)
  white = gaussian.whitening(jnp.asarray(np.linalg.cholesky(cov)))
  np.testing.assert_allclose(white @ cov @ white.T, np.eye(6), atol=1e-5)
  got = gaussian.mahalanobis(jnp.asarray(x), jnp.asarray(mean), white)
  form = np.einsum("nd,de,ne->n", x - mean, np.linalg.inv(cov), x - mean)
  np.testing.assert_allclose(got, np.sqrt(form), rtol=1e-4)
  zero = gaussian.mahalanobis(jnp.asarray(mean[None]), jnp.asarray(mean), white)
  assert float(zero[0]) == 0
