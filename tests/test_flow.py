"""Flows: what goes in comes back, and the determinant is that of the Jacobian."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.heads import flow


def made(channels: int, grid: int, sizes=(3, 1), dtype=jnp.float32):
  """A flow whose every parameter is random, its permutations and an input."""
  module = flow.Flow(channels, hidden=channels - channels // 2, sizes=sizes)
  order = flow.permutations(jax.random.key(0), len(sizes), channels)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((2, grid, grid, channels)), dtype)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x, order)

  def one(path, like):
    first = 10.0 * (path[-1].key == "scale")
    return jnp.asarray(first + 0.3 * rng.standard_normal(like.shape), dtype)

  return module, jax.tree.map_with_path(one, shapes), order, x


@pytest.mark.parametrize("channels", [8, 7])  # odd halves are uneven
def test_the_inverse_brings_back_the_input(channels):
  module, params, order, x = made(channels, grid=6, sizes=(3, 1) * 2)
  z, _ = jax.jit(module.apply)(params, x, order)
  assert float(jnp.abs(z - x).max()) > 1  # far from the identity
  back = jax.jit(functools.partial(module.apply, method="inverse"))(params, z, order)
  np.testing.assert_allclose(back, x, atol=1e-4)


def test_the_inverse_is_exact_in_float64():
  with jax.enable_x64(True):
    module, params, order, x = made(8, grid=6, sizes=(3, 1) * 4, dtype=jnp.float64)
    z, _ = jax.jit(module.apply)(params, x, order)
    back = jax.jit(functools.partial(module.apply, method="inverse"))(params, z, order)
    assert z.dtype == jnp.float64
    np.testing.assert_allclose(back, x, atol=1e-10)


@pytest.mark.parametrize("channels", [4, 5])
def test_log_det_is_that_of_the_jacobian(channels):
  module, params, order, x = made(channels, grid=3)
  _, log_det = jax.jit(module.apply)(params, x, order)
  for image, value in zip(x, log_det, strict=True):
    one = lambda flat: module.apply(params, flat.reshape(1, 3, 3, channels), order)[0].ravel()  # noqa: E731
    jacobian = np.asarray(jax.jacrev(one)(image.ravel()), np.float64)
    np.testing.assert_allclose(value, np.linalg.slogdet(jacobian)[1], rtol=1e-4, atol=1e-4)


def test_a_flow_whose_subnets_say_nothing_is_a_permutation():
  module, _, order, x = made(6, grid=4)
  params = module.init(jax.random.key(0), x, order)
  silent = jax.tree.map_with_path(lambda path, p: 0 * p if "second" in str(path) else p, params)
  z, log_det = module.apply(silent, x, order)
  np.testing.assert_allclose(z, x[..., order[0]][..., order[1]], rtol=1e-6)
  np.testing.assert_allclose(log_det, 0, atol=1e-4)


def test_log_scales_are_clamped():
  module = flow.Coupling(8, hidden=4, size=3, clamp=2.0)
  order = flow.permutations(jax.random.key(0), 1, 8)[0]
  x = 1e3 * jax.random.normal(jax.random.key(1), (2, 4, 4, 8))
  params = jax.jit(module.init)(jax.random.key(2), x, order)
  log_scale, _ = module.apply(params, x[..., :4], method="coefficients")
  assert 1.9 < float(jnp.abs(log_scale).max()) <= 2


def test_permutations_are_orders_and_differ_from_step_to_step():
  order = flow.permutations(jax.random.key(0), 4, 31)
  np.testing.assert_array_equal(jnp.sort(order, axis=1), np.tile(np.arange(31), (4, 1)))
  assert len(np.unique(order, axis=0)) == 4


def test_the_likelihood_is_that_of_a_normal():
  z = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
  log_det = jnp.array([1.0, -2.0])
  dense = jax.scipy.stats.norm.logpdf(z).sum((1, 2, 3)) + log_det
  constant = 3 * 4 * 5 * np.log(2 * np.pi) / 2
  got = flow.negative_log_likelihood(z, log_det)
  np.testing.assert_allclose(got, -dense - constant, rtol=1e-5)
