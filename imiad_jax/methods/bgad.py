"""BGAD: flows of patch features that keep normal ones above a boundary and anomalous ones below.

Yao, Li, Zhang, Sun, Zhang: Explicit Boundary Guided Semi-Push-Pull Contrastive Learning for
Supervised Anomaly Detection. CVPR 2023, arXiv 2207.01463. The defaults do what the authors' command
does. For each stage a flow that is told a feature's position learns the likelihood of normal
features; a low quantile of that of a chunk's normal ones is their boundary, another one lies a
margin below it for anomalous ones, and only what is on its wrong side is pulled up or pushed down.
Each chunk of positions, drawn from all images of a batch, is a step of Adam.

Anomalous images are seldom in a batch, so those that were told are kept, and some of them join each
batch: half as they are, half as their defects pasted on its normal images, whose features the
frozen backbone gives. The authors list each image ten times to the same effect.

What differs: the backbone may be any of ours (the paper's is EfficientNet-B6), so features are
standardised by the first batch. Of the operations
that change a pasted defect those that bend, blur or add noise are left out, and nothing says where
the object is. Where no anomalies are told, normal features are still pulled above their boundary,
as the authors do in their unsupervised variant. Likelihoods are relative to the largest of normal
features in the last epoch, not of the test set. Each flow has an Adam of its own. The logarithm of
a likelihood has a floor of 0.1 in the weights of anomalous features, which are infinite at 0. A
later task goes on from the weights that the last one left, with its own anomalies.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from imiad_jax import plugins
from imiad_jax.heads import conditional_flow as flow
from imiad_jax.heads import defects, maps, standard
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for.
SMALL = {
  "stages": ("layer2", "layer3"),
  "size": 224,
  "steps": 4,
  "code": 32,
  "focal": False,  # in so few steps it does harm
  "chunk": 512,
  "lr": 1e-3,
  "epochs": 24,
  "passes": 1,
  "extra": 4,
  "batch": 8,
}

_NORMALISER = 10.0  # of likelihoods before they meet boundaries and weights
_WARM = 2  # meta epochs


class State(NamedTuple):
  """A flow for each stage, the frozen backbone, and the anomalies that were told."""

  params: dict[str, flow.Params]  # by stage
  rotations: dict[str, Float[Array, "k d d"]]  # by stage; drawn once
  optimiser: dict[str, Any]
  centre: dict[str, Float[Array, "2 d"]]  # by stage: mean and deviation of features at first
  peak: dict[str, Array]  # [] float32: largest log-likelihood of a normal feature in the epoch
  epoch: Array  # [] int32: which epoch that is; -1 before the first
  memory: defects.Memory
  frozen: Any  # the backbone's parameters
  key: Array


def weights(u: Float[Array, " p"], anomalous: Bool[Array, " p"]) -> Float[Array, " p"]:
  """Returns the focal weights of features of log-likelihood u; higher on the side that is wrong.

  A normal one's is 11.7 sqrt(1 - e^u) |u| where u <= -0.2, else 1; an anomalous one's
  0.53 (1 + e^u)^2 / |u| where u > -1, else 1.
  """
  density, size = jnp.exp(u), jnp.abs(u)
  normal = 11.7 * jnp.sqrt(jnp.maximum(1 - density, 0)) * size
  other = 0.53 * (1 + density) ** 2 / jnp.maximum(size, 0.1 / _NORMALISER)
  return jnp.where(anomalous, jnp.where(u > -1, other, 1), jnp.where(u <= -0.2, normal, 1))


def boundary(u: Float[Array, " p"], normal: Bool[Array, " p"], beta: float) -> Float[Array, ""]:
  """Returns the normal value that a share `beta` of them, rounded down, lies below."""
  place = jnp.floor(beta * jnp.sum(normal)).astype(jnp.int32)
  return jnp.sort(jnp.where(normal, u, jnp.inf))[place]


def losses(
  likelihood: Float[Array, " p"],
  anomalous: Bool[Array, " p"],
  known: Bool[Array, " p"],
  beta: float,
  margin: float,
  focal: Bool[Array, ""] | bool,
) -> Logs:
  """Returns the parts of the loss, each a mean over what it is of, 0 where that is nothing.

  Args:
    likelihood: log-likelihood of each feature over its dimension.
    anomalous: which features are of defects.
    known: which of them count.
    beta: share of normal features below their boundary.
    margin: from there down to that of anomalous ones, in tenths of the likelihood.
    focal: whether features are weighted.
  """
  u = likelihood / _NORMALISER
  level = jax.lax.stop_gradient(u)
  weight = jnp.where(focal, weights(level, anomalous), 1)
  normal, other = known & ~anomalous, known & anomalous
  edge = boundary(level, normal, beta)

  def mean(value: Array, where: Array) -> Array:
    return jnp.sum(jnp.where(where, weight * value, 0)) / jnp.maximum(jnp.sum(where), 1)

  return {
    "likelihood": mean(-nn.log_sigmoid(likelihood), normal),
    "pull": mean(edge - u, normal & (u <= edge)),
    "push": mean(u - (edge - margin), other & (u >= edge - margin)),
  }


def Model(
  backbone: str = "wide_resnet50_2",
  stages: tuple[str, ...] = ("layer1", "layer2", "layer3"),
  size: int = 256,
  steps: int = 8,
  code: int = 128,
  clamp: float = 1.9,
  beta: float = 0.01,
  margin: float = 0.1,
  balance: float = 1.0,
  focal: bool = True,
  chunk: int = 4096,
  lr: float = 2e-4,
  epochs: int = 200,
  passes: int = 8,
  kept: int = 64,
  extra: int = 12,
  batch: int = 32,
) -> Method:
  """Builds BGAD.

  Args:
    backbone: a pretrained network.
    stages: its stages, each with a flow of its own.
    size: height and width of the images.
    steps: couplings of each flow.
    code: numbers that tell a flow a position, a multiple of 4.
    clamp: the largest log-scale of a coupling.
    beta: share of a chunk's normal features that lie below their boundary, in [0, 1).
    margin: from there down to the boundary of anomalous features, in tenths of the log-likelihood
      over its dimension.
    balance: weight of the loss about boundaries.
    focal: weight features by how wrong their likelihood is.
    chunk: features that make a step of Adam.
    lr: learning rate at its highest; a cosine over the meta epochs, after two that warm it up.
    epochs: passes over each task.
    passes: of them, how many make a meta epoch; the first one learns normal images alone.
    kept: anomalous images kept.
    extra: anomalous images that join each batch.
    batch: images at once, besides those.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(code >= 4 and code % 4 == 0, "code", code, "a multiple of 4")
  need(clamp > 0, "clamp", clamp, "above 0")
  need(0 <= beta < 1, "beta", beta, "at least 0 and below 1")
  need(margin >= 0, "margin", margin, "at least 0")
  need(balance >= 0, "balance", balance, "at least 0")
  need(lr >= 0, "lr", lr, "at least 0")
  need(1 <= passes <= epochs, "passes", passes, "between 1 and the epochs")
  for name, value in [("steps", steps), ("chunk", chunk), ("kept", kept), ("extra", extra)]:
    need(value >= 1, name, value, "at least 1")
  network = plugins.backbone(backbone).Model(backbone)
  optimiser = optax.scale_by_adam()

  def rate(epoch: Array) -> Array:
    """Returns the learning rate of an epoch."""
    least, last = 1e-3 * lr, max(1, epochs // passes)

    def cosine(meta: Array | int) -> Array:
      return least + (lr - least) * (1 + jnp.cos(jnp.pi * jnp.minimum(meta / last, 1))) / 2

    warm = epoch / (_WARM * passes)
    rising = lr / 10 + warm * (cosine(_WARM) - lr / 10)
    return jnp.where(warm < 1, rising, cosine(epoch // passes))

  def init(key: Array, spec: Spec, pretrained: Any) -> State:
    key, *keys = jax.random.split(key, 1 + 2 * len(stages))
    dims = {s: spec.shape(s)[-1] for s in stages}
    params = {
      s: flow.begin(k, steps, dims[s], code) for s, k in zip(stages, keys[::2], strict=True)
    }
    turns = {s: flow.rotations(k, steps, dims[s]) for s, k in zip(stages, keys[1::2], strict=True)}
    return State(
      params=params,
      rotations=turns,
      optimiser={s: optimiser.init(params[s]) for s in stages},
      centre={s: jnp.stack([jnp.zeros(dims[s]), jnp.ones(dims[s])]) for s in stages},
      peak={s: jnp.float32(-jnp.inf) for s in stages},
      epoch=jnp.int32(-1),
      memory=defects.begin(min(kept, spec.max_train), *spec.image[:2]),
      frozen=pretrained,
      key=key,
    )

  def learn(
    state: State,
    stage: str,
    key: Array,
    x: Float[Array, "b h w d"],
    mask: Bool[Array, "b h w"],
    known: Bool[Array, " b"],
    epoch: Array,
  ) -> tuple[Any, Any, Array, Array, Logs]:
    """Returns a stage's parameters, optimiser, centre and peak after a step for each chunk."""
    b, h, w, d = x.shape
    p = b * h * w
    size, late, speed = min(chunk, p), epoch >= passes, rate(epoch)
    there = jnp.repeat(known, h * w)
    # Those that count come first, in random order; what is left after the last chunk is not used.
    order = jnp.argsort(jnp.where(there, jax.random.uniform(key, (p,)), 2))
    order = order[: p // size * size].reshape(-1, size)
    x, mask = x.reshape(p, d), mask.reshape(p)
    fresh = state.optimiser[stage].count == 0
    centre = jnp.where(fresh, standard.fit(x, there & ~mask), state.centre[stage])
    codes = jnp.asarray(flow.position_code(h, w, code)).reshape(h * w, code)

    def one(carry: tuple[Any, Any, Array], rows: Array) -> tuple[tuple[Any, Any, Array], Logs]:
      params, opt, peak = carry
      normal = there[rows] & ~mask[rows]

      def loss(params: Any) -> tuple[Array, tuple[Array, Logs]]:
        turns, place = state.rotations[stage], codes[rows % (h * w)]
        likelihood = flow.log_likelihood(
          params, turns, standard.apply(x[rows], centre), place, clamp
        )
        parts = losses(likelihood, mask[rows], there[rows], beta, margin, late & focal)
        value = parts["likelihood"] + late * balance * (parts["pull"] + parts["push"])
        highest = jnp.max(likelihood, where=normal, initial=-jnp.inf)
        return value, (jnp.maximum(peak, highest), parts)

      gradient, (peak, parts) = jax.grad(loss, has_aux=True)(params)
      step, stepped = optimiser.update(gradient, opt, params)
      moved = jax.tree.map(lambda p, dp: p - speed * dp, params, step)
      some = jnp.any(normal)
      params, opt = jax.tree.map(
        lambda new, old: jnp.where(some, new, old), (moved, stepped), (params, opt)
      )
      return (params, opt, peak), parts

    peak = jnp.where(epoch == state.epoch, state.peak[stage], -jnp.inf)
    carry, parts = jax.lax.scan(one, (state.params[stage], state.optimiser[stage], peak), order)
    params, opt, peak = carry
    return params, opt, centre, peak, jax.tree.map(jnp.mean, parts)

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    key, draw_key, *keys = jax.random.split(state.key, 2 + len(stages))
    memory = defects.remember(state.memory, batch)
    drawn = defects.draw(draw_key, memory, batch, extra)
    more = network.apply({"params": state.frozen}, drawn.image)
    mask = jnp.concatenate([batch.region > 0, drawn.mask])
    late = batch.epoch >= passes
    known = defects.known(batch) & (late | (batch.label == 0))
    known = jnp.concatenate([known, drawn.there & late])
    params, opt, centre, peak, logs = {}, {}, {}, {}, {}
    for stage, stage_key in zip(stages, keys, strict=True):
      x = jnp.concatenate([batch.features[stage], more[stage]])
      here = defects.to_grid(mask, x.shape[1:3])
      params[stage], opt[stage], centre[stage], peak[stage], parts = learn(
        state, stage, stage_key, x, here, known, batch.epoch
      )
      logs = {k: logs.get(k, 0) + v / len(stages) for k, v in parts.items()}
    return state._replace(
      params=params,
      optimiser=opt,
      centre=centre,
      peak=peak,
      epoch=batch.epoch,
      memory=memory,
      key=key,
    ), logs

  def finish(state: State) -> State:
    return state._replace(epoch=jnp.int32(-1), memory=defects.forget(state.memory))

  def score(state: State, batch: Batch) -> Scores:
    pixel = jnp.full(batch.image.shape[:3], float(len(stages)))
    for stage in stages:
      x = batch.features[stage]
      b, h, w, d = x.shape
      codes = jnp.asarray(flow.position_code(h, w, code)).reshape(h * w, code)
      likelihood = flow.log_likelihood(
        state.params[stage],
        state.rotations[stage],
        standard.apply(x.reshape(-1, d), state.centre[stage]),
        jnp.tile(codes, (b, 1)),
        clamp,
      )
      density = jnp.exp(jnp.minimum(likelihood - state.peak[stage], 0))
      pixel -= maps.aligned(density.reshape(b, h, w), batch.image.shape[1:3])
    return Scores(jnp.max(pixel, axis=(1, 2)), pixel)

  return Method(
    *(init, update, finish, score, backbone, stages, size, batch, epochs), supervised=True
  )
