"""Layers are PyTorch's: their numbers against an obvious version, and what masks leave out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imiad_jax.heads.layers import Conv, Norm, Transposed


@pytest.mark.parametrize(
  ("size", "stride", "padding"), [(2, 2, 0), (4, 2, 1), (3, 1, 1), (8, 1, 0)]
)
def test_a_transposed_convolution_adds_a_kernel_for_each_cell(size, stride, padding):
  layer = Transposed(2, size, stride, padding)
  x = jax.random.normal(jax.random.key(1), (1, 3, 4, 5))
  got, variables = layer.init_with_output(jax.random.key(0), x)
  kernel, bias = variables["params"]["kernel"], variables["params"]["bias"]
  whole = np.zeros((1, 2 * stride + size, 3 * stride + size, 2)) + np.asarray(bias)
  for i in range(3):
    for j in range(4):
      at = np.s_[0, i * stride : i * stride + size, j * stride : j * stride + size]
      whole[at] += np.einsum("c,hwcd->hwd", x[0, i, j], kernel)
  end = -padding if padding else None
  np.testing.assert_allclose(got, whole[:, padding:end, padding:end], rtol=1e-4, atol=1e-5)


def test_first_values_are_within_pytorchs_bounds_and_fill_them():
  x = jnp.zeros((1, 8, 8, 16))
  for layer, fan in [(Conv(64, 3), 9 * 16), (Transposed(64, 3), 9 * 64)]:
    for value in jax.tree.leaves(layer.init(jax.random.key(0), x)):
      assert 0.95 < float(jnp.abs(value).max()) * fan**0.5 <= 1 + 1e-6


def test_a_one_by_one_convolution_is_the_general_one():
  x = jax.random.normal(jax.random.key(1), (2, 5, 5, 3))
  got, variables = Conv(4, 1, 2).init_with_output(jax.random.key(0), x)
  kernel = jnp.pad(variables["params"]["kernel"], ((1, 1), (1, 1), (0, 0), (0, 0)))
  params = {"params": variables["params"] | {"kernel": kernel}}
  np.testing.assert_allclose(got, Conv(4, 3, 2, 1).apply(params, x), rtol=1e-5, atol=1e-6)


def test_batch_norm_leaves_out_what_is_not_valid_and_remembers_the_rest():
  x = 3 + 2 * jax.random.normal(jax.random.key(1), (4, 6, 6, 5))
  valid = jnp.arange(4) < 3
  variables = Norm().init(jax.random.key(0), x, None)
  got, moved = Norm().apply(variables, x, valid, mutable=["batch_stats"])
  mean, var = x[:3].mean((0, 1, 2)), x[:3].var((0, 1, 2))
  np.testing.assert_allclose(got[:3], (x[:3] - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)
  stats = moved["batch_stats"]
  np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-4)
  np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-4)
  later = Norm().apply(variables | moved, x, None)
  np.testing.assert_allclose(later, (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5), rtol=1e-4)
