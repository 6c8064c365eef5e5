"""Exact nearest neighbours in a bank with unused rows, never all distances at once.

Notation: q queries, m bank rows, d numbers each. Distances are squared Euclidean:
|q|^2 - 2 q.m + |m|^2, clipped at 0, in full float32 precision (bf16 or TF32 products would ruin
small distances).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_CHUNK = 1 << 23  # distances held at once: 32 MB
_BLOCK = 512  # rows of the bank that all queries meet at once


def distances(
  query: Float[Array, "q d"], bank: Float[Array, "m d"], valid: Bool[Array, " m"]
) -> Float[Array, "q m"]:
  """Returns squared distances; unused rows are infinitely far."""
  cross = jnp.matmul(query, bank.T, precision=jax.lax.Precision.HIGHEST)
  norm = jnp.where(valid, jnp.sum(bank * bank, -1), jnp.inf)
  return jnp.maximum(jnp.sum(query * query, -1)[:, None] - 2 * cross + norm, 0)


def nearest(
  query: Float[Array, "q d"], bank: Float[Array, "m d"], valid: Bool[Array, " m"]
) -> Float[Array, " q"]:
  """Returns the squared distance of each query to its nearest valid bank row.

  The bank passes by in blocks of rows, small enough to be in the processor's cache.
  """
  rows = max(1, min(len(bank), _BLOCK, _CHUNK // max(1, len(query))))

  def closer(i: int | Array, best: Array) -> Array:  # the last block begins where it fits
    block, used = (jax.lax.dynamic_slice_in_dim(x, i * rows, rows) for x in (bank, valid))
    return jnp.minimum(best, jnp.min(distances(query, block, used), axis=-1))

  return jax.lax.fori_loop(0, -(-len(bank) // rows), closer, jnp.full(len(query), jnp.inf))


def nearest_of_each(
  query: Float[Array, "q d"], bank: Float[Array, "m d"], owner: Int[Array, " m"], groups: int
) -> Float[Array, "q groups"]:
  """Returns each query's squared distance to the nearest bank row of each group 0, 1, ...

  It is infinite for a group of no rows; a row of a negative owner is of no group.
  """
  mine = owner == jnp.arange(groups)[:, None]

  def one(x: Array) -> Array:
    return jnp.min(jnp.where(mine, distances(x[None], bank, owner >= 0), jnp.inf), axis=-1)

  size = max(1, min(len(query), _CHUNK // len(bank)))
  return jax.lax.map(one, query, batch_size=size)


def nearest_row(
  query: Float[Array, "q d"], bank: Float[Array, "m d"], valid: Bool[Array, " m"]
) -> tuple[Float[Array, " q"], Int[Array, " q"]]:
  """Returns the squared distance of each query to its nearest valid bank row, and that row."""

  def one(x: Array) -> tuple[Array, Array]:
    squared = distances(x[None], bank, valid)[0]
    row = jnp.argmin(squared)
    return squared[row], row

  size = max(1, min(len(query), _CHUNK // len(bank)))
  return jax.lax.map(one, query, batch_size=size)


def neighbours(
  query: Float[Array, "q d"], bank: Float[Array, "m d"], valid: Bool[Array, " m"], k: int
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
  """Returns squared distances and row numbers of the k nearest valid rows, nearest first."""
  return smallest(distances(query, bank, valid), k)


def smallest(x: Float[Array, "q m"], k: int) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
  """Returns the k smallest numbers of each row and where they are, smallest first.

  Of a slice of what top_k returns XLA for CPUs makes a sort of whole rows, 30 times as slow; the
  barrier hides slices that follow.
  """
  negative, place = jax.lax.optimization_barrier(jax.lax.top_k(-x, k))
  return -negative, place
