"""SPADE: the most similar normal images, and the nearest of all their pixels.

Cohen, Hoshen: Sub-Image Anomaly Detection with Deep Pyramid Correspondences. 2020, arXiv
2005.02357. There is no code by the authors; this follows the common PyTorch version, as the IM-IAD
benchmark does: the image score is the mean distance of pooled features to the k nearest training
images (k = 5; the paper has 50), the map the mean over stages of the distance to the nearest
position in those images (the paper concatenates the stages instead). What differs: no positions of
the gallery are dropped, and with fewer than k training images all are neighbours. Each task
replaces the last one's images.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from imiad_jax.heads import knn, maps
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
SMALL = {"size": 224}  # what two CPU cores can pay for


class State(NamedTuple):
  """n training rows."""

  gallery: dict[str, Float[Array, "n h w c"]]  # by stage, for the map
  pooled: Float[Array, "n d"]  # for the image score
  present: Bool[Array, " n"]  # rows that hold an image
  finished: Bool[Array, ""]  # the next image begins another task


def Model(
  backbone: str = "wide_resnet50_2",
  stages: tuple[str, ...] = ("layer1", "layer2", "layer3"),
  pooled: str = "layer4",
  size: int = 256,
  k: int = 5,
  sigma: float = 4.0,
  batch: int = 8,
) -> Method:
  """Builds SPADE.

  Args:
    backbone: a pretrained network.
    stages: those of the map.
    pooled: the stage whose mean over its cells is compared between images.
    size: height and width of the images.
    k: nearest training images of a test image.
    sigma: of the Gaussian that smooths the map, in pixels.
    batch: images at once.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(k >= 1, "k", k, "at least 1")
  need(sigma > 0, "sigma", sigma, "above 0")

  def init(key: Array, spec: Spec, pretrained) -> State:
    del key, pretrained
    n = spec.max_train
    return State(
      gallery={s: jnp.zeros((n, *spec.shape(s))) for s in stages},
      pooled=jnp.zeros((n, spec.shape(pooled)[-1])),
      present=jnp.zeros(n, bool),
      finished=jnp.bool_(False),
    )

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    present = state.present & ~state.finished
    put = lambda old, new: old.at[batch.row].set(new, mode="drop")  # noqa: E731
    return State(
      gallery={s: put(state.gallery[s], batch.features[s]) for s in stages},
      pooled=put(state.pooled, jnp.mean(batch.features[pooled], axis=(1, 2))),
      present=put(present, True),
      finished=jnp.bool_(False),
    ), {}

  def finish(state: State) -> State:
    return state._replace(finished=jnp.bool_(True))

  def score(state: State, batch: Batch) -> Scores:
    query = jnp.mean(batch.features[pooled], axis=(1, 2))
    most = min(k, len(state.present))
    squared, rows = knn.neighbours(query, state.pooled, state.present, most)  # [b,k]
    there = jnp.isfinite(squared)
    distance = jnp.where(there, jnp.sqrt(squared), 0)
    image = jnp.sum(distance, -1) / jnp.maximum(jnp.sum(there, -1), 1)

    def one(stage: str, x: Array, rows: Array, there: Array) -> Float[Array, "h w"]:
      cells = state.gallery[stage][rows]  # [k,h,w,c]
      valid = jnp.repeat(there, cells.shape[1] * cells.shape[2])
      flat = x.reshape(-1, x.shape[-1])
      nearest = knn.nearest(flat, cells.reshape(-1, x.shape[-1]), valid)
      return jnp.sqrt(nearest).reshape(x.shape[:2])

    shape = batch.image.shape[1:3]
    resized = []
    for s in stages:
      grid = jax.lax.map(lambda a, s=s: one(s, *a), (batch.features[s], rows, there))
      resized.append(jax.image.resize(grid, (len(grid), *shape), "bilinear", antialias=False))
    return Scores(image, maps.blur(jnp.mean(jnp.stack(resized), axis=0), sigma))

  wanted = tuple(dict.fromkeys((*stages, pooled)))
  return Method(init, update, finish, score, backbone, wanted, size, batch, epochs=1)
