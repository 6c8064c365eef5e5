"""k-means of a few points of very many numbers each, by the products of points alone.

Notation: n points of d numbers, k clusters. A centre is a mean of points, so a row of weights [k,n]
says which, and distances follow from the Gram matrix [n,n] without another look at the points.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def distances(weights: Float[Array, "k n"], gram: Float[Array, "n n"]) -> Float[Array, "n k"]:
  """Returns the squared distance of each point to each centre."""
  cross = jnp.matmul(gram, weights.T, precision=jax.lax.Precision.HIGHEST)
  norm = jnp.sum(weights.T * cross, axis=0)
  return jnp.maximum(jnp.diagonal(gram)[:, None] - 2 * cross + norm, 0)


def spread(
  key: Array, gram: Float[Array, "n n"], valid: Bool[Array, " n"], k: int
) -> Float[Array, "k n"]:
  """Picks first centres as k-means++ does: points, with probability as the squared distance to the
  nearest one picked before; the first one of all alike.
  """
  n = len(gram)
  keys = jax.random.split(key, k)

  def pick(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
    nearest, weights = carry
    row = jax.random.categorical(keys[i], jnp.where(valid, jnp.log(nearest), -jnp.inf))
    weights = weights.at[i].set(jnp.arange(n) == row)
    away = distances(weights[i][None], gram)[:, 0]
    # Where all distances are 0 any point will do.
    nearest = jnp.where(i == 0, away, jnp.minimum(nearest, away))
    return jnp.maximum(nearest, 1e-30), weights

  return jax.lax.fori_loop(0, k, pick, (jnp.ones(n), jnp.zeros((k, n))))[1]


def fit(
  key: Array,
  gram: Float[Array, "n n"],
  valid: Bool[Array, " n"],
  count: Int[Array, ""],
  k: int,
  steps: int = 30,
) -> Float[Array, "k n"]:
  """Returns the weights of the centres that `steps` of Lloyd's algorithm find.

  Args:
    gram: products of all pairs of points.
    valid: which points there are.
    count: how many centres there are, at most k; a value, so that one compilation serves all.
      The rows after them are 0.
    k: rows of the answer.
    steps: of the algorithm; a centre without points stays where it is.
  """
  used = jnp.arange(k) < count

  def step(_: Array, weights: Array) -> Array:
    away = jnp.where(used, distances(weights, gram), jnp.inf)
    member = (jnp.argmin(away, axis=1)[None] == jnp.arange(k)[:, None]) & valid  # [k,n]
    size = jnp.sum(member, axis=1, keepdims=True)
    return jnp.where(size > 0, member / jnp.maximum(size, 1), weights)

  weights = jax.lax.fori_loop(0, steps, step, spread(key, gram, valid, k))
  return jnp.where(used[:, None], weights, 0)
