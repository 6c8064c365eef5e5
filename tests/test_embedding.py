"""Embeddings: of length 1 whatever the scale, with a Gaussian even of one of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.heads import embedding, gaussian

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 6)), jnp.float32)


def test_scale_does_not_matter():
  z = embedding.unit(X)
  np.testing.assert_allclose(jnp.linalg.norm(z, axis=-1), 1, rtol=1e-6)
  np.testing.assert_allclose(embedding.unit(7 * X), z, rtol=1e-5)
  assert not embedding.unit(0 * X).any()


@pytest.mark.parametrize("count", [1, 2])
def test_few_rows_have_a_gaussian_that_tells_them_from_others(count):
  z = embedding.unit(X)
  mean, factor = embedding.fit(z, jnp.arange(8) < count)
  distance = gaussian.mahalanobis(z, mean, gaussian.whitening(factor))
  assert np.isfinite(distance).all()
  assert float(distance[count:].min()) > 10 * float(distance[:count].max())


def test_more_rows_have_the_ledoit_wolf_covariance():
  valid = jnp.arange(8) < 7
  mean, factor = embedding.fit(X, valid)
  wanted_mean, covariance = gaussian.ledoit_wolf(X, valid)
  np.testing.assert_array_equal(mean, wanted_mean)
  np.testing.assert_allclose(factor @ factor.T, covariance, atol=1e-5)


def test_embeddings_of_two_kinds_alone_have_a_gaussian_too():
  z = embedding.unit(X)
  two = jnp.tile(z[:2], (10, 1))  # Ledoit and Wolf see no reason to shrink these
  _, covariance = gaussian.ledoit_wolf(two, jnp.ones(20, bool))
  assert not np.isfinite(jnp.linalg.cholesky(covariance)).all()
  mean, factor = embedding.fit(two, jnp.ones(20, bool))
  distance = gaussian.mahalanobis(z, mean, gaussian.whitening(factor))
  assert np.isfinite(distance).all()
  assert float(distance[2:].min()) > 10 * float(distance[:2].max())
