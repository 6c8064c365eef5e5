"""PatchCore: distance to the nearest of a coreset of normal patches.

Roth, Pemula, Zepeda, Schölkopf, Brox, Gehler: Towards Total Recall in Industrial Anomaly Detection.
CVPR 2022, arXiv 2106.08265. The defaults do what the authors' code does: squared distances, one
neighbour, no re-weighting, selection from the mean distance to ten random points. What differs:
images are resized to a square without a centre crop, as in the IM-IAD benchmark; embeddings that
are shorter than the projection are not projected; a coreset has at least one row. Patches wait for
their selection in a buffer of bounded size: when it is full, a coreset of it and of the bank so far
becomes the bank, so that memory does not grow with the number of images.
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
SMALL = {"dim": 160, "ratio": 0.01, "append": True}  # what two CPU cores can pay for


class State(NamedTuple):
  """n training rows, of which the buffer holds c images; p patches an image, d numbers a patch.

  The bank has m rows for each of t tasks; for the last one alone where none are appended (t = 1).
  """

  buffer: Float[Array, "c p d"]  # patches that wait for selection
  waiting: Array  # [] int32: images in the buffer
  present: Bool[Array, " n"]  # training rows seen so far
  bank: Float[Array, "t m d"]
  used: Bool[Array, "t m"]
  task: Array  # [] int32: tasks finished
  key: Array


def Model(
  backbone: str = "wide_resnet50_2",
  stages: tuple[str, ...] = ("layer2", "layer3"),
  size: int = 224,
  dim: int = 1024,
  ratio: float = 0.1,
  projection: int = 128,
  start_points: int = 10,
  reweight: int = 1,
  append: bool = False,
  memory: int = 4096,
  sigma: float = 4.0,
  batch: int = 8,
) -> Method:
  """Builds PatchCore.

  Args:
    backbone: a pretrained network.
    stages: its stages; the first one's grid is that of the patches.
    size: height and width of the images.
    dim: numbers a patch embedding has, after adaptive pooling.
    ratio: share of a task's patches that the bank keeps, in (0, 1].
    projection: numbers of the random projection that the selection works on.
    start_points: random points the selection starts from.
    reweight: neighbours b of the paper's equation 7; 1 for none.
    append: keep the banks of earlier tasks (continual), else each task replaces the last.
    memory: MiB that the patches which wait for selection, and a task's bank, may each take.
    sigma: of the Gaussian that smooths the map, in pixels.
    batch: images at once.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(0 < ratio <= 1, "ratio", ratio, "above 0 and at most 1")
  need(sigma > 0, "sigma", sigma, "above 0")
  for name, value in [
    ("dim", dim),
    ("projection", projection),
    ("start_points", start_points),
    ("reweight", reweight),
    ("memory", memory),
  ]:
    need(value >= 1, name, value, "at least 1")

  def sizes(spec: Spec) -> tuple[int, int, int]:
    """Images that the buffer holds, patches of an image, bank rows of a task."""
    h, w, _ = spec.shape(stages[0])
    room = max(1, (memory << 20) // (4 * dim))
    images = min(spec.max_train, max(batch, room // (h * w)))
    return images, h * w, min(room, max(1, int(ratio * spec.max_train * h * w)))

  def embed(batch: Batch) -> Float[Array, "b h w d"]:
    return patches.embed([batch.features[s] for s in stages], dim)

  def init(key: Array, spec: Spec, pretrained) -> State:
    del pretrained
    c, p, m = sizes(spec)
    t = spec.num_tasks if append else 1
    return State(
      buffer=jnp.zeros((c, p, dim)),
      waiting=jnp.int32(0),
      present=jnp.zeros(spec.max_train, bool),
      bank=jnp.zeros((t, m, dim)),
      used=jnp.zeros((t, m), bool),
      task=jnp.int32(0),
      key=key,
    )

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    b, c = len(batch.valid), len(state.buffer)
    if c < len(state.present):
      state = jax.lax.cond(state.waiting + b > c, select, lambda state: state, state)
    place = jnp.where(batch.valid, state.waiting + jnp.cumsum(batch.valid) - 1, c)
    cells = embed(batch).reshape(b, -1, dim)
    return state._replace(
      buffer=state.buffer.at[place].set(cells, mode="drop"),
      waiting=state.waiting + jnp.sum(batch.valid),
      present=state.present.at[batch.row].set(True, mode="drop"),
    ), {}

  def select(state: State) -> State:
    """Empties the buffer into the task's bank."""
    (c, p, _), m, n = state.buffer.shape, state.bank.shape[1], len(state.present)
    key, project_key, start_key = jax.random.split(state.key, 3)
    seen, k = jnp.sum(state.present), state.task if append else 0
    x = state.buffer.reshape(c * p, dim)
    valid = jnp.repeat(jnp.arange(c) < state.waiting, p)
    if c < n:  # what was selected of the task before competes again
      x = jnp.concatenate([state.bank[k], x])
      valid = jnp.concatenate([state.used[k] & (seen > state.waiting), valid])
    # int(ratio * rows) as Python computes it, for every possible number of images.
    wanted = [min(m, max(1, int(ratio * i * p))) for i in range(n + 1)]
    count = jnp.asarray(wanted, jnp.int32)[seen]
    if m == len(x):  # everything is kept: nothing to select, valid rows first
      picks = jnp.argsort(~valid)
    else:
      z = coreset.project(project_key, x, projection)
      distance = coreset.start(start_key, z, valid, start_points)
      picks = coreset.greedy(z, distance, valid, count, m)
    return state._replace(
      bank=state.bank.at[k].set(x[picks]),
      used=state.used.at[k].set(jnp.arange(m) < count),
      waiting=jnp.int32(0),
      key=key,
    )

  def finish(state: State) -> State:
    state = select(state)
    return state._replace(present=jnp.zeros_like(state.present), task=state.task + 1)

  def score(state: State, batch: Batch) -> Scores:
    cells = embed(batch)
    b, h, w, _ = cells.shape
    flat = cells.reshape(b, h * w, dim)
    bank, used = state.bank.reshape(-1, dim), state.used.reshape(-1)
    squared = knn.nearest(flat.reshape(-1, dim), bank, used).reshape(b, h * w)
    image = jnp.max(squared, axis=-1)
    if reweight > 1:
      worst = flat[jnp.arange(b), jnp.argmax(squared, axis=-1)]
      image = reweighted(worst, bank, used, reweight)
    shape = batch.image.shape[1:3]
    return Scores(image, maps.to_image(squared.reshape(b, h, w), shape, sigma))

  return Method(init, update, finish, score, backbone, stages, size, batch, epochs=1)


def reweighted(
  patch: Float[Array, "b d"], bank: Float[Array, "m d"], used: Bool[Array, " m"], b: int
) -> Float[Array, " b"]:
  """Image score of the worst patch of each image, re-weighted (equation 7 of the paper).

  m* is the patch's nearest bank row at distance s*; over the b nearest bank rows N_b(m*) of m*,
  which include m* itself, the score is (1 - exp|q - m*| / sum_m exp|q - m|) s*.
  """
  squared, nearest = knn.neighbours(patch, bank, used, 1)
  distance = jnp.sqrt(squared[:, 0])
  _, around = knn.neighbours(bank[nearest[:, 0]], bank, used, min(b, len(bank)))  # [b,k]
  to_all = jnp.sqrt(jax.vmap(knn.distances)(patch[:, None], bank[around], used[around])[:, 0])
  # A bank with fewer than b rows has unused ones among the neighbours: they weigh nothing.
  exponent = jnp.where(used[around], to_all - distance[:, None], -np.inf)
  return (1 - 1 / jnp.sum(jnp.exp(exponent), axis=-1)) * distance
