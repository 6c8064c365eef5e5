"""FastRecon: what a query's patches lose when a few normal patches must make them up.

Fang, Wang, Li, Liu, Hu, Xiao: FastRecon, Few-shot Industrial Anomaly Detection via Fast Feature
Reconstruction. ICCV 2023. Patches are rebuilt from a coreset of the support images' patches by a
regression that also draws them to the mean at their position; the residual is the score. The
defaults do what the authors' code does: layer3 repeated to the grid of layer2, selection on whole
embeddings from the first patch on. What differs: all support images count (the code keeps those of
its last batch), whatever their number; the regression is solved as a projection, so that patches
that depend on each other do no harm; the coreset has at most half as many rows as an embedding has
numbers, which the authors' eight images do not reach, because as many rows rebuild anything; images
are resized to a square without a centre crop. Each task replaces the last one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from imiad_jax.heads import coreset, maps
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# Embeddings are short, so that few rows leave much out; drawn pieces lie less alike than real ones.
SMALL = {"ratio": 0.05, "weight": 0.5}


class State(NamedTuple):
  """n training rows, p patches an image, d numbers a patch, m coreset rows."""

  buffer: Float[Array, "n p d"]  # the task's patches, by training row
  present: Bool[Array, " n"]
  basis: Float[Array, "m d"]  # of the coreset's span: orthonormal rows, and rows of zeros
  mean: Float[Array, "p d"]


def span(rows: Float[Array, "m d"]) -> Float[Array, "_ d"]:
  """Returns an orthonormal basis of what the rows span, completed with rows of zeros."""
  _, singular, basis = jnp.linalg.svd(rows, full_matrices=False)
  least = max(rows.shape) * np.finfo(np.float32).eps * singular[0]
  return jnp.where((singular > least)[:, None], basis, 0)


def residual(
  query: Float[Array, "*b p d"],
  mean: Float[Array, "p d"],
  basis: Float[Array, "m d"],
  weight: float,
) -> Float[Array, "*b p"]:
  """Returns |Q - W S|, W the best for |Q - W S|^2 + weight |W S - mean|^2.

  S are the rows that the basis spans. W S is in their span for every W, and the sum is
  (1 + weight) |W S - Y|^2 and a constant, Y = (Q + weight mean) / (1 + weight): the best W S is the
  projection of Y.
  """
  exact = jax.lax.Precision.HIGHEST
  y = (query + weight * mean) / (1 + weight)
  rebuilt = jnp.matmul(jnp.matmul(y, basis.T, precision=exact), basis, precision=exact)
  return jnp.linalg.norm(query - rebuilt, axis=-1)


def merge(stages: list[Float[Array, "b _h _w _c"]]) -> Float[Array, "b h w d"]:
  """Returns 3x3 means of the stages, counting zeros beyond the edge, repeated to the first grid."""
  pooled = [nn.avg_pool(x, (3, 3), padding="SAME") for x in stages]
  grid = stages[0].shape[:3]
  repeated = [jax.image.resize(x, (*grid, x.shape[-1]), "nearest") for x in pooled]
  return jnp.concatenate(repeated, axis=-1)


def Model(
  backbone: str = "wide_resnet50_2",
  stages: tuple[str, ...] = ("layer2", "layer3"),
  size: int = 224,
  ratio: float = 0.01,
  weight: float = 2.0,
  sigma: float = 4.0,
  batch: int = 8,
) -> Method:
  """Builds FastRecon.

  Args:
    backbone: a pretrained network.
    stages: its stages; the first one's grid is that of the patches.
    size: height and width of the images.
    ratio: share of a task's patches that the coreset has, in (0, 1].
    weight: lambda, how much a patch is drawn to the mean at its position; 0 for not at all.
    sigma: of the Gaussian that smooths the map, in pixels.
    batch: images at once.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(0 < ratio <= 1, "ratio", ratio, "above 0 and at most 1")
  need(weight >= 0, "weight", weight, "at least 0")
  need(sigma > 0, "sigma", sigma, "above 0")

  def embed(batch: Batch) -> Float[Array, "b h w d"]:
    return merge([batch.features[s] for s in stages])

  def init(key: Array, spec: Spec, pretrained) -> State:
    del key, pretrained
    h, w, _ = spec.shape(stages[0])
    n, p, d = spec.max_train, h * w, sum(spec.shape(s)[-1] for s in stages)
    m = max(1, min(int(ratio * n * p), d // 2))
    return State(
      buffer=jnp.zeros((n, p, d)),
      present=jnp.zeros(n, bool),
      basis=jnp.zeros((m, d)),
      mean=jnp.zeros((p, d)),
    )

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    cells = embed(batch).reshape(len(batch.valid), *state.mean.shape)
    return state._replace(
      buffer=state.buffer.at[batch.row].set(cells, mode="drop"),
      present=state.present.at[batch.row].set(True, mode="drop"),
    ), {}

  def finish(state: State) -> State:
    n, p, d = state.buffer.shape
    m = len(state.basis)
    # int(ratio * rows) as Python computes it, for every possible number of images.
    wanted = jnp.asarray([max(1, min(m, int(ratio * i * p))) for i in range(n + 1)], jnp.int32)
    count = wanted[jnp.sum(state.present)]
    x, valid = state.buffer.reshape(n * p, d), jnp.repeat(state.present, p)
    picks = coreset.greedy(x, jnp.full(n * p, jnp.inf), valid, count, m)
    share = state.present / jnp.sum(state.present)
    return State(
      buffer=state.buffer,
      present=jnp.zeros_like(state.present),
      basis=span(jnp.where((jnp.arange(m) < count)[:, None], x[picks], 0)),
      mean=jnp.einsum("n,npd->pd", share, state.buffer, precision=jax.lax.Precision.HIGHEST),
    )

  def score(state: State, batch: Batch) -> Scores:
    cells = embed(batch)
    b, h, w, d = cells.shape
    apart = residual(cells.reshape(b, h * w, d), state.mean, state.basis, weight)
    pixel = maps.to_image(apart.reshape(b, h, w), batch.image.shape[1:3], sigma)
    return Scores(jnp.max(apart, axis=-1), pixel)

  return Method(init, update, finish, score, backbone, stages, size, batch, epochs=1)
