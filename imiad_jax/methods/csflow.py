"""CS-Flow: a normalizing flow over features of an image at three resolutions at once.

Rudolph, Wehrbein, Rosenhahn, Wandt: Fully Convolutional Cross-Scale-Flows for Image-based Defect
Detection. WACV 2022, arXiv 2110.02855. Follows the authors' code: one stage of a frozen backbone
sees the image, every second pixel of it and every fourth; four couplings whose subnets exchange
what they know across scales are trained by maximum likelihood, with gradients clipped; an image's
score is the mean of z^2/2. The flow and Adam's moments carry over from task to task.

What differs: the permutations of channels are drawn from the run's seed, the authors' are the same
in every run. The score is that of the last epoch. The map is that of the authors' evaluation, the
mean of z^2 over the channels of the finest scale; they publish no figure for it.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from imiad_jax import plugins
from imiad_jax.errors import UserError
from imiad_jax.heads import cross_flow, flow
from imiad_jax.plugins import need
from imiad_jax.types import Batch, Logs, Method, Scores, Spec

VERSION = "1"
# What two CPU cores can pay for.
SMALL = {
  "stage": "layer3",
  "size": 256,
  "hidden": 64,
  "kernels": (3, 3),
  "epochs": 60,
  "batch": 8,
  "lr": 1e-3,
}


class State(NamedTuple):
  """n training rows of the largest task, c channels."""

  params: Any  # of the flow
  optimiser: Any
  permutations: Int[Array, "steps 3 c"]
  coarse: tuple[Array, Array]  # [n,h',w',c] of half and quarter of the image, by training row
  pretrained: Any  # the backbone's parameters


def Model(
  backbone: str = "efficientnet_b5",
  stage: str = "block35",
  size: int = 768,
  hidden: int = 1024,
  kernels: tuple[int, ...] = (3, 3, 3, 5),
  clamp: float = 3.0,
  epochs: int = 240,
  batch: int = 16,
  lr: float = 2e-4,
  weight_decay: float = 1e-5,
  adam_eps: float = 1e-4,
  clip: float = 1.0,
) -> Method:
  """Builds CS-Flow.

  Args:
    backbone: a pretrained network.
    stage: the one stage of it that is used.
    size: height and width of the images, before they are halved and quartered.
    hidden: channels inside the subnets.
    kernels: the kernel size of each coupling's subnets; odd.
    clamp: log-scales lie within +- about so much.
    epochs: passes over each task.
    batch: images at once.
    lr: learning rate.
    weight_decay: L2 penalty, added to the gradient as torch's Adam does.
    adam_eps: epsilon of Adam.
    clip: norm that the gradient is clipped to.

  Raises:
    ValueError: a hyperparameter outside its range.
  """
  need(hidden >= 1, "hidden", hidden, "at least 1")
  odd = len(kernels) > 0 and all(k > 0 and k % 2 for k in kernels)
  need(odd, "kernels", kernels, "one or more odd sizes")
  need(clamp > 0, "clamp", clamp, "above 0")
  need(lr > 0, "lr", lr, "above 0")
  need(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
  need(adam_eps > 0, "adam_eps", adam_eps, "above 0")
  need(clip > 0, "clip", clip, "above 0")
  network = plugins.backbone(backbone).Model(backbone)
  model = cross_flow.Flow(hidden, kernels, clamp)
  optimiser = optax.chain(
    optax.clip_by_global_norm(clip),
    optax.add_decayed_weights(weight_decay),
    optax.scale_by_adam(eps=adam_eps),
    optax.scale(-lr),
  )

  def coarse(pretrained: Any, image: Float[Array, "b h w 3"]) -> tuple[Array, Array]:
    """Returns the stage at half and at a quarter of the image's size."""
    half, quarter = (
      network.apply({"params": pretrained}, image[:, ::step, ::step])[stage] for step in (2, 4)
    )
    return half, quarter

  def init(key: Array, spec: Spec, pretrained) -> State:
    image = jax.ShapeDtypeStruct((1, *spec.image), jnp.float32)
    shapes = (spec.shape(stage), *(m.shape[1:] for m in jax.eval_shape(coarse, pretrained, image)))
    if any(b[:2] != (-(-a[0] // 2), -(-a[1] // 2)) for a, b in pairwise(shapes)):
      grids = ", ".join(f"{h} x {w}" for h, w, _ in shapes)
      raise UserError(
        f"At size {size}, {stage} of {backbone} has grids of {grids} cells at the three "
        "resolutions, but each should be half of the one before. Take a size divisible by 128."
      )
    permutation_key, param_key = jax.random.split(key)
    c = shapes[0][-1]
    orders = flow.permutations(permutation_key, 3 * len(kernels), c).reshape(-1, 3, c)
    maps = tuple(jnp.zeros((1, *shape)) for shape in shapes)
    params = model.init(param_key, maps, orders)["params"]
    half, quarter = (jnp.zeros((spec.max_train, *shape)) for shape in shapes[1:])
    return State(params, optimiser.init(params), orders, (half, quarter), pretrained)

  def update(state: State, batch: Batch) -> tuple[State, Logs]:
    # The network sees each image in a task's first epoch alone.
    found = jax.lax.cond(
      batch.epoch == 0,
      lambda: coarse(state.pretrained, batch.image),
      lambda: jax.tree.map(lambda m: m.at[batch.row].get(mode="clip"), state.coarse),
    )
    maps = (batch.features[stage], *found)
    weight = batch.valid / jnp.sum(batch.valid) / sum(m[0].size for m in maps)

    def loss(params: Any) -> Array:
      z, log_det = model.apply({"params": params}, maps, state.permutations)
      each = sum(jax.tree.map(flow.negative_log_likelihood, z, log_det))
      return jnp.sum(each * weight)

    value, gradient = jax.value_and_grad(loss)(state.params)
    step, opt = optimiser.update(gradient, state.optimiser, state.params)
    return state._replace(
      params=optax.apply_updates(state.params, step),
      optimiser=opt,
      coarse=jax.tree.map(lambda m, x: m.at[batch.row].set(x, mode="drop"), state.coarse, found),
    ), {"loss": value}

  def finish(state: State) -> State:
    return state

  def score(state: State, batch: Batch) -> Scores:
    maps = (batch.features[stage], *coarse(state.pretrained, batch.image))
    z, _ = model.apply({"params": state.params}, maps, state.permutations)
    square = [jnp.square(m) for m in z]
    image = jnp.mean(jnp.concatenate([m.reshape(len(m), -1) for m in square], 1) / 2, 1)
    grid = jnp.mean(square[0], -1)
    pixel = jax.image.resize(grid, batch.image.shape[:3], "bilinear", antialias=False)
    return Scores(image, pixel)

  return Method(init, update, finish, score, backbone, (stage,), size, batch, epochs)
