"""The convolution and its gradients against those that JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from imiad_jax.heads import convolution


@pytest.mark.parametrize("depth", [4, convolution._FEW + 1])
@pytest.mark.parametrize(
  ("shape", "size", "stride", "padding"),
  [((6, 7), 3, 1, 1), ((7, 6), 3, 2, 1), ((8, 5), 5, 2, 0), ((6, 6), 1, 1, 0), ((9, 8), 4, 3, 2)],
)
def test_gradients_are_those_that_jax_derives(shape, size, stride, padding, depth):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((2, *shape, 3), np.float32))
  kernel = jnp.asarray(rng.standard_normal((size, size, 3, depth), np.float32))

  def plain(x, kernel):
    pads, strides = [(padding, padding)] * 2, (stride, stride)
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=layout)

  def both(fn, g):
    y, back = jax.vjp(fn, x, kernel)
    return y, *back(g)

  g = jnp.asarray(rng.standard_normal(jax.eval_shape(plain, x, kernel).shape, np.float32))
  ours = lambda x, kernel: convolution.convolve(x, kernel, stride, padding)  # noqa: E731
  got, wanted = (jax.jit(both, static_argnums=0)(fn, g) for fn in (ours, plain))
  for a, b in zip(got, wanted, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("near", "parts"), [(1, 6), (150, 6), (300, 3), (10_000, 1)])
def test_the_gradient_of_a_kernel_is_the_same_by_parts_of_a_batch(near, parts, monkeypatch):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((6, 5, 5, 2), np.float32))
  kernel = jnp.asarray(rng.standard_normal((3, 3, 2, 4), np.float32))
  total = lambda kernel: jnp.sum(convolution.convolve(x, kernel, 1, 1) ** 2)  # noqa: E731
  whole = jax.grad(total)(kernel)
  monkeypatch.setattr(convolution, "_NEAR", near)
  assert f"length={parts} " in str(jax.make_jaxpr(jax.grad(total))(kernel)).replace("\n", " ")
  np.testing.assert_allclose(jax.grad(total)(kernel), whole, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
  ("size", "stride", "padding"), [(2, 2, 0), (4, 2, 1), (3, 1, 1), (8, 1, 0)]
)
def test_a_transposed_convolution_and_its_gradients_are_those_that_jax_derives(
  size, stride, padding
):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((2, 4, 5, 3), np.float32))
  kernel = jnp.asarray(rng.standard_normal((size, size, 3, 4), np.float32))

  def plain(x, kernel):
    pads = [(size - 1 - padding,) * 2] * 2
    return lax.conv_general_dilated(
      *(x, kernel[::-1, ::-1], (1, 1), pads),
      lhs_dilation=(stride, stride),
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )

  ours, back = jax.vjp(lambda *a: convolution.transpose(*a, stride, padding), x, kernel)
  theirs, derived = jax.vjp(plain, x, kernel)
  g = jnp.asarray(rng.standard_normal(theirs.shape, np.float32))
  for a, b in zip((ours, *back(g)), (theirs, *derived(g)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
