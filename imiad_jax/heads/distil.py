"""How far a student's features point from its teacher's.

Channels are the last axis; a vector of zeros has no direction and stays zeros, at distance 1.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_EPS = 1e-12  # the shortest length divided by, as in PyTorch's normalize


def unit(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
  """Scales vectors to unit length, with PyTorch's gradient: finite even at zeros."""
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  return x * jax.lax.rsqrt(jnp.maximum(square, _EPS**2))


def cosine(a: Float[Array, "*b c"], b: Float[Array, "*b c"]) -> Float[Array, "*b"]:
  """Returns 1 - cos of the angle between vectors, in [0,2]: [b,h,w,c] gives a map [b,h,w]."""
  return 1 - jnp.sum(unit(a) * unit(b), axis=-1)
