"""RD4AD: a decoder that builds the teacher's features anew from a one-class embedding of them.

Deng, Li: Anomaly Detection via Reverse Distillation from One-Class Embedding. CVPR 2022, arXiv
2201.10703. Follows the authors' code: the loss of a stage is the cosine of its features as one long
vector for each image, not of each cell's as in the paper's equation 2; the bottleneck's blocks are
as wide as those of its Wide ResNet; the maps of the stages are added after a bilinear resize that
keeps the corners. A later task goes on from the weights and the optimiser of the one before.

What differs: the teacher may be any network whose stages halve one another's grid. Its channels
size everything: a first stage below 256, as of ResNets 18 and 34, calls for basic blocks (ResNet-18
had `depths` (2, 2, 2, 2), and ResNet-50 an `inner` of 0.25). Where the teacher's features are not
outputs of a ReLU, what is built has no last ReLU either. The authors' unused layers are left out.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from imiad_jax.errors import UserError
from imiad_jax.heads import distil, maps
from imiad_jax.heads.reconstruction import Reversed
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for; the stages of its backbone have no last ReLU.
SMALL = {
  "stages": ("layer2", "layer3"),
  "depths": (1, 1, 1),
  "rectified": False,
  "size": 224,
  "epochs": 60,
  "batch": 4,
  "lr": 2e-3,
}

_EXPANDED = 256  # channels of the first stage of a ResNet of bottleneck blocks


class State(NamedTuple):
  """The two halves of what is trained, by name: "bottleneck" and "decoder"."""

  params: Any
  statistics: Any  # running ones of batch norm
  optimiser: Any


def Model(
  backbone: str = "wide_resnet50_2",
  stages: tuple[str, ...] = ("layer1", "layer2", "layer3"),
  depths: tuple[int, ...] = (3, 3, 4, 6),
  inner: float = 0.5,
  rectified: bool = True,
  size: int = 256,
  epochs: int = 200,
  batch: int = 16,
  lr: float = 0.005,
  momentum: float = 0.5,
  sigma: float = 4.0,
) -> Method:
  """Builds RD4AD.

  Args:
    backbone: a pretrained network, the teacher.
    stages: its stages, finest first, each of half the grid of the one before.
    depths: blocks of the bottleneck, then of the decoder's stages, coarsest first.
    inner: channels inside a bottleneck block, as a share of its output's.
    rectified: whether the stages are outputs of a ReLU, as a ResNet's are, so what is built is too.
    size: height and width of the images.
    epochs: passes over each task.
    batch: images at once.
    lr: learning rate of Adam.
    momentum: its beta1.
    sigma: of the Gaussian that smooths the map, in pixels.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(len(stages) > 0, "stages", stages, "one or more stages of the backbone")
  fit = len(depths) == len(stages) + 1 and min(depths) >= 1
  need(fit, "depths", depths, "a number above 0 for the bottleneck and one for each stage")
  need(0 < inner <= 1, "inner", inner, "above 0 and at most 1")
  need(lr >= 0, "lr", lr, "at least 0")
  need(0 <= momentum < 1, "momentum", momentum, "at least 0 and below 1")
  need(sigma > 0, "sigma", sigma, "above 0")
  optimiser = optax.adam(lr, b1=momentum)

  def network(x: tuple[Array, ...]) -> Reversed:
    return Reversed(depths, inner if x[0].shape[-1] >= _EXPANDED else None)

  def pyramid(batch: Batch) -> tuple[Array, ...]:
    return tuple(batch.features[stage] for stage in stages)

  def rebuild(
    variables: Any, x: tuple[Array, ...], valid: Array | None
  ) -> tuple[tuple[Array, ...], Any]:
    """Returns the stages built anew and the moved statistics of batch norm."""
    built, moved = network(x).apply(variables, x, valid, mutable=["batch_stats"])
    return tuple(map(jax.nn.relu, built)) if rectified else built, moved["batch_stats"]

  def init(key: Array, spec: Spec, pretrained: Any) -> State:
    del pretrained
    shapes = [spec.shape(stage) for stage in stages]
    _refuse_odd(stages, shapes)
    x = tuple(jnp.zeros((1, *shape)) for shape in shapes)
    variables = network(x).init(key, x, None)
    params = variables["params"]
    return State(params, variables["batch_stats"], optimiser.init(params))

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    x = pyramid(batch)

    def loss(params: Any) -> tuple[Array, Any]:
      variables = {"params": params, "batch_stats": state.statistics}
      built, statistics = rebuild(variables, x, batch.valid)
      each = sum(distil.cosine(_flat(a), _flat(b)) for a, b in zip(x, built, strict=True))
      return jnp.sum(each, where=batch.valid) / jnp.sum(batch.valid), statistics

    (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    step, optimised = optimiser.update(gradient, state.optimiser)
    return State(optax.apply_updates(state.params, step), statistics, optimised), {"loss": value}

  def finish(state: State) -> State:
    return state

  def score(state: State, batch: Batch) -> Scores:
    x = pyramid(batch)
    variables = {"params": state.params, "batch_stats": state.statistics}
    built, _ = rebuild(variables, x, None)
    shape = batch.image.shape[1:3]
    grids = [distil.cosine(a, b) for a, b in zip(x, built, strict=True)]
    added = sum((maps.aligned(grid, shape) for grid in grids), jnp.zeros(batch.image.shape[:3]))
    pixel = maps.blur(added, sigma)
    return Scores(jnp.max(pixel, axis=(1, 2)), pixel)

  return Method(init, update, finish, score, backbone, stages, size, batch, epochs)


def _flat(x: Float[Array, "b ..."]) -> Float[Array, "b d"]:
  """Returns each image's features as one vector."""
  return x.reshape(len(x), -1)


def _refuse_odd(stages: tuple[str, ...], shapes: list[tuple[int, ...]]) -> None:
  """Raises UserError unless each grid is twice the next one, and the last can be halved."""
  grids = [shape[:2] for shape in shapes]
  halves = [(2 * h, 2 * w) for h, w in [*grids[1:], (grids[-1][0] // 2, grids[-1][1] // 2)]]
  if grids != halves:
    said = ", ".join(f"{stage} of {h} x {w}" for stage, (h, w) in zip(stages, grids, strict=True))
    raise UserError(
      f"RD4AD needs stages that halve one another's grid, and an even last one, not {said}; take "
      "a size divisible by twice the last stage's stride, or other stages."
    )
