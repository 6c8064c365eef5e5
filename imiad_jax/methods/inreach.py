"""InReaCh: patches that find each other in many training images, whatever else is in those.

McIntosh, Branzan Albu: Inter-Realization Channels, Unsupervised Anomaly Detection in Images Beyond
One-Class Classification. ICCV 2023. Each patch of a few seed images and the patches of other images
that it and they choose mutually as nearest are a channel; the patches of long and narrow channels
are the bank, and the score is the distance to it. The defaults do what the authors' code does:
PatchCore's embeddings with the patch's place appended where the mean image is not its own
transpose, squared distances repeated to pixels. What differs: the code exchanges the two patches of
a pair when it gathers channels, which is mended here; the seed images are drawn, not the first,
which need not be as good as any; the embeddings are of the last block of each stage, not of
thirteen blocks, with colours in the backbone's order; images are resized to a square without a
centre crop; where no channel is left, as with three images or fewer, the bank is all patches. Each
task replaces the last one's bank.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from imiad_jax.heads import knn, maps, patches
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for. Patches of drawn pieces lie at like distances from the mean of a
# channel, whose standard deviation is small, so that five of them leave too few.
SMALL = {"stages": ("layer2", "layer3"), "dim": 160, "spread": 12.0}


class State(NamedTuple):
  """n training rows, p patches an image, d numbers a patch, of which the last two are its place."""

  buffer: Float[Array, "n p d"]  # the task's patches, by training row; the bank is among them
  present: Bool[Array, " n"]
  bank: Bool[Array, "n p"]
  total: Float[Array, "h w 3"]  # sum of the task's images
  placed: Float[Array, ""]  # 1 where places count, else 0
  key: Array


def draw(
  key: Array, present: Bool[Array, " n"], seeds: int
) -> tuple[Int[Array, " seeds"], Int[Array, " n"]]:
  """Returns the first `seeds` rows of a random order, and each row's rank in it; -1 if absent."""
  order = jnp.argsort(jnp.where(present, jax.random.uniform(key, present.shape), jnp.inf))
  return order[:seeds], jnp.where(present, jnp.argsort(order), -1)


def associate(
  x: Float[Array, "n p d"], seeds: Int[Array, " s"], rank: Int[Array, " n"]
) -> Int[Array, "n p"]:
  """Returns the channel of each patch: a p + y for patch y of seed image a, s p for none.

  Patches of one image and a seed image before it in rank that are each other's nearest are a pair;
  a patch is in the channel of the seed image that has its nearest patch of all, if they are a pair.
  """
  n, p, _ = x.shape
  every = jnp.ones(p, bool)

  def pairs(a: Array, cells: Float[Array, "p d"]) -> tuple[Array, Array]:
    squared = knn.distances(cells, x[seeds[a]], every)
    least = jnp.min(squared, axis=1)
    # The first one of those equally near; on a CPU twice as fast as argmin.
    mutual = (squared == least[:, None]) & (squared == jnp.min(squared, axis=0))
    nearest = jnp.min(jnp.where(mutual, jnp.arange(p), p), axis=1)
    return least, jnp.where(nearest < p, a * p + nearest, len(seeds) * p)

  def closer(a: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
    found = jax.lax.map(lambda cells: pairs(a, cells), x)
    takes = (rank > a)[:, None] & (found[0] < best[0])
    return jax.tree.map(lambda new, old: jnp.where(takes, new, old), found, best)

  first = jnp.full((n, p), jnp.inf), jnp.full((n, p), len(seeds) * p)
  return jax.lax.fori_loop(0, len(seeds), closer, first)[1]


def nominal(
  x: Float[Array, "n p d"],
  seeds: Int[Array, " s"],
  channel: Int[Array, "n p"],
  shortest: int,
  spread: float,
) -> Bool[Array, "n p"]:
  """Returns which patches are in channels of more than `shortest` patches after removing outliers.

  A seed patch is in its own channel; in that of another seed image it may be too. An outlier is as
  far from the mean of its channel as `spread` standard deviations of that distance, or farther.
  """
  n, p, d = x.shape
  s = len(seeds)
  own = x[seeds].reshape(s * p, d)

  def gather(of: Array, of_seeds: Array) -> Array:
    """Sums what patches have, [n,p,...], and what the seed patches have, [s p,...], by channel."""
    flat = of.reshape(n * p, *of.shape[2:])
    return jax.ops.segment_sum(flat, channel.reshape(-1), s * p + 1)[:-1] + of_seeds

  def at(of: Array, channel: Array) -> Array:
    """Returns what the channels of patches have; those of no channel get that of any."""
    return of[jnp.minimum(channel, s * p - 1)]

  length = gather(jnp.ones((n, p), jnp.int32), jnp.ones(s * p, jnp.int32))
  mean = gather(x, own) / length[:, None]
  radius = jax.lax.map(lambda a: jnp.linalg.norm(a[0] - at(mean, a[1]), axis=-1), (x, channel))
  own_radius = jnp.linalg.norm(own - mean, axis=-1)
  middle = gather(radius, own_radius) / length
  apart = jnp.square(radius - at(middle, channel)), jnp.square(own_radius - middle)
  limit = spread * jnp.sqrt(gather(*apart) / length)
  inside, own_inside = radius < at(limit, channel), own_radius < limit
  left = gather(inside.astype(jnp.int32), own_inside.astype(jnp.int32))
  good = left > shortest
  kept = inside & at(good, channel) & (channel < s * p)
  return kept.at[seeds].max((good & own_inside).reshape(s, p))


def turned(mean: Float[Array, "h h 3"]) -> Float[Array, ""]:
  """Returns the mean squared difference of an image and its transpose, on a scale of 0 to 255."""
  return jnp.mean(jnp.square(255 * (mean - jnp.swapaxes(mean, 0, 1))))


def Model(
  backbone: str = "wide_resnet50_2",
  stages: tuple[str, ...] = ("layer1", "layer2", "layer3"),
  size: int = 224,
  dim: int = 1024,
  seeds: int = 10,
  shortest: int = 3,
  spread: float = 5.0,
  place: float = 5.0,
  threshold: float = 1000.0,
  sigma: float = 13.0,
  batch: int = 8,
) -> Method:
  """Builds InReaCh.

  Args:
    backbone: a pretrained network.
    stages: its stages; the first one's grid is that of the patches.
    size: height and width of the images.
    dim: numbers a patch embedding has, after adaptive pooling.
    seeds: images whose patches begin channels.
    shortest: patches that a channel must have more than.
    spread: standard deviations from a channel's mean at which a patch is an outlier of it.
    place: what the row and the column of a patch are scaled to, beside its embedding.
    threshold: of the mean image's squared distance to its transpose, from which on places count.
    sigma: of the Gaussian that smooths the map, in pixels.
    batch: images at once.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  for name, value in [("dim", dim), ("seeds", seeds), ("shortest", shortest)]:
    need(value >= 1, name, value, "at least 1")
  for name, value in [("spread", spread), ("sigma", sigma)]:
    need(value > 0, name, value, "above 0")
  need(place >= 0, "place", place, "at least 0")

  def embed(batch: Batch) -> Float[Array, "b h w d"]:
    """Patch embeddings, and their places as they count if they do."""
    cells = patches.embed([batch.features[s] for s in stages], dim)
    h, w = cells.shape[1:3]
    grid = jnp.meshgrid(place / h * jnp.arange(h), place / w * jnp.arange(w), indexing="ij")
    places = jnp.broadcast_to(jnp.stack(grid, axis=-1), (len(cells), h, w, 2))
    return jnp.concatenate([cells, places], axis=-1)

  def init(key: Array, spec: Spec, pretrained) -> State:
    del pretrained
    h, w, _ = spec.shape(stages[0])
    n, p = spec.max_train, h * w
    return State(
      buffer=jnp.zeros((n, p, dim + 2)),
      present=jnp.zeros(n, bool),
      bank=jnp.zeros((n, p), bool),
      total=jnp.zeros(spec.image),
      placed=jnp.float32(0),
      key=key,
    )

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    cells = embed(batch).reshape(len(batch.valid), *state.buffer.shape[1:])
    image = jnp.where(batch.valid[:, None, None, None], batch.image, 0)
    return state._replace(
      buffer=state.buffer.at[batch.row].set(cells, mode="drop"),
      present=state.present.at[batch.row].set(True, mode="drop"),
      total=state.total + jnp.sum(image, axis=0),
    ), {}

  def finish(state: State) -> State:
    key, draw_key = jax.random.split(state.key)
    mean = state.total / jnp.sum(state.present)
    placed = (turned(mean) >= threshold).astype(jnp.float32)
    x = state.buffer.at[..., -2:].multiply(placed)
    first, rank = draw(draw_key, state.present, min(seeds, len(state.present)))
    bank = nominal(x, first, associate(x, first, rank), shortest, spread)
    return State(
      buffer=x,
      present=jnp.zeros_like(state.present),
      bank=jnp.where(jnp.any(bank), bank, state.present[:, None]),
      total=jnp.zeros_like(state.total),
      placed=placed,
      key=key,
    )

  def score(state: State, batch: Batch) -> Scores:
    cells = embed(batch).at[..., -2:].multiply(state.placed)
    b, h, w, d = cells.shape
    bank = state.buffer.reshape(-1, d)
    squared = knn.nearest(cells.reshape(-1, d), bank, state.bank.reshape(-1)).reshape(b, h, w)
    repeated = jax.image.resize(squared, (b, *batch.image.shape[1:3]), "nearest")
    pixel = maps.blur(repeated, sigma)
    return Scores(jnp.max(pixel, axis=(1, 2)), pixel)

  return Method(init, update, finish, score, backbone, stages, size, batch, epochs=1)
