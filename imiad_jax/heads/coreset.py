"""Greedy k-centre selection: the rows that cover a set best, farthest point first.

Notation: n rows of d numbers, m of them picked. Gonzalez' rule picks the row that is farthest from
all picked so far; its covering radius is at most twice the optimum.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def project(key: Array, x: Float[Array, "n d"], dim: int) -> Float[Array, "n _"]:
  """Random linear map to `dim` numbers, uniform in +-1/sqrt(d); x itself where d <= dim."""
  d = x.shape[-1]
  if d <= dim:
    return x
  bound = d**-0.5
  matrix = jax.random.uniform(key, (d, dim), minval=-bound, maxval=bound)
  return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)


def to_row(x: Float[Array, "n d"], norm: Float[Array, " n"], row: Int[Array, ""]):
  """Returns the squared distance [n] of every row to one of them, exactly 0 to itself."""
  cross = jnp.matmul(x, x[row], precision=jax.lax.Precision.HIGHEST)
  return jnp.maximum(norm + norm[row] - 2 * cross, 0).at[row].set(0)


def start(
  key: Array, x: Float[Array, "n d"], valid: Bool[Array, " n"], points: int
) -> Float[Array, " n"]:
  """Returns the squared mean distance of each row to `points` random valid rows.

  PatchCore's authors begin their selection so ("approximate greedy"): the points themselves are
  not picked, and their mean distance stays as an upper bound of a row's distance for ever.
  """
  norm = jnp.sum(x * x, -1)
  order = jax.random.gumbel(key, valid.shape)  # the first points of a random order of valid rows
  _, rows = jax.lax.top_k(jnp.where(valid, order, -jnp.inf), min(points, len(x)))
  count = jnp.minimum(points, jnp.sum(valid))
  used = jnp.arange(len(rows)) < count
  total = sum(jnp.sqrt(to_row(x, norm, row)) * use for row, use in zip(rows, used, strict=True))
  return jnp.square(total / jnp.maximum(count, 1))


def greedy(
  x: Float[Array, "n d"],
  distance: Float[Array, " n"],
  valid: Bool[Array, " n"],
  count: Int[Array, ""],
  size: int,
) -> Int[Array, " size"]:
  """Picks `count` <= size valid rows, each the farthest from those before it.

  Args:
    x: the rows.
    distance: squared distance of each row before the first pick (`start`, or all equal).
    valid: rows that may be picked.
    count: how many to pick; a value, so that one compilation serves every count.
    size: the length of the answer; the places after `count` are 0.
  """
  norm = jnp.sum(x * x, -1)

  def pick(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
    distance, picks = carry
    row = jnp.argmax(distance)
    return jnp.minimum(distance, to_row(x, norm, row)), picks.at[i].set(row.astype(jnp.int32))

  distance = jnp.where(valid, distance, -1)
  picks = jnp.zeros(size, jnp.int32)
  return jax.lax.fori_loop(0, jnp.minimum(count, size), pick, (distance, picks))[1]
