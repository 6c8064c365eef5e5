"""The flow across scales: what goes in comes back, and the determinant is that of the Jacobian."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from imiad_jax.heads import cross_flow


def made(channels: int, grid: int, sizes=(3, 5), hidden: int = 8, spread: float = 0.5):
  """A flow with every parameter random, its permutations and an input."""
  rng = np.random.default_rng(0)
  module = cross_flow.Flow(hidden, sizes)
  orders = np.array([[rng.permutation(channels) for _ in range(3)] for _ in sizes], np.int32)
  orders, sides = jnp.asarray(orders), (grid, -(-grid // 2), -(-grid // 4))
  x = tuple(jnp.asarray(rng.normal(size=(2, n, n, channels)), jnp.float32) for n in sides)

  def fill(p):
    fan_in = math.prod(p.shape[:3]) if len(p.shape) == 4 else 1
    return jnp.asarray(spread * rng.normal(size=p.shape) / fan_in**0.5, jnp.float32)

  shapes = jax.eval_shape(module.init, jax.random.key(0), x, orders)
  return module, jax.tree.map(fill, shapes), orders, x


@pytest.mark.parametrize(("channels", "grid"), [(8, 8), (7, 8), (8, 5)])  # odd ones are uneven
def test_the_inverse_brings_back_the_input(channels, grid):
  module, params, orders, x = made(channels, grid, sizes=(3, 3, 3, 5))
  z, _ = jax.jit(module.apply)(params, x, orders)
  back = jax.jit(functools.partial(module.apply, method="inverse"))(params, z, orders)
  for a, b, c in zip(z, x, back, strict=True):
    assert float(jnp.abs(a - b).max()) > 1  # far from the identity
    np.testing.assert_allclose(c, b, atol=1e-4)


@pytest.mark.parametrize("channels", [4, 3])
def test_log_det_is_that_of_the_jacobian(channels):
  module, params, orders, x = made(channels, grid=4)
  _, log_det = jax.jit(module.apply)(params, x, orders)
  _, unflat = ravel_pytree(tuple(m[:1] for m in x))
  flow = lambda v: ravel_pytree(module.apply(params, unflat(v), orders)[0])[0]  # noqa: E731
  transformed = jax.jit(jax.jacrev(flow))
  for i in range(2):
    flat, _ = ravel_pytree(tuple(m[i : i + 1] for m in x))
    jacobian = np.asarray(transformed(flat), np.float64)
    wanted = np.linalg.slogdet(jacobian)[1]
    assert abs(wanted) > 1
    np.testing.assert_allclose(sum(share[i] for share in log_det), wanted, rtol=1e-4)


def test_it_starts_as_a_permutation():
  module, _, orders, x = made(6, grid=4)
  (z, log_det), _ = jax.jit(module.init_with_output)(jax.random.key(0), x, orders)
  for i, (a, b) in enumerate(zip(z, x, strict=True)):
    np.testing.assert_array_equal(a, b[..., orders[0, i]][..., orders[1, i]])
  assert all((share == 0).all() for share in log_det)


def test_a_scale_hears_its_neighbours_alone():
  _, _, _, x = made(4, grid=8)
  module = cross_flow.CrossConvolutions(hidden=8, size=3)
  params = jax.jit(module.init, static_argnums=2)(jax.random.key(0), x, 6)["params"]
  params = {"params": params | {"gamma": jnp.ones(3)}}
  heard = jax.jit(jax.jacrev(lambda x: [jnp.sum(m) for m in module.apply(params, x, 6)]))(x)
  found = [[bool(jnp.abs(m).max() > 0) for m in row] for row in heard]
  assert found == [[True, True, False], [True, True, True], [False, True, True]]


def test_log_scales_are_clamped_and_the_output_is_clipped():
  module, params, orders, x = made(4, grid=4, sizes=(3,), spread=100.0)
  halves = tuple(1e4 * m[..., :2] for m in x)

  def scales(module, halves):
    step = module.steps[0]
    return step.coefficients(step.told_first, halves, 2)[0]

  log_scale = jax.jit(functools.partial(module.apply, method=scales))(params, halves)
  most = max(float(jnp.abs(m).max()) for m in log_scale)
  bound = 3 * 0.636 * math.pi / 2
  assert bound - 0.01 < most < bound + 1e-5
  z, _ = jax.jit(module.apply)(params, tuple(1e9 * m for m in x), orders)
  assert max(float(jnp.abs(m).max()) for m in z) == 1e6


def test_the_authors_flow_has_as_many_parameters():
  x = tuple(jax.ShapeDtypeStruct((1, n, n, 304), jnp.float32) for n in (24, 12, 6))
  orders = jax.ShapeDtypeStruct((4, 3, 304), jnp.int32)
  module = cross_flow.Flow(hidden=1024, sizes=(3, 3, 3, 5))
  params = jax.eval_shape(module.init, jax.random.key(0), x, orders)
  assert sum(math.prod(p.shape) for p in jax.tree.leaves(params)) == 275_227_288
