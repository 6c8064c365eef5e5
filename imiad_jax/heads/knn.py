"""Exact nearest neighbours in a bank with unused rows, never all distances at once.

Notation: q queries, m bank rows, d numbers each. Distances are squared Euclidean:
|q|^2 - 2 q.m + |m|^2, clipped at 0, in full float32 precision (bf16 or TF32 products would ruin
small distances).
"""

from collections.abc import Callable

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
  """Returns the squared distance of each query to its nearest valid bank row."""

  def closer(block: Array, owner: Array, best: Array) -> Array:
    return jnp.minimum(best, jnp.min(distances(query, block, owner >= 0), axis=-1))

  best = jnp.full(len(query), jnp.inf)
  return _pass(closer, best, bank, jnp.where(valid, 0, -1))


def nearest_of_each(
  query: Float[Array, "q d"], bank: Float[Array, "m d"], owner: Int[Array, " m"], groups: int
) -> Float[Array, "q groups"]:
  """Returns each query's squared distance to the nearest bank row of each group 0, 1, ...

  It is infinite for a group of no rows; a row of a negative owner is of no group.
  """

  def closer(block: Array, owner: Array, best: Array) -> Array:
    squared = distances(query, block, owner >= 0)
    mine = owner == jnp.arange(groups)[:, None, None]
    return jnp.minimum(best, jnp.min(jnp.where(mine, squared, jnp.inf), axis=-1))

  return _pass(closer, jnp.full((groups, len(query)), jnp.inf), bank, owner).T


def _pass(
  step: Callable[[Array, Array, Array], Array],
  found: Array,
  bank: Float[Array, "m d"],
  owner: Int[Array, " m"],
) -> Array:
  """Lets a bank pass by in blocks of rows: step(rows, their owners, what is found) -> found.

  A block is small enough to be in the processor's cache. None comes after the last row that has an
  owner, 0 or more.
  """
  rows = max(1, min(len(bank), _BLOCK, _CHUNK // max(1, found.shape[-1])))

  def one(i: Array, found: Array) -> Array:  # the last block begins where it fits
    block, mine = (jax.lax.dynamic_slice_in_dim(x, i * rows, rows) for x in (bank, owner))
    return step(block, mine, found)

  used = jnp.max(jnp.where(owner >= 0, jnp.arange(1, len(bank) + 1), 0), initial=0)
  return jax.lax.fori_loop(0, -(-used // rows), one, found)


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
