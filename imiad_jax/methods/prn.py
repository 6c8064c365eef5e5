"""PRN: a network that segments defects, told how features differ from prototypes of normal images.

Zhang, Wu, Wang, Chen, Jiang: Prototypical Residual Networks for Anomaly Detection and Localization.
CVPR 2023, arXiv 2212.02031. There is no code by the authors; this follows the paper and the one
public port. Prototypes are k-means centres of the whole feature maps of normal images. The squared
difference of a map and the prototype nearest to it is what the network sees beside the map.

Normal images and as many anomalous ones are learnt. Of the latter half are those that were told,
either as they are or as their defects pasted on normal images, the other half normal images with a
texture pasted; the frozen backbone gives their features.

What differs: the backbone may be any of ours (the paper's is ResNet-18), and it stays frozen, where
batch norm of the port's drifts. A first epoch collects the maps of normal images, for one round of
k-means, and learns nothing. Weight decay does not pass through Adam's moments, as it does in the
port, where it is very strong then. Scores may be given with a mean of the weights, which move to
and fro at a constant learning rate; the port takes those of the pass that is best on the test
images. Of the operations that change a pasted defect or texture those of colours and positions are
left; where the object is, is not known. Grids may be of any size: they are cut into as many parts
as fit. Where no anomalies are told the pasted textures remain. A later task goes on from the
weights that the last one left, with prototypes and anomalies of its own.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float, UInt8

from imiad_jax import plugins
from imiad_jax import textures as library
from imiad_jax.heads import defects, kmeans, knn, maps, residual_net
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for; `top` is the share of the pixels that the authors' 100 are.
SMALL = {
  "stages": ("layer1", "layer2", "layer3"),
  "size": 128,
  "top": 25,
  "blocks": 1,
  "sources": 64,
  "epochs": 25,
  "batch": 4,
  "lr": 2e-3,
  "averaged": 0.5,
  "sigma": 4.0,
}

_SMOOTH = 1e-5  # of a label that goes to the other class


class State(NamedTuple):
  """n training rows, k prototypes; three scales and the coarsest one."""

  params: Any
  averages: Any  # of batch norm
  mean: Any  # of both over the last steps: what scores are given with
  summed: Array  # [] int32: over how many; 0 where it is what the last step left
  optimiser: Any
  seen: tuple[Float[Array, "n _d"], ...]  # by scale: maps of normal training images
  present: Bool[Array, " n"]
  prototypes: tuple[Float[Array, "k _d"], ...]  # by scale
  used: Bool[Array, " k"]
  ready: Array  # [] bool: the prototypes are of this task
  memory: defects.Memory
  textures: UInt8[Array, "m h w 3"]
  frozen: Any  # the backbone's parameters
  key: Array


def losses(
  logit: Float[Array, "b h w"], mask: Bool[Array, "b h w"], known: Bool[Array, " b"]
) -> Logs:
  """Returns the parts of the loss, each a mean over the pixels of images that count.

  Smooth L1 of the score and the mask, and a focal loss -(1 - p)^4 log(p) / 2, where p is the
  probability of the class that is right, as the port has it.
  """
  score = nn.sigmoid(logit)
  right = jnp.clip(mask, _SMOOTH, 1 - _SMOOTH)
  p = right * score + (1 - right) * (1 - score) + _SMOOTH
  parts = {
    "smooth": jnp.square(score - mask) / 2,  # they never differ by more than 1
    "focal": -0.5 * (1 - p) ** 4 * jnp.log(p),
  }
  count = jnp.maximum(jnp.sum(known), 1)
  return {
    k: jnp.sum(jnp.where(known, jnp.mean(v, axis=(1, 2)), 0)) / count for k, v in parts.items()
  }


def Model(
  backbone: str = "resnet18",
  stages: tuple[str, ...] = ("layer1", "layer2", "layer3", "layer4"),
  textures: str = "",
  sources: int = 512,
  size: int = 256,
  ratio: float = 0.1,
  blocks: int = 3,
  balance: float = 5.0,
  top: int = 100,
  lr: float = 1e-4,
  weight_decay: float = 1e-2,
  averaged: float = 0.0,
  sigma: float = 0.0,
  epochs: int = 701,
  kept: int = 64,
  batch: int = 24,
) -> Method:
  """Builds PRN.

  Args:
    backbone: a pretrained network.
    stages: its stages: those with prototypes, finest first, and one that is coarser still.
    textures: a folder with pictures in it or below, to be pasted; empty for drawn clouds.
    sources: most textures kept, each size x size x 3 bytes.
    size: height and width of the images.
    ratio: prototypes, over the number of normal images; there is at least one.
    blocks: of attention at each scale.
    balance: weight of the focal loss.
    top: pixels whose mean score is the image's.
    lr: learning rate of AdamW, constant.
    weight_decay: of AdamW.
    averaged: share of the passes, the last ones, whose weights' mean scores are given with, in
      [0, 1); 0 for the weights that were learnt last.
    sigma: of the Gaussian that smooths the map, in pixels; 0 for none, as the port has it.
    epochs: passes over each task; the first one learns nothing.
    kept: anomalous images kept.
    batch: images at once, besides as many anomalous ones.

  Raises:
    ValueError: a hyperparameter outside its range.
    UserError: a folder of textures without pictures.
  """
  need(len(stages) > 1, "stages", stages, "two or more stages of the backbone")
  need(0 < ratio <= 1, "ratio", ratio, "above 0 and at most 1")
  need(balance >= 0, "balance", balance, "at least 0")
  need(lr >= 0, "lr", lr, "at least 0")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  need(0 <= averaged < 1, "averaged", averaged, "at least 0 and below 1")
  need(sigma >= 0, "sigma", sigma, "at least 0")
  for name, value in [("sources", sources), ("blocks", blocks), ("top", top), ("kept", kept)]:
    need(value >= 1, name, value, "at least 1")
  found = library.read(textures, sources, size) if textures else None
  network = plugins.backbone(backbone).Model(backbone)
  net = residual_net.Net(blocks)
  optimiser = optax.adamw(lr, weight_decay=weight_decay)

  def init(key: Array, spec: Spec, pretrained: Any) -> State:
    key, params_key, texture_key = jax.random.split(key, 3)
    features = [jnp.zeros((1, *spec.shape(s))) for s in stages]
    n, k = spec.max_train, max(1, int(ratio * spec.max_train))
    scales = tuple(features[:-1])
    made = residual_net.begin(params_key, net, scales, scales, features[-1], spec.image[:2])
    drawn = defects.cloudy(texture_key, sources, size, size) if found is None else found
    return State(
      params=made["params"],
      averages=made["batch_stats"],
      mean=(made["params"], made["batch_stats"]),
      summed=jnp.int32(0),
      optimiser=optimiser.init(made["params"]),
      seen=tuple(jnp.zeros((n, x.size)) for x in scales),
      present=jnp.zeros(n, bool),
      prototypes=tuple(jnp.zeros((k, x.size)) for x in scales),
      used=jnp.arange(k) < 1,
      ready=jnp.bool_(False),
      memory=defects.begin(min(kept, n), *spec.image[:2]),
      textures=jnp.asarray(drawn),
      frozen=pretrained,
      key=key,
    )

  def collect(state: State, batch: Batch) -> State:
    """Keeps the maps of normal images."""
    normal = batch.valid & (batch.label == 0)
    row = jnp.where(normal, batch.row, len(state.present))
    seen = tuple(
      x.at[row].set(batch.features[s].reshape(len(row), -1), mode="drop")
      for s, x in zip(stages, state.seen, strict=False)
    )
    return state._replace(
      seen=seen,
      present=state.present.at[row].set(True, mode="drop"),
      memory=defects.remember(state.memory, batch),
    )

  def cluster(state: State) -> State:
    """Makes the prototypes of the maps that were kept."""
    key, *keys = jax.random.split(state.key, 1 + len(state.seen))
    n, k = len(state.present), len(state.used)
    # int(ratio * rows) as Python computes it, for every possible number of images.
    wanted = [max(1, int(ratio * i)) for i in range(n + 1)]
    count = jnp.asarray(wanted, jnp.int32)[jnp.sum(state.present)]
    prototypes = []
    for x, fit_key in zip(state.seen, keys, strict=True):
      gram = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
      weights = kmeans.fit(fit_key, gram, state.present, count, k)
      prototypes.append(jnp.matmul(weights, x, precision=jax.lax.Precision.HIGHEST))
    return state._replace(
      prototypes=tuple(prototypes),
      used=jnp.arange(k) < count,
      ready=jnp.bool_(True),
      key=key,
    )

  def forward(
    state: State, weights: Any, features: dict[str, Array], shape: tuple[int, ...], valid: Any
  ) -> tuple[Array, Any]:
    """Returns logits of weights, a pair of `params` and `averages`, and these averages then."""
    scales, residuals = [features[s] for s in stages[:-1]], []
    for x, bank in zip(scales, state.prototypes, strict=True):
      _, row = knn.nearest_row(x.reshape(len(x), -1), bank, state.used)
      residuals.append(jnp.square(x - bank[row].reshape(x.shape)))
    variables = {"params": weights[0], "batch_stats": weights[1]}
    inputs = (tuple(scales), tuple(residuals), features[stages[-1]])
    logit, kept = net.apply(variables, *inputs, shape, valid, mutable=["batch_stats"])
    return jnp.asarray(logit), kept["batch_stats"]

  def learn(state: State, batch: Batch) -> tuple[State, Logs]:
    """Takes a step on the batch and as many anomalous images."""
    key, real_key, texture_key = jax.random.split(state.key, 3)
    b = len(batch.valid)
    real = defects.draw(real_key, state.memory, batch, (b + 1) // 2)
    made = defects.textured(texture_key, state.textures, batch, max(b // 2, 1))
    drawn = jax.tree.map(lambda *x: jnp.concatenate(x), real, made)
    more = network.apply({"params": state.frozen}, drawn.image)
    features = {s: jnp.concatenate([batch.features[s], more[s]]) for s in stages}
    mask = jnp.concatenate([batch.region > 0, drawn.mask])
    known = jnp.concatenate([defects.known(batch), drawn.there])

    def loss(params: Any) -> tuple[Array, tuple[Any, Logs]]:
      logit, averages = forward(state, (params, state.averages), features, mask.shape[1:], known)
      parts = losses(logit, mask, known)
      return parts["smooth"] + balance * parts["focal"], (averages, parts)

    gradient, (averages, parts) = jax.grad(loss, has_aux=True)(state.params)
    step, opt = optimiser.update(gradient, state.optimiser, state.params)
    params = optax.apply_updates(state.params, step)
    summed = state.summed + (batch.epoch >= epochs * (1 - averaged))
    weights = (params, averages)
    mean = optax.incremental_update(weights, state.mean, 1 / jnp.maximum(summed, 1))
    moved = state._replace(
      params=params, averages=averages, mean=mean, summed=summed, optimiser=opt
    )
    # Images of which nothing is known, alone in a batch, teach nothing.
    some = jnp.any(known)
    moved = jax.tree.map(lambda new, old: jnp.where(some, new, old), moved, state)
    return moved._replace(key=key), parts

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    def first(state: State) -> tuple[State, Logs]:
      return collect(state, batch), {"smooth": jnp.float32(0), "focal": jnp.float32(0)}

    def later(state: State) -> tuple[State, Logs]:
      return learn(jax.lax.cond(state.ready, lambda s: s, cluster, state), batch)

    return jax.lax.cond(batch.epoch == 0, first, later, state)

  def finish(state: State) -> State:
    state = jax.lax.cond(state.ready, lambda s: s, cluster, state)
    return state._replace(
      present=jnp.zeros_like(state.present),
      ready=jnp.bool_(False),
      summed=jnp.int32(0),
      memory=defects.forget(state.memory),
    )

  def score(state: State, batch: Batch) -> Scores:
    logit, _ = forward(state, state.mean, batch.features, batch.image.shape[1:3], None)
    sharp = nn.sigmoid(logit)
    highest, _ = jax.lax.top_k(sharp.reshape(len(sharp), -1), min(top, sharp[0].size))
    return Scores(jnp.mean(highest, axis=-1), maps.blur(sharp, sigma) if sigma else sharp)

  return Method(
    *(init, update, finish, score, backbone, stages, size, batch, epochs), supervised=True
  )
