"""STPM: a student learns a pretrained teacher's feature pyramid of normal images from scratch.

Wang, Han, Ding, Huang: Student-Teacher Feature Pyramid Matching for Anomaly Detection. BMVC 2021,
arXiv 2103.04257. The student is the teacher's architecture with random weights and batch norm; the
loss of a stage is half the squared distance of the unit vectors of both, which is 1 - cos, averaged
over the grid's cells and summed over the images of a batch. The map is the product of the stages'
distances. A later task goes on from the weights, statistics and momentum of the one before.

What differs: the last epoch's student is kept, as in the common PyTorch version (by hcw-00), where
the paper sets aside a fifth of the training images to choose the epoch. Batch norm remembers a
tenth of each batch's biased variance; PyTorch's remembers the unbiased one, and EfficientNet's
authors' a hundredth of it. IM-IAD's student began with the teacher's weights, this one with none of
them, as the paper's.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from imiad_jax import plugins
from imiad_jax.heads import distil
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for; `lr` makes up for the smaller sum of the loss.
SMALL = {"stages": ("layer2", "layer3"), "size": 224, "epochs": 20, "batch": 8, "lr": 1.6}


class State(NamedTuple):
  """The student, by the names of the teacher's parts up to the deepest stage wanted."""

  params: Any
  statistics: Any  # running ones of batch norm
  optimiser: Any


def Model(
  backbone: str = "resnet18",
  stages: tuple[str, ...] = ("layer1", "layer2", "layer3"),
  size: int = 256,
  epochs: int = 100,
  batch: int = 32,
  lr: float = 0.4,
  momentum: float = 0.9,
  weight_decay: float = 1e-4,
) -> Method:
  """Builds STPM.

  Args:
    backbone: a pretrained network, the teacher.
    stages: its stages that are learnt.
    size: height and width of the images.
    epochs: passes over each task.
    batch: images at once; the loss is their sum, so that a step grows with it.
    lr: learning rate of SGD.
    momentum: of SGD.
    weight_decay: L2 penalty, added to the gradient.

  Raises:
    ValueError: a hyperparameter outside its range, or a backbone that has no batch norm.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  need(lr >= 0, "lr", lr, "at least 0")
  need(0 <= momentum < 1, "momentum", momentum, "at least 0 and below 1")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  network = plugins.backbone(backbone).Model
  need(hasattr(network, "norm"), "backbone", backbone, "one with batch norm, to train a student of")
  student = network(backbone, norm=True, until=stages)
  optimiser = optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(lr, momentum))

  def imitate(
    params: Any, statistics: Any, batch: Batch, valid: Array | None
  ) -> tuple[list[Array], Any]:
    """Returns the distance [b,h',w'] of each stage, and the moved statistics of batch norm."""
    variables = {"params": params, "batch_stats": statistics}
    found, moved = student.apply(variables, batch.image, valid, mutable=["batch_stats"])
    distances = [distil.cosine(batch.features[stage], found[stage]) for stage in stages]
    return distances, moved["batch_stats"]

  def init(key: Array, spec: Spec, pretrained: Any) -> State:
    del pretrained
    variables = student.init(key, jnp.zeros((1, *spec.image)))
    params = variables["params"]
    return State(params, variables["batch_stats"], optimiser.init(params))

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    def loss(params: Any) -> tuple[Array, Any]:
      distances, statistics = imitate(params, state.statistics, batch, batch.valid)
      each = sum(jnp.mean(distance, axis=(1, 2)) for distance in distances)
      return jnp.sum(each, where=batch.valid), statistics

    (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    step, optimised = optimiser.update(gradient, state.optimiser, state.params)
    return State(optax.apply_updates(state.params, step), statistics, optimised), {"loss": value}

  def finish(state: State) -> State:
    return state

  def score(state: State, batch: Batch) -> Scores:
    distances, _ = imitate(state.params, state.statistics, batch, None)
    pixel = jnp.ones(batch.image.shape[:3])
    for distance in distances:
      pixel *= jax.image.resize(distance, pixel.shape, "bilinear", antialias=False)
    return Scores(jnp.max(pixel, axis=(1, 2)), pixel)

  return Method(init, update, finish, score, backbone, stages, size, batch, epochs)
