"""Residuals of features to the nearest normal ones of nearby positions.

Notation: a grid of p cells, a bank of m rows of d numbers, each of which was once a cell of a
training image. A row that is out of reach is taken only where none is within.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from imiad_jax.heads import coreset, knn

_FAR = 1e6  # more than squared distances of standardised features are
_START_POINTS = 10  # of the selection of a coreset, see `coreset.start`


class Bank(NamedTuple):
  """Normal features."""

  feature: Float[Array, "m d"]
  row: Int[Array, " m"]  # training row of its image
  cell: Int[Array, " m"]
  used: Bool[Array, " m"]


def empty(m: int, dim: int) -> Bank:
  """Returns a bank with room for m features, of which one, of zeros, is used."""
  nothing = jnp.zeros(m, jnp.int32)
  return Bank(jnp.zeros((m, dim)), nothing, nothing, jnp.arange(m) < 1)


def select(
  key: Array,
  x: Float[Array, "n p d"],
  present: Bool[Array, " n"],
  ratio: float,
  m: int,
  projection: int,
) -> Bank:
  """Returns a coreset of the features of the images that are present, at most m of them."""
  (n, p, d), (project_key, start_key) = x.shape, jax.random.split(key)
  flat, valid = x.reshape(n * p, d), jnp.repeat(present, p)
  wanted = jnp.maximum(jnp.floor(ratio * jnp.sum(valid)), 1).astype(jnp.int32)
  z = coreset.project(project_key, flat, projection)
  distance = coreset.start(start_key, z, valid, _START_POINTS)
  picks = coreset.greedy(z, distance, valid, wanted, m)
  return Bank(flat[picks], picks // p, picks % p, jnp.arange(m) < wanted)


def out_of_reach(
  shape: tuple[int, ...], cells: Int[Array, " m"], reach: float
) -> Bool[Array, "p m"]:
  """Returns which cells lie more than `reach` of the grid's larger side from each cell of it.

  `shape` is (h, w); what counts is the larger of the distances along the two axes.
  """
  h, w = shape
  here = jnp.arange(h * w)
  away = jnp.maximum(
    jnp.abs(here[:, None] // w - cells // w), jnp.abs(here[:, None] % w - cells % w)
  )
  return away > reach * max(h, w)


def match(
  bank: Bank, x: Float[Array, "b h w d"], row: Int[Array, " b"], reach: float, k: int
) -> Int[Array, "b p k"]:
  """Returns the k rows of the bank that are nearest to each cell, nearest first.

  None is of the cell's own image, whose training row is `row`, unless there is no other image. The
  first one is given again where a later one is out of reach.
  """
  b, h, w, d = x.shape
  far = jnp.where(out_of_reach((h, w), bank.cell, reach), _FAR, 0)

  def one(x: Array, row: Array) -> Array:
    squared = knn.distances(x, bank.feature, bank.used)
    squared += far + jnp.where(bank.row == row, 2 * _FAR, 0)
    if k == 1:
      return jnp.argmin(squared, axis=1)[:, None]
    least, place = knn.smallest(squared, min(k, squared.shape[1]))
    return jnp.where(least < _FAR, place, place[:, :1])

  return jax.lax.map(lambda a: one(*a), (x.reshape(b, h * w, d), row))


def residual(x: Float[Array, "*p d"], near: Float[Array, "*p d"]) -> Float[Array, "*p 2*d"]:
  """Returns |r| and r^2 of the difference r of features and their neighbours."""
  r = jnp.abs(x - near)
  return jnp.concatenate([r, jnp.square(r)], axis=-1)
