"""DevNet: a network learns scores from a few anomalies, far above those of normal images.

Pang, Ding, Shen, van den Hengel: Explainable Deep Few-shot Anomaly Detection with Deviation
Networks. arXiv 2108.00462 (2021). Follows the authors' code: the score is the mean of the strongest
tenth of the cells, of the image and of one half as large; the deviation loss; Adam, whose L2
penalty comes after the gradient is clipped; a learning rate that falls to a tenth in equal steps.
The map is the gradient of the score, summed over colours, cut at its 99th percentile and smoothed.
A later task goes on from the weights and the optimiser of the one before.

What differs: half of each of their batches is anomalous; here each image comes once an epoch, and
anomalies weigh as much as all others together, which is equal in expectation. Their 1000 updates
are 167 epochs for the 252 images that a category of MVTec AD has on average. The pretrained network
has batch norm folded into its convolutions, which are trained as they are. The map is multiplied by
the score: that changes nothing within an image, on which alone the authors measure it, but lets
maps of different images be compared. Its gradient is that of the image before the network
normalises its colours. Where the backbone is not trained, and images are neither turned nor shrunk,
their features are computed once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from imiad_jax.heads import deviation, maps
from imiad_jax.heads.layers import Conv
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for.
SMALL = {
  "stage": "layer3",
  "trained": (),
  "size": 320,
  "epochs": 100,
  "batch": 16,
  "scales": 1,
  "share": 0.01,
  "lr": 0.02,
  "drops": 1,
  "rotation": 0.0,
}


class State(NamedTuple):
  """n training rows of the largest task."""

  params: Any  # what is trained: parts of the backbone
  frozen: Any  # its other parts
  head: Any  # parameters of the scoring convolution
  optimiser: Any  # of (params, head)
  told: Int[Array, " n"]  # labels of the task's rows, -1 before they are met
  key: Array


def saliency(gradient: Float[Array, "b h w 3"], sigma: float) -> Float[Array, "b h w"]:
  """Returns maps in [0,1] of gradients: sums over colours between an image's least and 99%."""
  total = jnp.sum(jnp.abs(gradient), axis=-1)
  low = jnp.min(total, axis=(1, 2), keepdims=True)
  high = jnp.percentile(total, 99, axis=(1, 2), keepdims=True)
  scaled = jnp.clip((total - low) / jnp.where(high > low, high - low, 1), 0, 1)
  return maps.blur(scaled, sigma)


def Model(
  backbone: str = "resnet18",
  stage: str = "layer4",
  trained: tuple[str, ...] = ("stem", "layer1", "layer2", "layer3", "layer4"),
  size: int = 448,
  epochs: int = 167,
  batch: int = 48,
  scales: int = 2,
  share: float = 0.1,
  lr: float = 2e-4,
  drops: int = 4,
  weight_decay: float = 1e-5,
  rotation: float = 180.0,
  sigma: float = 4.0,
) -> Method:
  """Builds DevNet.

  Args:
    backbone: a pretrained network.
    stage: its stage whose cells are scored.
    trained: parts of the backbone that are fine-tuned.
    size: height and width of the images.
    epochs: passes over each task.
    batch: images at once.
    scales: how often an image is looked at, each time half as large.
    share: of the cells, the strongest, whose mean is the score.
    lr: learning rate at a task's first epoch.
    drops: how often it falls to a tenth, at equal distances.
    weight_decay: L2 penalty, added to the clipped gradient.
    rotation: training images are turned by up to so many degrees either way.
    sigma: of the map's smoothing, in pixels.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(scales >= 1, "scales", scales, "at least 1")
  need(size >= 2**scales, "size", size, "large enough for all scales")
  need(0 < share <= 1, "share", share, "above 0 and at most 1")
  need(lr >= 0, "lr", lr, "at least 0")
  need(drops >= 0, "drops", drops, "at least 0")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  need(rotation >= 0, "rotation", rotation, "at least 0")
  need(sigma > 0, "sigma", sigma, "above 0")
  look = deviation.grids(backbone, stage, scales)
  known = not trained and scales == 1 and rotation == 0  # the grids do not change
  scorer = Conv(1, 1)
  optimiser = deviation.optimise(weight_decay)

  def scored(head: Any, grids: list[Array]) -> Float[Array, " b"]:
    cells = [jnp.abs(jnp.asarray(scorer.apply({"params": head}, x)))[..., 0] for x in grids]
    return jnp.mean(jnp.stack([deviation.strongest(x, share) for x in cells]), axis=0)

  def init(key: Array, spec: Spec, pretrained: Any) -> State:
    key, head_key = jax.random.split(key)
    params, frozen = deviation.split(backbone, trained, pretrained)
    shape = jax.eval_shape(look, pretrained, jax.ShapeDtypeStruct((1, *spec.image), jnp.float32))
    head = scorer.init(head_key, jnp.zeros(shape[0].shape))["params"]
    opt = optimiser.init((params, head))
    return State(params, frozen, head, opt, jnp.full(spec.max_train, -1), key)

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    key, turn_key, drawn_key = jax.random.split(state.key, 3)
    image = deviation.turn(turn_key, batch.image, rotation)
    told = state.told.at[batch.row].set(batch.label, mode="drop")
    weight = jnp.where(batch.valid, deviation.balance(told, batch.label, 0.5), 0)
    drawn = deviation.reference(drawn_key)

    def loss(tuned: Any) -> Array:
      params, head = tuned
      grids = [batch.features[stage]] if known else look(params | state.frozen, image)
      score = scored(head, grids)
      each = deviation.loss(score, batch.label.astype(score.dtype), drawn)
      return jnp.sum(weight * each) / jnp.sum(batch.valid)

    tuned = (state.params, state.head)
    value, gradient = jax.value_and_grad(loss)(tuned)
    step, opt = optimiser.update(gradient, state.optimiser, tuned)
    rate = deviation.rate(lr, drops, batch.epoch, epochs)
    params, head = jax.tree.map(lambda x, dx: x - rate * dx, tuned, step)
    return State(params, state.frozen, head, opt, told, key), {"loss": value}

  def finish(state: State) -> State:
    return state._replace(told=jnp.full_like(state.told, -1))

  @jax.jit  # operation by operation, the gradient takes many times as long
  def explain(params: Any, head: Any, image: Float[Array, "b h w 3"]) -> tuple[Array, Array]:
    """Returns each image's score, and the gradient of their sum."""

    def total(image: Array) -> tuple[Array, Array]:
      each = scored(head, look(params, image))
      return jnp.sum(each), each

    (_, each), gradient = jax.value_and_grad(total, has_aux=True)(image)
    return each, gradient

  def score(state: State, batch: Batch) -> Scores:
    each, gradient = explain(state.params | state.frozen, state.head, batch.image)
    return Scores(each, each[:, None, None] * saliency(gradient, sigma))

  return Method(
    *(init, update, finish, score, backbone, (stage,) if known else (), size, batch, epochs),
    supervised=True,
    needs_anomalies=True,
  )
