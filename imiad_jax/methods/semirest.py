"""SemiREST: a transformer that labels blocks, told how features differ from normal ones nearby.

Li, Wu, Chen, Wang, Shen: Efficient Anomaly Detection with Budget Annotation Using Semi-Supervised
Residual Transformer. 2023, arXiv 2306.03492. There is no public code, and of the paper's constants
few are known here: results are after its description, and none of its figures is reproduced.

The authors': residuals to the nearest of a coreset of normal features from nearby positions, of
which a tenth is kept; labels of blocks, one for each cell of the grid, not of pixels; a Swin
transformer that reads the residuals; focal loss where the label is known, and a MixMatch where it
is not, with two augmentations: a neighbour that is not the nearest, and dropped residuals; AdamW
with cosine decay; real anomalies beside synthetic ones. Ours: all numbers in the signature but that
tenth; residuals are |r| and r^2, of features standardised by the normal ones; a training image's
own features are no neighbours of it; all of the grid is read at once; a block is unknown where a
defect covers a smaller part of it than `least`; synthetic anomalies are drawn textures; the map is
smoothed, and its maximum is the image's score. Boxes in place of masks are left out.

A first epoch collects features of normal images and learns nothing. Where no anomalies are told the
synthetic ones remain, which is the authors' unsupervised setting. A later task goes on from the
weights that the last one left, with features and anomalies of its own.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, UInt8

from imiad_jax import plugins
from imiad_jax.heads import blocks, defects, maps, nearby, patches, standard, swin
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for.
SMALL = {
  "size": 224,
  "dim": 64,
  "ratio": 0.05,
  "reach": 0.25,
  "width": 64,
  "depth": 2,
  "heads": 2,
  "neighbours": 2,
  "least": 0.1,
  "sources": 64,
  "sigma": 4.0,
  "epochs": 16,
  "lr": 2e-3,
  "batch": 4,
}


class State(NamedTuple):
  """n training rows of p cells, d numbers each; m of all cells are kept."""

  params: Any
  optimiser: Any
  seen: Float[Array, "n p d"]  # features of normal training images
  present: Bool[Array, " n"]
  bank: nearby.Bank
  centre: Float[Array, "2 d"]  # mean and deviation of normal features
  ready: Array  # [] bool: the bank is of this task
  memory: defects.Memory
  textures: UInt8[Array, "k h w 3"]
  frozen: Any  # the backbone's parameters
  key: Array


def Model(
  backbone: str = "wide_resnet50_2",
  stages: tuple[str, ...] = ("layer2", "layer3"),
  size: int = 512,
  dim: int = 1024,
  ratio: float = 0.1,
  projection: int = 128,
  reach: float = 0.125,
  neighbours: int = 3,
  dropped: float = 0.1,
  least: float = 0.25,
  width: int = 192,
  depth: int = 4,
  heads: int = 6,
  window: int = 8,
  alpha: float = 0.75,
  gamma: float = 2.0,
  temperature: float = 0.5,
  mix: float = 0.75,
  balance: float = 1.0,
  sources: int = 512,
  sigma: float = 8.0,
  lr: float = 1e-4,
  weight_decay: float = 0.05,
  epochs: int = 101,
  kept: int = 64,
  batch: int = 4,
) -> Method:
  """Builds SemiREST.

  Args:
    backbone: a pretrained network.
    stages: its stages; the first one's grid is that of the blocks.
    size: height and width of the images.
    dim: numbers that a feature has, after adaptive pooling.
    ratio: share of a task's normal features that is kept, in (0, 1].
    projection: numbers of the random projection that this selection works on.
    reach: how far away a neighbour may be, over the side of the grid; 1 for anywhere, as textures
      want it. Where none is near, the nearest one is taken from anywhere.
    neighbours: of so many nearest ones a view takes one at random for each cell.
    dropped: share of cells whose residual a view drops, in [0, 1).
    least: share of a block that is covered where it is anomalous, in (0, 1].
    width: numbers that the transformer has for each cell, a multiple of `heads`.
    depth: its blocks.
    heads: of attention.
    window: its largest side.
    alpha: weight of anomalous blocks in the focal loss; that of normal ones is 1 - alpha.
    gamma: exponent of the focal loss.
    temperature: of what is made sharper to be the label of unknown blocks.
    mix: parameter of the Beta distribution by which images are mixed.
    balance: weight of the loss of unknown blocks in the end; it grows from 0.
    sources: textures that are drawn to be pasted.
    sigma: of the Gaussian that smooths the map, in pixels.
    lr: learning rate of AdamW at first, then a cosine to 0; gradients are clipped to norm 1.
    weight_decay: of AdamW.
    epochs: passes over each task; the first one learns nothing.
    kept: anomalous images kept.
    batch: images at once, besides as many anomalous ones.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(0 < ratio <= 1, "ratio", ratio, "above 0 and at most 1")
  need(0 <= dropped < 1, "dropped", dropped, "at least 0 and below 1")
  need(0 < least <= 1, "least", least, "above 0 and at most 1")
  need(0 <= alpha <= 1, "alpha", alpha, "between 0 and 1")
  for name, value in [
    *(("dim", dim), ("projection", projection), ("neighbours", neighbours), ("depth", depth)),
    *(("heads", heads), ("window", window), ("sources", sources), ("kept", kept)),
  ]:
    need(value >= 1, name, value, "at least 1")
  need(width >= 1 and width % heads == 0, "width", width, "a multiple of heads")
  for name, value in [("temperature", temperature), ("mix", mix), ("sigma", sigma)]:
    need(value > 0, name, value, "above 0")
  for name, value in [
    *(("reach", reach), ("gamma", gamma), ("balance", balance), ("lr", lr)),
    ("weight_decay", weight_decay),
  ]:
    need(value >= 0, name, value, "at least 0")
  network = plugins.backbone(backbone).Model(backbone)
  net = swin.Swin(width, depth, heads, window)
  optimiser = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.scale_by_adam(),
    optax.add_decayed_weights(weight_decay),
  )

  def embed(features: dict[str, Array]) -> Float[Array, "b h w d"]:
    return patches.embed([features[s] for s in stages], dim)

  def init(key: Array, spec: Spec, pretrained: Any) -> State:
    key, params_key, texture_key = jax.random.split(key, 3)
    h, w, _ = spec.shape(stages[0])
    n, m = spec.max_train, max(1, int(ratio * spec.max_train * h * w))
    params = net.init(params_key, jnp.zeros((1, h, w, 2 * dim)))["params"]
    return State(
      params=params,
      optimiser=optimiser.init(params),
      seen=jnp.zeros((n, h * w, dim)),
      present=jnp.zeros(n, bool),
      bank=nearby.empty(m, dim),
      centre=jnp.stack([jnp.zeros(dim), jnp.ones(dim)]),
      ready=jnp.bool_(False),
      memory=defects.begin(min(kept, n), *spec.image[:2]),
      textures=defects.cloudy(texture_key, sources, size, size),
      frozen=pretrained,
      key=key,
    )

  def collect(state: State, batch: Batch) -> State:
    """Keeps the features of normal images."""
    normal = batch.valid & (batch.label == 0)
    row = jnp.where(normal, batch.row, len(state.present))
    cells = embed(batch.features)
    return state._replace(
      seen=state.seen.at[row].set(cells.reshape(len(row), -1, dim), mode="drop"),
      present=state.present.at[row].set(True, mode="drop"),
      memory=defects.remember(state.memory, batch),
    )

  def select(state: State) -> State:
    """Makes the bank of the features that were kept."""
    key, select_key = jax.random.split(state.key)
    p = state.seen.shape[1]
    centre = standard.fit(state.seen.reshape(-1, dim), jnp.repeat(state.present, p))
    x, m = standard.apply(state.seen, centre), len(state.bank.used)
    bank = nearby.select(select_key, x, state.present, ratio, m, projection)
    return state._replace(bank=bank, centre=centre, ready=jnp.bool_(True), key=key)

  def view(
    key: Array, state: State, x: Float[Array, "b h w d"], found: Int[Array, "b p k"]
  ) -> Float[Array, "b h w 2*d"]:
    """Returns residuals to a random neighbour of those found, some of them dropped."""
    pick_key, drop_key = jax.random.split(key)
    which = jax.random.randint(pick_key, found.shape[:2], 0, found.shape[2])
    near = state.bank.feature[jnp.take_along_axis(found, which[..., None], axis=2)[..., 0]]
    left = jax.random.bernoulli(drop_key, 1 - dropped, x.shape[:3])
    return nearby.residual(x, near.reshape(x.shape)) * left[..., None]

  def logits(params: Any, x: Float[Array, "b h w e"]) -> Float[Array, "b h w 2"]:
    return jnp.asarray(net.apply({"params": params}, x))

  def learn(state: State, batch: Batch) -> tuple[State, Logs]:
    """Takes a step on the batch and as many anomalous images."""
    key, real_key, texture_key, mix_key, *view_keys = jax.random.split(state.key, 7)
    b = len(batch.valid)
    real = defects.draw(real_key, state.memory, batch, (b + 1) // 2)
    made = defects.textured(texture_key, state.textures, batch, max(b // 2, 1))
    told = defects.Drawn(batch.image, batch.region > 0, defects.known(batch), batch.row)
    drawn = jax.tree.map(lambda *x: jnp.concatenate(x), real, made)
    more = network.apply({"params": state.frozen}, drawn.image)
    features = {s: jnp.concatenate([batch.features[s], more[s]]) for s in stages}
    _, mask, there, row = jax.tree.map(lambda *x: jnp.concatenate(x), told, drawn)
    x = standard.apply(embed(features), state.centre)
    found = nearby.match(state.bank, x, row, reach, neighbours)
    anomalous, sure = blocks.labelled(mask, x.shape[1:3], least)
    known, unknown = sure & there[:, None, None], ~sure & there[:, None, None]
    views = [view(k, state, x, found) for k in view_keys]
    q = jnp.mean(jnp.stack([nn.softmax(logits(state.params, v)) for v in views[1:]]), axis=0)
    target = jnp.where(
      known[..., None], nn.one_hot(anomalous.astype(jnp.int32), 2), blocks.sharpen(q, temperature)
    )
    share = jax.random.beta(mix_key, mix, mix, (len(x), 1, 1, 1))
    share = jnp.maximum(share, 1 - share)
    # Each image is mixed with the next one that is there, or else with itself.
    order = jnp.arange(len(x))
    other = jnp.where(there & jnp.roll(there, -1), jnp.roll(order, -1), order)
    mixed = share * views[0] + (1 - share) * views[0][other]
    target = share * target + (1 - share) * target[other]
    ramp = balance * batch.epoch / epochs

    def mean(value: Array, where: Array) -> Array:
      return jnp.sum(jnp.where(where, value, 0)) / jnp.maximum(jnp.sum(where), 1)

    def loss(params: Any) -> tuple[Array, Logs]:
      given = blocks.focal(logits(params, views[0]), anomalous, alpha, gamma)
      apart = jnp.square(nn.softmax(logits(params, mixed)) - target)
      parts = {"known": mean(given, known), "unknown": mean(jnp.mean(apart, -1), unknown)}
      return parts["known"] + ramp * parts["unknown"], parts

    gradient, parts = jax.grad(loss, has_aux=True)(state.params)
    step, opt = optimiser.update(gradient, state.optimiser, state.params)
    rate = lr * 0.5 * (1 + jnp.cos(jnp.pi * batch.epoch / epochs))
    params = jax.tree.map(lambda x, dx: x - rate * dx, state.params, step)
    moved, old = (params, opt), (state.params, state.optimiser)
    # Images of which nothing is known, alone in a batch, teach nothing.
    some = jnp.any(there)
    params, opt = jax.tree.map(lambda new, old: jnp.where(some, new, old), moved, old)
    return state._replace(params=params, optimiser=opt, key=key), parts

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    def first(state: State) -> tuple[State, Logs]:
      return collect(state, batch), {"known": jnp.float32(0), "unknown": jnp.float32(0)}

    def later(state: State) -> tuple[State, Logs]:
      return learn(jax.lax.cond(state.ready, lambda s: s, select, state), batch)

    return jax.lax.cond(batch.epoch == 0, first, later, state)

  def finish(state: State) -> State:
    state = jax.lax.cond(state.ready, lambda s: s, select, state)
    return state._replace(
      present=jnp.zeros_like(state.present),
      ready=jnp.bool_(False),
      memory=defects.forget(state.memory),
    )

  def score(state: State, batch: Batch) -> Scores:
    x = standard.apply(embed(batch.features), state.centre)
    found = nearby.match(state.bank, x, jnp.full(len(x), -1), reach, 1)
    near = state.bank.feature[found[..., 0]].reshape(x.shape)
    grid = nn.softmax(logits(state.params, nearby.residual(x, near)))[..., 1]
    pixel = maps.to_image(grid, batch.image.shape[1:3], sigma)
    return Scores(jnp.max(pixel, axis=(1, 2)), pixel)

  return Method(
    *(init, update, finish, score, backbone, stages, size, batch, epochs), supervised=True
  )
