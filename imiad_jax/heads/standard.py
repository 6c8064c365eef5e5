"""Features with 0 as mean and 1 as deviation of those that count, number by number."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def fit(x: Float[Array, "n d"], where: Bool[Array, " n"]) -> Float[Array, "2 d"]:
  """Returns mean and standard deviation of the rows that count."""
  count = jnp.maximum(jnp.sum(where), 1)
  mean = jnp.sum(jnp.where(where[:, None], x, 0), axis=0) / count
  square = jnp.sum(jnp.where(where[:, None], jnp.square(x - mean), 0), axis=0) / count
  return jnp.stack([mean, jnp.sqrt(square) + 1e-6])


def apply(x: Float[Array, "*n d"], fitted: Float[Array, "2 d"]) -> Float[Array, "*n d"]:
  """Returns features standardised by what was fitted."""
  return (x - fitted[0]) / fitted[1]
