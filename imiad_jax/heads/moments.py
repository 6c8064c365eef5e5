"""Mean and variance over images that come batch by batch.

They are summed around the mean of the first batch, so that float32 does not cancel. Notation: a
tree is a pytree of arrays; what is measured has the axis b of a batch's images in front.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Moments(NamedTuple):
  """Of `count` images; three trees alike."""

  count: Array  # [] float32
  shift: Any  # mean of the first batch
  first: Any  # sum of x - shift
  second: Any  # sum of (x - shift)^2


def start(like: Any) -> Moments:
  """Returns the moments of no image, for images that are trees like this one."""
  zeros = jax.tree.map(jnp.zeros_like, like)
  return Moments(jnp.float32(0), zeros, zeros, zeros)


def add(moments: Moments, tree: Any, weight: Float[Array, " b"]) -> Moments:
  """Returns the moments with a batch more; images of weight 0 change nothing."""
  here = jnp.sum(weight)

  def total(x: Array) -> Array:
    return jnp.tensordot(weight, x, axes=1, precision=jax.lax.Precision.HIGHEST)

  def begin(shift: Array, x: Array) -> Array:
    return jnp.where(moments.count == 0, total(x) / jnp.maximum(here, 1), shift)

  shift = jax.tree.map(begin, moments.shift, tree)
  first = jax.tree.map(lambda m, x, s: m + total(x - s), moments.first, tree, shift)
  second = jax.tree.map(lambda m, x, s: m + total(jnp.square(x - s)), moments.second, tree, shift)
  return Moments(moments.count + here, shift, first, second)


def mean_and_variance(moments: Moments) -> tuple[Any, Any]:
  """Returns two trees; both are 0 where there was no image."""
  n = jnp.maximum(moments.count, 1)
  mean = jax.tree.map(lambda x: x / n, moments.first)
  variance = jax.tree.map(lambda x, m: jnp.maximum(x / n - m * m, 0), moments.second, mean)
  return jax.tree.map(jnp.add, moments.shift, mean), variance
