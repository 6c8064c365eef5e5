"""SoftPatch: PatchCore that doubts its training patches, for training sets with hidden defects.

Jiang, Liu, Wang, Nie, Wu, Liu, Wang, Zheng: SoftPatch, Unsupervised Anomaly Detection with Noisy
Data. NeurIPS 2022, arXiv 2403.14233. Each training patch gets an outlier score among the patches at
its position in the other images; the worst 15 % are not picked for the coreset, and a test distance
is multiplied by the score of the bank row it is to. The defaults do what the authors' code does:
local outlier factor of 5 neighbours on projected patches, squared distances. What differs: the
first pick too is made among the patches that are kept, and with k images or fewer the neighbours
are all others; a lone image is trusted. Each task replaces the last one's bank.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from imiad_jax.heads import coreset, knn, maps, patches
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "2"
SMALL = {"dim": 160, "ratio": 0.01}  # what two CPU cores can pay for


class State(NamedTuple):
  """n training rows, p patches an image, d numbers a patch, m bank rows."""

  buffer: Float[Array, "n p d"]  # the task's patches, by training row
  present: Bool[Array, " n"]
  bank: Float[Array, "m d"]
  weight: Float[Array, " m"]  # outlier score of each bank row
  used: Bool[Array, " m"]
  key: Array


def Model(
  backbone: str = "wide_resnet50_2",
  stages: tuple[str, ...] = ("layer2", "layer3"),
  size: int = 224,
  dim: int = 1024,
  ratio: float = 0.1,
  projection: int = 128,
  start_points: int = 10,
  neighbours: int = 5,
  share: float = 0.15,
  sigma: float = 4.0,
  batch: int = 8,
) -> Method:
  """Builds SoftPatch.

  Args:
    backbone: a pretrained network.
    stages: its stages; the first one's grid is that of the patches.
    size: height and width of the images.
    dim: numbers a patch embedding has, after adaptive pooling.
    ratio: share of a task's patches that the bank keeps, in (0, 1).
    projection: numbers of the random projection that scores and selection work on.
    start_points: random points the selection starts from.
    neighbours: k of the local outlier factor.
    share: of the patches, the most outlying, that the bank may not keep.
    sigma: of the Gaussian that smooths the map, in pixels.
    batch: images at once.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(0 <= share < 1, "share", share, "at least 0 and below 1")
  need(0 < ratio <= 1 - share, "ratio", ratio, "above 0 and at most 1 - share")
  need(sigma > 0, "sigma", sigma, "above 0")
  for name, value in [("dim", dim), ("projection", projection), ("start_points", start_points)]:
    need(value >= 1, name, value, "at least 1")
  need(neighbours >= 1, "neighbours", neighbours, "at least 1")

  def embed(batch: Batch) -> Float[Array, "b h w d"]:
    return patches.embed([batch.features[s] for s in stages], dim)

  def init(key: Array, spec: Spec, pretrained) -> State:
    del pretrained
    h, w, _ = spec.shape(stages[0])
    n, p = spec.max_train, h * w
    m = max(1, int(ratio * n * p))
    return State(
      buffer=jnp.zeros((n, p, dim)),
      present=jnp.zeros(n, bool),
      bank=jnp.zeros((m, dim)),
      weight=jnp.zeros(m),
      used=jnp.zeros(m, bool),
      key=key,
    )

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    cells = embed(batch).reshape(len(batch.valid), -1, dim)
    return state._replace(
      buffer=state.buffer.at[batch.row].set(cells, mode="drop"),
      present=state.present.at[batch.row].set(True, mode="drop"),
    ), {}

  def finish(state: State) -> State:
    n, p, _ = state.buffer.shape
    key, project_key, start_key = jax.random.split(state.key, 3)
    x = state.buffer.reshape(n * p, dim)
    z = coreset.project(project_key, x, projection)
    by_position = jnp.swapaxes(z.reshape(n, p, -1), 0, 1)  # [p,n,d]
    factor = jax.lax.map(lambda y: outlier_factor(y, state.present, neighbours), by_position)
    weight = factor.T.reshape(n * p)
    valid = jnp.repeat(state.present, p)
    limit = jnp.nanquantile(jnp.where(valid, weight, jnp.nan), 1 - share)
    keep = valid & (weight <= limit)
    wanted = jnp.asarray([max(1, int(ratio * i * p)) for i in range(n + 1)], jnp.int32)
    count = wanted[jnp.sum(state.present)]
    distance = coreset.start(start_key, z, valid, start_points)
    picks = coreset.greedy(z, distance, keep, count, len(state.used))
    return state._replace(
      present=jnp.zeros_like(state.present),
      bank=x[picks],
      weight=weight[picks],
      used=jnp.arange(len(state.used)) < count,
      key=key,
    )

  def score(state: State, batch: Batch) -> Scores:
    cells = embed(batch)
    b, h, w, _ = cells.shape
    squared, row = knn.nearest_row(cells.reshape(-1, dim), state.bank, state.used)
    soft = (squared * state.weight[row]).reshape(b, h, w)
    pixel = maps.to_image(soft, batch.image.shape[1:3], sigma)
    return Scores(jnp.max(soft, axis=(1, 2)), pixel)

  return Method(init, update, finish, score, backbone, stages, size, batch, epochs=1)


def outlier_factor(x: Float[Array, "n d"], valid: Bool[Array, " n"], k: int) -> Float[Array, " n"]:
  """Local outlier factor of each valid row among the others; about 1 for inliers, 1 for a lone one.

  Breunig, Kriegel, Ng, Sander: LOF, Identifying Density-Based Local Outliers, SIGMOD 2000. With
  N_k(a) the k nearest other rows of a and k-dist(o) the distance of o to its k-th:
  reach(a, o) = max(k-dist(o), d(a, o)), lrd(a) = k / sum of reach over N_k(a),
  LOF(a) = mean of lrd(o) over N_k(a) / lrd(a). Distances are raised by 1e-6, so that duplicates
  have a finite density.
  """
  n = len(x)
  squared = jnp.where(jnp.eye(n, dtype=bool), jnp.inf, knn.distances(x, x, valid))
  least, near = knn.smallest(squared, min(k, n - 1))  # [n,k]
  there = jnp.isfinite(least)
  distance = jnp.where(there, jnp.sqrt(least), 0) + 1e-6
  furthest = jnp.max(jnp.where(there, distance, 0), axis=-1)  # k-dist
  reach = jnp.where(there, jnp.maximum(furthest[near], distance), 0)
  count = jnp.sum(there, axis=-1)
  density = count / jnp.maximum(jnp.sum(reach, axis=-1), np.finfo(np.float32).tiny)
  around = jnp.sum(jnp.where(there, density[near], 0), axis=-1) / jnp.maximum(count, 1)
  return jnp.where(valid & (count > 0), around / jnp.where(count > 0, density, 1), 1.0)
