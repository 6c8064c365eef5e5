"""Shared bank: PatchCore, task after task, in a memory of fixed size; an image asks one task's.

IM-IAD (arXiv 2301.13359) finds that memory methods forget least, and that their memory grows with
every task; no code of such a method with a bound is known. Here all tasks share `rows` bank rows.
Where they do not suffice, every task gives up those of its coreset that greedy selection picked
last, so that all keep equally many: just those that selecting fewer would have picked. An image is
scored by the bank of the task that its patches are nearest to on average, which nobody tells
("nearest"), or by all rows at once ("all"). To choose a task by the sum of the distances of the
patches is the idea of UCAD (Liu et al., AAAI 2024, arXiv 2401.01010), whose published code chooses
once for a whole test set.

Embedding, selection and map are PatchCore's (Roth et al., CVPR 2022, arXiv 2106.08265), without
re-weighting; with one task and room for its coreset the scores are PatchCore's.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from imiad_jax.heads import knn, maps, patches
from imiad_jax.methods import patchcore
from imiad_jax.plugins import check, need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
SMALL = {"dim": 160, "ratio": 0.01}  # what two CPU cores can pay for
ROUTINGS = ("nearest", "all")


class State(NamedTuple):
  """m bank rows shared by all tasks, d numbers a patch; those of no task yet have owner -1."""

  one: patchcore.State  # of the task that is learnt
  bank: Float[Array, "m d"]
  owner: Int[Array, " m"]  # the task that each row is of
  rank: Int[Array, " m"]  # how many rows were picked before it
  counts: Int[Array, " t"]  # rows that each task has picked
  task: Array  # [] int32: tasks finished


def shared(rank: Int[Array, " n"], used: Bool[Array, " n"], rows: int) -> Int[Array, " rows"]:
  """Returns the places of those used rows that stay where `rows` of them can, and then of others.

  Those that were picked first stay, so that of each task equally many do or all that it has.
  """
  return jnp.argsort(jnp.where(used, rank, jnp.iinfo(jnp.int32).max), stable=True)[:rows]


def Model(
  backbone: str = "wide_resnet50_2",
  stages: tuple[str, ...] = ("layer2", "layer3"),
  size: int = 224,
  dim: int = 1024,
  ratio: float = 0.1,
  rows: int = 10_000,
  routing: str = "nearest",
  sigma: float = 4.0,
  batch: int = 8,
) -> Method:
  """Builds the shared bank.

  Args:
    backbone: a pretrained network.
    stages: its stages; the first one's grid is that of the patches.
    size: height and width of the images.
    dim: numbers a patch embedding has.
    ratio: share of a task's patches that its coreset has, in (0, 1].
    rows: most bank rows of all tasks together, each 4 x dim bytes.
    routing: "nearest" or "all".
    sigma: of the Gaussian that smooths the map, in pixels.
    batch: images at once.

  Raises:
    ValueError: a hyperparameter outside its range.
    UserError: a routing that does not exist.
  """
  need(rows >= 1, "rows", rows, "at least 1")
  check("routing", routing, ROUTINGS)
  one = patchcore.Model(backbone, stages, size, dim, ratio, sigma=sigma, batch=batch)

  def init(key: Array, spec: Spec, pretrained) -> State:
    need(rows >= spec.num_tasks, "rows", rows, f"one for each of {spec.num_tasks} tasks at least")
    return State(
      one=one.init(key, spec, pretrained),
      bank=jnp.zeros((rows, dim)),
      owner=jnp.full(rows, -1),
      rank=jnp.zeros(rows, jnp.int32),
      counts=jnp.zeros(spec.num_tasks, jnp.int32),
      task=jnp.int32(0),
    )

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    mine, logs = one.update(state.one, batch)
    return state._replace(one=mine), logs

  def finish(state: State) -> State:
    mine = one.finish(state.one)
    used = mine.used[0]
    bank = jnp.concatenate([state.bank, mine.bank[0]])
    owner = jnp.concatenate([state.owner, jnp.where(used, state.task, -1)])
    rank = jnp.concatenate([state.rank, jnp.arange(len(used))])
    stay = shared(rank, owner >= 0, rows)
    return State(
      one=mine,
      bank=bank[stay],
      owner=owner[stay],
      rank=rank[stay],
      counts=state.counts.at[state.task].set(jnp.sum(used)),
      task=state.task + 1,
    )

  def score(state: State, batch: Batch) -> Scores:
    cells = patches.embed([batch.features[s] for s in stages], dim)
    b, h, w, _ = cells.shape
    flat = cells.reshape(b * h * w, dim)
    if routing == "nearest":
      each = knn.nearest_of_each(flat, state.bank, state.owner, len(state.counts))
      each = each.reshape(b, h * w, -1)
      chosen = jnp.argmin(jnp.mean(each, axis=1), axis=-1)
      squared = each[jnp.arange(b), :, chosen]
    else:
      squared = knn.nearest(flat, state.bank, state.owner >= 0).reshape(b, h * w)
    pixel = maps.to_image(squared.reshape(b, h, w), batch.image.shape[1:3], sigma)
    return Scores(jnp.max(squared, axis=-1), pixel)

  return Method(init, update, finish, score, backbone, stages, size, batch, epochs=1)
