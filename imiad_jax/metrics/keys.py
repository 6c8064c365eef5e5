"""Scores as integers of the same order, which XLA sorts five times faster than floats."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32

LOWEST = np.iinfo(np.int32).min  # a key below that of every score


def order(score: Float32[Array, "..."]) -> Int32[Array, "..."]:
  """Returns keys in the order of finite scores, 0 for both zeros."""
  bits = jax.lax.bitcast_convert_type(score, jnp.int32)
  return jnp.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def key(score: float) -> int:
  """Returns the key of one score, rounded to float32."""
  bits = int(np.float32(score).view(np.int32))
  return -(bits & 0x7FFFFFFF) if bits < 0 else bits


def score(key: int) -> float:
  """Returns the score of a key; the inverse of `key`."""
  value = float(np.int32(abs(key)).view(np.float32))
  return -value if key < 0 else value
