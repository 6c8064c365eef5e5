"""DRA: four heads look for seen, made-up and residual anomalies, and for what is normal.

Ding, Pang, Shen: Catching Both Gray and Black Swans: Open-set Supervised Anomaly Detection. CVPR
2022, arXiv 2203.14506. Follows the authors' code: a fine-tuned network at two scales of the image,
whose cells are scored for the anomalies told, for images with a pasted rectangle, and, as what is
left when they are taken from the mean of a few normal references, for both; a perceptron of the
mean cell says what is normal. Each head has a deviation loss; the score is the sum of the first
three less the last. A later task goes on from the weights and the optimiser of the one before.

What differs: a third of each of their batches are anomalies; here each image comes once an epoch,
anomalies weigh half as much as all others together, and a head's loss is the weighted mean over its
images. Every other normal image is pasted on itself, theirs on one drawn anew. Their 600 updates
are 100 epochs for the 252 images that a category of MVTec AD has on average. References are the
normal images that a task meets first, neither pasted nor, in tests, turned; in the authors' script
half of them are pasted, also in tests. The pretrained network has batch norm folded into its
convolutions, which are trained as they are. The map is ours, for they have none: the cells' scores
of three heads, resized and added. Where no anomalies are told, the others are learnt from alone.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from imiad_jax import images
from imiad_jax.heads import deviation, maps
from imiad_jax.heads.layers import Conv, Norm
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for.
SMALL = {
  "stage": "layer3",
  "trained": (),
  "size": 256,
  "epochs": 20,
  "batch": 8,
  "scales": 1,
  "share": 0.01,
  "references": 3,
  "lr": 0.02,
  "drops": 1,
  "rotation": 0.0,
}
PSEUDO = 2  # the label of an image with a pasted rectangle; 0 is normal, 1 is told anomalous


class State(NamedTuple):
  """n training rows of the largest task, r references."""

  params: Any  # what is trained: parts of the backbone
  frozen: Any  # its other parts
  heads: Any  # parameters of Heads
  statistics: Any  # running ones of its batch norm
  optimiser: Any  # of (params, heads)
  reference: Float[Array, "r h w 3"]
  referred: Array  # [] int32: how many references there are
  told: Int[Array, " n"]  # labels of the task's rows, -1 before they are met
  key: Array


class Heads(nn.Module):
  """The four heads, shared by all scales."""

  share: float

  @nn.compact
  def __call__(
    self,
    grids: list[Array],
    reference: list[Array],
    valid: Bool[Array, " b"] | None,
  ) -> tuple[Float[Array, "4 b"], list[Array]]:
    """Returns scores and, of each scale, a map [b,h',w'].

    The scores are for normal images, seen anomalies, pasted ones and residuals, all at least 0. A
    grid is [b,h',w',d], its reference [h',w',d].
    """
    hidden, normal = Conv(256, 1, name="hidden"), Conv(1, 1, name="normal")
    seen, pasted = Conv(1, 1, name="seen"), Conv(1, 1, name="pasted")
    mixed = Conv(grids[0].shape[-1], 3, padding=1, name="mixed")
    norm, residual = Norm(name="norm"), Conv(1, 1, name="residual")
    scores, dense = [], []
    for grid, mean in zip(grids, reference, strict=True):
      whole = jnp.mean(grid, axis=(1, 2), keepdims=True)
      left = nn.relu(norm(mixed(mean - grid), valid))
      cells = [jnp.abs(x)[..., 0] for x in (seen(grid), pasted(grid), residual(left))]
      usual = jnp.abs(normal(nn.relu(hidden(whole))))[:, 0, 0, 0]
      scores.append(jnp.stack([usual, *(deviation.strongest(x, self.share) for x in cells)]))
      dense.append(sum(cells))
    return jnp.mean(jnp.stack(scores), axis=0), dense


def losses(
  scores: Float[Array, "4 b"],
  label: Int[Array, " b"],
  weight: Float[Array, " b"],
  drawn: Float[Array, " n"],
) -> Float[Array, " 4"]:
  """Returns the heads' losses: weighted means over the images that each learns from, 0 if none."""
  pasted, seen = label == PSEUDO, label == 1
  high = jnp.stack([label == 0, seen, pasted, label != 0]).astype(scores.dtype)
  meant = jnp.stack([jnp.ones_like(seen), ~pasted, ~seen, jnp.ones_like(seen)])
  share = jnp.where(meant, weight, 0)
  total = jnp.sum(share, axis=1)
  each = deviation.loss(scores, high, drawn)
  return jnp.sum(share * each, axis=1) / jnp.where(total > 0, total, 1)


def Model(
  backbone: str = "resnet18",
  stage: str = "layer4",
  trained: tuple[str, ...] = ("stem", "layer1", "layer2", "layer3", "layer4"),
  size: int = 448,
  epochs: int = 100,
  batch: int = 48,
  scales: int = 2,
  share: float = 0.1,
  references: int = 5,
  lr: float = 2e-4,
  drops: int = 2,
  weight_decay: float = 1e-5,
  rotation: float = 180.0,
  sigma: float = 4.0,
) -> Method:
  """Builds DRA.

  Args:
    backbone: a pretrained network.
    stage: its stage whose cells are scored.
    trained: parts of the backbone that are fine-tuned.
    size: height and width of the images.
    epochs: passes over each task.
    batch: images at once.
    scales: how often an image is looked at, each time half as large.
    share: of the cells, the strongest, whose mean is a head's score.
    references: normal images from whose mean the residuals are taken.
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
  need(references >= 1, "references", references, "at least 1")
  need(lr >= 0, "lr", lr, "at least 0")
  need(drops >= 0, "drops", drops, "at least 0")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  need(rotation >= 0, "rotation", rotation, "at least 0")
  need(sigma > 0, "sigma", sigma, "above 0")
  look = deviation.grids(backbone, stage, scales)
  heads = Heads(share)
  optimiser = deviation.optimise(weight_decay)

  def compare(
    params: Any,
    variables: Any,
    image: Float[Array, "b h w 3"],
    reference: Float[Array, "r h w 3"],
    referred: Array,
    valid: Array | None,
  ) -> tuple[tuple[Array, list[Array]], Any]:
    """Returns what the heads do, and the moved statistics of batch norm."""
    there = (jnp.arange(references) < referred) / jnp.maximum(referred, 1)
    grids = look(params, jnp.concatenate([reference, image]))
    mean = [jnp.tensordot(there, x[:references], 1) for x in grids]
    grids = [x[references:] for x in grids]
    out, moved = heads.apply(variables, grids, mean, valid, mutable=["batch_stats"])
    return out, moved["batch_stats"]

  def refer(state: State, batch: Batch) -> tuple[Array, Array]:
    """Returns the references and their number, with normal images of the batch where some lack."""
    had = jnp.where(jnp.all(state.told < 0), 0, state.referred)
    normal = batch.valid & (batch.label == 0)
    place = jnp.where(normal, had + jnp.cumsum(normal) - 1, references)
    reference = state.reference.at[place].set(batch.image, mode="drop")
    return reference, jnp.minimum(had + jnp.sum(normal), references)

  def init(key: Array, spec: Spec, pretrained: Any) -> State:
    key, head_key = jax.random.split(key)
    params, frozen = deviation.split(backbone, trained, pretrained)
    shapes = jax.eval_shape(look, pretrained, jax.ShapeDtypeStruct((1, *spec.image), jnp.float32))
    grids = [jnp.zeros(x.shape) for x in shapes]
    variables = heads.init(head_key, grids, [x[0] for x in grids], None)
    return State(
      params=params,
      frozen=frozen,
      heads=variables["params"],
      statistics=variables["batch_stats"],
      optimiser=optimiser.init((params, variables["params"])),
      reference=jnp.zeros((references, *spec.image)),
      referred=jnp.int32(0),
      told=jnp.full(spec.max_train, -1),
      key=key,
    )

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    b = len(batch.valid)
    key, coin_key, paste_key, turn_key, drawn_key = jax.random.split(state.key, 5)
    reference, referred = refer(state, batch)
    told = state.told.at[batch.row].set(batch.label, mode="drop")
    weight = jnp.where(batch.valid, deviation.balance(told, batch.label, 1 / 3), 0)
    coin = jax.random.bernoulli(coin_key, shape=(b,)) & (batch.label == 0)
    pasted, _ = jax.vmap(images.cutpaste)(jax.random.split(paste_key, b), batch.image)
    image = jnp.where(coin[:, None, None, None], pasted, batch.image)
    label = jnp.where(coin, PSEUDO, batch.label)
    turned = deviation.turn(turn_key, jnp.concatenate([reference, image]), rotation)
    drawn = deviation.reference(drawn_key)

    def loss(tuned: Any) -> tuple[Array, Any]:
      variables = {"params": tuned[1], "batch_stats": state.statistics}
      (scores, _), statistics = compare(
        tuned[0] | state.frozen,
        variables,
        turned[references:],
        turned[:references],
        referred,
        batch.valid,
      )
      return jnp.sum(losses(scores, label, weight, drawn)), statistics

    tuned = (state.params, state.heads)
    (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(tuned)
    step, opt = optimiser.update(gradient, state.optimiser, tuned)
    rate = deviation.rate(lr, drops, batch.epoch, epochs)
    params, weights = jax.tree.map(lambda x, dx: x - rate * dx, tuned, step)
    return State(params, state.frozen, weights, statistics, opt, reference, referred, told, key), {
      "loss": value
    }

  def finish(state: State) -> State:
    return state._replace(told=jnp.full_like(state.told, -1))

  def score(state: State, batch: Batch) -> Scores:
    variables = {"params": state.heads, "batch_stats": state.statistics}
    (scores, dense), _ = compare(
      state.params | state.frozen, variables, batch.image, state.reference, state.referred, None
    )
    shape = batch.image.shape[1:3]
    pixel = jnp.mean(jnp.stack([maps.to_image(x, shape, sigma) for x in dense]), axis=0)
    return Scores(scores[1] + scores[2] + scores[3] - scores[0], pixel)

  return Method(*(init, update, finish, score, backbone, (), size, batch, epochs), supervised=True)
