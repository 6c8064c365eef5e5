"""Greedy k-centre selection: the rows that cover a set best, farthest point first.

Notation: n rows of d numbers, m of them picked. Gonzalez' rule picks the row that is farthest from
all picked so far; its covering radius is at most twice the optimum.

The distances of a pick to all rows are |x|^2 - 2 x.y + |y|^2, one product of a matrix and a vector,
whose rounding could exchange picks that are almost equally far. Where the farthest row is in doubt,
those in question are measured again, difference by difference and in float64.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_DOUBT = 4e-6  # of the largest squared norm: more than the rounding of a distance
_RIVALS = 8  # rows measured again at most


def project(key: Array, x: Float[Array, "n d"], dim: int) -> Float[Array, "n _"]:
  """Random linear map to `dim` numbers, uniform in +-1/sqrt(d); x itself where d <= dim."""
  d = x.shape[-1]
  if d <= dim:
    return x
  bound = d**-0.5
  matrix = jax.random.uniform(key, (d, dim), minval=-bound, maxval=bound)
  return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)


def start(
  key: Array, x: Float[Array, "n d"], valid: Bool[Array, " n"], points: int
) -> Float[Array, " n"]:
  """Returns the squared mean distance of each row to `points` random valid rows.

  PatchCore's authors begin their selection so ("approximate greedy"): the points themselves are
  not picked, and their mean distance stays as an upper bound of a row's distance for ever.
  """
  order = jax.random.gumbel(key, valid.shape)  # the first points of a random order of valid rows
  _, rows = jax.lax.top_k(jnp.where(valid, order, -jnp.inf), min(points, len(x)))
  count = jnp.minimum(points, jnp.sum(valid))
  used = jnp.arange(len(rows)) < count
  total = sum(
    jnp.sqrt(jnp.sum(jnp.square(x - x[row]), -1)) * use for row, use in zip(rows, used, strict=True)
  )
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
  weight = valid / jnp.maximum(jnp.sum(valid), 1)
  centred = x - weight @ x  # the nearer the rows are to 0, the less is lost by rounding
  norm = jnp.sum(centred * centred, -1)
  doubt = _DOUBT * jnp.max(jnp.where(valid, norm, 0))
  first = jnp.where(valid, distance, -1)

  def again(distance: Array, picks: Array, i: Array) -> Array:
    """Returns the farthest of the rows that may be, by their measured distances to all picks."""
    rivals = jnp.sort(jax.lax.top_k(distance, min(_RIVALS, len(x)))[1])
    picked = jnp.arange(size) < i
    with jax.enable_x64(True):  # here alone: float32 has ties where float64 has none
      apart = x[rivals].astype(jnp.float64)[:, None] - x[picks].astype(jnp.float64)
      to_picks = jnp.sum(jnp.square(apart), -1)  # [rivals,size]
      nearest = jnp.min(jnp.where(picked, to_picks, jnp.inf), axis=-1)
      nearest = jnp.minimum(nearest, first[rivals].astype(jnp.float64))
      farthest = nearest == jnp.max(nearest)
    return rivals[jnp.argmax(farthest)]

  def pick(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
    distance, picks = carry
    row = jnp.argmax(distance)
    second = jnp.max(distance.at[row].set(-1))
    close = second > distance[row] - doubt
    row = jax.lax.cond(close, lambda: again(distance, picks, i), lambda: row).astype(jnp.int32)
    cross = jnp.matmul(centred, centred[row], precision=jax.lax.Precision.HIGHEST)
    squared = jnp.maximum(norm + norm[row] - 2 * cross, 0).at[row].set(0)
    return jnp.minimum(distance, squared), picks.at[i].set(row)

  picks = jnp.zeros(size, jnp.int32)
  return jax.lax.fori_loop(0, jnp.minimum(count, size), pick, (first, picks))[1]
